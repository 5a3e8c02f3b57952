"""Ratios of two settings that were measured in turn, many times: their mean and its confidence interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

_ALMOST_FLAT = 0.005
"""Least standard deviation that is assumed: a few pairs may agree by chance."""
_LOST = math.log(1e-3)
"""Logarithm of the ratio of a challenger that answered nothing."""


@dataclass(frozen=True)
class Ratio:
    """A geometric mean of ratios with its confidence interval (Student's t on the logarithm)."""

    mean: float
    low: float
    """Lower end; 0 from a single pair, which says nothing about the spread."""
    high: float
    pairs: int

    def __str__(self) -> str:
        if self.pairs < 2:
            return f"{self.mean:.2f}"
        return f"{self.mean:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratio_of(logs: Sequence[float], confidence: float = 0.95) -> Ratio:
    """The mean and the two-sided interval of ratios, given by their logarithms.

    Args:
        logs: At least one.
        confidence: Of the interval.
    """
    mean = float(np.mean(logs))
    if len(logs) < 2:
        return Ratio(math.exp(mean), 0.0, math.inf, len(logs))
    spread = max(float(np.std(logs, ddof=1)), _ALMOST_FLAT) / math.sqrt(len(logs))
    reach = spread * float(stats.t.ppf((1 + confidence) / 2, len(logs) - 1))
    return Ratio(math.exp(mean), math.exp(mean - reach), math.exp(mean + reach), len(logs))


def log_ratio(over: float, under: float) -> float:
    """The logarithm of a ratio; a bounded one where the upper is 0.

    Args:
        over: What was measured, at least 0.
        under: What it is compared with, above 0.
    """
    return max(math.log(over / under), _LOST) if over > 0 else _LOST
