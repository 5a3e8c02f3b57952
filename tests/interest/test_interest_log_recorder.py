"""Event logs in records: what is exact, what is taken for granted, and what is left alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.interest.log_recorder import Outcome
from ebbtide.interest.record import RAW_EVENTS, TAIL_EVENTS, NewEvents, Records, append_raw

START_MS = 1_600_000_000_000
MS_PER_DAY = 86_400_000
PAUSES_MS = [1, 20_000, 600_000, 1_800_000, 1_800_001, MS_PER_DAY, 30 * MS_PER_DAY]
MARK = 77


def random_events(random, keys, counts, *, start_ms=START_MS, own_ids=False) -> NewEvents:
    """Events of distinct times for each user, oldest first."""
    pauses = [random.choice(PAUSES_MS[: random.integers(2, 8)], count) for count in counts]
    total = int(np.sum(counts))
    return NewEvents(
        np.array(counts),
        random.choice(keys[:30], total),
        start_ms + np.concatenate([np.cumsum(one) for one in pauses]).astype(np.int64),
        (random.random(total) * 5 + 0.01).astype(np.float32),
        random.integers(-(2**63), 2**63, total) if own_ids else None,
    )


def taken(events, mask) -> NewEvents:
    """Those events where a mask is true, of the same users."""
    user = np.repeat(np.arange(events.counts.size), events.counts)
    return NewEvents(
        np.bincount(user[mask], minlength=events.counts.size),
        events.item_key[mask],
        events.time_ms[mask],
        None if events.weight is None else events.weight[mask],
        None if events.event_id is None else events.event_id[mask],
    )


def shuffled(random, events) -> NewEvents:
    """The same, each user's in another order."""
    user = np.repeat(np.arange(events.counts.size), events.counts)
    order = np.lexsort((random.random(user.size), user))
    return NewEvents(
        events.counts,
        events.item_key[order],
        events.time_ms[order],
        events.weight[order],
        None if events.event_id is None else events.event_id[order],
    )


def assert_same(recorder, records, others, rtol=2e-5):
    """Records that say the same of their users, to the digits of single precision."""
    found, right = recorder.read(records), recorder.read(others)
    of_found, of_right = (Records.decode(some).events for some in (records, others))
    for name in ("user", "key", "time_ms", "weight", "event_id"):
        assert getattr(of_found, name).tolist() == getattr(of_right, name).tolist(), name
    assert found.folded.counts.tolist() == right.folded.counts.tolist()
    has_folded = found.folded.counts.any(axis=1)
    assert found.folded.time_ms[has_folded].tolist() == right.folded.time_ms[has_folded].tolist()
    for name in ("sums", "squares"):
        expected = getattr(right.folded, name)
        atol = rtol * np.abs(expected).max(initial=0)
        np.testing.assert_allclose(getattr(found.folded, name), expected, rtol=0, atol=atol)
    for name in ("user", "item"):
        assert getattr(found.items, name).tolist() == getattr(right.items, name).tolist()
    np.testing.assert_allclose(found.items.counts, right.items.counts, rtol=1e-4, atol=1e-6)


def counts_for(random, users):
    return random.choice([0, 1, 5, TAIL_EVENTS, TAIL_EVENTS + 1, 40, 200], users)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_log_and_raw_events_together_are_exact_whatever_order_and_overlap(make_model, seed):
    random = np.random.default_rng(seed)
    repeats = bool(random.random() < 0.5)
    model = make_model(seed % 3, 60, repeats=repeats, exclude_seen=not repeats)
    recorder = model.pipeline.log_recorder()
    events = random_events(random, model.keys, counts_for(random, 8), own_ids=random.random() < 0.5)
    in_log, observed = random.random((2, events.item_key.size)) < [[0.8], [0.4]]
    in_log |= ~observed
    raw = append_raw([None] * 8, shuffled(random, taken(events, observed))).records
    done = recorder.add_log(raw, shuffled(random, taken(events, in_log)), MARK)
    # All events at once, which test_interest_recorder.py compares with the formulas.
    direct = recorder.observe([None] * 8, events).records
    assert_same(recorder, done.records, direct)
    user = np.repeat(np.arange(8), events.counts)
    for name, mask in (("added", in_log & ~observed), ("duplicates", in_log & observed)):
        column = ("added", "duplicates").index(name)
        assert done.counts[:, column].tolist() == np.bincount(user[mask], minlength=8).tolist()
    assert not done.counts[:, 2:].any()
    assert set(done.outcome.tolist()) == {Outcome.WRITTEN}


def test_raw_events_of_a_whole_record_stay_exact_when_they_lie_among_those_of_the_log(make_model):
    random = np.random.default_rng(0)
    model = make_model()
    recorder = model.pipeline.log_recorder()
    events = random_events(random, model.keys, [5 * RAW_EVENTS])
    observed = np.zeros(5 * RAW_EVENTS, dtype=bool)
    observed[random.permutation(5 * RAW_EVENTS)[:RAW_EVENTS]] = True
    raw = append_raw([None], taken(events, observed)).records
    done = recorder.add_log(raw, taken(events, ~observed), MARK)
    assert_same(recorder, done.records, recorder.observe([None], events).records)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1))
