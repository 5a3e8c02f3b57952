"""Numbers as integers of the same order, so that numeric attributes and ranges of them fit in 64-bit words.

Comparing the integers is comparing the numbers, exactly, in double precision: the bits of a number of IEEE 754 are in
order but for negative ones, whose order is reversed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

MISSING = -(2**63)
"""Stands for no number; below the integer of every number, so no range has it."""
_BITS_WITHOUT_SIGN = np.int64(2**63 - 1)


def ordered(number: npt.ArrayLike) -> Ints:
    """The integers of numbers, of the same shape; `MISSING` for NaN.

    Args:
        number: float64, any shape.
    """
    # Adding 0 makes -0 a 0.
    values = np.asarray(number, dtype=np.float64) + 0.0
    bits = values.view(np.int64)
    return np.where(np.isnan(values), np.int64(MISSING), np.where(bits < 0, bits ^ _BITS_WITHOUT_SIGN, bits))


def numbers_of(integer: npt.ArrayLike) -> Doubles:
    """The inverse of `ordered`; NaN for `MISSING`."""
    values = np.asarray(integer, dtype=np.int64)
    bits = np.where(values < 0, values ^ _BITS_WITHOUT_SIGN, values)
    return np.where(values == MISSING, np.nan, bits.view(np.float64))


LEAST, MOST = ordered([-np.inf, np.inf]).tolist()
"""The bounds of a range that has none."""
