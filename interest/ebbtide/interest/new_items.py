"""Items that were added to a running server after the export, as one served model knows them at a moment.

Their catalog indices continue those of the export, and no index is used again, so the states of users may hold them.
What an export has for each item, in arrays by catalog index, a new item has in arrays of the new items; `GrownTable`
and `GrownIndex` are both together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ebbtide.interest.attributes import AttributeIndex
from ebbtide.interest.lookup import UNKNOWN, KeyIndex
from ebbtide.interest.repeat import RepeatParameters

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MOST_NEW_ITEMS = 4096
"""Items that may be there at a time beside those of an export."""
END_OF_INDICES = 2**32
"""Above any catalog index: states hold them in 32 bits."""
_MOST_BY_EINSUM = 256 * 1024
"""Products of fewer numbers are not left to BLAS, whose threads would fight with those of the other instances."""


class Table(Protocol):
    """Rows by catalog index."""

    def take(self, indices: Ints, axis: int) -> npt.NDArray[Any]:
        """The rows at the indices."""
        ...


@dataclass(frozen=True)
class NewItems:
    """The new items, in the order of their catalog indices."""

    first: int
    """Number of items of the export: the catalog index where new ones begin."""
    index: Ints
    """``[new items]``: catalog indices, ascending."""
    key: Ints
    """``[new items]``."""
    added_ms: Ints
    """``[new items]``: Unix milliseconds."""
    item_id: npt.NDArray[np.object_]
    """``[new items]``: UTF-8."""
    vectors: Floats
    """``[new items, d]``: event vectors."""
    factors: Floats
    """``[new items, d + p]``: item factors, then the columns of an item that the export's log lacks."""
    gain: Floats
    """``[new items]``: what their live prior adds to their scores beyond these columns."""
    words: Ints
    """``[new items, words]``: bits of their attribute values; see `AttributeIndex`."""
    repeat_bias: Floats
    """``[new items]``: the part of the bias in the repeat score that their texts tell."""

    def row(self, item: Ints) -> Ints:
        """The rows of catalog indices in these arrays; `UNKNOWN` for those of no new item."""
        position = np.minimum(self.index.searchsorted(item), self.index.size - 1)
        return np.where(self.index[position] == item, position, UNKNOWN)

    def is_known(self, item: Ints) -> Bools:
        """Which catalog indices are those of an item of the export or of a new item that is there."""
        known: Bools = item < self.first
        later = ~known
        known[later] = self.row(item[later]) != UNKNOWN
        return known

    def gains(self, item: Ints) -> Floats:
        """What the live prior of given items adds, ``[candidates]``; 0 for items that are not new."""
        row = self.row(item)
        return np.where(row == UNKNOWN, np.float32(0), self.gain.take(row))

    def scores(self, interest: Floats) -> Floats:
        """The scores of all new items, ``[users, new items]``.

        Args:
            interest: ``[users, d + p]``.
        """
        if interest.shape[0] * self.factors.size <= _MOST_BY_EINSUM:
            score = np.einsum("uk,nk->un", interest, self.factors)
        else:
            score = interest @ self.factors.T
        score += self.gain
        return np.asarray(score)

    def best(
        self,
        interest: Floats,
        adjustments: tuple[Ints, Floats],
        allowed: Bools | None,
        most: int,
        gains: Floats | None = None,
    ) -> tuple[npt.NDArray[np.object_], Floats]:
        """Ids and scores of the best new items of each user, ``[users, best]`` each, best first.

        Args:
            interest: ``[users, d + p]``.
            adjustments: Catalog indices and scores, ``[users, adjustments]`` each; those of new items count.
            allowed: ``[users, new items]``: what filters and flags of the requests allow; None for everything.
            most: Items of a list.
            gains: ``[users, new items]``: what rules of the house add; None for nothing.

        Returns:
            An item that is not allowed has an empty id and minus infinity.
        """
        score = self.scores(interest)
        adjust_item, adjust_score = adjustments
        user, column = np.nonzero((adjust_item >= self.first) & (adjust_score != 0))
        if user.size:
            row, value = self.row(adjust_item[user, column]), adjust_score[user, column]
            there = row != UNKNOWN
            # Of two values of one item, one excludes it.
            for chosen in (there & np.isfinite(value), there & ~np.isfinite(value)):
                score[user[chosen], row[chosen]] = value[chosen]
        if gains is not None:
            score += gains
        if allowed is not None:
            score[~allowed] = -np.inf
        best = np.arange(self.index.size)[None].repeat(interest.shape[0], axis=0)
        if most < self.index.size:
            best = np.sort(np.argpartition(-score, most - 1, axis=1)[:, :most], axis=1)
            score = np.take_along_axis(score, best, axis=1)
        order = np.argsort(-score, axis=1, kind="stable")
        best, score = np.take_along_axis(best, order, axis=1), np.take_along_axis(score, order, axis=1)
        item_id = self.item_id.take(best)
        item_id[np.isneginf(score)] = b""
        return item_id, score

    def repeat(self, parameters: RepeatParameters) -> RepeatParameters:
        """The parameters of the repeat score with those of the new items, which have no item-time weights."""
        columns = self.factors[:, self.factors.shape[1] - parameters.trend.shape[1] - 1 :]
        trend = columns[:, :-1] - columns[:, -1:] if parameters.trend.shape[1] else columns[:, :0]
        times = np.zeros((self.index.size, parameters.time_weights.shape[1]), dtype=np.float32)
        # Of these arrays, rows are taken and nothing else.
        grown: dict[str, Any] = {
            "item_bias": GrownTable(parameters.item_bias, self, self.repeat_bias),
            "trend": GrownTable(parameters.trend, self, trend),
            "time_weights": GrownTable(parameters.time_weights, self, times),
        }
        return replace(parameters, **grown)


