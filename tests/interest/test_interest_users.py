"""Requests that name users, and what is observed of them, through a real store: the served models without Triton."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from ebbtide.interest import contract
from ebbtide.interest.contract import StateStatus
from ebbtide.interest.errors import RequestError
from ebbtide.interest.interest_reader import InterestReader
from ebbtide.interest.item_ids import ItemIds
from ebbtide.interest.keys import user_key, user_keys
from ebbtide.interest.observer import PRECISION_VARIABLE, Observer, half_precision
from ebbtide.interest.pipeline import InterestPipeline
from ebbtide.interest.record import RecordError, store_keys
from ebbtide.interest.users import Users, record_of
from ebbtide.store import StoreConfig, StoreError, UnavailableError, open_store

PATIENT = StoreConfig(timeout_ms=60_000)
"""A busy machine is no error."""
NOW = 1_700_000_000_000
HOUR_MS = 3_600_000
STATUS, COUNTS, INTEREST = contract.STATE_STATUS.name, contract.EVENT_COUNTS.name, contract.INTEREST.name


@pytest.fixture
def store(tmp_path):
    with open_store(f"embedded:{tmp_path / 'states'}", PATIENT) as opened:
        yield opened


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(limits=contract.Limits(max_events=40, max_exclude_items=10))


class Service:
    """The models of one export that know users."""

    def __init__(self, model, store, fingerprint="f" * 16, now_ms=NOW):
        self.users = Users(store, fingerprint)
        self.pipeline = model.pipeline
        self.observer = Observer(model.pipeline, self.users, clock_ms=lambda: now_ms)
        self.reader = InterestReader(model.pipeline, ItemIds.of([f"item {index}" for index in range(len(model.keys))]))

    def recommend(self, *requests):
        return self.users.answer(requests, lambda sound, records: self.pipeline.run_requests(sound, records=records))

    def observe(self, *requests):
        return self.observer.run_requests(requests)

    def counts(self, *requests):
        return [answer[contract.OBSERVED.name].tolist() for answer in self.observe(*requests)]


def asking(users, items=(), times=(), now=NOW, **tensors):
    """A request of one row for each user; all have the same events."""
    rows = len(users)
    return {
        "event_item": np.tile(np.array(items, np.int64), (rows, 1)),
        "event_time": np.tile(np.array(times, np.int64), (rows, 1)),
        "now": np.full((rows, 1), now),
        "user": keys_of(users),
        **tensors,
    }


def seen(user, items, times, **tensors):
    """One row of events of a user."""
    return {
        "user": keys_of([user]),
        "event_item": np.array([items], np.int64),
        "event_time": np.array([times], np.int64),
        **tensors,
    }


def keys_of(users):
    return np.array([[0, 0] if user is None else user_keys([user])[0] for user in users], np.int64)


def log(model, count, seed=0):
    """Items and times, oldest first."""
    random = np.random.default_rng(seed)
    ages_ms = np.sort(random.integers(1, 2000 * HOUR_MS, count))[::-1]
    return random.choice(model.keys, count), NOW - ages_ms


def test_answer_equals_that_from_all_events_when_they_are_observed(model, store):
    service = Service(model, store)
    items, times = log(model, 40)
    for start in range(0, 35, 7):
        service.observe(seen("ann", items[start : start + 7], times[start : start + 7]))
    stateless = service.recommend({**asking(["ann"], items, times), "user": keys_of([None])})[0]
    of_both = service.recommend(asking(["ann"], items[35:], times[35:]))[0]
    service.observe(seen("ann", items[35:], times[35:]))
    of_state = service.recommend(asking(["ann"]))[0]
    assert [answer[STATUS].item() for answer in (stateless, of_both, of_state)] == [0, 1, 1]
    for answer in (of_both, of_state):
        np.testing.assert_allclose(answer[INTEREST], stateless[INTEREST], atol=1e-5)
        assert answer[COUNTS].tolist() == stateless[COUNTS].tolist()


def test_answers_tell_what_they_used_when_rows_and_requests_differ(model, store):
    service = Service(model, store)
    items, times = log(model, 5)
    service.observe(seen("ann", items, times))
    plain = {name: value for name, value in asking([None], items, times).items() if name != "user"}
    alone, mixed, other = service.recommend(plain, asking(["ann", None, "bob"]), asking(["ann"], items[:1], times[:1]))
    assert alone[STATUS].tolist() == [[StateStatus.NO_USER]]
    assert mixed[STATUS].ravel().tolist() == [StateStatus.USED, StateStatus.NO_USER, StateStatus.UNKNOWN_USER]
    assert mixed[COUNTS].sum(axis=1).tolist() == [5, 0, 0]
    assert other[COUNTS].sum() == 5
    np.testing.assert_allclose(mixed[INTEREST][0], alone[INTEREST][0], atol=1e-5)
    scaled = service.recommend(asking(["ann"], decay_scale=np.array([[2]], np.float32)))[0]
    assert scaled[STATUS].item() == StateStatus.USED
    many, many_times = log(model, 40, seed=1)
    service.observe(seen("cid", many, many_times))
    scaled = service.recommend(asking(["cid"], decay_scale=np.array([[2]], np.float32)))[0]
    assert scaled[STATUS].item() == StateStatus.PARTLY_SCALED


def test_store_is_read_once_for_a_batch_and_never_without_users(model, store, monkeypatch):
    service = Service(model, store)
    calls = []
    for name in ("read", "read_all", "registered", "update"):
        original = getattr(type(store), name)

        def counted(self, *arguments, name=name, original=original):
            calls.append(name)
            return original(self, *arguments)

        monkeypatch.setattr(type(store), name, counted)
    plain = {name: value for name, value in asking([None]).items() if name != "user"}
    service.recommend(plain, plain)
    service.recommend(plain, asking([None]))
    assert calls == []
    service.recommend(asking(["ann", "bob"]), plain, asking(["ann"]), asking(["cid"]))
    assert calls == ["read_all"]
    items, times = log(model, 4)
    service.observe(*(seen(user, items, times) for user in ("ann", "bob", "ann")))
    assert calls == ["read_all", "update"]


def test_rows_of_one_user_count_one_after_the_other_when_they_share_a_batch(model, store):
    service = Service(model, store)
    items, times = log(model, 30)
    first, other, again, last = service.counts(
        seen("ann", items[:10], times[:10]),
        seen("bob", items[:3], times[:3]),
        seen("ann", items[5:15], times[5:15]),
        seen("ann", items[15:], times[15:]),
    )
    assert (first, other, again, last) == ([[10, 0, 0, 0]], [[3, 0, 0, 0]], [[5, 5, 0, 0]], [[15, 0, 0, 0]])
    expected = service.recommend({**asking(["ann"], items, times), "user": keys_of([None])})[0]
    np.testing.assert_allclose(service.recommend(asking(["ann"]))[0][INTEREST], expected[INTEREST], atol=1e-5)


def test_rows_are_padded_and_weighted_and_known_by_id_when_the_tensors_say_so(model, store):
    service = Service(model, store)
    items, times = log(model, 4)
    request = {
        "user": keys_of(["ann", "bob"]),
        "event_item": np.array([items, items]),
        "event_time": np.array([times, times]),
        "event_weight": np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32),
        "event_id": np.array([[1, 1, 2, 3], [1, 2, 3, 4]]),
        "event_count": np.array([[3], [0]], np.int32),
    }
    assert service.counts(request, seen("cid", items, times)) == [[[2, 1, 0, 0], [0, 0, 0, 0]], [[4, 0, 0, 0]]]
    got = service.recommend(asking(["ann", "bob"]))[0]
    weighted = asking([None], items[[0, 2]], times[[0, 2]], event_weight=np.array([[1, 3]], np.float32))
    np.testing.assert_allclose(got[INTEREST][0], service.recommend(weighted)[0][INTEREST][0], atol=1e-5)
    assert got[STATUS].ravel().tolist() == [StateStatus.USED, StateStatus.UNKNOWN_USER]
    # An event without an id in a batch where others have one is known by its item and time, as it would be alone.
    assert service.counts(seen("cid", items, times), request)[0] == [[0, 4, 0, 0]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user": np.zeros((1, 2), np.int64)}, r"^user: got 0 and 0; expected the key of a user$"),
        ({"event_item": np.array([[5]])}, r"^event_item\[0\]: got 5; expected the key of one of the 200 items"),
        ({"event_time": np.array([[-1]])}, r"^event_time\[0\]: got -1; expected Unix milliseconds from 0"),
        ({"event_time": np.array([[NOW * 1000]])}, r"^event_time\[0\]: got 17\d+; expected Unix .* server's clock$"),
        ({"event_time": np.array([[NOW // 1000]])}, r"^event_time\[0\]: got 17\d+; expected Unix .* 2200 in seconds$"),
        ({"event_time": np.array([[1, 2]])}, r"^event_time: got 2 entries; expected 1 entries, one for each event$"),
        ({"event_id": np.array([[1, 2]])}, r"^event_id: got 2 entries; expected 1 entries, one for each event$"),
        ({"event_weight": np.array([[np.nan]], np.float32)}, r"^event_weight\[0\]: got nan; expected a finite number"),
        ({"event_count": np.array([[2]], np.int32)}, r"^event_count: got 2; expected a number from 0 to 1"),
        (
            {"event_item": np.ones((1, 41), np.int64), "event_time": np.ones((1, 41), np.int64)},
            r"^event_item: got 41 events; expected at most 40 events$",
        ),
    ],
)
def test_observations_are_refused_alone_when_they_are_faulty(model, store, changes, message):
    service = Service(model, store)
    items, times = log(model, 1)
    refused, sound = service.observe({**seen("ann", items, times), **changes}, seen("bob", items, times))
    assert isinstance(refused, RequestError)
    with pytest.raises(RequestError, match=message):
        raise refused
    assert sound[contract.OBSERVED.name].tolist() == [[1, 0, 0, 0]]
    statuses = service.recommend(asking(["ann", "bob"]))[0][STATUS].ravel().tolist()
    assert statuses == [StateStatus.UNKNOWN_USER, StateStatus.USED]


def test_unknown_items_are_counted_when_the_request_ignores_them(model, store):
    service = Service(model, store)
    request = seen("ann", [model.keys[0], 5], [NOW - 2, NOW - 1], ignore_unknown=np.array([[True]]))
    assert service.counts(request) == [[[1, 0, 0, 1]]]


def test_requests_with_a_user_are_refused_when_the_server_keeps_no_states(model):
    service = Service(model, store=None)
    plain = {name: value for name, value in asking([None]).items() if name != "user"}
    refused, answered, of_nobody = service.recommend(asking(["ann"]), plain, asking([None]))
    assert isinstance(refused, RequestError)
    assert str(refused).startswith("user: got a user; expected none, since this server keeps no states")
    assert [answer[STATUS].item() for answer in (answered, of_nobody)] == [0, 0]
    # Nothing is wrong with the store, so it is no reason to answer without it.
    [stateless] = service.recommend(asking(["ann"], allow_stateless=np.array([[True]])))
    assert isinstance(stateless, RequestError)
    assert isinstance(service.observe(seen("ann", *log(model, 1)))[0], RequestError)
    assert isinstance(service.users.forget([{"user": keys_of(["ann"])}])[0], RequestError)


def test_requests_are_refused_or_answered_without_a_state_when_the_store_fails(model, tmp_path):
    store = open_store(f"embedded:{tmp_path / 'states'}", PATIENT)
    service = Service(model, store)
    items, times = log(model, 3)
    service.observe(seen("ann", items, times))
    store.close()
    plain = {name: value for name, value in asking([None], items, times).items() if name != "user"}
    stateless = asking(["ann", None], items, times, allow_stateless=np.array([[True], [False]]))
    refused, answered, without, partly = service.recommend(
        asking(["ann"]), plain, stateless, asking(["ann", "bob"], allow_stateless=np.array([[True], [False]]))
    )
    for error in (refused, partly):
        assert isinstance(error, StoreError)
        assert f"embedded:{tmp_path / 'states'}" in str(error)
    assert without[STATUS].ravel().tolist() == [StateStatus.UNAVAILABLE, StateStatus.NO_USER]
    np.testing.assert_array_equal(without[INTEREST][0], answered[INTEREST][0])
    with pytest.raises(StoreError):
        service.observe(seen("ann", items, times))
    with pytest.raises(StoreError):
        service.users.forget([{"user": keys_of(["ann"])}])


def test_users_are_unknown_everywhere_when_they_were_forgotten(make_model, model, store):
    services = [Service(model, store), Service(make_model(seed=1), store, "e" * 16)]
    items, times = log(model, 3)
    services[0].observe(seen("ann", items, times), seen("bob", items, times))
    keys = keys_of(["ann", "cid", "ann"])
    answers = services[1].users.forget([{"user": keys}, {"user": keys_of(["ann"])}, {"user": keys_of([None])}])
    assert answers[0][contract.FORGOTTEN.name].tolist() == [[2], [0], [0]]
    assert answers[1][contract.FORGOTTEN.name].tolist() == [[0]]
    assert str(answers[2]) == "user: got 0 and 0; expected the key of a user"
    assert store.read_all([user_key("ann")]) == [{}]
    for service in services:
        assert service.recommend(asking(["ann"]))[0][STATUS].item() == StateStatus.UNKNOWN_USER
    assert services[0].recommend(asking(["bob"]))[0][STATUS].item() == StateStatus.USED


def test_events_reach_every_version_in_use_when_one_observes_them(make_model, store):
    limits = contract.Limits(max_events=60, max_exclude_items=10)
    old, new = make_model(limits=limits), make_model(limits=limits)
    # Another version of the same catalog: its sums mean nothing to the first.
    new.pipeline = InterestPipeline(
        replace(new.parameters, decay_rate_per_day=new.parameters.decay_rate_per_day[::-1].copy()),
        new.pipeline.index,
        new.vectors[:, ::-1],
    )
    before = Service(old, store, "a" * 16)
    items, times = log(old, 60)
    before.observe(seen("ann", items[:20], times[:20]))
    # Loaded later: it has no record of the user, and takes the raw events of the other version's.
    after = Service(new, store, "b" * 16)
    first = after.recommend(asking(["ann"]))[0]
    assert first[STATUS].item() == StateStatus.RAW_ONLY
    left = int(first[COUNTS].sum())
    assert 0 < left < 20
    before.observe(seen("ann", items[20:40], times[20:40]))
    after.observe(seen("ann", items[40:], times[40:]))
    assert store.registered() == {b"a" * 16, b"b" * 16}
    for service, unseen in ((before, 0), (after, 20 - left)):
        answer = service.recommend(asking(["ann"]))[0]
        assert answer[STATUS].item() == StateStatus.USED
        expected = service.recommend(asking([None], items[unseen:], times[unseen:]))[0]
        np.testing.assert_allclose(answer[INTEREST], expected[INTEREST], atol=1e-5)
        assert answer[COUNTS].tolist() == expected[COUNTS].tolist()


def test_no_event_is_lost_when_versions_and_writers_observe_at_once(make_model, tmp_path):
    model = make_model(seed=0)
    items, times = log(model, 240)
    parts = np.array_split(np.random.default_rng(3).permutation(240), 8)
    errors = []

    def write(part, number):
        try:
            with open_store(f"embedded:{tmp_path / 'states'}", PATIENT) as own:
                service = Service(model, own, ("a" if number % 2 else "b") * 16)
                for step in np.array_split(part, 6):
                    service.observe(seen("ann", items[step], times[step]))
        except BaseException as error:
            errors.append(error)

    with open_store(f"embedded:{tmp_path / 'states'}", PATIENT) as store:
        for fingerprint in ("a" * 16, "b" * 16):
            Users(store, fingerprint)
        threads = [threading.Thread(target=write, args=pair) for pair in zip(parts, range(8), strict=True)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        for fingerprint in ("a" * 16, "b" * 16):
            answer = Service(model, store, fingerprint).recommend(asking(["ann"]))[0]
            assert answer[COUNTS].sum() == 240


def test_interest_tells_counts_and_newest_events_when_a_user_is_known(model, store):
    service = Service(model, store)
    items, times = log(model, 30)
    service.observe(seen("ann", items, times))

    def read(user, **tensors):
        request = {"user": keys_of([user])[0], "now": np.array([NOW]), **tensors}
        return service.users.answer([request], service.reader.run_requests)[0]

    found = read("ann")
    folded, raw, late, dropped = found[contract.STATE_COUNTS.name][0].tolist()
    assert (folded + raw, late, dropped) == (30, 0, 0)
    assert found[contract.STATE_EVENT_TIME.name].tolist() == times[::-1][:raw].tolist()
    index = {key: position for position, key in enumerate(model.keys.tolist())}
    ids = [item.decode() for item in found[contract.STATE_EVENT_ITEM.name].tolist()]
    assert ids == [f"item {index[key]}" for key in items[::-1][:raw].tolist()]
    decay = found[contract.STATE_EVENT_DECAY.name]
    assert decay.max() <= 1
    assert (np.diff(decay) <= 0).all()
    expected = service.recommend({**asking([None], items, times)})[0][INTEREST][0]
    d = model.parameters.vector_width
    np.testing.assert_allclose(found[contract.INTEREST_ENERGY.name], expected[:d] ** 2, rtol=1e-3, atol=1e-6)
    halved = read("ann", decay_scale=np.array([2], np.float32))
    np.testing.assert_allclose(halved[contract.HALF_LIFE_DAYS.name] * 2, found[contract.HALF_LIFE_DAYS.name], rtol=1e-6)
    unknown = read("bob")
    assert unknown[STATUS].item() == StateStatus.UNKNOWN_USER
    assert unknown[contract.STATE_COUNTS.name].tolist() == [[0, 0, 0, 0]]
    assert unknown[contract.STATE_EVENT_TIME.name].size == 0


def test_explanation_adds_up_when_events_come_from_request_and_state(make_model, ask, store):
    for repeats in (False, True):
        model = make_model(seed=5, repeats=repeats)
        service = Service(model, store, f"{repeats}" * 4)
        items, times = log(model, 36)
        service.observe(seen("ann", items[:34], times[:34]))
        candidates = np.r_[items[:5], model.keys[:3], items[-2:], [5]]
        # The state's newest event comes with the request too.
        plain = ask(items[33:], event_time=times[33:], candidate_item=candidates).tensors()
        request = {**plain, "user": keys_of(["ann"])[0]}
        found = service.users.answer([request], model.explainer.run_requests)[0]
        whole = {**plain, "event_item": items, "event_time": times}
        expected = model.explainer.run_tensors(whole)
        np.testing.assert_allclose(found["candidate_score"], expected.candidate_score, atol=1e-4)
        parts = [found["event_share"].sum(axis=1), found["state_event_share"].sum(axis=1)]
        parts += [found[name] for name in ("folded_share", "prior_share", "adjustment_share")]
        np.testing.assert_allclose(np.sum(parts, axis=0), found["candidate_score"][0], atol=1e-4)
        raw = found["state_event_time"].size
        assert raw > 3
        np.testing.assert_allclose(found["event_share"], expected.event_share[:, 33:], atol=1e-4)
        # Newest first; the first is the request's own.
        assert found["state_event_share"][:-1, 0].tolist() == [0] * (candidates.size - 1)
        assert not found["state_event_current"][0]
        newest_first = expected.event_share[:, 33 - raw + 1 : 33][:, ::-1]
        np.testing.assert_allclose(found["state_event_share"][:, 1:], newest_first, atol=1e-4)
        np.testing.assert_allclose(
            found["folded_share"], expected.event_share[:, : 33 - raw + 1].sum(axis=1), atol=1e-4
        )
        assert found["state_status"].item() == StateStatus.USED


def test_states_are_smaller_and_read_by_all_when_written_in_half_precision(model, store):
    service = Service(model, store)
    half = Observer(model.pipeline, service.users, half_precision=half_precision({PRECISION_VARIABLE: "half"}))
    items, times = log(model, 40)
    service.observe(seen("ann", items, times))
    half.run_requests([seen("bob", items, times)])
    single, small = (len(store.read([user_key(user)], b"f" * 16)[0]) for user in ("ann", "bob"))
    assert small < 0.7 * single
    expected, answer = (service.recommend(asking([user]))[0][INTEREST] for user in ("ann", "bob"))
    np.testing.assert_allclose(answer, expected, rtol=0.02, atol=0.02)
    assert not np.array_equal(answer, expected)
    assert not half_precision({})
    with pytest.raises(ValueError, match="EBBTIDE_STATE_PRECISION: got 'double'; expected single or half"):
        half_precision({PRECISION_VARIABLE: "double"})


def test_users_wait_for_a_store_that_does_not_answer_yet(model):
    with open_store("redis://127.0.0.1:1/0") as store:
        service = Service(model, store)
        assert isinstance(service.users.waits_for, UnavailableError)
        refused = service.recommend(asking(["ann"]))[0]
        assert isinstance(refused, UnavailableError)
        assert "redis://127.0.0.1:1/0" in str(refused)
        plain = {name: value for name, value in asking([None]).items() if name != "user"}
        assert service.recommend(plain)[0][STATUS].item() == StateStatus.NO_USER


def test_damaged_record_harms_its_own_request_only_and_is_left_out_when_the_request_allows_it(model, store):
    service = Service(model, store)
    items, times = log(model, 4)
    service.observe(*(seen(user, items, times) for user in ("ann", "bob", "cid")))
    (key,) = store_keys(keys_of(["bob"]))
    fingerprint = model.parameters.config.states.encode()
    store.update([key], lambda snapshot: [{fingerprint: found[fingerprint][:-1]} for found in snapshot.records])
    allowed = asking(["bob", "cid"], items[:1], times[:1], allow_stateless=np.array([[True], [True]]))
    whole, failed, without = service.recommend(asking(["ann"]), asking(["bob"]), allowed)
    assert whole[STATUS].item() == StateStatus.USED
    assert isinstance(failed, RecordError)
    assert without[STATUS].ravel().tolist() == [StateStatus.UNAVAILABLE, StateStatus.USED]
    assert without[COUNTS].sum(axis=1).tolist() == [1, 4]
    # To a version without a record of its own, the damaged one of another says nothing.
    assert record_of(b"another", {fingerprint: b"Eb\x07"}) == (None, StateStatus.UNKNOWN_USER)
