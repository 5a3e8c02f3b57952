"""The codec's way out: answers say what the output tensors say, for any of them."""

import math

import numpy as np
import polars as pl
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.client import ColdStart, Explanation, InternalError, InvalidArgumentError
from ebbtide.client.codec import decode, decode_explanation, decode_ranking, decode_vectors, users_of
from ebbtide.client.results import parts_of_score, to_polars, to_text
from ebbtide.v1 import Event, ExplainRequest, RankRequest, RepeatShares

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
scores = st.floats(-9, 9, width=32)


def of_user(lead=(1,), counts=(2, 1, 0)):
    return {
        "alpha_used": np.full((*lead, 1), 0.25, dtype=np.float32),
        "event_counts": np.broadcast_to(np.array(counts, dtype=np.int32), (*lead, 3)),
    }


def answer(ids, values, lead=(1,), counts=(2, 1, 0)):
    return {
        "item_id": np.array([item_id.encode() for item_id in ids], dtype=np.object_).reshape(*lead, -1),
        "score": np.array(values, dtype=np.float32).reshape(*lead, -1),
        **of_user(lead, counts),
    }


@given(
    st.lists(st.tuples(words, scores | st.just(-math.inf)), min_size=1, max_size=30),
    st.data(),
    st.sampled_from([(), (1,)]),
)
def test_decode_gives_the_best_items_left_when_some_are_excluded(ranked, data, lead):
    ranked = sorted(ranked, key=lambda pair: -pair[1])
    top_n = data.draw(st.integers(0, len(ranked)))
    response = decode(answer(*zip(*ranked, strict=True), lead=lead), top_n, model_version="4")
    expected = [pair for pair in ranked if pair[1] > -math.inf][: top_n or 10]
    assert [(item.item_id, item.score) for item in response.items] == expected
    assert (response.alpha_used, response.events_used, response.model_version) == (0.25, 3, "4")


@pytest.mark.parametrize(
    ("counts", "cold_start"),
    [
        ((2, 1, 0), ColdStart.COLD_START_NONE),
        ((0, 1, 3), ColdStart.COLD_START_NO_HISTORY),
        ((2, 0, 0), ColdStart.COLD_START_NO_SESSION),
        ((0, 0, 5), ColdStart.COLD_START_NO_EVENTS),
    ],
)
def test_decode_tells_the_cold_start_when_nothing_counted(counts, cold_start):
    response = decode(answer(["a"], [1], counts=counts))
    told = (response.history_events_used, response.current_events_used, response.unknown_events)
    assert told == counts
    assert response.events_used == counts[0] + counts[1]
    assert response.cold_start == cold_start


def test_decode_names_the_exported_number_when_more_items_are_wanted():
    with pytest.raises(InvalidArgumentError, match=r"top_n: got 3; expected at most 2: .* --top-n 2") as caught:
        decode(answer(["a", "b"], [2, 1]), 3)
    assert (caught.value.field, caught.value.value) == ("top_n", "3")


@pytest.mark.parametrize("name", ["item_id", "score", "alpha_used", "event_counts"])
def test_decode_raises_internal_error_when_an_output_is_missing_or_empty(name):
    outputs = answer(["a"], [1])
    with pytest.raises(InternalError, match=name):
        decode({**outputs, name: outputs[name][:, :0]})
    del outputs[name]
    with pytest.raises(InternalError, match=name):
        decode(outputs)


@given(
    st.lists(st.tuples(words, scores | st.just(-math.inf) | st.just(math.nan)), min_size=1, max_size=30),
    st.integers(0, 40),
)
def test_ranking_lists_candidates_by_score_and_the_others_by_reason(candidates, top_n):
    item_ids, values = zip(*candidates, strict=True)
    request = RankRequest(candidate_item_ids=item_ids, top_n=top_n)
    outputs = {"candidate_score": np.array([values], dtype=np.float32), **of_user()}
    response = decode_ranking(outputs, request, model_version="2")
    known = [pair for pair in candidates if math.isfinite(pair[1])]
    expected = sorted(known, key=lambda pair: -pair[1])[: top_n or None]
    assert [(item.item_id, item.score) for item in response.items] == expected
    assert list(response.unknown_item_ids) == [item_id for item_id, value in candidates if math.isnan(value)]
    assert list(response.excluded_item_ids) == [item_id for item_id, value in candidates if value == -math.inf]
    assert (response.cold_start, response.model_version) == (ColdStart.COLD_START_NONE, "2")


def test_ranking_raises_internal_error_when_scores_are_not_those_of_the_candidates():
    outputs = {"candidate_score": np.zeros((1, 2), np.float32), **of_user()}
    with pytest.raises(InternalError, match="candidate_score: got 2 values; expected 3"):
        decode_ranking(outputs, RankRequest(candidate_item_ids=["a", "b", "c"]))


