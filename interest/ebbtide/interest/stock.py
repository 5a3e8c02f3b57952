"""Items that are out of stock, as one served model knows them at a moment.

The scoring head learns of them as score adjustments of minus infinity, behind those of the user. So every head leaves
them out exactly, and a request pays only for what is out of stock: 12 bytes for each item.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.interest.lookup import UNKNOWN, ItemIndex

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MOST_OUT_OF_STOCK = 8192
"""Items that may be out of stock at a time."""
_STEP = 256
"""Adjustments are as many as a multiple of this, so that requests share batches and memory while stock changes."""


@dataclass(frozen=True)
class OutOfStock:
    """The items that are out of stock."""

    item: Ints
    """``[items out of stock]``: catalog indices, ascending; those of new items are at the end."""
    adjust_item: Ints
    """``[adjustments]``: those of the export, padded with 0."""
    adjust_score: Floats
    """``[adjustments]``: minus infinity, padded with 0."""

    @classmethod
    def of(cls, key: Ints, index: ItemIndex, first_new: int) -> OutOfStock | None:
        """Those of given keys that are known; None for none.

        Args:
            key: ``[keys]``.
            index: Of the items that are known.
            first_new: Number of items of the export: the catalog index where new ones begin.
        """
        item = np.unique(index.find(key))
        item = item[item != UNKNOWN]
        if not item.size:
            return None
        frozen = item[item < first_new]
        width = -(-frozen.size // _STEP) * _STEP
        adjust_item, adjust_score = np.zeros(width, dtype=np.int64), np.zeros(width, dtype=np.float32)
        adjust_item[: frozen.size], adjust_score[: frozen.size] = frozen, -np.inf
        return cls(item, adjust_item, adjust_score)

    def has(self, item: Ints) -> Bools:
        """Which catalog indices are those of an item that is out of stock, ``[items asked]``."""
        position = np.minimum(self.item.searchsorted(item), self.item.size - 1)
        return np.asarray(self.item[position] == item)

    def exclude(self, adjust_item: Ints, adjust_score: Floats, is_left_out: Bools) -> tuple[Ints, Floats]:
        """Score adjustments of a batch with these items behind them.

        Args:
            adjust_item: ``[users, adjustments]``.
            adjust_score: ``[users, adjustments]``.
            is_left_out: ``[users]``: those whose lists may have the items.
        """
        if not self.adjust_item.size or is_left_out.all():
            return adjust_item, adjust_score
        more = np.broadcast_to(self.adjust_item, (is_left_out.size, self.adjust_item.size))
        score = np.where(is_left_out[:, None], np.float32(0), self.adjust_score)
        return np.concatenate([adjust_item, more], axis=1), np.concatenate([adjust_score, score], axis=1)


def are_in_stock(item: Ints, out_of_stock: OutOfStock | None) -> Bools:
    """Which catalog indices are in stock, ``[items asked]``; those of unknown items are."""
    return np.ones(item.size, dtype=np.bool_) if out_of_stock is None else ~out_of_stock.has(item)
