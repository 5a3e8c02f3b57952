"""The relevant items of each basket: the distinct items that a list should contain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.data.baskets import Baskets, Ints, Mask
from ebbtide.data.events import EventLog


@dataclass(frozen=True)
class Relevance:
    """The relevant items of all baskets, one basket after the other."""

    start: Ints
    """``[baskets + 1]``: those of basket c are ``start[c]`` up to ``start[c + 1]``."""
    item: Ints
    """``[R]``, catalog indices, ascending and distinct within a basket."""

    @classmethod
    def of(cls, log: EventLog, baskets: Baskets) -> Relevance:
        """All items of each basket that have an event of a target type there."""
        lengths = baskets.stop - baskets.head
        case = np.repeat(np.arange(len(baskets)), lengths)
        event = np.arange(case.shape[0]) - np.repeat(np.cumsum(lengths) - lengths, lengths) + baskets.head[case]
        is_target = log.is_target[event]
        case, event = case[is_target], event[is_target]
        wide = np.int64(log.item.max(initial=0) + 1)
        case, item = np.divmod(np.unique(case * wide + log.item[event]), wide)
        counts = np.bincount(case, minlength=len(baskets))
        return cls(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), item)

    @property
    def counts(self) -> Ints:
        """``[baskets]``, relevant items of each basket."""
        return np.diff(self.start)

    @property
    def case(self) -> Ints:
        """``[R]``, which basket each relevant item belongs to."""
        return np.repeat(np.arange(self.start.shape[0] - 1), self.counts)

    def only(self, items: Mask) -> Relevance:
        """Keeps the items that ``items`` ``[items]`` marks; a basket may be left with none."""
        kept = items[self.item]
        counts = np.bincount(self.case[kept], minlength=self.counts.shape[0])
        return Relevance(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), self.item[kept])

    def padded(self, cases: slice, fill: int) -> npt.NDArray[np.int64]:
        """The items of some baskets, one row each, filled up with ``fill``, ``[cases, longest]``."""
        counts = self.counts[cases]
        start = self.start[:-1][cases]
        rows = np.full((counts.shape[0], max(int(counts.max(initial=0)), 1)), fill, dtype=np.int64)
        inside = np.arange(rows.shape[1]) < counts[:, None]
        rows[inside] = self.item[start[0] : start[0] + counts.sum()] if counts.size else self.item[:0]
        return rows

    def among(self, item: Ints) -> Mask:
        """Which entries of lists ``[baskets, L]`` are relevant, same shape."""
        wide = np.int64(max(int(item.max(initial=0)), int(self.item.max(initial=0))) + 2)
        keys = self.case * wide + self.item
        found: Mask = np.isin(np.arange(item.shape[0])[:, None] * wide + item, keys) & (item >= 0)
        return found
