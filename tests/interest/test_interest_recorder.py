"""Records give what the batch formula gives for all events at once, whatever way the events took into them."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.interest.contract import Limits
from ebbtide.interest.record import (
    HALF_KNOWN_IDS,
    HALF_PRECISION,
    HALF_TAIL_EVENTS,
    KNOWN_IDS,
    TAIL_EVENTS,
    NewEvents,
    Records,
    append_raw,
)

START_MS = 1_600_000_000_000
MS_PER_DAY = 86_400_000
GAP_MS = 1_800_000
PAUSES_MS = [0, 0, 1, 20_000, 60_000, 600_000, GAP_MS, GAP_MS + 1, MS_PER_DAY, 30 * MS_PER_DAY, 900 * MS_PER_DAY]
UNKNOWN_KEY = 5


@dataclass
class Log:
    """The events of one user in the order of their arrival, and how they reach the record."""

    key: np.ndarray
    time_ms: np.ndarray
    weight: np.ndarray
    event_id: np.ndarray
    call: np.ndarray
    """Ascending: the call that each event is part of."""
    now_ms: int
    asked: tuple
    """Key, time and weight of the events of the request."""


def random_log(random, keys, *, events, calls, own_ids, tidy=False) -> Log:
    """Events that arrive out of order inside the tail, some of them more than once, and a request after them.

    Tidy ones come in order, each once, with a request without events.
    """
    pauses = random.choice(PAUSES_MS[: random.integers(3, len(PAUSES_MS) + 1)], events)
    time_ms = START_MS + np.cumsum(pauses)
    key = random.choice(keys[: random.integers(2, 30)], events)
    key[random.random(events) < 0.1] = UNKNOWN_KEY
    weight = np.where(random.random(events) < 0.5, 1, random.random(events) * 5 + 0.01).astype(np.float32)
    index = np.arange(events)
    # An event with fewer than TAIL_EVENTS newer ones before it is never older than what is folded; the id of one with
    # fewer than KNOWN_IDS newer ones is still known.
    disorder = 0 if tidy else random.choice([0, 3, TAIL_EVENTS])
    arrival = index + random.random(events) * disorder
    again = np.flatnonzero(random.random(events) < (0 if tidy else random.choice([0, 0.3])))
    index = np.concatenate([index, again])
    arrival = np.concatenate([arrival, again + random.random(again.size) * (KNOWN_IDS - 1)])
    index = index[np.argsort(arrival, kind="stable")]
    event_id = random.integers(-(2**63), 2**63, events)
    call = np.sort(random.integers(0, calls, index.size))
    now_ms = int(random.choice(np.r_[START_MS - 1, time_ms, time_ms[-1:] + random.choice(PAUSES_MS)]))
    return Log(
        key[index],
        time_ms[index],
        weight[index],
        event_id[index] if own_ids else np.zeros(0, np.int64),
        call,
        now_ms,
        () if tidy else asked_events(random, keys, now_ms, time_ms, key),
    )


def asked_events(random, keys, now_ms, time_ms, key):
    """Events of a request, among them some that the record may hold; none is older than what may be folded."""
    oldest = np.sort(time_ms)[max(time_ms.size - HALF_TAIL_EVENTS, 0)]
    if oldest > now_ms:
        return ()
    known = np.flatnonzero((time_ms >= oldest) & (time_ms <= now_ms) & (key != UNKNOWN_KEY))
    repeated = random.choice(known, min(known.size, random.integers(0, 3)), replace=False)
    own = int(random.integers(0, 4))
    own_times = random.integers(oldest, now_ms + 1, own)
    keys, times = np.r_[key[repeated], random.choice(keys, own)], np.r_[time_ms[repeated], own_times]
    return keys, times, (random.random(keys.size) + 0.1).astype(np.float32)


def observed(recorder, random, logs, records=None):
    """The records after all calls: each call takes some users in any order; and all acknowledgements, added up."""
    records = [None] * len(logs) if records is None else list(records)
    total = np.zeros((len(logs), 4), np.int64)
    for call in range(max((int(log.call.max(initial=-1)) for log in logs), default=-1) + 1):
        # Some users are part of a call without events.
        users = [user for user in random.permutation(len(logs)) if call in logs[user].call or random.random() < 0.2]
        parts = [np.flatnonzero(logs[user].call == call) for user in users]
        if not users:
            continue
        column = {
            name: np.concatenate([getattr(logs[user], name)[part] for user, part in zip(users, parts, strict=True)])
            for name in ("key", "time_ms", "weight")
        }
        own_ids = None
        if logs[0].event_id.size:
            own_ids = np.concatenate([logs[user].event_id[part] for user, part in zip(users, parts, strict=True)])
        done = recorder.observe(
            [records[user] for user in users],
            NewEvents(np.array([part.size for part in parts]), *column.values(), own_ids),
        )
        for user, record, counts in zip(users, done.records, done.counts, strict=True):
            records[user] = record
            total[user] += counts
    return records, total


@dataclass
class Expected:
    """What the formulas say of one user, event by event in double precision; docs/method.md."""

    long_term: np.ndarray
    current: np.ndarray
    alpha: np.ndarray
    counts: list
    repeat_scores: dict
    seen: set
    duplicates: int
    unknown: int

    @property
    def interest(self):
        return self.alpha * self.long_term + (1 - self.alpha) * self.current


def expected(model, log, tail_events=TAIL_EVENTS) -> Expected:
    catalog = {key: index for index, key in enumerate(model.keys.tolist())}
    ids = log.event_id.tolist() if log.event_id.size else list(zip(log.key.tolist(), log.time_ms.tolist(), strict=True))
    events, met, duplicates, unknown = [], set(), 0, 0
    for key, time, weight, event_id in zip(log.key.tolist(), log.time_ms.tolist(), log.weight, ids, strict=True):
        if key not in catalog:
            unknown += 1
        elif event_id in met:
            duplicates += 1
        else:
            met.add(event_id)
            events.append((time, catalog[key], float(weight)))
    # Python's sort is stable: events of one timestamp keep the order of their arrival.
    events.sort(key=lambda event: event[0])
    folded, tail = events[: max(len(events) - tail_events, 0)], events[max(len(events) - tail_events, 0) :]
    clock_ms = max([log.now_ms, *(event[0] for event in folded[-1:])])
    asked = (
        [
            (time, catalog[key], float(weight))
            for key, time, weight in zip(*map(np.ndarray.tolist, log.asked), strict=True)
        ]
        if log.asked
        else []
    )
    repeated = {event[:2] for event in asked}
    events = sorted(
        [*folded, *(event for event in tail if event[:2] not in repeated), *asked], key=lambda event: event[0]
    )

    p, ages_ms = model.parameters, [max(clock_ms - event[0], 0) for event in events]
    current_events, later_ms = 0, 0
    for age_ms in reversed(ages_ms):
        if age_ms - later_ms > GAP_MS:
            break
        current_events, later_ms = current_events + 1, age_ms
    counts = [len(events) - current_events, current_events]
    items = np.array([item for _, item, _ in events], dtype=int)
    weights = np.array([weight for _, _, weight in events])
    days, rank = np.array(ages_ms, dtype=float) / MS_PER_DAY, np.arange(len(events), dtype=float)[::-1]
    exponents = np.outer(days, p.decay_rate_per_day.astype(float)) + np.outer(rank, p.rank_decay_rate.astype(float))
    terms = weights[:, None] * np.exp(-exponents) * model.vectors[items]
    long_term, current = (
        half.sum(axis=0) / np.sqrt(np.square(half).sum() + 1e-12) for half in (terms[: counts[0]], terms[counts[0] :])
    )
    idle_hours = min(ages_ms, default=0) / 3_600_000
    alpha = expected_alpha(p, long_term, current, counts, idle_hours)
    repeats = {} if p.repeat is None else expected_repeats(p.repeat, events, ages_ms, idle_hours, log.now_ms)
    return Expected(long_term, current, alpha, counts, repeats, {item for _, item, _ in events}, duplicates, unknown)


def expected_alpha(p, long_term, current, counts, idle_hours):
    if p.gate is None:
        return np.array([p.config.fixed_alpha])
    counts = [min(counts[0], 512 - min(counts[1], 512)), min(counts[1], 512)]
    if counts[0] == 0:
        return np.zeros(p.gate.output_bias.size)
    if counts[1] == 0:
        return np.ones(p.gate.output_bias.size)
    squares = (long_term @ long_term + 1e-12) * (current @ current + 1e-12)
    scalars = [long_term @ current / np.sqrt(squares), *np.log1p([*counts, idle_hours])]
    gate = {name: array.astype(float) for name, array in vars(p.gate).items()}
    hidden = np.tanh(np.r_[long_term, current, scalars] @ gate["hidden_weight"] + gate["hidden_bias"])
    return 1 / (1 + np.exp(-(hidden @ gate["output_weight"] + gate["output_bias"])))


def expected_repeats(repeat, events, ages_ms, idle_hours, now_ms):
    """Score of each seen item."""
    a = {name: array.astype(float) for name, array in repeat.tensors().items()}
    angles = [now_ms % period * 2 * np.pi / period for period in (MS_PER_DAY, 7 * MS_PER_DAY)]
    context = [turn(angle) for angle in angles for turn in (np.sin, np.cos)] + [np.log1p(idle_hours)]
    counts, newest_ms = {}, {}
    decays = np.exp(-np.outer(np.array(ages_ms) / MS_PER_DAY, a["decay_rate_per_day"]))
    for (_, item, weight), age_ms, decay in zip(events, ages_ms, decays, strict=True):
        counts[item] = counts.get(item, 0) + weight * decay
        newest_ms[item] = min(newest_ms.get(item, age_ms), age_ms)
    scores = {}
    for item, count in counts.items():
        hours = newest_ms[item] / 3_600_000
        features = np.r_[np.log1p(count), np.log1p([min(len(events), 512), hours]), a["trend"][item]]
        hidden = np.tanh(features @ a["hidden_weight"] + a["hidden_bias"])
        scores[item] = float(
            (features @ a["direct_weight"] + hidden @ a["output_weight"] + a["output_bias"]).item()
            + a["item_bias"][item]
            + a["time_weights"][item] @ context
        )
    return scores


def weighed(model, ask, logs, records, **tensors):
    requests = []
    for log in logs:
        keys, times, weights = log.asked or ([], [], [])
        requests.append(ask(keys, event_time=times, event_weight=weights, now=[log.now_ms], **tensors).tensors())
    return model.pipeline.weigh(requests, [[record] for record in records])


def assert_equal(model, ask, logs, records, tail_events=TAIL_EVENTS, tolerance=1e-5):
    """The interest, the counts and the adjustments from records are those of the formulas."""
    found = weighed(model, ask, logs, records)
    items, scores = model.pipeline.adjustments(found)
    every = [expected(model, log, tail_events) for log in logs]
    for user, (log, right) in enumerate(zip(logs, every, strict=True)):
        for name in ("long_term", "current", "alpha", "interest"):
            off = np.abs(getattr(found.blend, name)[user] - getattr(right, name)).max()
            assert off <= tolerance, (name, log)
        assert found.event_counts[user, :2].tolist() == right.counts
        pairs = dict(
            zip(items[user][scores[user] != 0].tolist(), scores[user][scores[user] != 0].tolist(), strict=True)
        )
        if model.parameters.config.exclude_seen:
            assert set(pairs) == right.seen
            assert set(pairs.values()) <= {-np.inf}
        elif model.parameters.repeat is not None:
            assert set(pairs) == set(right.repeat_scores)
            for item, score in pairs.items():
                assert abs(score - right.repeat_scores[item]) < 1e-4
    return every


def check_random_logs(make_model, ask, seed, users):
    random = np.random.default_rng(seed)
    repeats = bool(random.random() < 0.5)
    alpha = random.choice(["learned", "per-dimension", "fixed"])
    model = make_model(seed % 3, 60, alpha=alpha, repeats=repeats, exclude_seen=not repeats)
    own_ids = random.random() < 0.5
    logs = [
        random_log(random, model.keys, events=random.integers(1, 60), calls=random.integers(1, 12), own_ids=own_ids)
        for _ in range(users)
    ]
    records, counts = observed(model.pipeline.recorder(), random, logs)
    every = assert_equal(model, ask, logs, records)
    for log, right, (added, duplicates, late, left_out) in zip(logs, every, counts.tolist(), strict=True):
        assert [duplicates, late, left_out] == [right.duplicates, 0, right.unknown]
        assert added == log.key.size - duplicates - left_out


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1))
def test_records_equal_the_formula_at_any_split_order_duplication_interleaving_and_clock(make_model, ask, seed):
    check_random_logs(make_model, ask, seed, users=20)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first_seed", range(0, 1000, 50))
def test_records_equal_the_formula_in_100_000_random_logs(make_model, ask, first_seed):
    for seed in range(first_seed, first_seed + 50):
        print("seed", seed)  # shown if it fails
        check_random_logs(make_model, ask, seed, users=100)


def events_of(keys, times, weight=None, users=1):
    """The same events for each user, or one row each."""
    keys, times = (np.broadcast_to(np.array(one, np.int64), (users, np.shape(one)[-1])) for one in (keys, times))
    weights = np.ones(keys.size) if weight is None else np.broadcast_to(weight, keys.shape).ravel()
    return NewEvents(np.full(users, keys.shape[1]), keys.ravel(), times.ravel(), weights.astype(np.float32))


def test_records_keep_a_slow_decay_when_thousands_of_short_pauses_add_up(make_model):
    # A pause of 20 s multiplies a sum with a half-life of 10 years by 1 - 4e-8, which is 1 in single precision.
    model = make_model(0, 9, repeats=True)
    model.parameters.rank_decay_rate[:] = 0
    model.parameters.decay_rate_per_day[-1] = model.parameters.repeat.decay_rate_per_day[-1] = np.log(2) / 3650
    recorder = model.pipeline.recorder()
    times = START_MS + 20_000 * np.arange(2_000)
    (record,) = recorder.observe([None], events_of(model.keys[:1], times[:1])).records
    for time_ms in times[1:]:
        (record,) = recorder.observe([record], events_of(model.keys[:1], [time_ms])).records
    states = recorder.read([record])
    folded = times[:-TAIL_EVENTS]
    days = (folded[-1] - folded)[:, None] / MS_PER_DAY
    terms = np.exp(-days * model.parameters.decay_rate_per_day.astype(float)) * model.vectors[0]
    sums, squares, item_counts = states.folded.sums, states.folded.squares, states.items.counts
    np.testing.assert_allclose(sums[0].sum(axis=0), terms.sum(axis=0), rtol=5e-6)
    np.testing.assert_allclose(squares[0].sum(axis=0), (terms**2).sum(axis=0), rtol=5e-6)
    counts = np.exp(-days * model.parameters.repeat.decay_rate_per_day.astype(float)).sum(axis=0)
    np.testing.assert_allclose(item_counts[0], counts, rtol=5e-6)


@pytest.mark.parametrize("half_precision", [False, True])
def test_small_events_are_not_swallowed_by_a_large_sum_when_nothing_decays(make_model, half_precision):
    # Half precision has steps of 2 and 4 there, single precision with the larger weight too.
    large = 3_000 if half_precision else 3_000 * 2**13
    model = make_model(0, 9, d=8)
    model.parameters.rank_decay_rate[:] = 0
    model.parameters.decay_rate_per_day[:] = 0
    model.vectors[:] = 1
    recorder = model.pipeline.recorder(half_precision=half_precision)
    tail = HALF_TAIL_EVENTS if half_precision else TAIL_EVENTS
    (record,) = recorder.observe([None], events_of(model.keys[:1], [START_MS], weight=[large])).records
    for step in range(1, 600 + tail):
        (record,) = recorder.observe([record], events_of(model.keys[:1], [START_MS + step])).records
    added = recorder.read([record]).folded.sums[0, 1] - large
    # The standard error of a sum is at most 2 * sqrt(600) = 49.
    np.testing.assert_allclose(added, 599, atol=250)
    np.testing.assert_allclose(added.mean(), 599, atol=100)


def test_gate_counts_the_newest_512_events_when_a_session_or_a_history_is_longer(make_model, ask):
    model = make_model(0, 30, alpha="per-dimension")
    logs = []
    for history, session in ((700, 3), (300, 400), (20, 700)):
        events = history + session
        time_ms = START_MS + 1_000 * np.arange(events)
        time_ms[history:] += MS_PER_DAY
        log = Log(
            np.resize(model.keys, events),
            time_ms,
            np.ones(events, np.float32),
            np.zeros(0, np.int64),
            np.zeros(events, int),
            int(time_ms[-1]),
            (),
        )
        logs.append(log)
    records, _ = observed(model.pipeline.recorder(), np.random.default_rng(0), logs)
    assert_equal(model, ask, logs, records, tolerance=2e-5)


def test_late_event_counts_by_age_and_is_counted_when_it_is_older_than_what_is_folded(make_model):
    model = make_model(repeats=True)
    recorder = model.pipeline.recorder()
    # The item of the late event is newer in the record; its time must not go back.
    keys = np.resize(model.keys[:2], 40)
    (before,) = recorder.observe([None], events_of(keys, START_MS + MS_PER_DAY + 1_000 * np.arange(40))).records
    done = recorder.observe([before], events_of(model.keys[:1], [START_MS], weight=[2]))
    assert done.counts.tolist() == [[1, 0, 1, 0]]
    old, new = recorder.read([before]), recorder.read(done.records)
    newest_ms = START_MS + MS_PER_DAY + 1_000 * (40 - TAIL_EVENTS - 1)
    age_days = (newest_ms - START_MS) / MS_PER_DAY
    added = 2 * np.exp(-model.parameters.decay_rate_per_day.astype(float) * age_days) * model.vectors[0]
    difference = new.folded.sums - old.folded.sums
    np.testing.assert_allclose(difference[0, 0], added, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(difference[0, 1], 0, atol=1e-6)
    assert (new.folded.counts - old.folded.counts).tolist() == [[1, 0]]
    assert new.folded.time_ms.tolist() == old.folded.time_ms.tolist() == [newest_ms]
    assert (old.late.tolist(), new.late.tolist()) == ([0], [1])
    first = np.argsort(new.items.item)
    assert new.items.newest_ms[first].tolist() == [newest_ms - 1_000, newest_ms]
    decays = np.exp(-model.parameters.repeat.decay_rate_per_day.astype(float) * age_days)
    was = old.items.counts[np.argsort(old.items.item)]
    np.testing.assert_allclose(new.items.counts[first], was + np.stack([2 * decays, 0 * decays]), rtol=1e-5)


def test_call_counts_once_when_it_is_sent_again_with_more_events_than_a_record_has_ids_of(make_model):
    model = make_model()
    recorder = model.pipeline.recorder()
    random = np.random.default_rng(1)
    keys, time_ms = random.choice(model.keys, 300), START_MS + 1_000 * np.arange(300)
    first = events_of(keys[:200], time_ms[:200])
    done = recorder.observe([None], first)
    assert done.counts.tolist() == [[200, 0, 0, 0]]
    again = recorder.observe(done.records, first)
    assert again.counts.tolist() == [[0, 200, 0, 0]]
    assert again.records == done.records
    # A caller that sends its last events each time: those that are new count.
    window = recorder.observe(done.records, events_of(keys[150:210], time_ms[150:210]))
    assert window.counts.tolist() == [[10, 50, 0, 0]]
    # Another export's record, which it has folded itself.
    assert append_raw(done.records, first).duplicates.tolist() == [200]
    # Events that come twice in one call tell nothing about an earlier one.
    twice = events_of(keys[[5, 299, 299, 299]], time_ms[[5, 299, 299, 299]])
    twice = replace(twice, event_id=np.array([7, 8, 8, 8]))
    assert recorder.observe(done.records, twice).counts.tolist() == [[2, 2, 1, 0]]


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_every_event_counts_once_when_events_come_in_any_order_at_all(make_model, seed):
    random = np.random.default_rng(seed)
    model = make_model(seed % 3, 30, repeats=True)
    recorder = model.pipeline.recorder()
    events = 80
    time_ms = START_MS + random.permutation(events) * 3_600_000
    keys, weight = random.choice(model.keys, events), random.random(events) + 0.1
    record, late = None, 0
    for part in np.array_split(np.arange(events), 9):
        done = recorder.observe([record], events_of(keys[part], time_ms[part], weight[part]))
        (record,), late = done.records, late + done.counts[0, 2]
    states = recorder.read([record])
    assert states.folded.counts.sum() == events - TAIL_EVENTS
    assert states.late[0] == late
    # The counts of the repeat score know no ranks, so they are exact in any order.
    newest = np.argsort(time_ms)[:-TAIL_EVENTS]
    item_counts = states.items.counts
    for item, counts, newest_ms in zip(states.items.item, item_counts, states.items.newest_ms, strict=True):
        own = newest[keys[newest] == model.keys[item]]
        days = (states.folded.time_ms[0] - time_ms[own])[:, None] / MS_PER_DAY
        terms = np.exp(-days * model.parameters.repeat.decay_rate_per_day.astype(float)) * weight[own, None]
        np.testing.assert_allclose(counts, terms.sum(axis=0), rtol=1e-5)
        assert newest_ms == time_ms[own].max()
    assert set(model.keys[states.items.item]) == set(keys[newest])


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_late_events_count_beside_repeated_ones_while_a_record_has_the_ids_of_all(make_model, seed, half_precision):
    random = np.random.default_rng(seed)
    model = make_model(seed % 3, 30)
    recorder = model.pipeline.recorder(half_precision=half_precision)
    most = HALF_KNOWN_IDS if half_precision else KNOWN_IDS
    events = int(random.integers(1, most + 1))
    keys, time_ms = random.choice(model.keys, events), START_MS + random.permutation(events) * 3_600_000
    (record,), other, sent = [None], None, set()
    for part in np.array_split(random.permutation(events), random.integers(1, 8)):
        # Some that were sent before, anywhere among new ones, of which any may be late.
        again = random.choice(sorted(sent), random.integers(0, len(sent) + 1), replace=False) if sent else []
        call = random.permutation(np.r_[part, again].astype(int))
        given_events = events_of(keys[call], time_ms[call])
        done, appended = recorder.observe([record], given_events), append_raw([other], given_events)
        assert done.counts[0, :2].tolist() == [part.size, call.size - part.size]
        assert (appended.added.tolist(), appended.duplicates.tolist()) == ([part.size], [call.size - part.size])
        (record,), (other,) = done.records, appended.records
        sent.update(part.tolist())
    assert recorder.observe([record], events_of(keys, time_ms)).counts[0, :2].tolist() == [0, events]


def test_items_are_those_folded_last_when_a_user_has_seen_more_than_are_kept(make_model):
    model = make_model(limits=Limits(max_events=6, max_exclude_items=4))
    recorder = model.pipeline.recorder()
    order = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 3, 12, 0]
    keys = np.r_[model.keys[order], np.full(TAIL_EVENTS, model.keys[99])]
    (at_once,) = recorder.observe([None], events_of(keys, START_MS + np.arange(keys.size))).records
    (record,) = recorder.observe([None], events_of(keys[:1], [START_MS])).records
    for index, key in enumerate(keys[1:], 1):
        (record,) = recorder.observe([record], events_of([key], [START_MS + index])).records
    assert recorder.read([record]).items.item.tolist() == [0, 12, 3, 11, 10, 9, 8, 7, 6, 5]
    assert recorder.read([at_once]).items.item.tolist() == [0, 12, 3, 11, 10, 9, 8, 7, 6, 5]


def test_items_are_the_strongest_at_the_longest_half_life_when_there_are_more_than_are_kept(make_model):
    model = make_model(repeats=True, limits=Limits(max_events=3, max_exclude_items=4))
    recorder = model.pipeline.recorder()
    # Half-lives are 2 and 60 days: five events 100 days ago are worth 1.6 new ones, one event 70 days ago 0.4.
    items = [0, 0, 0, 0, 0, 1, 2, 3]
    days = [0, 0, 0, 0, 0, 30, 99, 100]
    keys = np.r_[model.keys[items], np.full(TAIL_EVENTS, model.keys[99])]
    times = START_MS + np.r_[np.multiply(days, MS_PER_DAY) + np.arange(8), np.full(TAIL_EVENTS, 101 * MS_PER_DAY)]
    times[-TAIL_EVENTS:] += np.arange(TAIL_EVENTS)
    records = recorder.observe([None], events_of(keys, times)).records
    states = recorder.read(records)
    assert states.items.item.tolist() == [0, 3, 2]
    assert states.items.counts[:, 1] == pytest.approx([5 * 2 ** (-100 / 60), 1, 2 ** (-1 / 60)], rel=1e-5)


def test_half_precision_is_right_on_average_and_within_its_stated_error(make_model):
    model = make_model(0, 200, d=32)
    p, recorder = model.parameters, model.pipeline.recorder(half_precision=True)
    random = np.random.default_rng(0)
    users, updates, pause_ms = 32, 700, 60_000
    item = random.integers(0, 200, (updates, users))
    records = [None] * users
    for step in range(updates):
        events = events_of(model.keys[item[step]][:, None], [START_MS + pause_ms * step], users=users)
        records = recorder.observe(records, events).records
    decay = np.exp(-p.decay_rate_per_day.astype(float) * pause_ms / MS_PER_DAY - p.rank_decay_rate)
    sums, squares, largest = np.zeros((users, 32)), np.zeros((users, 32)), np.zeros((users, 32))
    for now in item[:-HALF_TAIL_EVENTS]:
        sums, squares = sums * decay + model.vectors[now], squares * decay**2 + model.vectors[now] ** 2
        largest = np.maximum(largest, np.abs(sums))
    found = recorder.read(records).folded
    # docs/design.md: at most 2^-11 of the largest value, times the root of the number of updates that count.
    standard_error = 2.0**-11 / np.sqrt(1 - decay**2) * largest
    off = (found.sums[:, 1] - sums) / standard_error
    assert np.sqrt(np.mean(off**2)) < 1
    assert np.abs(off).max() < 5
    assert abs(off.mean()) < 4 / np.sqrt(off.size)
    np.testing.assert_allclose(found.squares[:, 1].sum(axis=1), squares.sum(axis=1), rtol=4e-3)
    assert np.abs(found.sums[:, 1] - sums).max() > 1e-4, "16 bits were meant"


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_half_precision_gives_the_formula_within_1_percent(make_model, ask, seed):
    random = np.random.default_rng(seed)
    model = make_model(seed % 3, 60, alpha="fixed", exclude_seen=True)
    logs = [
        random_log(random, model.keys, events=random.integers(1, 60), calls=60, own_ids=True, tidy=True)
        for _ in range(20)
    ]
    records, _ = observed(model.pipeline.recorder(half_precision=True), random, logs)
    assert_equal(model, ask, logs, records, HALF_TAIL_EVENTS, tolerance=0.01)


def test_records_of_both_precisions_are_read_together_and_written_in_the_one_chosen(make_model, ask):
    model = make_model(0, 60, alpha="fixed")
    full, half = model.pipeline.recorder(), model.pipeline.recorder(half_precision=True)
    events = events_of(model.keys[np.arange(45)], START_MS + 1_000 * np.arange(45))
    (one,), (other,) = full.observe([None], events).records, half.observe([None], events).records
    requests = [ask([], now=[START_MS + 50_000]).tensors()] * 3
    blend = model.pipeline.weigh(requests, [[one], [None], [other]]).blend
    np.testing.assert_allclose(blend.interest[0], blend.interest[2], atol=0.01)
    assert np.abs(blend.interest[0] - blend.interest[2]).max() > 1e-6
    later = events_of(model.keys[np.arange(20)], START_MS + 60_000 + np.arange(20))
    for recorder, record, bits in ((half, one, 16), (full, other, 32)):
        (written,) = recorder.observe([record], later).records
        states = full.read([written])
        assert states.folded.counts.sum() == 65 - states.tail.user.size
        assert bool(Records.decode([written]).headers["flags"][0] & HALF_PRECISION) == (bits == 16)
