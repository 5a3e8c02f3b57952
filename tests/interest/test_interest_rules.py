"""Rules of the house: what lists become under them, compared with all scores computed at once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ebbtide.interest.item_ids import ItemIds
from ebbtide.interest.live_prior import LivePrior
from ebbtide.interest.rule_records import RuleStore
from ebbtide.interest.rules import MOST_RULED_ITEMS, RuleBook, RuleTables, parse_rules
from ebbtide.interest.users import Users
from ebbtide.store import StoreConfig, open_store

NOW = 1_700_000_000_000
DRAMA, FAR = 11, 12
TOP_N = 15


@pytest.fixture(params=[False, True], ids=["plain", "repeats"])
def model(request, make_model):
    model = make_model(repeats=request.param, items=300)
    random = np.random.default_rng(1)
    count = len(model.keys)
    words = model.attributes.everything(count)
    rows = np.arange(count)[random.random(count) < 0.3]
    for value in (0, 1):
        chosen = rows[value::2]
        words |= model.attributes.words_of(count, chosen, np.full(chosen.size, value))
    model.words = words
    model.pipeline.rule_tables = RuleTables(words, model.factors, ItemIds.of([f"item {row}" for row in range(count)]))
    model.pipeline.follows_items = True
    return model


def rule(name, kind, amount, keys=(), values=(), **more):
    of = {"item_keys": [int(key) for key in keys], "attribute_keys": list(values)}
    return {"name": name, "kind": kind, "amount": amount, **of, **more}


def take(model, *rules):
    model.pipeline.take_rules(parse_rules(json.dumps(rules).encode()))


def answer(model, request):
    """Scores of all items as any exact head gives them, and what the answer is told of rules."""
    (found,) = model.pipeline.run_requests([{name: array[None] for name, array in request.tensors().items()}])
    scores = model.factors @ found["interest"][0]
    item, value = found["adjust_item"][0], found["adjust_score"][0]
    for chosen in ((value != 0) & np.isfinite(value), np.isneginf(value)):
        assert np.unique(item[chosen]).size == chosen.sum() or np.isneginf(value[chosen]).all()
        scores[item[chosen]] = value[chosen]
    words = found["item_filter"]
    scores[~model.attributes.passing(model.words, words)[0]] = -np.inf
    told = found["applied_rules"][0]
    return scores, json.loads(told[0]) if told.size and told[0] else None


@pytest.mark.parametrize("seed", range(12))
def test_scores_are_those_without_rules_plus_what_the_rules_add(model, ask_at_random, seed):
    random = np.random.default_rng(seed)
    request = ask_at_random(random, model, texts=False)
    if seed % 2:
        gain = random.standard_normal(len(model.keys))
        model.pipeline.prior = LivePrior.of(gain, np.zeros_like(gain), model.factors, 20)
    before, told = answer(model, request)
    assert told is None
    # An item of the request's events, so that some have repeat scores; and items that no rule but one is about.
    named = np.r_[request.event_item[:2], random.choice(model.keys, 20)]
    known = model.pipeline.index.find(named)
    take(
        model,
        rule("up", "boost", 1.5, named),
        rule("down", "bury", 0.75, values=[DRAMA]),
        rule("later", "boost", 50, named, from_ms=int(request.now[0]) + 1),
        rule("over", "boost", 50, named, until_ms=int(request.now[0])),
        rule("first", "pin", 1, values=[FAR]),
    )
    after, told = answer(model, request)
    gain = np.zeros(len(model.keys))
    gain[known[known >= 0]] += 1.5
    drama = model.attributes.passing(model.words, model.attributes.filters(1, np.zeros(1, int), np.zeros(1, int)))[0]
    gain[drama] -= 0.75
    np.testing.assert_allclose(after, before + gain, atol=1e-4)

    # Each item of the list that the rules moved is named, with all its rules.
    best = np.argsort(-after)[:TOP_N]
    for item in best[np.isfinite(after[best])].tolist():
        names = [name for name, about in (("up", item in known), ("down", drama[item])) if about]
        assert told["moved"].get(f"item {item}", []) == names
    far = model.attributes.passing(model.words, model.attributes.filters(1, np.zeros(1, int), np.ones(1, int)))[0]
    may = np.flatnonzero(far & np.isfinite(after))
    if may.size:
        best = may[after[may].argmax()]
        assert told["pinned"] == [[1, f"item {best}", pytest.approx(after[best], abs=1e-4), "first"]]
    else:
        assert told["pinned"] == []


def test_answers_without_lists_and_as_exported_have_no_rules(model, ask):
    take(model, rule("up", "boost", 2, model.keys[:3]))
    tensors = {name: array[None] for name, array in ask([model.keys[5]]).tensors().items()}
    exported = {**tensors, "as_exported": np.array([[True]])}
    of_candidates = {**tensors, "for_candidates": np.array([[True]])}
    plain, *others = model.pipeline.run_requests([tensors, exported, of_candidates])
    assert json.loads(plain["applied_rules"][0, 0])["moved"].keys() == {"item 0", "item 1", "item 2"}
    take(model)
    (before,) = model.pipeline.run_requests([tensors])
    assert before["applied_rules"].shape == (1, 0)
    width = before["adjust_item"].shape[1]
    for other in others:
        assert not other["applied_rules"][0, 0]
        np.testing.assert_allclose(other["adjust_score"][:, :width], before["adjust_score"], atol=1e-5)
        assert not other["adjust_score"][:, width:].any()


def test_pin_takes_the_best_item_that_the_user_may_get(model, ask):
    scores, _ = answer(model, ask())
    order = np.argsort(-scores)
    take(model, rule("a", "pin", 2, model.keys[order[3:6]]), rule("b", "pin", 1, model.keys[order[3:6]]))
    _, told = answer(model, ask(exclude_item=[model.keys[order[3]]]))
    assert [pin[:2] + pin[3:] for pin in told["pinned"]] == [[1, f"item {order[5]}", "b"], [2, f"item {order[4]}", "a"]]
    model.pipeline.take_out_of_stock(model.keys[order[3:6]])
    _, told = answer(model, ask())
    assert told == {"moved": {}, "pinned": []}


def test_rules_about_too_many_items_are_left_out_and_named(make_model):
    model = make_model(items=MOST_RULED_ITEMS + 10)
    ids = ItemIds.of([str(row) for row in range(len(model.keys))])
    tables = RuleTables(np.empty((0, 3), np.int64), model.factors, ids)
    rules = [rule("most", "boost", 1, model.keys[:-10]), rule("more", "boost", 1, model.keys[-10:])]
    book = RuleBook.of(
        parse_rules(json.dumps([*rules, rule("again", "bury", 1, model.keys[:5])]).encode()),
        model.pipeline.index,
        model.attributes,
        tables,
        None,
    )
    assert [one.name for one in book.rules] == ["most", "again"]
    assert book.left_out == ("more",)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": 7},
        {"kind": "raise"},
        {"amount": 0},
        {"amount": -1},
        {"amount": "1"},
        {"kind": "pin", "amount": 1.5},
        {"kind": "pin", "amount": 1001},
        {"item_keys": []},
        {"item_keys": [2**63]},
        {"from_ms": "now"},
    ],
)
def test_faulty_rule_is_refused(wrong):
    with pytest.raises(ValueError, match="rule"):
        parse_rules(json.dumps([{**rule("r", "boost", 1, [1]), **wrong}]).encode())


def test_rules_are_written_only_over_those_that_were_read(tmp_path):
    with open_store(f"embedded:{tmp_path / 'states'}", StoreConfig(timeout_ms=60_000, durability="crash")) as store:
        rules = RuleStore(Users(store, "f" * 16))
        empty = rules.document()
        assert (json.loads(empty), rules.number()) == ([], None)
        assert rules.write(empty, [{"name": "a"}])
        first = rules.number()
        assert not rules.write(empty, [{"name": "b"}])
        assert json.loads(rules.document()) == [{"name": "a"}]
        assert rules.number() == first
        assert rules.write(rules.document(), [])
        assert rules.number() != first
