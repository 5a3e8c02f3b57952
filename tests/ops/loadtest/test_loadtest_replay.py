"""Requests are those of real users, just before their held-out events."""

import numpy as np
import pytest
from tritonclient.utils import deserialize_bytes_tensor

from ebbtide.data.catalog import Catalog
from ebbtide.data.events import EventLog
from ebbtide.interest.contract import Limits
from ebbtide.interest.keys import item_key, user_keys
from ebbtide.loadtest import LoadTestError, Replayed, build_workload
from ebbtide.loadtest._triton import read_messages, read_request, write_messages
from ebbtide.loadtest.stamped import stamped


def tensors(message):
    """The int64 tensors of a request, by name."""
    request = read_request(message)
    return {
        tensor.name: np.frombuffer(raw, np.int64)
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        if tensor.datatype == "INT64"
    }


def _names(request):
    return [tensor.name for tensor in request.inputs]


def small_log(held_out):
    """Two users: a session of three events and a later one; a basket of two events and one event after."""
    hour = 3_600_000
    log = EventLog(
        users=["u", "v"],
        start=np.array([0, 4, 7]),
        item=np.array([0, 1, 2, 0, 1, 2, 0]),
        time_ms=np.array([0, 1000, 3000, 5 * hour, 10, 10, 20]),
        weight=np.ones(7, dtype=np.float32),
    )
    texts = ["first film", "second film", "third film"]
    return Replayed(log, Catalog(["a", "b", "c"], texts, texts), np.array(held_out, dtype=np.bool_))


def test_request_holds_what_is_strictly_earlier_when_a_basket_has_several_events():
    workload = build_workload(small_log([0, 1, 1, 1, 0, 1, 1]), {"recommend": 1.0})
    asked = [tensors(message) for message in workload.messages["recommend"]]
    # A basket is asked for once, and the first of this user has no past.
    assert [int(one["now"][0]) for one in asked] == [20, 1000, 3000, 5 * 3_600_000]
    assert [len(one["event_item"]) for one in asked] == [2, 1, 2, 3]
    assert list(asked[2]["event_item"]) == [item_key("a"), item_key("b")]
    assert all((one["event_time"] < one["now"]).all() for one in asked)
    assert sorted(pauses.tolist() for pauses in workload.sessions) == [[0.0], [0.0], [0.0, 2.0]]
    assert workload.users == 2


def test_workload_replays_real_lengths_when_the_log_is_movielens(sessions, workload):
    lengths = [len(tensors(message)["event_item"]) for message in workload.messages["recommend"]]
    assert len(lengths) == 300
    assert max(lengths) <= Limits().max_events
    assert len(set(lengths)) > 50
    assert len(set(workload.messages["recommend"])) == 300
    held_out = set(sessions.log.time_ms[sessions.is_held_out].tolist())
    assert all(int(tensors(message)["now"][0]) in held_out for message in workload.messages["recommend"])


def test_requests_are_cut_when_the_server_allows_less(sessions):
    limits = Limits(max_events=5, max_candidates=7, max_text_bytes=9)
    mix = dict.fromkeys(("recommend", "recommend_slate", "recommend_text", "rank", "embed"), 0.2)
    workload = build_workload(sessions, mix, limits=limits, requests=40)
    whole = build_workload(sessions, mix, requests=40)
    for name in ("recommend", "recommend_slate", "recommend_text", "rank"):
        cut, uncut = ([tensors(message) for message in one.messages[name]] for one in (workload, whole))
        assert max(len(one["event_time"]) for one in cut) == 5
        for short, long in zip(cut, uncut, strict=True):
            # What is left is the end of the history.
            assert (short["event_time"] == long["event_time"][-5:]).all()
    assert {len(tensors(message)["candidate_item"]) for message in workload.messages["rank"]} == {7}
    for name in ("recommend_text", "embed"):
        requests = [read_request(message) for message in workload.messages[name]]
        texts = [deserialize_bytes_tensor(one.raw_input_contents[_names(one).index("text")])[0] for one in requests]
        assert max(map(len, texts)) == 9


