"""Items that are added after an export: their records in a store, and the scores that models give them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ebbtide.interest.adjustments import find_pairs
from ebbtide.interest.explanation import Explainer
from ebbtide.interest.item_records import ItemStore, TooManyItemsError, decode_part, encode_part
from ebbtide.interest.items_reader import ItemsReader
from ebbtide.interest.new_items import MOST_NEW_ITEMS, NewItem
from ebbtide.interest.record import NewEvents
from ebbtide.interest.users import Users
from ebbtide.store import StoreConfig, open_store

NOW = 1_700_000_000_000
DRAMA, STOCK = 11, -13
"""Keys of attribute values of the model; see conftest."""


@pytest.fixture
def users(tmp_path):
    with open_store(f"embedded:{tmp_path / 'states'}", StoreConfig(timeout_ms=60_000, durability="crash")) as store:
        yield Users(store, "f" * 16)


def items(count, width=8, seed=0, attributes=()):
    random = np.random.default_rng(seed)
    return [
        NewItem(
            int(key),
            -1,
            NOW,
            f"new {position}".encode(),
            tuple(attributes),
            float(random.standard_normal()),
            random.standard_normal(width).astype(np.float32),
            random.standard_normal(width).astype(np.float32),
        )
        for position, key in enumerate(random.integers(-(2**63), 2**63, count))
    ]


def put(store, given, **settings):
    return store.put([(item, f"details of {item.item_id.decode()}") for item in given], **settings)


def followed(model, users):
    reader = ItemsReader(model.pipeline, users, factors=model.factors)
    reader.poll()
    return reader


def with_slots(given):
    return [replace(item, slot=slot) for slot, item in enumerate(given)]


def test_records_read_as_written():
    given = with_slots(items(5, attributes=(DRAMA, STOCK)))
    for one, other in zip(given, decode_part(encode_part(given)), strict=True):
        for name in ("key", "slot", "added_ms", "item_id", "attributes", "repeat_bias"):
            assert getattr(one, name) == pytest.approx(getattr(other, name)), name
        np.testing.assert_array_equal(one.vector, other.vector)
        np.testing.assert_array_equal(one.factor, other.factor)


@pytest.mark.parametrize(
    "damage", [lambda record: record[:-1], lambda record: record + b"x", lambda record: b"\2" + record]
)
def test_damaged_records_are_refused(damage):
    with pytest.raises(ValueError, match="added items"):
        decode_part(damage(encode_part(with_slots(items(3)))))


def test_slots_stay_and_are_not_used_again(users):
    store = ItemStore(users)
    given = items(300)
    found = put(store, given)
    assert (found.added, found.replaced, found.total) == (300, 0, 300)
    slots = {item.key: item.slot for part in store.parts(range(64)) for item in part}
    assert sorted(slots.values()) == list(range(300))
    later = [replace(item, added_ms=NOW + 1) for item in given[:10]]
    assert put(store, later).replaced == 10
    assert {item.key: item.slot for part in store.parts(range(64)) for item in part} == slots
    assert {item.added_ms for part in store.parts(range(64)) for item in part} == {NOW}
    gone = store.remove([item.key for item in given[:200]] + [5])
    assert (gone.removed, gone.unknown, gone.total) == (200, 1, 100)
    assert put(store, given[:150], only_update=True).unknown == 150
    assert put(store, given[:50]).added == 50
    again = {item.key: item.slot for part in store.parts(range(64)) for item in part}
    assert min(again[item.key] for item in given[:50]) >= 300


def test_details_are_listed_part_by_part(users):
    store = ItemStore(users)
    given = items(100)
    put(store, given)
    store.remove([given[0].key])
    listed, part = {}, 0
    while True:
        found = store.details(part)
        listed.update(zip(found.item_id, found.details, strict=True))
        part = found.next_part
        if not part:
            break
    assert listed == {item.item_id: f"details of {item.item_id.decode()}".encode() for item in given[1:]}


def test_more_items_than_servers_take_are_refused(users):
    store = ItemStore(users)
    given = items(MOST_NEW_ITEMS + 1)
    put(store, given[:-1])
    with pytest.raises(TooManyItemsError, match=f"expected at most {MOST_NEW_ITEMS} in all: train or export again"):
        put(store, given[-1:])
    assert put(store, given[:3]).replaced == 3
    store.remove([given[0].key])
    assert put(store, given[-1:]).total == MOST_NEW_ITEMS


@pytest.mark.parametrize("repeats", [False, True])
def test_models_score_new_items_as_those_of_the_export(make_model, users, repeats):
    model = make_model(repeats=repeats)
    given = items(20, attributes=(DRAMA,))
    put(ItemStore(users), given)
    followed(model, users)
    new = model.pipeline.items.new
    keys = np.r_[model.keys[:4], [item.key for item in given[:3]]]
    request = {
        "event_item": keys[None],
        "event_time": NOW - np.arange(7)[None] * 1000,
        "now": np.array([[NOW]]),
        "exclude_seen": np.array([[False]]),
    }
    [weights] = model.pipeline.run_requests([request])
    assert weights["event_counts"][0].sum() == 7
    assert weights["adjust_item"].max() < len(model.keys)
    # The best of them all, in order, and none that the scoring head could take for one of its own.
    scores = dict(zip(weights["new_item_id"][0], weights["new_item_score"][0], strict=True))
    assert list(scores.values()) == sorted(scores.values(), reverse=True)
    columns = model.factors[:, 8:].min(axis=0)
    factors = np.stack([np.r_[item.factor, columns] for item in given])
    plain = dict(zip([item.item_id for item in given], factors @ weights["interest"][0], strict=True))
    seen = {item.item_id for item in given[:3]} if repeats else set()
    for item_id, score in scores.items():
        assert (score != pytest.approx(plain[item_id], abs=1e-4)) == (item_id in seen)

    marked = {**request, "for_candidates": np.array([[True]])}
    [for_candidates] = model.pipeline.run_requests([marked])
    candidates = np.array([item.key for item in given])[None]
    part = {name: for_candidates[name] for name in ("interest", "adjust_item", "adjust_score")}
    [ranked] = model.scorer.run_requests([{**part, "candidate_item": candidates}])
    expected = [scores[item.item_id] for item in given]
    np.testing.assert_allclose(ranked["candidate_score"][0], expected, atol=1e-4)
    explained = Explainer(model.pipeline, model.factors).run_tensors(
        {**{name: value[0] for name, value in request.items()}, "candidate_item": candidates}
    )
    np.testing.assert_allclose(explained.candidate_score[0], expected, atol=1e-4)
    shares = explained.event_share.sum(axis=1) + explained.prior_share + explained.adjustment_share
    np.testing.assert_allclose(shares, expected, atol=1e-4)
    assert new is not None
    model.pipeline.add(None)


def test_filters_exclusions_and_flags_hold_for_new_items(make_model, users):
    model = make_model()
    put(ItemStore(users), [*items(5, attributes=(DRAMA, STOCK)), *items(5, seed=1)])
    followed(model, users)

    def found(**tensors):
        [answer] = model.pipeline.run_requests([{"now": np.array([[NOW]]), **tensors}])
        return sum(1 for score in answer["new_item_score"][0] if np.isfinite(score))

    assert found() == 10
    assert found(allow_attribute=np.array([[DRAMA]])) == 5
    assert found(allow_attribute=np.array([[DRAMA, STOCK]])) == 5
    assert found(allow_attribute=np.array([[12]])) == 0
    assert found(exclude_item=np.array([[items(5)[0].key, 5]])) == 9
    assert found(as_exported=np.array([[True]])) == 0


def test_states_hold_events_of_new_items_and_forget_removed_ones(make_model, users):
    model = make_model()
    given = items(3)
    put(ItemStore(users), given)
    reader = followed(model, users)
    keys = np.tile([given[0].key, model.keys[5]], 30)
    events = NewEvents(np.array([60]), keys, NOW - np.arange(60)[::-1] * 60_000, None, None)
    observed = model.pipeline.recorder().observe([None], events)
    assert observed.counts.tolist() == [[60, 0, 0, 0]]
    request = {"now": np.array([[NOW]]), "exclude_seen": np.array([[True]]), "for_candidates": np.array([[True]])}

    def excluded(index):
        [answer] = model.pipeline.run_requests([request], records=[observed.records])
        item = np.array([index])
        return np.isneginf(find_pairs(answer["adjust_item"], answer["adjust_score"], item * 0, item, 1000))[0]

    index = int(model.pipeline.items.index.find(np.array([given[0].key]))[0])
    assert index >= len(model.keys)
    assert excluded(index)
    assert excluded(5)
    ItemStore(users).remove([given[0].key])
    reader.poll()
    assert not excluded(index)
    assert excluded(5)


def test_a_model_without_new_items_answers_as_before(make_model, users):
    model = make_model()
    request = {"event_item": model.keys[None, :3], "event_time": np.full((1, 3), NOW), "now": np.array([[NOW]])}
    [before] = model.pipeline.run_requests([request])
    followed(model, users)
    assert model.pipeline.items.new is None
    [after] = model.pipeline.run_requests([request])
    assert before.keys() == after.keys()
    assert before["new_item_id"].shape == (1, 0)
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name])
