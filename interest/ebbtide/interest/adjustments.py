"""Score adjustments: pairs of an item and the score that replaces the one from the catalog's factors.

A value of 0 is padding; so a score of exactly 0 goes as the smallest float above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.checks import refuse_users
from ebbtide.interest.errors import RequestError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Items and the scores that replace theirs, for many users at once."""

    user: Ints
    """``[pairs]``: the user that each pair belongs to, ascending."""
    item: Ints
    """``[pairs]``: catalog index."""
    value: Floats | float
    """``[pairs]``, or one value for all: minus infinity excludes an item, as often as it comes; no item of a user has
    two others."""

    def where(self, kept: npt.NDArray[np.bool_]) -> Pairs:
        """Some of the pairs.

        Args:
            kept: ``[pairs]``.
        """
        value = self.value[kept] if isinstance(self.value, np.ndarray) else self.value
        return Pairs(self.user[kept], self.item[kept], value)

    def of_user(self, user: int, item: Ints) -> Floats:
        """The values of a user's items, ``[items asked]``; 0 for those without one.

        Args:
            user: Whose.
            item: ``[items asked]``: catalog indices; none of the user's pairs excludes one.
        """
        mine = slice(*np.searchsorted(self.user, [user, user + 1]))
        own = self.item[mine]
        position = {index: row for row, index in enumerate(own.tolist())}
        values = np.broadcast_to(self.value, self.user.shape)[mine]
        return np.array([values[position[one]] if one in position else 0 for one in item.tolist()], dtype=np.float32)


def pack_pairs(pairs: Sequence[Pairs], users: int, width: int) -> tuple[Ints, Floats]:
    """Catalog indices and values, int64 and float32 ``[users, width]``, padded with 0, which changes no score.

    Args:
        pairs: Lists of pairs, the most important first; one user's stand in the lists' order.
        users: Number of users.
        width: Largest number of pairs of one user; those beyond are dropped.
    """
    items = np.zeros((users, width), dtype=np.int64)
    values = np.zeros((users, width), dtype=np.float32)
    flat_items, flat_values = items.reshape(-1), values.reshape(-1)
    # Where each user's next pair goes.
    free = np.arange(users) * width
    full = free + width
    for kind in pairs:
        counts = np.bincount(kind.user, minlength=users)
        index = np.arange(kind.user.size)
        index += (free - counts.cumsum() + counts).repeat(counts)
        free += counts
        item, value = kind.item, kind.value
        if np.count_nonzero(free > full):
            fits = index < full[kind.user]
            index, item = index[fits], item[fits]
            value = value[fits] if isinstance(value, np.ndarray) else value
        flat_items[index] = item
        flat_values[index] = value
    return items, values


def find_pairs(adjust_item: Ints, adjust_score: Floats, user: Ints, item: Ints, items: int) -> Floats:
    """The values for given items, float32 ``[candidates]``; 0 for those without an adjustment.

    Args:
        adjust_item: ``[users, width]``, catalog indices.
        adjust_score: ``[users, width]``.
        user: ``[candidates]``: the user that each candidate belongs to.
        item: ``[candidates]``, catalog indices; a negative one has no adjustment.
        items: Number of items in the catalog.
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


def check_adjusted_items(request: Ints, adjust_item: Ints, items: int) -> None:
    """Refuses requests that adjust items which are not in the catalog.

    Args:
        request: ``[users]``, ascending: the index of the request that each user came in.
        adjust_item: ``[users, width]``.
        items: Number of items in the catalog.

    Raises:
        RequestsRefused: Naming the first such item of each request.
    """
    if adjust_item.min(initial=0) >= 0 and adjust_item.max(initial=0) < items:
        return
    wrong = (adjust_item < 0) | (adjust_item >= items)
    first = wrong.argmax(axis=1)
    name = contract.ADJUST_ITEM.name

    def error(user: int) -> RequestError:
        value = str(adjust_item[user, first[user]])
        return RequestError(f"{name}[{first[user]}]", value, f"a catalog index from 0 to {items - 1}")

    refuse_users(request, wrong.any(axis=1), error)
