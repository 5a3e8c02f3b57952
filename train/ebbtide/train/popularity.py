"""The popularity prior over time: decayed counts of each item among the events before any time of a log.

The formula is `ebbtide.interest.popularity.Smoothing`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ebbtide.interest.popularity import CountedPopularity, Smoothing

_TABLE_BYTES = 256 * 1024 * 1024
_MAX_SNAPSHOTS = 2048

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Popularity(Protocol):
    """The prior's columns over time."""

    def columns_at(self, time_ms: Ints) -> Iterator[Floats]:
        """The columns ``[items, p]`` at each time.

        Args:
            time_ms: ``[times]``, ascending, and none before those of an earlier call.
        """
        ...


@dataclass(frozen=True)
class FrozenPopularity:
    """The same columns at all times."""

    columns: Floats
    """``[items, p]``."""

    def columns_at(self, time_ms: Ints) -> Iterator[Floats]:
        """See `Popularity`."""
        return (self.columns for _ in range(time_ms.shape[0]))


class LivePopularity:
    """Columns that count every event strictly before the time asked for: a prior that is always up to date."""

    def __init__(self, item: Ints, time_ms: Ints, items: int, smoothing: Smoothing) -> None:
        """Starts before the first event.

        Args:
            item: ``[events]``, catalog indices, in any order.
            time_ms: ``[events]``, Unix milliseconds.
            items: N.
            smoothing: Half-lives and their smoothing.
        """
        order = np.argsort(time_ms, kind="stable")
        self._item, self._time_ms = item[order], time_ms[order]
        self._weight = 1 + smoothing.first_event_bonus * is_first(item, time_ms)[order]
        self._smoothing = smoothing
        self._rate = np.where(np.isfinite(smoothing.events), smoothing.decay_rate_per_ms, 0)
        self._counts = np.zeros((self._rate.shape[0], items))
        self._counted = 0
        self._as_of_ms = int(self._time_ms[0]) if time_ms.size else 0

    def columns_at(self, time_ms: Ints) -> Iterator[Floats]:
        """See `Popularity`."""
        before: int | None = None
        columns = np.empty((0, 0), dtype=np.float32)
        for time in time_ms.tolist():
            if time != before:
                self._count_before(time)
                kept = np.exp(-self._rate * max(time - self._as_of_ms, 0))
                columns, before = self._smoothing.columns(self._counts, kept), time
            yield columns

    def counted_at(self, time_ms: int) -> CountedPopularity:
        """The decayed counts as of a time, none before those of an earlier call."""
        self._count_before(time_ms)
        kept = np.exp(-self._rate * max(time_ms - self._as_of_ms, 0))
        return CountedPopularity(self._smoothing, self._counts * kept[:, None], time_ms)

    def _count_before(self, time_ms: int) -> None:
        stop = int(np.searchsorted(self._time_ms, time_ms, side="left"))
        if stop <= self._counted:
            return
        new = slice(self._counted, stop)
        as_of = int(self._time_ms[stop - 1])
        self._counts *= np.exp(-self._rate * (as_of - self._as_of_ms))[:, None]
        age_ms = as_of - self._time_ms[new]
        few = stop - self._counted < self._counts.shape[1] // 4
        for counts, rate, smoothing in zip(self._counts, self._rate, self._smoothing.events, strict=True):
            if not np.isfinite(smoothing):
                continue
            weight = np.exp(-rate * age_ms) * self._weight[new]
            if few:
                np.add.at(counts, self._item[new], weight)
            else:
                counts += np.bincount(self._item[new], weights=weight, minlength=counts.shape[0])
        self._counted, self._as_of_ms = stop, as_of


def is_first(item: Ints, time_ms: Ints) -> npt.NDArray[np.bool_]:
    """Whether an event is the first one of its item, one event of each, ``[events]``.

    Args:
        item: ``[events]``, catalog indices, in any order.
        time_ms: ``[events]``, Unix milliseconds.
    """
    order = np.argsort(time_ms, kind="stable")
    found = np.zeros(item.shape, dtype=np.bool_)
    found[order[np.unique(item[order], return_index=True)[1]]] = True
    return found


@dataclass(frozen=True)
class PopularitySnapshots:
    """The prior's columns at some timestamps, for training, which meets times in random order."""

    timestamp_ms: Ints
    """``[timestamps]``, ascending."""
    columns: Floats
    """``[timestamps, items, p]``."""

    @classmethod
    def of(cls, popularity: Popularity, timestamp_ms: Ints, items: int, columns: int) -> PopularitySnapshots:
        """Takes the columns at some timestamps, ascending."""
        table = np.empty((timestamp_ms.shape[0], items, columns), dtype=np.float32)
        for index, found in enumerate(popularity.columns_at(timestamp_ms)):
            table[index] = found
        return cls(timestamp_ms, table)

    def index_at(self, time_ms: Ints) -> Ints:
        """The newest snapshot at each time, same shape; the first one also before its timestamp."""
        return np.maximum(np.searchsorted(self.timestamp_ms, time_ms, side="right") - 1, 0)

    def columns_at(self, time_ms: Ints) -> Iterator[Floats]:
        """See `Popularity`; as of the newest snapshot, so it is up to date at the timestamps themselves."""
        return (self.columns[index] for index in self.index_at(time_ms))


def counted_at(item: Ints, time_ms: Ints, items: int, smoothing: Smoothing, timestamp_ms: int) -> CountedPopularity:
    """The decayed counts as of one timestamp; the other arguments are those of `LivePopularity`."""
    return LivePopularity(item, time_ms, items, smoothing).counted_at(timestamp_ms)


def columns_at(item: Ints, time_ms: Ints, items: int, smoothing: Smoothing, timestamp_ms: int) -> Floats:
    """The columns ``[items, p]`` of `counted_at`."""
    return counted_at(item, time_ms, items, smoothing, timestamp_ms).columns()


def exact_snapshots(
    item: Ints, time_ms: Ints, items: int, smoothing: Smoothing, wanted_ms: Ints
) -> PopularitySnapshots | None:
    """Snapshots at all wanted times, in any order; None if a table of 256 MiB is too small for them."""
    timestamps = np.unique(wanted_ms)
    if timestamps.shape[0] * items * len(smoothing.starts) * 4 > _TABLE_BYTES:
        return None
    live = LivePopularity(item, time_ms, items, smoothing)
    return PopularitySnapshots.of(live, timestamps, items, len(smoothing.starts))


def snapshot_times(time_ms: Ints, items: int, columns: int) -> Ints:
    """Timestamps with equally many events between them, as many as a table of 256 MiB holds, 2,048 at most."""
    fitting = _TABLE_BYTES // (4 * items * max(columns, 1))
    wanted = int(np.clip(fitting, 2, _MAX_SNAPSHOTS))
    timestamps = np.quantile(time_ms, np.linspace(0, 1, wanted, endpoint=False), method="lower")
    return np.unique(timestamps.astype(np.int64))