@st.composite
def explained(draw):
    """A request, and the outputs of a model whose shares add up, with events numbered by their weight."""
    sizes = {"history": draw(st.integers(0, 3)), "current": draw(st.integers(0, 3))}
    if draw(st.booleans()):
        sizes = {"events": sum(sizes.values())}
    request = ExplainRequest(item_ids=draw(st.lists(words, min_size=1, max_size=4)), now=Timestamp(seconds=172_800))
    items, texts = [], []
    number = 0
    for group, size in sizes.items():
        for _ in range(size):
            event = Event(time=Timestamp(seconds=86_400), weight=number)
            kind = draw(st.sampled_from(["item_id", "text", "fallback_text"]))
            setattr(event, "text" if kind == "text" else "item_id", f"e{number}")
            if kind == "fallback_text":
                event.fallback_text = "new"
            getattr(request, group).append(event)
            (texts if kind == "text" else items).append(number)
            number += 1
    tensor_order, width = [*items, *texts], 2
    shares = draw(st.lists(st.lists(scores, min_size=number, max_size=number), min_size=4, max_size=4))
    shares = np.array(shares[: len(request.item_ids)], np.float32).reshape(len(request.item_ids), number)
    prior = np.arange(len(request.item_ids), dtype=np.float32)
    outputs = {
        "candidate_score": (shares.sum(axis=1) + prior)[np.newaxis],
        "event_share": shares[:, tensor_order],
        "event_current": np.array([order % 2 == 1 for order in tensor_order], bool),
        "event_decay": np.array(tensor_order, np.float32) / 8,
        "dimension_share": np.stack([shares.sum(axis=1), 0 * prior], axis=1),
        "prior_share": prior,
        "adjustment_share": np.zeros_like(prior),
        "half_life_days": np.array([1.5, np.inf], np.float32),
        **of_user(),
    }
    assert outputs["dimension_share"].shape == (len(request.item_ids), width)
    return request, outputs, shares


@given(explained())
def test_explanation_lists_events_in_the_requests_order(case):
    request, outputs, shares = case
    response = decode_explanation(outputs, request, 0, model_version="3")
    given_events = [*request.history, *request.current, *request.events]
    assert [explained.event for explained in response.events] == given_events
    for number, event in enumerate(response.events):
        assert (event.decay, event.is_current, event.age_days) == (number / 8, number % 2 == 1, 1.0)
    assert [item.item_id for item in response.items] == list(request.item_ids)
    for row, item in enumerate(response.items):
        assert list(item.event_shares) == shares[row].tolist()
        assert item.history_share == pytest.approx(shares[row, 0::2].sum(), abs=1e-5)
        assert item.current_share == pytest.approx(shares[row, 1::2].sum(), abs=1e-5)
        parts = math.fsum(item.event_shares) + item.prior_share + item.adjustment_share
        assert item.score == pytest.approx(parts, abs=1e-4)
        assert math.fsum(item.dimension_shares) == pytest.approx(math.fsum(item.event_shares), abs=1e-4)
    assert list(response.half_life_days) == [1.5, math.inf]
    assert (response.events_used, response.cold_start, response.model_version) == (3, ColdStart.COLD_START_NONE, "3")


def test_explanation_names_the_parts_of_a_repeat_score_when_the_export_gives_them():
    request = ExplainRequest(item_ids=["seen", "new", "excluded", "unknown"])
    outputs = {
        "candidate_score": np.array([[6, 1, -math.inf, math.nan]], np.float32),
        "event_share": np.zeros((4, 0), np.float32),
        "event_current": np.zeros(0, bool),
        "event_decay": np.zeros(0, np.float32),
        "dimension_share": np.zeros((4, 1), np.float32),
        "prior_share": np.array([0, 1, 1, math.nan], np.float32),
        "adjustment_share": np.array([6, 0, -math.inf, math.nan], np.float32),
        "repeat_share": np.array([[1, 2, -3, 0.5, 5, 0.5], [0] * 6, [0] * 6, [math.nan] * 6], np.float32),
        "half_life_days": np.ones(1, np.float32),
        **of_user(counts=(0, 0, 0)),
    }
    response = decode_explanation(outputs, request, 0)
    seen, *others = response.items
    assert seen.repeat_shares == RepeatShares(level=1, frequency=2, recency=-3, trend=0.5, item=5, time=0.5)
    assert not any(item.HasField("repeat_shares") for item in others)
    shown = parts_of_score(Explanation(response), seen)
    assert math.fsum(share for share, _ in shown) == seen.score
    assert [what.split(":")[0] for _, what in shown] == ["repeat"] * 6
    frame = to_polars(Explanation(response)).filter(pl.col("item_id") == "seen")
    assert frame["share"].sum() == seen.score
    assert {"repeat frequency", "repeat item"} < set(frame["part"])
    # As an export gives them that is older than the parts.
    earlier = decode_explanation({name: outputs[name] for name in outputs if name != "repeat_share"}, request, 0)
    assert not earlier.items[0].HasField("repeat_shares")
    assert parts_of_score(Explanation(earlier), earlier.items[0])[-1] == (6, "repeat score")