def test_log_before_folded_events_is_exact_when_it_ends_before_their_first_session(make_model, seed):
    random = np.random.default_rng(seed)
    repeats = bool(random.random() < 0.5)
    model = make_model(seed % 3, 60, repeats=repeats, exclude_seen=not repeats)
    recorder = model.pipeline.log_recorder()
    log = random_events(random, model.keys, counts_for(random, 6))
    later = random_events(
        random, model.keys, random.choice([17, 30, 90], 6), start_ms=int(log.time_ms.max(initial=START_MS)) + MS_PER_DAY
    )
    live = recorder.observe([None] * 6, later).records
    done = recorder.add_log(live, log, MARK)
    direct = recorder.observe(recorder.observe([None] * 6, log).records, later).records
    assert_same(recorder, done.records, direct)
    assert done.counts[:, 0].tolist() == done.counts[:, 2].tolist() == log.counts.tolist()


def test_same_log_changes_nothing_when_it_comes_again(make_model):
    random = np.random.default_rng(1)
    model = make_model()
    recorder = model.pipeline.log_recorder()
    log = random_events(random, model.keys, [3, 40, 90])
    later = random_events(random, model.keys, [60, 2, 0], start_ms=int(log.time_ms.max()) + 1)
    records = recorder.observe(recorder.add_log([None] * 3, log, MARK).records, later).records
    again = recorder.add_log(records, log, MARK)
    assert all(found is record for found, record in zip(again.records, records, strict=True))
    assert set(again.outcome.tolist()) == {Outcome.DONE_BEFORE}
    assert not again.counts.any()


def test_other_log_replaces_what_is_folded_only_when_nothing_folded_is_newer(make_model):
    random = np.random.default_rng(2)
    model = make_model()
    recorder = model.pipeline.log_recorder()
    whole = random_events(random, model.keys, [90, 90])
    index, user = np.tile(np.arange(90), 2), np.repeat([0, 1], 90)
    first = recorder.add_log([None] * 2, taken(whole, index < 60), MARK).records
    # The second user did so much since that some of it is folded.
    after = recorder.observe(first, taken(whole, (index >= 60) & (user == 1))).records
    longer = recorder.add_log(after, taken(whole, index < 70), MARK + 1)
    assert longer.outcome.tolist() == [Outcome.WRITTEN, Outcome.KEPT]
    assert longer.records[1] is after[1]
    assert_same(
        recorder,
        longer.records,
        [recorder.observe([None] * 2, taken(whole, index < 70)).records[0], after[1]],
    )
    forced = recorder.add_log(after, whole, MARK + 1, replace_folded=True)
    assert forced.outcome.tolist() == [Outcome.WRITTEN] * 2
    assert_same(recorder, forced.records, recorder.observe([None] * 2, whole).records)


def test_counters_of_a_record_survive_a_log(make_model):
    random = np.random.default_rng(3)
    model = make_model()
    recorder = model.pipeline.log_recorder()
    raw = append_raw([None], random_events(random, model.keys, [RAW_EVENTS + 3])).records
    headers = Records.decode(raw).headers.copy()
    assert headers["dropped"].tolist() == [3]
    (record,) = recorder.add_log(raw, random_events(random, model.keys, [9]), MARK).records
    (observed,) = recorder.observe([record], random_events(random, model.keys, [30])).records
    assert Records.decode([record, observed]).headers["dropped"].tolist() == [3, 3]
    assert Records.decode([record, observed]).headers["log_mark"].tolist() == [MARK, MARK]


def test_unknown_items_and_repeats_of_a_log_are_left_out_and_counted(make_model):
    model = make_model()
    recorder = model.pipeline.log_recorder()
    keys = np.array([model.keys[0], 5, model.keys[0], model.keys[1]])
    times = START_MS + np.array([0, 1, 0, 2])
    done = recorder.add_log([None, None], NewEvents(np.array([4, 0]), keys, times), MARK)
    assert done.counts.tolist() == [[2, 1, 0, 1], [0, 0, 0, 0]]
    assert done.records[1] is None
    assert Records.decode(done.records[:1]).events.key.tolist() == model.keys[:2].tolist()


@pytest.mark.parametrize("half_precision", [False, True])
def test_records_of_both_precisions_take_logs(make_model, half_precision):
    random = np.random.default_rng(4)
    model = make_model()
    recorder = model.pipeline.log_recorder(half_precision=half_precision)
    events = random_events(random, model.keys, [300, 20])
    done = recorder.add_log([None] * 2, events, MARK)
    assert_same(recorder, done.records, recorder.observe([None] * 2, events).records, rtol=2e-3)
