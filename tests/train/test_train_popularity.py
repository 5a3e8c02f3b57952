"""Decayed counts against a count by hand, event by event."""

import numpy as np
import pytest

from ebbtide.interest.events import MS_PER_DAY
from ebbtide.train.popularity import popularity_snapshots, snapshot_times


def test_snapshots_equal_a_plain_sum_over_earlier_events():
    random = np.random.default_rng(5)
    item = random.integers(0, 6, 200)
    time_ms = random.integers(0, 50 * MS_PER_DAY, 200)
    timestamps = np.sort(random.choice(time_ms, 9, replace=False))
    half_lives = (0.5, 7.0, np.inf)
    snapshots = popularity_snapshots(item, time_ms, 6, half_lives, timestamps)
    for index, timestamp in enumerate(timestamps):
        for column, half_life in enumerate(half_lives):
            for which in range(6):
                ages = (timestamp - time_ms[(item == which) & (time_ms < timestamp)]) / MS_PER_DAY
                expected = np.log1p(np.sum(0.5 ** (ages / half_life)))
                assert snapshots.columns[index, which, column] == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_snapshot_that_holds_is_the_last_one_not_after_the_time():
    snapshots = popularity_snapshots(np.array([0]), np.array([1]), 1, (7.0,), np.array([10, 20]))
    assert snapshots.index_at(np.array([5, 10, 19, 20, 99])).tolist() == [0, 0, 0, 1, 1]


def test_moments_are_fewer_when_the_catalog_is_large():
    times = np.arange(100_000)
    assert len(snapshot_times(times, 100, 4)) == 512
    assert 2 <= len(snapshot_times(times, 5_000_000, 4)) < 10
