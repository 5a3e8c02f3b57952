"""When the users of a world are active: sessions with a daily rhythm, bursts of sessions, and weekly shopping trips."""

from __future__ import annotations

import numpy as np

from benchmarks.quality.zoo.choice import MS_PER_DAY, Floats, Ints, Schedule

EVENING = np.asarray(
    [1, 0.5, 0.3, 0.2, 0.2, 0.3, 0.8, 1.5, 2, 2, 2, 2.2, 2.5, 2.2, 2, 2, 2.2, 2.8, 3.5, 4.5, 5, 4.5, 3, 2]
)
"""Relative activity by hour of the day, UTC: most in the evening."""
DAYTIME = np.asarray(
    [0.3, 0.2, 0.1, 0.1, 0.2, 0.8, 2.5, 4.5, 5, 4, 3.5, 3.5, 4.5, 4, 3, 3, 3, 3.5, 3, 2.5, 2.5, 2.5, 1.5, 0.7]
)
"""Relative activity by hour of the day, UTC: most in the morning and at noon."""


def visits(
    rng: np.random.Generator,
    users: int,
    days: float,
    *,
    newcomers: float,
    mean: tuple[float, float],
    spread: float,
    least: int,
) -> tuple[Ints, Floats]:
    """Visits of users at any time between their first day and the last: user and day of each, ``[visits]``.

    Args:
        rng: Source of randomness.
        users: Number of users.
        days: Of the world.
        newcomers: Share of users who join later than the first day.
        mean: Mean number of visits of a user: in all the days, less in proportion to a shorter life; and in addition.
        spread: Standard deviation of the logarithm of the users' rates.
        least: Smallest number of visits of a user.
    """
    joined = np.where(rng.random(users) < newcomers, rng.uniform(0, 0.95 * days, users), 0.0)
    in_all, added = mean
    number = counts(rng, in_all * (days - joined) / days + added, spread, least)
    user = np.repeat(np.arange(users), number)
    return user, rng.uniform(joined[user], days)


def counts(rng: np.random.Generator, mean: Floats, spread: float, least: int) -> Ints:
    """Activity of users: Poisson around log-normal rates with the given mean, at least ``least``, ``[users]``."""
    rate = mean * rng.lognormal(-(spread**2) / 2, spread, mean.shape[0])
    return np.maximum(rng.poisson(rate), least).astype(np.int64)


def at_hours(rng: np.random.Generator, day: Floats, rhythm: Floats) -> Floats:
    """The same days with hours drawn from a daily rhythm, in days, ``[visits]``."""
    hour = rng.choice(24, size=day.shape[0], p=rhythm / rhythm.sum())
    return np.asarray(np.floor(day) + (hour + rng.random(day.shape[0])) / 24)


def scheduled(user: Ints, time_days: Floats, size: Ints, days: float) -> Schedule:
    """Sorts baskets, and drops those outside of the world's days and those of one user that share a timestamp."""
    time_ms = np.rint(time_days * 86_400).astype(np.int64) * 1000
    keep = (time_ms >= 0) & (time_ms < days * MS_PER_DAY)
    user, time_ms, size = user[keep], time_ms[keep], size[keep]
    order = np.lexsort((time_ms, user))
    user, time_ms, size = user[order], time_ms[order], size[order]
    new = np.ones(user.shape[0], dtype=np.bool_)
    new[1:] = (user[1:] != user[:-1]) | (time_ms[1:] != time_ms[:-1])
    return Schedule(user[new], time_ms[new], size[new])


def with_sessions(
    rng: np.random.Generator, user: Ints, start_days: Floats, mean_events: float, gap_minutes: float
) -> tuple[Ints, Floats]:
    """Events of sessions: a geometric number each, with exponential gaps; user and time in days of every event.

    Args:
        rng: Source of randomness.
        user: ``[sessions]``.
        start_days: ``[sessions]``.
        mean_events: Mean number of events of a session.
        gap_minutes: Mean gap between its events.
    """
    number = rng.geometric(1 / mean_events, user.shape[0])
    session = np.repeat(np.arange(user.shape[0]), number)
    gap = rng.exponential(gap_minutes / 1440, session.shape[0]) + 5 / 86_400
    total = np.cumsum(gap)
    begin = np.concatenate([[0], np.cumsum(number)])[:-1]
    return user[session], start_days[session] + total - total[begin][session]


def bursts(
    rng: np.random.Generator, user: Ints, start_days: Floats, mean_sessions: float, gap_days: float
) -> tuple[Ints, Floats]:
    """Sessions of bursts: a geometric number each, with exponential gaps in days; user and day of every session."""
    return with_sessions(rng, user, start_days, mean_sessions, gap_days * 1440)
