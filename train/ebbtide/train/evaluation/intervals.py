"""How sure a mean over users is, and whether one model's is really above another's; users are what is resampled."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap, permutation_test

Floats = npt.NDArray[np.float64]

RESAMPLES = 2000
_DRAWS_AT_ONCE = 1 << 23
"""64 MiB of drawn indices at a time, for any number of users."""


@dataclass(frozen=True)
class Estimate:
    """A mean over users with its 95 % interval (bootstrap, percentiles)."""

    mean: float
    low: float
    high: float

    @property
    def interval(self) -> str:
        """The interval as people read it: ``0.1234 to 0.2345``; ``-`` below two users, who have none."""
        return "-" if math.isnan(self.low) else f"{self.low:.4f} to {self.high:.4f}"


@dataclass(frozen=True)
class Difference:
    """One model's mean minus another's over the same users."""

    mean: float
    low: float
    """95 % interval of the paired bootstrap."""
    high: float
    p_value: float
    """Two-sided, of the paired permutation test: signs of the users' differences are flipped at random."""


def estimate(values: Floats, seed: int) -> Estimate:
    """Mean and interval of one value for each user, ``[users]``; the interval is NaN below two users."""
    if not values.size:
        return Estimate(float("nan"), float("nan"), float("nan"))
    low, high = _interval(values, seed)
    return Estimate(float(values.mean()), low, high)


def resampled_means(columns: Floats, seed: int) -> Floats:
    """Means over users and over resamples of them, ``[1 + RESAMPLES, columns]``; the first row has no resampling.

    All columns are of the same users in every row, so ratios and differences of means have their intervals from this
    alone, see `interval_of`.

    Args:
        columns: ``[users, columns]``.
        seed: Of the draws; the same for the same number of users.
    """
    users = columns.shape[0]
    random = np.random.default_rng(seed)
    rows = [columns.mean(0, keepdims=True)]
    batch = _batch(columns[:, 0])
    for start in range(0, RESAMPLES, batch):
        count = min(batch, RESAMPLES - start)
        drawn = random.integers(0, users, (count, users)) + np.arange(count)[:, None] * users
        times = np.bincount(drawn.ravel(), minlength=count * users).reshape(count, users)
        rows.append(times @ columns / users)
    return np.concatenate(rows)


def interval_of(statistic: Floats) -> Estimate:
    """Value and interval of a statistic of `resampled_means`, ``[1 + RESAMPLES]``.

    Resamples in which the statistic does not exist (NaN: nobody of a group was drawn) do not count; an infinite one
    (a ratio to nothing) does.
    """
    value, drawn = float(statistic[0]), statistic[1:][~np.isnan(statistic[1:])]
    if math.isnan(value) or not drawn.size:
        return Estimate(value, float("nan"), float("nan"))
    # No interpolation, which infinity does not allow.
    low, high = np.quantile(drawn, (0.025, 0.975), method="inverted_cdf")
    return Estimate(value, float(low), float(high))


def paired(ours: Floats, theirs: Floats, seed: int) -> Difference:
    """The paired difference of two models.

    Args:
        ours: ``[users]``.
        theirs: ``[users]``, the same users in the same order.
        seed: Of both resamplings.
    """
    difference = ours - theirs
    low, high = _interval(difference, seed)
    if not difference.any():
        return Difference(0.0, low, high, 1.0)
    test = permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        vectorized=True,
        batch=_batch(difference),
        rng=np.random.default_rng(seed),
    )
    return Difference(float(difference.mean()), low, high, float(test.pvalue))


def _interval(values: Floats, seed: int) -> tuple[float, float]:
    if values.size < 2:
        return float("nan"), float("nan")
    # SciPy warns that the interval of equal values is degenerate; here it is simply that value.
    if np.ptp(values) == 0:
        return float(values[0]), float(values[0])
    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=_batch(values),
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _batch(values: Floats) -> int:
    return max(_DRAWS_AT_ONCE // values.size, 1)
