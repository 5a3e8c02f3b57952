"""The bytes of a record: their size, what is refused, and raw events that any version can add and read."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.interest.contract import Limits
from ebbtide.interest.keys import user_key, user_keys
from ebbtide.interest.record import (
    HEADER,
    KNOWN_IDS,
    RAW_EVENTS,
    TAIL_EVENTS,
    NewEvents,
    RecordError,
    Records,
    append_raw,
    store_keys,
    tail_only,
)

START_MS = 1_600_000_000_000
MS_PER_DAY = 86_400_000


def events_of(keys, times, weight=None, event_id=None):
    """The events of one user."""
    return NewEvents(
        np.array([len(keys)]),
        np.array(keys, np.int64),
        np.array(times, np.int64),
        None if weight is None else np.array(weight, np.float32),
        None if event_id is None else np.array(event_id, np.int64),
    )


def raw_of(record):
    """Key and time of each raw event."""
    raw = Records.decode([record]).events
    return list(zip(raw.key.tolist(), raw.time_ms.tolist(), strict=True))


def two_sessions(keys, events):
    """A long history of one item after the other, and a session that is longer than the tail."""
    times = START_MS + 1_000 * np.arange(events)
    times[events // 2 :] += MS_PER_DAY
    return events_of(np.resize(keys, events), times)


@pytest.mark.parametrize(("half_precision", "most"), [(False, 2048), (True, 1024)])
def test_record_keeps_its_bound_when_history_and_session_of_96_dimensions_are_folded(make_model, half_precision, most):
    model = make_model(0, 40, d=96, limits=Limits())
    recorder = model.pipeline.recorder(half_precision=half_precision)
    seen = model.keys[:9]
    (record,) = recorder.observe([None], two_sessions(seen, 2_000)).records
    assert recorder.read([record]).folded.counts.min() > 100
    assert len(record) - 4 * seen.size <= most


def test_seen_items_add_4_bytes_each_up_to_their_bound(make_model):
    model = make_model(0, 3_000, d=96, limits=Limits(max_events=40, max_exclude_items=10))
    recorder = model.pipeline.recorder()
    sizes = [
        len(recorder.observe([None], two_sessions(model.keys[:items], 5_000)).records[0]) for items in (1, 11, 2_000)
    ]
    assert np.diff(sizes).tolist() == [4 * 10, 4 * (50 - 11)]


def test_counts_of_the_repeat_score_add_10_bytes_and_4_for_each_half_life(make_model):
    model = make_model(0, 3_000, d=96, repeats=True, limits=Limits(max_events=40, max_exclude_items=10))
    recorder = model.pipeline.recorder()
    sizes = [
        len(recorder.observe([None], two_sessions(model.keys[:items], 5_000)).records[0]) for items in (1, 11, 2_000)
    ]
    assert np.diff(sizes).tolist() == [18 * 10, 18 * (40 - 11)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda record: record[:20], "20 bytes"),
        (lambda record: b"xx" + record[2:], r"b'xx\\x01'"),
        (lambda record: record[:2] + b"\x02" + record[3:], r"b'Eb\\x02'"),
        (lambda record: record[:60], "60 bytes"),
        (lambda record: record[:-1], "bytes of folded events"),
        (lambda record: record + b"\0", "bytes of folded events"),
    ],
)
def test_record_is_refused_with_its_index_when_it_is_damaged(make_model, damage, message):
    model = make_model()
    recorder = model.pipeline.recorder()
    (record,) = recorder.observe([None], two_sessions(model.keys[:9], 50)).records
    for use in (recorder.read, lambda records: recorder.observe(records, two_records([2, 0, 0]))):
        with pytest.raises(RecordError, match=message) as raised:
            use([record, None, damage(record)])
        assert raised.value.user == 2


def two_records(counts):
    return NewEvents(np.array(counts), np.zeros(sum(counts), np.int64), np.zeros(sum(counts), np.int64))


def test_record_is_refused_when_another_export_wrote_it(make_model):
    (record,) = make_model().pipeline.recorder().observe([None], two_sessions(make_model().keys, 50)).records
    for other in (make_model(d=12), make_model(repeats=True)):
        with pytest.raises(RecordError, match="bytes of folded events"):
            other.pipeline.recorder().read([record])


def test_records_stay_the_same_objects_when_nothing_is_new(make_model):
    model = make_model()
    recorder = model.pipeline.recorder()
    events = events_of(model.keys[:3], [START_MS] * 3)
    (record,) = recorder.observe([None], events).records
    done = recorder.observe([record], events)
    assert done.records[0] is record
    assert done.counts.tolist() == [[0, 3, 0, 0]]
    assert recorder.observe([None], events_of([5], [START_MS])).records == [None]
    assert append_raw([record], events).records[0] is record


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_update_of_as_many_events_as_ids_are_kept_can_be_sent_again(make_model, seed):
    random = np.random.default_rng(seed)
    model = make_model()
    recorder = model.pipeline.recorder()
    before = events_of(random.choice(model.keys, 50), START_MS + np.sort(random.integers(0, MS_PER_DAY, 50)))
    update = events_of(
        random.choice(model.keys, KNOWN_IDS),
        START_MS + MS_PER_DAY + random.integers(0, MS_PER_DAY, KNOWN_IDS),
        event_id=random.integers(-(2**63), 2**63, KNOWN_IDS),
    )
    (record,) = recorder.observe(recorder.observe([None], before).records, update).records
    again = recorder.observe([record], update)
    assert again.records[0] is record
    assert again.counts.tolist() == [[0, KNOWN_IDS, 0, 0]]


def test_event_is_known_by_its_id_when_its_time_has_changed():
    first = append_raw([None], events_of([7, 7], [START_MS] * 2, event_id=[1, 2]))
    again = append_raw(first.records, events_of([7, 8], [START_MS + 5, START_MS], event_id=[2, 3]))
    assert (first.added.tolist(), again.added.tolist(), again.duplicates.tolist()) == ([2], [1], [1])
    assert raw_of(again.records[0]) == [(7, START_MS), (7, START_MS), (8, START_MS)]


def test_item_and_time_are_the_id_when_none_is_given():
    done = append_raw([None], events_of([7, 7, 8, 7], [START_MS, START_MS + 1, START_MS, START_MS]))
    assert raw_of(done.records[0]) == [(7, START_MS), (8, START_MS), (7, START_MS + 1)]
    assert (done.added.tolist(), done.duplicates.tolist()) == ([3], [1])


def test_raw_events_stay_in_order_of_time_and_the_oldest_go_when_there_are_too_many():
    times = START_MS + np.random.default_rng(0).permutation(RAW_EVENTS + 40)
    records = [None]
    dropped = 0
    for part in np.array_split(times, 7):
        done = append_raw(records, events_of(part - START_MS, part))
        records, dropped = done.records, dropped + done.dropped[0]
    assert raw_of(records[0]) == [(index, START_MS + index) for index in range(40, RAW_EVENTS + 40)]
    assert dropped == 40
    assert Records.decode(records).headers["dropped"].tolist() == [40]


def test_raw_events_are_folded_like_observed_ones_when_their_export_comes_to_them(make_model):
    model = make_model(repeats=True)
    recorder = model.pipeline.recorder()
    early = two_sessions(model.keys[:9], 60)
    later = events_of([*model.keys[:40], 5], START_MS + 3 * MS_PER_DAY + 900_000 * np.arange(41))
    last = events_of(model.keys[:1], [START_MS + 9 * MS_PER_DAY])
    (start,) = recorder.observe([None], early).records
    raw = append_raw([start], later).records
    (record,) = recorder.observe(raw, last).records
    (direct,) = recorder.observe(recorder.observe([start], later).records, last).records
    assert len(raw_of(record)) == TAIL_EVENTS
    found, right = recorder.read([record]), recorder.read([direct])
    assert raw_of(record) == raw_of(direct)
    np.testing.assert_allclose(found.folded.sums, right.folded.sums, rtol=1e-5, atol=1e-6)
    assert found.folded.counts.tolist() == right.folded.counts.tolist()
    assert found.items.item.tolist() == right.items.item.tolist()
    np.testing.assert_allclose(found.items.counts, right.items.counts, rtol=1e-5)


def test_raw_events_of_unknown_items_go_when_their_export_comes_to_them(make_model):
    model = make_model()
    raw = append_raw([None], events_of([5, model.keys[0], 6], [START_MS] * 3)).records
    done = model.pipeline.recorder().observe(raw, events_of([], []))
    assert raw_of(done.records[0]) == [(model.keys[0], START_MS)]
    assert done.counts.tolist() == [[0, 0, 0, 0]]


def test_tail_of_a_record_is_one_of_any_other_export(make_model):
    model, other = make_model(), make_model(1, d=12, repeats=True)
    events = events_of(model.keys[np.arange(50) % 20], START_MS + np.arange(50))
    (record,) = model.pipeline.recorder().observe([None], events).records
    tail = tail_only(record)
    assert raw_of(tail) == raw_of(record)
    states = other.pipeline.recorder().read([tail])
    assert states.known.tolist() == [True]
    assert (states.folded.counts.sum(), states.items.item.size) == (0, 0)
    again = append_raw([tail], events_of(model.keys[[49 % 20]], [START_MS + 49]))
    assert again.duplicates.tolist() == [1]


def test_key_of_a_user_is_the_same_bytes_in_the_tensor_and_in_the_store():
    ids = ["user-1", "", "Zoë", "用户"]
    tensor = user_keys(ids)
    assert tensor.shape == (4, 2)
    assert tensor.dtype == np.int64
    assert store_keys(tensor) == [user_key(one) for one in ids]
    # XXH3-128 of no bytes, from the specification of xxHash.
    assert user_key("").hex() == "99aa06d3014798d86001c324468d497f"
    assert store_keys(np.zeros((0, 2), np.int64)) == []


def test_header_has_the_size_that_the_documentation_states():
    assert HEADER.itemsize == 48