@dataclass(frozen=True)
class GrownTable:
    """An array of the export by catalog index, and the rows of the new items behind it."""

    frozen: npt.NDArray[Any]
    """``[items, ...]``."""
    items: NewItems
    new: npt.NDArray[Any]
    """``[new items, ...]``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """That of all indices: the first is above the largest one."""
        return (int(self.items.index[-1]) + 1, *self.frozen.shape[1:])

    def take(self, indices: Ints, axis: int = 0) -> npt.NDArray[Any]:
        """The rows of known catalog indices; that of -1 has no meaning.

        Args:
            indices: ``[taken]``.
            axis: 0.
        """
        is_new = indices >= self.items.first
        if not np.count_nonzero(is_new):
            return self.frozen.take(indices, axis=axis)
        rows = self.frozen.take(np.where(is_new, UNKNOWN, indices), axis=axis)
        rows[is_new] = self.new.take(self.items.row(indices[is_new]), axis=axis)
        return rows


class GrownIndex:
    """The keys of the export and of the new items."""

    def __init__(self, frozen: KeyIndex, new: NewItems) -> None:
        """Takes both; an item of the export comes before a new one with its key."""
        order = np.argsort(new.key, kind="stable")
        self._frozen, self._new = frozen, new
        self._key, self._index = new.key[order], new.index[order]

    @property
    def items(self) -> int:
        """Number of items of the export."""
        return self._frozen.items

    @property
    def end(self) -> int:
        """Above the largest catalog index."""
        return int(self._index.max()) + 1

    def is_known(self, item: Ints) -> Bools:
        """Which catalog indices are those of an item that is known, ``[items asked]``."""
        return self._new.is_known(item)

    def find(self, keys: Ints) -> Ints:
        """Catalog indices of ``keys``, ``[keys]``, `UNKNOWN` where a key is not known."""
        found = self._frozen.find(keys)
        unknown = np.flatnonzero(found == UNKNOWN)
        if unknown.size:
            asked = keys[unknown]
            position = np.minimum(self._key.searchsorted(asked), self._key.size - 1)
            found[unknown] = np.where(self._key[position] == asked, self._index[position], UNKNOWN)
        return found


@dataclass(frozen=True)
class NewItem:
    """An item as it was added."""

    key: int
    slot: int
    """Its number among all items that were ever added; never used again."""
    added_ms: int
    """Unix milliseconds when it was added first."""
    item_id: bytes
    attributes: tuple[int, ...]
    """Keys of its attribute values, and of its numeric columns, each with the number behind it."""
    repeat_bias: float
    vector: Floats
    """``[d]``: event vector."""
    factor: Floats
    """``[d]``: item factor, of its text alone."""


def new_items(items: Sequence[NewItem], first: int, attributes: AttributeIndex, columns: Floats) -> NewItems | None:
    """The arrays of items; None for none.

    Args:
        items: In any order.
        first: Number of items of the export.
        attributes: Of the export.
        columns: ``[p]``: the prior's columns of an item that the export's log lacks.
    """
    if not items:
        return None
    items = sorted(items, key=lambda item: item.slot)
    item_id = np.empty(len(items), dtype=np.object_)
    item_id[:] = [item.item_id for item in items]
    counts = [len(item.attributes) for item in items]
    keys = np.array([key for item in items for key in item.attributes], dtype=np.int64)
    return NewItems(
        first,
        np.array([first + item.slot for item in items], dtype=np.int64),
        np.array([item.key for item in items], dtype=np.int64),
        np.array([item.added_ms for item in items], dtype=np.int64),
        item_id,
        np.stack([item.vector for item in items]),
        np.stack([np.concatenate([item.factor, columns]) for item in items]).astype(np.float32),
        np.zeros(len(items), dtype=np.float32),
        attributes.words_of(len(items), np.arange(len(items)).repeat(counts), keys),
        np.array([item.repeat_bias for item in items], dtype=np.float32),
    )