def test_workload_is_the_same_when_built_twice_and_another_with_another_seed(sessions):
    mix = {"recommend": 0.5, "recommend_text": 0.25, "embed": 0.25}
    first, again, other = (build_workload(sessions, mix, requests=40, seed=seed) for seed in (3, 3, 4))
    assert first.messages == again.messages
    assert first.choices() == again.choices()
    assert first.messages != other.messages
    shares = np.bincount(first.choices()) / len(first.choices())
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.01)
    assert [read_request(first.messages[name][0]).model_name for name in mix] == list(mix)


def test_candidates_hold_the_next_item_when_a_request_ranks(sessions):
    workload = build_workload(sessions, {"rank": 1.0}, requests=50)
    id_of = {item_key(item_id): index for index, item_id in enumerate(sessions.catalog.item_id)}
    popularity = np.bincount(sessions.log.item, minlength=len(sessions.catalog))
    drawn = []
    for message in workload.messages["rank"]:
        asked = tensors(message)
        candidates = [id_of[key] for key in asked["candidate_item"].tolist()]
        assert len(set(candidates)) == len(candidates) == 100
        happened = sessions.log.item[sessions.log.time_ms == int(asked["now"][0])]
        assert candidates[0] in happened
        drawn += candidates[1:]
    # Popular items come up more often than in an even draw.
    assert popularity[drawn].mean() > 3 * popularity.mean()


CLOCK_MS = 1_800_000_000_000


def test_requests_name_the_user_when_asked_by_user(sessions):
    mix = dict.fromkeys(("recommend", "recommend_text", "rank", "observe"), 0.25)
    workload = build_workload(sessions, mix, requests=60, by_user=True, clock_ms=CLOCK_MS)
    log = sessions.log
    asked = {name: [tensors(message) for message in messages] for name, messages in workload.messages.items()}
    heads = [
        tensors(message) for message in build_workload(sessions, {"recommend": 1.0}, requests=60).messages["recommend"]
    ]
    known = {tuple(user_keys([user_id])[0].tolist()): user_id for user_id in workload.user_ids}
    assert len(known) == workload.users == len(workload.histories)
    for name in ("recommend", "rank"):
        assert all("event_item" not in one and one["now"] == [CLOCK_MS] for one in asked[name])
    assert all(one["event_time"] == [CLOCK_MS] for one in asked["recommend_text"])
    for index, one in enumerate(asked["observe"]):
        user = known[tuple(one["user"].tolist())]
        assert user == known[tuple(asked["recommend"][index]["user"].tolist())]
        assert set(one["event_time"].tolist()) == {CLOCK_MS}
        # What happened then, and was asked for just before.
        then = log.time_ms == int(heads[index]["now"][0])
        basket = {sessions.catalog.item_id[item] for item in log.item[then]}
        assert {item_key(item_id) for item_id in basket} >= set(one["event_item"].tolist())
        assert len(set(one["event_item"].tolist())) == len(one["event_item"]) > 0


def test_observe_says_what_was_shown_when_the_server_learns_from_it(sessions):
    mix = {"recommend": 0.5, "observe": 0.5}
    plain, shown = (
        [
            tensors(message)
            for message in build_workload(
                sessions, mix, requests=40, by_user=True, with_shown=with_shown, clock_ms=CLOCK_MS
            ).messages["observe"]
        ]
        for with_shown in (False, True)
    )
    assert not any("shown_item" in one for one in plain)
    for before, one in zip(plain, shown, strict=True):
        items = one.pop("shown_item").tolist()
        assert len(items) == len(set(items)) == 20
        assert set(items) & set(one["event_item"].tolist())
        assert {name: value.tolist() for name, value in one.items()} == {n: v.tolist() for n, v in before.items()}


