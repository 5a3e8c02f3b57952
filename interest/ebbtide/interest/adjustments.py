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
    """Which items have which scores instead of their own, for many people at once."""

    person: Ints
    """``[pairs]``: whose pair each one is, ascending."""
    item: Ints
    """``[pairs]``: catalog index."""
    value: Floats | float
    """``[pairs]``, or one value for all: minus infinity excludes an item, as often as it comes; no item of a person has
    two others."""


def pack_pairs(pairs: Sequence[Pairs], people: int, width: int) -> tuple[Ints, Floats]:
    """Catalog indices and values, int64 and float32 ``[people, width]``, padded with 0, which changes no score.

    Args:
        pairs: Lists of pairs; one person's stand in the lists' order.
        people: B.
        width: Pairs of one person at most.
    """
    items = np.zeros((people, width), dtype=np.int64)
    values = np.zeros((people, width), dtype=np.float32)
    flat_items, flat_values = items.reshape(-1), values.reshape(-1)
    # Where each person's next pair goes.
    free = np.arange(people) * width
    for part in pairs:
        counts = np.bincount(part.person, minlength=people)
        place = np.arange(part.person.size)
        place += (free - counts.cumsum() + counts).repeat(counts)
        flat_items[place] = part.item
        flat_values[place] = part.value
        free += counts
    return items, values


def find_pairs(adjust_item: Ints, adjust_score: Floats, person: Ints, item: Ints, items: int) -> Floats:
    """The values for given items, float32 ``[candidates]``; 0 for those without an adjustment.

    Args:
        adjust_item: ``[people, width]``, catalog indices.
        adjust_score: ``[people, width]``.
        person: ``[candidates]``, whose candidate each one is.
        item: ``[candidates]``, catalog indices; a negative one has no adjustment.
        items: N.
    """
    # A sum is minus infinity where one of its values is, and else the only one.
    row, column = np.nonzero(adjust_score)
    if row.size == 0:
        return np.zeros(item.shape, dtype=np.float32)
    wanted, which = np.unique(row * items + adjust_item[row, column], return_inverse=True)
    sums = np.bincount(which, weights=adjust_score[row, column]).astype(np.float32)
    asked = person * items + item
    place = np.minimum(np.searchsorted(wanted, asked), wanted.size - 1)
    return np.where((wanted[place] == asked) & (item >= 0), sums[place], np.float32(0))
