"""What is out of stock: its records in a store, and what models make of it."""

from __future__ import annotations

import numpy as np
import pytest

from ebbtide.interest import contract
from ebbtide.interest.items_reader import ItemsReader
from ebbtide.interest.stock import MOST_OUT_OF_STOCK, OutOfStock
from ebbtide.interest.stock_records import StockStore, TooManyOutOfStockError, decode_keys, decode_stock, encode_stock
from ebbtide.interest.users import Users
from ebbtide.store import StoreConfig, open_store

NOW = 1_700_000_000_000


@pytest.fixture
def users(tmp_path):
    with open_store(f"embedded:{tmp_path / 'states'}", StoreConfig(timeout_ms=60_000, durability="crash")) as store:
        yield Users(store, "f" * 16)


@pytest.fixture
def store(users):
    return StockStore(users)


def put(store, keys, in_stock=False):
    return store.put({key: f"item {key}".encode() for key in keys}, [in_stock] * len(keys))


def listed(store):
    found, part = [], 0
    while True:
        ids, part = store.listed(part)
        found += ids
        if not part:
            return sorted(found)


def request(**tensors):
    nothing = np.empty((1, 0), np.int64)
    return {"event_item": nothing, "event_time": nothing, "now": np.array([[NOW]]), **tensors}


@pytest.fixture
def model(make_model):
    return make_model()


def test_records_read_as_written():
    stock = {7: b"seven", -(2**63): b"", 2**63 - 1: "ebb ünd flow".encode()}
    assert decode_stock(encode_stock(stock)) == stock
    assert decode_keys(encode_stock(stock)).tolist() == list(stock)
    assert decode_stock(None) == {}
    assert decode_stock(encode_stock({})) == {}


@pytest.mark.parametrize(
    "damage", [lambda record: record[:-1], lambda record: record + b"x", lambda record: b"\2" + record, lambda _: b"1"]
)
def test_damaged_records_are_refused(damage):
    with pytest.raises(ValueError, match="stock"):
        decode_stock(damage(encode_stock({1: b"one", 2: b"two"})))


def test_stock_changes_are_counted_and_listed(store):
    keys = np.random.default_rng(0).integers(-(2**63), 2**63, 300).tolist()
    changed = put(store, keys)
    assert (changed.changed, changed.total) == (300, 300)
    assert put(store, keys[:10]).changed == 0
    assert listed(store) == sorted(f"item {key}".encode() for key in keys)
    back = put(store, [*keys[5:], 12345], in_stock=True)
    assert (back.changed, back.total) == (295, 5)
    assert listed(store) == sorted(f"item {key}".encode() for key in keys[:5])


def test_one_item_too_many_is_refused_and_nothing_changes(store):
    keys = np.random.default_rng(1).integers(-(2**63), 2**63, MOST_OUT_OF_STOCK + 1).tolist()
    put(store, keys[:-1])
    with pytest.raises(TooManyOutOfStockError, match=f"{MOST_OUT_OF_STOCK + 1} items"):
        put(store, keys[-1:])
    assert store.size() == MOST_OUT_OF_STOCK
    # What is out of stock already may be said again, and places are free again.
    assert put(store, keys[:3]).total == MOST_OUT_OF_STOCK
    put(store, keys[:1], in_stock=True)
    assert put(store, keys[-1:]).total == MOST_OUT_OF_STOCK


def test_lists_leave_out_what_is_out_of_stock_and_candidates_say_it(model, users, store):
    pipeline = model.pipeline
    reader = ItemsReader(pipeline, users, factors=model.factors)
    before = pipeline.run_requests([request()])[0]
    gone = np.arange(1, len(model.keys), 2)
    keys = model.keys
    put(store, [*keys[gone].tolist(), 4242])
    reader.poll()
    plain, exported, of_candidates = pipeline.run_requests(
        [request(), request(as_exported=np.array([[True]])), request(for_candidates=np.array([[True]]))]
    )
    item, score = plain["adjust_item"][0], plain["adjust_score"][0]
    assert sorted(item[np.isneginf(score)]) == gone.tolist()
    for other in (exported, of_candidates):
        assert not np.isneginf(other["adjust_score"]).any()

    asked = {name: before[name] for name in ("interest", "adjust_item", "adjust_score")}
    asked["candidate_item"] = np.array([[keys[0], keys[1], 4242]])
    (answer,) = model.scorer.run_requests([asked])
    assert answer[contract.CANDIDATE_IN_STOCK.name].tolist() == [[True, False, True]]
    assert np.isfinite(answer[contract.CANDIDATE_SCORE.name][0, :2]).all()

    put(store, keys[gone].tolist(), in_stock=True)
    reader.poll()
    (after,) = pipeline.run_requests([request()])
    np.testing.assert_array_equal(after["adjust_item"], before["adjust_item"])
    np.testing.assert_array_equal(after["adjust_score"], before["adjust_score"])


def test_nothing_known_out_of_stock_costs_nothing(model):
    model.pipeline.take_out_of_stock(np.array([4242]))
    assert model.pipeline.items.out_of_stock is None
    assert OutOfStock.of(np.empty(0, np.int64), model.pipeline.index, 3) is None