def test_histories_are_as_old_as_they_were_when_asked_by_user():
    workload = build_workload(small_log([0, 1, 1, 1, 0, 1, 1]), {"recommend": 1.0}, by_user=True, clock_ms=CLOCK_MS)
    id_of = {item_key(item_id): item_id for item_id in "abc"}
    found = [
        [(id_of[key], CLOCK_MS - time_ms) for key, time_ms in zip(one["event_item"], one["event_time"], strict=True)]
        for one in map(tensors, workload.histories)
    ]
    assert found == [[("a", 1000)], [("b", 10), ("c", 10)]]
    named = user_keys(["loadtest/u", "loadtest/v"]).tolist()
    assert [tensors(history)["user"].tolist() for history in workload.histories] == named
    assert workload.user_ids == ("loadtest/u", "loadtest/v")
    stateless = build_workload(small_log([0, 1, 1, 1, 0, 1, 1]), {"recommend": 1.0})
    assert (stateless.histories, stateless.user_ids) == ((), ())


def test_no_event_counts_for_popularity_when_asked_by_user(sessions):
    mix = {"recommend": 0.5, "observe": 0.5}
    workload = build_workload(sessions, mix, requests=20, by_user=True, clock_ms=CLOCK_MS)
    for message in [*workload.histories, *workload.messages["observe"]]:
        request = read_request(message)
        content = dict(zip([one.name for one in request.inputs], request.raw_input_contents, strict=True))
        assert content["as_exported"] == b"\x01"


def test_times_are_set_when_a_request_that_names_a_user_is_sent(sessions):
    mix = dict.fromkeys(("recommend", "recommend_text", "rank", "observe"), 0.25)
    workload = build_workload(sessions, mix, requests=20, by_user=True, clock_ms=CLOCK_MS)
    for messages in workload.messages.values():
        for message in messages:
            assert stamped(message).at(CLOCK_MS) == message
            later = stamped(message, b"12345").at(CLOCK_MS + 7)
            assert later.startswith(b"12345")
            before, after = tensors(message), tensors(later[5:])
            for name in before:
                shift = 7 if name in ("event_time", "now") else 0
                assert after[name].tolist() == (before[name] + shift).tolist()
    stateless = build_workload(sessions, {"recommend": 1.0}, requests=5)
    assert [stamped(message) for message in stateless.messages["recommend"]] == [None] * 5


def test_workload_is_refused_when_no_held_out_event_has_a_past():
    with pytest.raises(LoadTestError, match="no user has a held-out event with an earlier one"):
        build_workload(small_log([1, 0, 0, 0, 1, 1, 0]), {"recommend": 1.0})


def test_messages_come_back_when_written_and_read(workload):
    messages = [b"", b"x", *workload.messages["recommend"][:20], bytes(70_000)]
    assert read_messages(write_messages(messages)) == messages


def test_requests_add_items_with_texts_of_the_catalog(sessions):
    workload = build_workload(sessions, {"recommend": 0.5, "add_items": 0.5}, requests=100)
    assert 1 < len(workload.item_ids) <= 64
    assert all(item_id.startswith("loadtest/") for item_id in workload.item_ids)
    assert not workload.user_ids
    for message in workload.messages["add_items"]:
        request = read_request(message)
        strings = {
            name: deserialize_bytes_tensor(raw).tolist()
            for name, raw in zip(_names(request), request.raw_input_contents, strict=True)
            if name in ("item_name", "text")
        }
        (name,), (text, _marker) = strings["item_name"], strings["text"]
        assert name.decode() in workload.item_ids
        assert text.decode() in sessions.catalog.text


def test_requests_change_the_stock_of_items_with_few_events(sessions):
    workload = build_workload(sessions, {"recommend": 0.5, "stock": 0.5}, requests=100)
    assert 1 < len(workload.stock_ids) <= 64
    assert set(workload.stock_ids) <= set(sessions.catalog.item_id)
    for message in workload.messages["stock"]:
        request = read_request(message)
        raw = dict(zip(_names(request), request.raw_input_contents, strict=True))
        out, back = deserialize_bytes_tensor(raw["item_name"]).tolist()
        assert out != back
        assert {out.decode(), back.decode()} <= set(workload.stock_ids)
        assert raw["in_stock"] == b"\0\1"
