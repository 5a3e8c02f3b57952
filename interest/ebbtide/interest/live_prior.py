"""The live popularity prior: what the events since an export change in its scores, for the items that it changes most.

The scoring head holds the prior's columns as of the export. The items whose popularity has changed most since then get
a score adjustment in every request: their score with the columns of now. So any head serves them as it is, whether an
ONNX graph or an index.

The time of the columns is that of the newest event, as in `ebbtide refresh`: without events nothing changes. A shift
that all scores share is left out, as it changes no order; so the other items keep their scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.interest.lookup import UNKNOWN

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

LIVE_ITEMS = 512
"""Items with a live prior, at most."""


@dataclass(frozen=True)
class LivePrior:
    """The items whose popularity changed most since the export, the most important last."""

    item: Ints
    """``[live items]``: catalog indices."""
    gain: Floats
    """``[live items]``: what their prior adds to their scores beyond the export's."""
    factors: Floats
    """``[live items, d + p]``: their item factors, with the columns of the export."""
    index_of: npt.NDArray[np.int16]
    """``[items]``: the index of each catalog item among these, `UNKNOWN` for others."""

    @classmethod
    def of(cls, gain: Doubles, frozen: Doubles, factors: Floats, most: int = LIVE_ITEMS) -> LivePrior | None:
        """The prior that a change of all items' scores leaves, or None if nothing changed.

        Args:
            gain: ``[items]``: what the prior adds to each score now, less what it added at export.
            frozen: ``[items]``: what it added at export.
            factors: ``[items, d + p]``.
            most: How many items may change.
        """
        gain = gain - np.median(gain)
        # The prior alone gives each item a share of exp(score): the items whose share changes most come first.
        change = np.abs(np.exp(frozen + gain) - np.exp(frozen))
        count = min(most, int(np.count_nonzero(change)))
        if count == 0:
            return None
        item = np.argpartition(-change, count - 1)[:count]
        item = item[np.argsort(change[item], kind="stable")]
        index_of = np.full(gain.size, UNKNOWN, dtype=np.int16)
        index_of[item] = np.arange(count)
        return cls(item, gain[item].astype(np.float32), np.ascontiguousarray(factors[item]), index_of)

    def gains(self, item: Ints) -> Floats:
        """What the prior of given items adds beyond the export's, ``[candidates]``; 0 for unknown items."""
        index = self._index(item)
        return np.where(index == UNKNOWN, np.float32(0), self.gain.take(index))

    def _index(self, item: Ints) -> Ints:
        """The index of items among the live ones; `UNKNOWN` for others, and for items added after the export."""
        is_there = (item >= 0) & (item < self.index_of.size)
        return np.where(is_there, self.index_of.take(np.where(is_there, item, 0)), UNKNOWN).astype(np.int64)

    def adjust(self, interest: Floats, adjust_item: Ints, adjust_score: Floats, is_left_out: Bools | None) -> None:
        """Adds the live scores to the adjustments of a batch, from their end on, as far as there is room.

        An item that has an adjustment keeps it: a repeat score replaces the prior too, and an excluded item stays
        excluded.

        Args:
            interest: ``[users, d + p]``.
            adjust_item: ``[users, adjustments]``, filled from the start; changed in place.
            adjust_score: ``[users, adjustments]``; changed in place.
            is_left_out: ``[users]``: those who get the export's scores alone; None for nobody.
        """
        width = adjust_item.shape[1]
        count = min(self.item.size, width)
        item, gain, factors = self.item[-count:], self.gain[-count:], self.factors[-count:]
        # Not by BLAS, whose threads would fight with those of the other instances over products this small.
        score = np.einsum("uk,nk->un", interest, factors)
        score += gain
        score[score == 0] = np.finfo(np.float32).tiny
        first = width - count
        used = np.count_nonzero(adjust_score, axis=1)
        # Two values of one item would add up, unless one of them excludes it.
        row, column = np.nonzero((adjust_score != 0) & np.isfinite(adjust_score))
        index = self._index(adjust_item[row, column]) - (self.item.size - count)
        has_own = index >= 0
        if used.max(initial=0) <= first and not has_own.any() and is_left_out is None:
            adjust_item[:, first:], adjust_score[:, first:] = item, score
            return
        fits = np.arange(first, width) >= used[:, None]
        fits[row[has_own], index[has_own]] = False
        if is_left_out is not None:
            fits &= ~is_left_out[:, None]
        np.copyto(adjust_item[:, first:], item, where=fits)
        np.copyto(adjust_score[:, first:], score, where=fits)
