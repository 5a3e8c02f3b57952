"""Score adjustments: pairs of an item and the score that takes the place of what the catalog's factors give it.

A value of 0 is padding; so a score of exactly 0 goes as the smallest float above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Which items have which scores instead of their own, for many users at once."""

    user: Ints
    """``[pairs]``: whose pair each one is, ascending."""
    item: Ints
    """``[pairs]``: catalog index."""
    value: Floats | float
    """``[pairs]``, or one value for all: minus infinity excludes an item, as often as it comes; no item of a user has
    two others."""


def pack_pairs(pairs: Sequence[Pairs], users: int, width: int) -> tuple[Ints, Floats]:
    """Catalog indices and values, int64 and float32 ``[users, width]``, padded with 0, which changes no score.

    Args:
        pairs: Lists of pairs; one user's stand in the lists' order.
        users: B.
        width: Pairs of one user at most.
    """
    items = np.zeros((users, width), dtype=np.int64)
    values = np.zeros((users, width), dtype=np.float32)
    flat_items, flat_values = items.reshape(-1), values.reshape(-1)
    # Where each user's next pair goes.
    free = np.arange(users) * width
    for part in pairs:
        counts = np.bincount(part.user, minlength=users)
        index = np.arange(part.user.size)
        index += (free - counts.cumsum() + counts).repeat(counts)
        flat_items[index] = part.item
        flat_values[index] = part.value
        free += counts
    return items, values


def find_pairs(adjust_item: Ints, adjust_score: Floats, user: Ints, item: Ints, items: int) -> Floats:
    """The values for given items, float32 ``[candidates]``; 0 for those without an adjustment.

    Args:
        adjust_item: ``[users, width]``, catalog indices.
        adjust_score: ``[users, width]``.
        user: ``[candidates]``, whose candidate each one is.
        item: ``[candidates]``, catalog indices; a negative one has no adjustment.
        items: N.
    """
    # A sum is minus infinity where one of its values is, and else the only one.
    row, column = np.nonzero(adjust_score)
    if row.size == 0:
        return np.zeros(item.shape, dtype=np.float32)
    wanted, which = np.unique(row * items + adjust_item[row, column], return_inverse=True)
    sums = np.bincount(which, weights=adjust_score[row, column]).astype(np.float32)
    asked = user * items + item
    index = np.minimum(np.searchsorted(wanted, asked), wanted.size - 1)
    return np.where((wanted[index] == asked) & (item >= 0), sums[index], np.float32(0))
