"""The baskets of a log as sparse vectors over the catalog, for recommenders that weigh whole baskets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from benchmarks.quality.split import Ints
from ebbtide.data.baskets import basket_heads
from ebbtide.data.events import EventLog

Weigher = Callable[[Ints, Ints], npt.NDArray[np.float64]]
"""Weights of baskets, given the place of each in its user's history, from 0, and how many that history has."""


@dataclass(frozen=True)
class Baskets:
    """B baskets, each everything one user did at one time, an item once; a user's stand together, oldest first."""

    items: int
    """N."""
    of_event: Ints
    """``[n]``, the basket of each event of the log."""
    user: Ints
    """``[B]``."""
    time_ms: Ints
    """``[B]``."""
    first: Ints
    """``[U]``, each user's first basket."""
    line_start: Ints
    """``[B + 1]``: the items of basket b are ``line_item[line_start[b]:line_start[b + 1]]``."""
    line_item: Ints
    """``[lines]``, catalog indices."""

    @classmethod
    def of(cls, log: EventLog, items: int) -> Baskets:
        """Parts a log into baskets.

        Args:
            log: Events.
            items: N, of the catalog.
        """
        heads = basket_heads(log)
        head, of_event = np.unique(heads, return_inverse=True)
        lines = np.unique(of_event * np.int64(items) + log.item)
        counts = np.bincount(lines // items, minlength=head.shape[0])
        return cls(
            items=items,
            of_event=of_event,
            user=log.user[head],
            time_ms=log.time_ms[head],
            first=of_event[log.start[:-1]],
            line_start=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            line_item=lines % items,
        )

    def stop_at(self, timestamp_ms: int) -> Ints:
        """One past each user's last basket strictly before a moment, ``[U]``."""
        return self.first + np.bincount(self.user[self.time_ms < timestamp_ms], minlength=self.first.shape[0])

    def vectors(self, first: Ints, stop: Ints, weigh: Weigher) -> csr_matrix:
        """The weighted sums of K histories' baskets, ``[K, N]`` float32.

        Args:
            first: ``[K]``, the first basket of each.
            stop: ``[K]``, one past the last.
            weigh: Of every basket.
        """
        history, index = ragged(stop - first)
        basket = first[history] + index
        weight = weigh(index, (stop - first)[history])
        part, offset = ragged(np.diff(self.line_start)[basket])
        item = self.line_item[self.line_start[basket][part] + offset]
        shape = (first.shape[0], self.items)
        found = csr_matrix((weight[part].astype(np.float32), (history[part], item)), shape=shape)
        found.sum_duplicates()
        return found


def ragged(lengths: Ints) -> tuple[Ints, Ints]:
    """For rows of these lengths laid one after the other: the row of each entry, and its place in it."""
    row = np.repeat(np.arange(lengths.shape[0]), lengths)
    return row, np.arange(row.shape[0]) - np.repeat(np.cumsum(lengths) - lengths, lengths)
