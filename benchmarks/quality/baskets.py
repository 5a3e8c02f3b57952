"""The baskets of a log as sparse vectors over the catalog, for recommenders that weight whole baskets."""

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
"""Weights of baskets, from the index of each basket in its user's history and the history's number of baskets."""


@dataclass(frozen=True)
class Baskets:
    """B baskets, grouped by user, oldest first. A basket is the set of items of one user and one timestamp."""

    items: int
    """N, the size of the catalog."""
    of_event: Ints
    """``[events]``, the basket of each of the log's events."""
    user: Ints
    """``[baskets]``."""
    time_ms: Ints
    """``[baskets]``."""
    first: Ints
    """``[users]``, the first basket of each user."""
    line_start: Ints
    """``[baskets + 1]``: the items of a basket b are ``line_item[line_start[b]:line_start[b + 1]]``."""
    line_item: Ints
    """``[lines]``, catalog indices."""

    @classmethod
    def of(cls, log: EventLog, items: int) -> Baskets:
        """Groups the events of a log into baskets.

        Args:
            log: Events.
            items: N, the size of the catalog.
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
        """Index after each user's last basket strictly before a timestamp, ``[users]``."""
        return self.first + np.bincount(self.user[self.time_ms < timestamp_ms], minlength=self.first.shape[0])

    def vectors(self, first: Ints, stop: Ints, weigh: Weigher) -> csr_matrix:
        """The weighted sums of the baskets of histories, ``[histories, items]`` float32.

        Args:
            first: ``[histories]``, the first basket of each history.
            stop: ``[histories]``, the index after the last basket of each history.
            weigh: Gives the weight of each basket.
        """
        history, index = ragged(stop - first)
        basket = first[history] + index
        weight = weigh(index, (stop - first)[history])
        entry, offset = ragged(np.diff(self.line_start)[basket])
        item = self.line_item[self.line_start[basket][entry] + offset]
        shape = (first.shape[0], self.items)
        sums = csr_matrix((weight[entry].astype(np.float32), (history[entry], item)), shape=shape)
        sums.sum_duplicates()
        return sums


def ragged(lengths: Ints) -> tuple[Ints, Ints]:
    """For concatenated rows of these lengths: the row of each entry, and its index within the row."""
    row = np.repeat(np.arange(lengths.shape[0]), lengths)
    return row, np.arange(row.shape[0]) - np.repeat(np.cumsum(lengths) - lengths, lengths)
