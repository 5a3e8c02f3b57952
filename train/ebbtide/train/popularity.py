"""The popularity prior: log(1 + decayed count) of every item at a few half-lives, as of any time of the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.interest.events import MS_PER_DAY

_TABLE_BYTES = 256 * 1024 * 1024
_MAX_SNAPSHOTS = 512

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PopularitySnapshots:
    """The prior's columns at some timestamps; between two of them the earlier one holds, as between two refreshes."""

    timestamp_ms: npt.NDArray[np.int64]
    """``[timestamps]``, ascending."""
    columns: Floats
    """``[timestamps, items, p]``: log(1 + decayed count) of the events strictly before each timestamp."""

    def index_at(self, time_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The snapshot that holds at each time, same shape; the first one also before its timestamp."""
        return np.maximum(np.searchsorted(self.timestamp_ms, time_ms, side="right") - 1, 0)


def popularity_snapshots(
    item: npt.NDArray[np.int64],
    time_ms: npt.NDArray[np.int64],
    items: int,
    half_life_days: Sequence[float],
    timestamp_ms: npt.NDArray[np.int64],
) -> PopularitySnapshots:
    """Counts the events before each timestamp, each weighing 2 ** (-age / half-life).

    Args:
        item: ``[events]``, catalog indices, any order.
        time_ms: ``[events]``, Unix milliseconds.
        items: N.
        half_life_days: p half-lives in days; infinity counts without decay.
        timestamp_ms: ``[timestamps]``, ascending.
    """
    order = np.argsort(time_ms, kind="stable")
    item, time_ms = item[order], time_ms[order]
    rates = np.log(2) / np.asarray(half_life_days, dtype=np.float64)
    columns = np.empty((timestamp_ms.shape[0], items, rates.shape[0]), dtype=np.float32)
    counts = np.zeros((items, rates.shape[0]))
    upto = np.searchsorted(time_ms, timestamp_ms, side="left")
    start = 0
    for index, (timestamp, stop) in enumerate(zip(timestamp_ms, upto, strict=True)):
        if index:
            counts *= np.exp(-rates * (timestamp - timestamp_ms[index - 1]) / MS_PER_DAY)
        age_days = (timestamp - time_ms[start:stop]) / MS_PER_DAY
        for column, rate in enumerate(rates):
            counts[:, column] += np.bincount(item[start:stop], weights=np.exp(-rate * age_days), minlength=items)
        columns[index] = np.log1p(counts)
        start = stop
    return PopularitySnapshots(timestamp_ms, columns)


def snapshot_times(time_ms: npt.NDArray[np.int64], items: int, half_lives: int) -> npt.NDArray[np.int64]:
    """Timestamps with equally many events between them, as many as a table of 256 MiB holds, 512 at most."""
    fitting = _TABLE_BYTES // (4 * items * max(half_lives, 1))
    wanted = int(np.clip(fitting, 2, _MAX_SNAPSHOTS))
    timestamps = np.quantile(time_ms, np.linspace(0, 1, wanted, endpoint=False), method="lower")
    return np.unique(timestamps.astype(np.int64))