def test_explanation_names_the_shares_of_feature_blocks_when_the_export_has_vectors_of_items():
    request = ExplainRequest(item_ids=["known", "unknown"])
    outputs = {
        "candidate_score": np.array([[6, math.nan]], np.float32),
        "event_share": np.zeros((2, 0), np.float32),
        "event_current": np.zeros(0, bool),
        "event_decay": np.zeros(0, np.float32),
        "dimension_share": np.array([[5], [math.nan]], np.float32),
        "block_name": np.array([b"text", b"residual", b"image"], dtype=np.object_),
        "block_share": np.array([[1, -2, 6], [math.nan] * 3], np.float32),
        "prior_share": np.array([1, math.nan], np.float32),
        "adjustment_share": np.array([0, math.nan], np.float32),
        "half_life_days": np.ones(1, np.float32),
        **of_user(counts=(0, 0, 0)),
    }
    response = decode_explanation(outputs, request, 0)
    known, unknown = response.items
    assert list(response.block_names) == ["text", "residual", "image"]
    assert sum(known.block_shares) == sum(known.dimension_shares)
    assert not unknown.block_shares
    assert "by feature block: text +1.000, residual -2.000, image +6.000" in to_text(Explanation(response))
    # As an export gives them that has no such vectors, and one that is older than the shares.
    outputs |= {"block_name": np.zeros(0, dtype=np.object_), "block_share": np.zeros((2, 0), np.float32)}
    earlier = {name: value for name, value in outputs.items() if not name.startswith("block_")}
    for without in (outputs, earlier):
        response = decode_explanation(without, request, 0)
        assert not response.block_names
        assert not response.items[0].block_shares
        assert "feature block" not in to_text(Explanation(response))


def test_explanation_has_no_score_when_an_item_is_unknown_or_excluded():
    request = ExplainRequest(item_ids=["known", "unknown", "excluded"])
    outputs = {
        "candidate_score": np.array([[1, math.nan, -math.inf]], np.float32),
        "event_share": np.zeros((3, 0), np.float32),
        "event_current": np.zeros(0, bool),
        "event_decay": np.zeros(0, np.float32),
        "dimension_share": np.array([[0], [math.nan], [0]], np.float32),
        "prior_share": np.array([1, math.nan, 2], np.float32),
        "adjustment_share": np.array([0, math.nan, -math.inf], np.float32),
        "half_life_days": np.ones(1, np.float32),
        **of_user(counts=(0, 0, 0)),
    }
    known, unknown, excluded = decode_explanation(outputs, request, 0).items
    assert (known.score, known.prior_share) == (1, 1)
    assert unknown.SerializeToString() == type(unknown)(item_id="unknown").SerializeToString()
    assert not excluded.HasField("score")
    assert (excluded.is_excluded, excluded.prior_share, excluded.adjustment_share) == (True, 2, 0)
    for name, array in outputs.items():
        with pytest.raises(InternalError, match=name):
            decode_explanation({other: outputs[other] for other in outputs if other != name}, request, 0)
        if name != "alpha_used":
            with pytest.raises(InternalError, match=name):
                decode_explanation({**outputs, name: np.ones(7, array.dtype)}, request, 0)


@given(st.integers(1, 4), st.integers(1, 5))
def test_users_are_read_row_by_row_when_they_shared_a_request(users, items):
    ids = [f"{row}-{index}" for row in range(users) for index in range(items)]
    outputs = {
        "item_id": np.array([item_id.encode() for item_id in ids], dtype=np.object_).reshape(users, items),
        "score": -np.arange(users * items, dtype=np.float32).reshape(users, items),
        "alpha_used": np.arange(users, dtype=np.float32)[:, np.newaxis],
        "event_counts": np.tile(np.arange(users, dtype=np.int32)[:, np.newaxis], 3),
    }
    for row, rows in enumerate(users_of(outputs, users)):
        response = decode(rows)
        assert [item.item_id for item in response.items] == [f"{row}-{index}" for index in range(items)]
        assert (response.alpha_used, response.unknown_events) == (row, row)
    with pytest.raises(InternalError, match=f"expected {users + 1} rows"):
        users_of(outputs, users + 1)


def test_decode_vectors_raises_internal_error_when_the_output_is_no_matrix():
    assert decode_vectors({"text_vector": np.ones((2, 3), np.float32)}).shape == (2, 3)
    with pytest.raises(InternalError, match=r"got shape \[3\]"):
        decode_vectors({"text_vector": np.ones(3, np.float32)})
