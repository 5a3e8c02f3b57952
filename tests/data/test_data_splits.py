"""Sessions, baskets, and which events are held out of training."""

import numpy as np
import polars as pl
import pytest

from ebbtide.data.baskets import basket_heads, baskets_of, has_past
from ebbtide.data.errors import DataError
from ebbtide.data.events import build_log
from ebbtide.data.sessions import pauses_ms, session_starts
from ebbtide.data.splits import after_time, held_out, leave_last_out


def log_of(*users):
    """A log from ``[(time, item), ...]`` for each user."""
    rows = [(f"u{user}", f"i{item}", time) for user, events in enumerate(users) for time, item in events]
    frame = pl.DataFrame(rows, schema=["user", "item", "time_ms"], orient="row").with_columns(
        weight=pl.lit(1.0, pl.Float32)
    )
    return build_log(frame, {f"i{item}": item for item in range(12)})


@pytest.fixture
def random_log():
    """Users of 1 to 30 events, with ties and long pauses."""
    random = np.random.default_rng(3)
    pauses = random.choice([0, 60_000, 10**7, 10**9], size=60).cumsum()
    times = np.split(pauses, [1, 3, 33, 40, 41])
    return log_of(*([(int(time), int(random.integers(12))) for time in user] for user in times))


def test_session_ends_when_a_pause_is_longer_than_the_gap():
    log = log_of([(0, 0), (10, 1), (21, 2), (21, 3)], [(22, 4), (40, 5)])
    assert pauses_ms(log).tolist() == [0, 10, 11, 0, 0, 18]
    assert session_starts(log, 10).tolist() == [0, 0, 2, 2, 4, 5]
    assert session_starts(log, 18).tolist() == [0, 0, 0, 0, 4, 4]


def test_baskets_hold_what_one_user_did_at_one_time():
    log = log_of([(1, 0), (1, 1), (5, 2)], [(5, 3), (5, 4), (9, 5), (9, 6)])
    assert basket_heads(log).tolist() == [0, 0, 2, 3, 3, 5, 5]
    assert has_past(log).tolist() == [False, False, True, False, False, True, True]
    baskets = baskets_of(log, np.ones(7, dtype=bool))
    assert (baskets.head.tolist(), baskets.stop.tolist()) == ([2, 5], [3, 7])


def test_leave_last_out_holds_out_the_last_basket_of_everyone_with_a_past():
    log = log_of([(1, 0), (1, 1)], [(1, 0), (2, 1), (2, 2)], [(3, 1)])
    assert np.flatnonzero(leave_last_out(log)).tolist() == [3, 4]


def test_after_time_holds_out_the_end_of_the_log(random_log):
    mask = after_time(random_log, 0.25)
    assert random_log.time_ms[mask].min() > random_log.time_ms[~mask].max()
    assert 0.2 <= mask.mean() <= 0.35


def test_held_out_begins_at_the_date_when_one_is_given():
    day = 86_400_000
    log = log_of([(0, 0), (day, 1), (2 * day, 2)])
    assert held_out(log, "time:1970-01-02").tolist() == [False, True, True]
    assert held_out(log, "time:1970-01-02T00:00:01Z").tolist() == [False, False, True]
    assert held_out(log, "time:1970-01-02T02:00:00+02:00").tolist() == [False, True, True]
    with pytest.raises(DataError, match="between the log's first event, 1970-01-01T00:00:00"):
        held_out(log, "time:2000-01-01")


@pytest.mark.parametrize("holdout", ["last", "time:", "time:1.5", "time:x", "time:nan"])
def test_holdout_is_refused_when_it_is_no_protocol(random_log, holdout):
    with pytest.raises(DataError, match=r"'leave-last-out' or 'time:F'.*time:2024-03-01"):
        held_out(random_log, holdout)
