"""Smoothed shares against a sum by hand, event by event, and their fit against a log of known dynamics."""

import numpy as np
import pytest

from ebbtide.data.events import EventLog
from ebbtide.interest.events import MS_PER_DAY
from ebbtide.interest.popularity import Smoothing
from ebbtide.train.config import DENSE_HALF_LIFE_DAYS
from ebbtide.train.popularity import LivePopularity, PopularitySnapshots, columns_at, is_first, snapshot_times
from ebbtide.train.popularity_fit import fit_smoothing

ITEMS = 6


def smoothing(half_lives, events, starts=(0,), bonus=0.0):
    return Smoothing(np.array(half_lives), np.array(events), starts, bonus)


def share_by_hand(item, time_ms, half_lives, events, timestamp, start=0, bonus=0.0):
    share = np.full(ITEMS, 1 / ITEMS)
    before = time_ms < timestamp
    for half_life, smooth in reversed(list(zip(half_lives, events, strict=True))[start:]):
        weight = 0.5 ** ((timestamp - time_ms[before]) / MS_PER_DAY / half_life)
        of_items = [weight[item[before] == which] for which in range(ITEMS)]
        counts = np.array([one.sum() + bonus * one.min(initial=np.inf if one.size else 0) for one in of_items])
        if np.isfinite(smooth):
            share = (counts + smooth * share) / (counts.sum() + smooth)
    return share


@pytest.fixture
def events():
    random = np.random.default_rng(5)
    return random.integers(0, ITEMS, 200), random.integers(0, 50 * MS_PER_DAY, 200)


@pytest.mark.parametrize("bonus", [0.0, 2.5])
def test_columns_are_log_shares_of_earlier_events_at_any_time(events, bonus):
    item, time_ms = events
    half_lives, smooth = (0.5, 7.0, 30.0, np.inf), (3.0, np.inf, 20.0, 50.0)
    prior = smoothing(half_lives, smooth, (0, 2), bonus)
    times = np.sort(np.r_[np.random.default_rng(6).choice(time_ms, 9), 60 * MS_PER_DAY, time_ms.min() - 5])
    found = list(LivePopularity(item, time_ms, ITEMS, prior).columns_at(times))
    for time, columns in zip(times, found, strict=True):
        for column, start in enumerate((0, 2)):
            expected = np.log(ITEMS * share_by_hand(item, time_ms, half_lives, smooth, time, start, bonus))
            np.testing.assert_allclose(columns[:, column], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(columns_at(item, time_ms, ITEMS, prior, int(time)), columns)


def test_shares_of_all_items_add_up_to_one(events):
    item, time_ms = events
    columns = columns_at(item, time_ms, ITEMS, smoothing((1.0, 30.0), (5.0, 5.0)), 40 * MS_PER_DAY)
    assert np.exp(columns[:, 0]).sum() / ITEMS == pytest.approx(1.0, rel=1e-5)


def test_snapshot_that_holds_is_the_last_one_not_after_the_time():
    live = LivePopularity(np.array([0]), np.array([1]), 1, smoothing((7.0,), (1.0,)))
    snapshots = PopularitySnapshots.of(live, np.array([10, 20]), 1, 1)
    assert snapshots.index_at(np.array([5, 10, 19, 20, 99])).tolist() == [0, 0, 0, 1, 1]


def test_snapshots_are_fewer_when_the_catalog_is_large():
    times = np.arange(100_000)
    assert len(snapshot_times(times, 100, 4)) == 2048
    assert 2 <= len(snapshot_times(times, 5_000_000, 4)) < 20


def one_user(item, time_ms):
    return EventLog(["u"], np.array([0, len(item)]), item, time_ms, np.ones(len(item), np.float32))


def weight_of_newer_half_lives(found, days, per_day):
    """The share of the weight of the half-lives up to some days, with so many events a day."""
    left, weight = 1.0, 0.0
    for half_life, smooth in zip(found.half_life_days, found.events, strict=True):
        if not np.isfinite(smooth):
            continue
        total = per_day * half_life / np.log(2)
        here = left * total / (total + smooth)
        weight += here if half_life <= days else 0
        left -= here
    return weight


def test_fit_trusts_hours_when_items_live_for_hours_and_years_when_they_stay():
    random = np.random.default_rng(0)
    time_ms = np.sort(random.integers(0, 60 * MS_PER_DAY, 20_000))
    # Every six hours another item takes most events.
    news = np.where(random.random(20_000) < 0.8, time_ms // (MS_PER_DAY // 4), random.integers(0, 240, 20_000))
    stays = random.choice(240, 20_000, p=(share := 1 / np.arange(1, 241)) / share.sum())
    weights = []
    for item in (news, stays):
        log = one_user(item.astype(np.int64), time_ms)
        found = fit_smoothing(log, np.ones(log.events, bool), 240, DENSE_HALF_LIFE_DAYS, (0,), seed=0)
        weights.append(weight_of_newer_half_lives(found, 0.5, per_day=333))
    assert weights[0] > 0.6
    assert weights[1] < 0.1


def test_fit_leaves_out_most_half_lives():
    random = np.random.default_rng(1)
    log = one_user(random.integers(0, 50, 5_000), np.sort(random.integers(0, 100 * MS_PER_DAY, 5_000)))
    found = fit_smoothing(log, np.ones(log.events, bool), 50, DENSE_HALF_LIFE_DAYS, (0,), seed=0)
    assert np.isfinite(found.events).sum() <= 2
    assert found.first_event_bonus == 0


def test_fit_counts_first_events_more_when_items_are_most_popular_just_after_them():
    random = np.random.default_rng(2)
    # Each day an item comes out, which gets half of that day's events, and a third of them the day after.
    day = np.sort(random.integers(0, 200, 20_000))
    age = random.choice([0, 1, 400], day.shape, p=[1 / 2, 1 / 6, 1 / 3])
    item = np.where(age <= day, day - age, random.integers(0, day + 1)).astype(np.int64)
    time_ms = np.sort(day * MS_PER_DAY + random.integers(0, MS_PER_DAY, day.shape))
    log = one_user(item, time_ms)
    found = fit_smoothing(log, np.ones(log.events, bool), 200, DENSE_HALF_LIFE_DAYS, (0,), seed=0)
    assert found.first_event_bonus > 2


def test_first_event_of_an_item_is_one_of_those_at_its_first_time():
    found = is_first(np.array([2, 1, 2, 1, 0, 2]), np.array([5, 9, 3, 9, 1, 3]))
    assert found.tolist() == [False, True, True, False, True, False]
