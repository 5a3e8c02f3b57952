"""Folded events plus the events that are not folded yet give the same interest as all events at once."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.interest.blend import blend_interest
from ebbtide.interest.contract import Limits
from ebbtide.interest.events import MS_PER_DAY, order_events
from ebbtide.interest.parameters import GateParameters, InterestConfig, InterestParameters
from ebbtide.interest.state import InterestState, advance, read

D = 5
GAP_MS = 1_800_000
START_MS = 10_000 * MS_PER_DAY


def parameters(*, decays=True):
    random = np.random.default_rng(3)

    def normal(*shape):
        return random.standard_normal(shape).astype(np.float32) / 3

    def rates(*half_lives):
        return (np.log(2) / np.geomspace(*half_lives, D)).astype(np.float32) if decays else np.zeros(D, np.float32)

    gate = GateParameters(normal(2 * D + 4, 3), normal(3), normal(3, D), normal(D))
    config = InterestConfig("0" * 16, GAP_MS, None, True, False, Limits())
    return InterestParameters(config, rates(0.005, 3650), rates(1, 200), gate, np.zeros(0, np.float32))


def blend(users, now_ms, p, state=None):
    """The interest of users, each given as times, vectors and weights; after a state of theirs, if one is given."""
    counts = np.array([len(times) for times, _, _ in users])
    times, vectors, weights = (np.concatenate(column) for column in zip(*users, strict=True))
    batch = order_events(counts, times, now_ms, weights, None, GAP_MS)
    base = None if state is None else read(state, p, now_ms, batch)
    return blend_interest(batch, vectors[batch.source], p, base=base)


def folded(state, users, p):
    times, vectors, weights = (np.concatenate(column) for column in zip(*users, strict=True))
    return advance(state, p, np.array([len(one[0]) for one in users]), times, vectors, weights)


def assert_same(got, expected, tolerance=1e-5):
    for name in ("long_term", "current", "alpha", "interest"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=0, atol=tolerance, err_msg=name)


PAUSES_MS = st.sampled_from([0, 1, 60_000, GAP_MS, GAP_MS + 1, MS_PER_DAY, 400 * MS_PER_DAY])


@st.composite
def users_and_cuts(draw):
    """Users with their events in order, each with a clock, and for each the sizes of the updates before the tail."""
    users, now_ms, cuts = [], [], []
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    for _ in range(draw(st.integers(1, 4))):
        pauses = draw(st.lists(PAUSES_MS, max_size=12))
        times = START_MS + np.cumsum(np.array(pauses, np.int64))
        vectors = random.standard_normal((len(pauses), D)).astype(np.float32)
        users.append((times, vectors, random.random(len(pauses)).astype(np.float32) + 0.1))
        now_ms.append((times[-1] if pauses else START_MS) + draw(PAUSES_MS))
        cuts.append(sorted(draw(st.lists(st.integers(0, len(pauses)), min_size=3, max_size=3))))
    return users, np.array(now_ms), np.array(cuts)


def between(users, first, last):
    return [tuple(column[a:b] for column in one) for one, a, b in zip(users, first, last, strict=True)]


@pytest.mark.parametrize("decays", [True, False], ids=["decays", "no-decay"])
@given(drawn=users_and_cuts())
def test_folded_sums_and_tail_equal_the_whole_list_at_any_split(decays, drawn):
    users, now_ms, cuts = drawn
    p = parameters(decays=decays)
    state = InterestState.empty(len(users), D)
    done = np.zeros(len(users), np.int64)
    for stop in cuts.T:
        state = folded(state, between(users, done, stop), p)
        done = stop
    tail = between(users, done, [len(times) for times, _, _ in users])
    assert_same(blend(tail, now_ms, p, state), blend(users, now_ms, p))


@given(drawn=users_and_cuts())
def test_one_update_equals_an_update_for_each_event(drawn):
    users, _, _ = drawn
    p = parameters()
    at_once = folded(InterestState.empty(len(users), D), users, p)
    one_by_one = InterestState.empty(len(users), D)
    for event in range(max(len(times) for times, _, _ in users)):
        step = [tuple(column[event : event + 1] for column in one) for one in users]
        one_by_one = folded(one_by_one, step, p)
    np.testing.assert_array_equal(one_by_one.time_ms, at_once.time_ms)
    np.testing.assert_array_equal(one_by_one.counts, at_once.counts)
    np.testing.assert_allclose(one_by_one.sums, at_once.sums, atol=1e-5)
    np.testing.assert_allclose(one_by_one.squares, at_once.squares, atol=1e-5)


def events_of(seed, count, pause_ms):
    random = np.random.default_rng(seed)
    times = START_MS + pause_ms * np.arange(count)
    return times, random.standard_normal((count, D)).astype(np.float32), np.ones(count, np.float32)


def test_state_keeps_its_decay_when_thousands_of_short_pauses_add_up():
    # A pause of 20 s multiplies a sum with a half-life of 10 years by 1 - 4e-8, which is 1 in single precision.
    p = replace(parameters(), rank_decay_rate=np.zeros(D, np.float32))
    user = events_of(0, 10_000, 20_000)
    state = InterestState.empty(1, D)
    for event in range(10_000):
        state = folded(state, [tuple(column[event : event + 1] for column in user)], p)
    age_days = (user[0][-1] - user[0])[:, None] / MS_PER_DAY
    terms = np.exp(-age_days * p.decay_rate_per_day.astype(float)) * user[1]
    np.testing.assert_allclose(state.sums[0, 1], terms.sum(axis=0), rtol=1e-9)
    np.testing.assert_allclose(state.squares[0, 1], (terms**2).sum(axis=0), rtol=1e-6)


def test_reading_leaves_the_state_as_it_was():
    p = parameters()
    state = folded(InterestState.empty(1, D), [events_of(1, 6, GAP_MS + 1)], p)
    before = {name: value.copy() for name, value in vars(state).items()}
    for later_ms in (0, GAP_MS, MS_PER_DAY):
        blend([events_of(2, 0, 1)], state.time_ms + later_ms, p, state)
    for name, value in before.items():
        np.testing.assert_array_equal(getattr(state, name), value, err_msg=name)


def folded_session(later_ms, tail=0):
    """Counts of history and session after 3 folded events of one session, then a tail, read ``later_ms`` after all."""
    p = parameters()
    state = folded(InterestState.empty(1, D), [events_of(3, 3, 1_000)], p)
    times = state.time_ms + 1_000 * np.arange(1, tail + 1)
    now_ms = np.array([max([*times, *state.time_ms]) + later_ms])
    batch = order_events(np.array([tail]), times, now_ms, None, None, GAP_MS)
    return read(state, p, now_ms, batch).counts[0].tolist()


@pytest.mark.parametrize(
    ("later_ms", "tail", "counts"),
    [(GAP_MS, 0, [0, 3]), (GAP_MS + 1, 0, [3, 0]), (GAP_MS, 2, [0, 3]), (GAP_MS + 1, 2, [3, 0])],
)
def test_folded_session_becomes_history_when_a_pause_ends_it(later_ms, tail, counts):
    assert folded_session(later_ms, tail) == counts


def test_state_counts_no_negative_age_when_now_is_before_its_newest_event():
    p = parameters()
    state = folded(InterestState.empty(1, D), [events_of(4, 3, 1_000)], p)
    nothing = [events_of(5, 0, 1)]
    early, on_time = (blend(nothing, state.time_ms + shift, p, state) for shift in (-5_000, 0))
    assert_same(early, on_time, 0)


def test_late_event_is_added_by_its_age_when_newer_events_are_folded():
    p = parameters()
    times, vectors, weights = events_of(6, 2, 1_000)
    state = folded(InterestState.empty(1, D), [(times[1:], vectors[1:], weights[1:])], p)
    late = folded(state, [(times[:1], vectors[:1], weights[:1])], p)
    added = np.exp(-p.decay_rate_per_day.astype(float) * 1_000 / MS_PER_DAY) * vectors[0]
    np.testing.assert_allclose(late.sums[0, 1], state.sums[0, 1] + added, rtol=1e-6)
    assert late.time_ms.tolist() == state.time_ms.tolist()
    assert late.counts.tolist() == [[0, 2]]


def test_idle_time_runs_from_the_newest_event_when_it_is_folded_or_in_the_tail():
    p = parameters()
    state = folded(InterestState.empty(3, D), [events_of(7, n, 1_000) for n in (2, 2, 0)], p)
    now_ms = np.full(3, START_MS + MS_PER_DAY)
    batch = order_events(np.array([0, 1, 0]), np.array([START_MS + MS_PER_DAY // 2]), now_ms, None, None, GAP_MS)
    idle_hours = read(state, p, now_ms, batch).idle_hours(batch)
    assert idle_hours == pytest.approx([24 - 1 / 3600, 12, 0])
