"""Surges of topics, styles and artists: each rises and falls in waves of its own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from benchmarks.quality.zoo.choice import Floats

_DAYS_PER_MONTH = 30.0


def waves(
    rng: np.random.Generator, series: int, days: float, per_month: float, length_days: float, height: float
) -> Callable[[Floats], Floats]:
    """Sums of waves: each rises within a third of its length and decays exponentially.

    Args:
        rng: Source of randomness.
        series: S, how many things have waves.
        days: The waves begin before this day.
        per_month: Mean number of waves of each in 30 days.
        length_days: Median time after which a wave has lost two thirds of its height.
        height: Mean height of a wave.

    Returns:
        Function of times ``[baskets]`` in days that gives ``[baskets, waves]``.
    """
    before = 4 * length_days
    number = rng.poisson(per_month * (days + before) / _DAYS_PER_MONTH, series)
    owner = np.repeat(np.arange(series), number)
    begin = rng.uniform(-before, days, owner.shape[0])
    length = length_days * rng.lognormal(0, 0.3, owner.shape[0])
    top = height * rng.gamma(3, 1 / 3, owner.shape[0])
    member = np.eye(series)[owner]

    def at(now: Floats) -> Floats:
        age = np.maximum(now[:, None] - begin, 0)
        return np.asarray((top * (1 - np.exp(-3 * age / length)) * np.exp(-age / length)) @ member)

    return at
