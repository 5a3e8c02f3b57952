"""How many items of a protected group each beginning of a list must have: the ranked group fairness of FA*IR."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

_STEPS = 40
"""Of the bisection: after them the corrected significance is known to 12 digits."""


def least_by_position(items: int, share: float, significance: float) -> Ints:
    """The least number of protected items among the first k items, ``[items]`` for k from 1.

    A list whose items were drawn with probability `share` from the protected group has too few of them at position k if
    the binomial distribution gives so few, or fewer, a probability of at most a significance (Zehlike et al., FA*IR,
    CIKM 2017, definition 3.1). That test is made at every position, so its significance is corrected: the largest one
    with which such a random list fails anywhere with a probability of at most `significance` (their section 3.2).

    Args:
        items: Length of the list.
        share: Of the protected group, above 0 and below 1.
        significance: Above 0 and below 1.
    """
    return _least(items, share, significance)


def uncorrected(items: int, share: float, significance: float) -> Ints:
    """The same, each position tested alone: the smallest m whose cumulative probability is above `significance`."""
    least = np.zeros(items, dtype=np.int64)
    chances = np.ones(1)
    for position in range(items):
        chances = _after_one_more(chances, share)
        least[position] = int(np.argmax(np.cumsum(chances) > significance))
    return least


def chance_to_fail(least: Ints, share: float) -> float:
    """The probability that a list whose items are protected with probability `share` has too few anywhere."""
    chances = np.ones(1)
    for fewest in least.tolist():
        chances = _after_one_more(chances, share)
        chances[:fewest] = 0
    return float(1 - chances.sum())


@lru_cache(maxsize=1024)
def _least(items: int, share: float, significance: float) -> Ints:
    found = uncorrected(items, share, significance)
    if chance_to_fail(found, share) > significance:
        low, high = 0.0, significance
        for _ in range(_STEPS):
            middle = (low + high) / 2
            least = uncorrected(items, share, middle)
            if chance_to_fail(least, share) > significance:
                high = middle
            else:
                low, found = middle, least
        if low == 0:
            found = np.zeros(items, dtype=np.int64)
    found.flags.writeable = False
    return found


def _after_one_more(chances: Doubles, share: float) -> Doubles:
    """Probabilities of 0, 1, ... protected items after one more item."""
    more = np.zeros(chances.size + 1)
    more[:-1] += chances * (1 - share)
    more[1:] += chances * share
    return more
