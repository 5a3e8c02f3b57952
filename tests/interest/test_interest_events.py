"""The order of events, and their split into history and current session."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.interest.events import MS_PER_DAY, order_events

GAP_MS = 1_000


def split(times, now, flags=None, weight=None):
    return order_events(np.array([len(times)]), np.array(times, np.int64), np.array([now]), weight, flags, GAP_MS)


def test_events_are_sorted_by_time_and_ties_keep_their_order():
    batch = split([30, 10, 30, 20], 40)
    assert (batch.age_days * MS_PER_DAY).round().tolist() == [30, 20, 10, 10]
    assert batch.source.tolist() == [1, 3, 0, 2]
    assert batch.rank.tolist() == [3, 2, 1, 0]


def test_session_is_what_follows_the_last_long_pause_when_no_flags_are_given():
    batch = split([0, 5_000, 5_500, 6_500], 7_000)
    assert batch.is_current.tolist() == [False, True, True, True]


def test_session_is_empty_when_now_is_long_after_the_last_event():
    assert split([0, 5_000, 5_500], 6_501).is_current.tolist() == [False, False, False]


def test_session_goes_on_when_the_pause_is_exactly_the_gap():
    assert split([0, 1_000], 2_000).is_current.tolist() == [True, True]


def test_flags_follow_their_events_when_the_events_come_unordered():
    batch = split([30, 10, 20], 40, flags=np.array([True, False, True]))
    assert batch.is_current.tolist() == [False, True, True]


def test_idle_hours_is_zero_when_there_is_no_event():
    batch = split([], 40)
    assert batch.idle_hours.tolist() == [0]
    assert batch.requests == 1


@given(st.lists(st.tuples(st.lists(st.integers(0, 20_000), max_size=6), st.booleans()), min_size=1, max_size=5))
def test_batch_equals_its_requests_one_by_one(requests):
    now = 20_000
    flags = [np.arange(len(times)) % 2 == 0 if given else None for times, given in requests]
    given = np.array([one is not None for one in flags])
    together = order_events(
        np.array([len(times) for times, _ in requests]),
        np.concatenate([np.array(times, np.int64) for times, _ in requests]),
        np.full(len(requests), now),
        None,
        np.concatenate(
            [
                np.zeros(len(times), bool) if one is None else one
                for one, (times, _) in zip(flags, requests, strict=True)
            ]
        ),
        GAP_MS,
        has_flags=np.repeat(given, [len(times) for times, _ in requests]),
    )
    for index, (times, _) in enumerate(requests):
        alone = split(times, now, flags[index])
        mine = together.request == index
        for column in ("is_current", "rank", "age_days"):
            assert getattr(together, column)[mine].tolist() == getattr(alone, column).tolist()
        assert together.idle_hours[index] == alone.idle_hours[0]
