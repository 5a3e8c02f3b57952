"""A generated event log: users of known lengths to ask for and to observe, and many others around them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ebbtide.client import Event, event
from ebbtide.data.dataset import read_dataset
from ebbtide.train.bundle import InterestBundle

LENGTHS = {10: 256, 512: 256, 10_000: 64}
"""How many users are asked for, by the length of their histories."""
OBSERVED, OBSERVED_EVENTS = 4096, 60
"""Users whose events are observed, and the length of their histories."""
_MEAN_EVENTS, _SPREAD = 100, 1.0
"""Of the other users: the mean length of a history, and the standard deviation of its logarithm."""
_SESSION_EVENTS, _BETWEEN_MS = 5, 60_000
_SPAN_MS, _SINCE_LAST_MS = 730 * 86_400_000, 3_600_000
_SEED = 0

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Log:
    """A log in a file, and what the benchmark needs to know of it."""

    path: Path
    """Parquet, with the columns that `ebbtide backfill` expects by default; in order of time."""
    events: int
    users: int
    asked: dict[int, list[list[Event]]]
    """By length: the events of each user who is asked for, oldest first; at most 512 of them."""
    item_ids: list[str]
    """Of the catalog."""


def asked_id(length: int, index: int) -> str:
    """The id of one of the users who are asked for."""
    return f"asked-{length}-{index}"


def observed_id(index: int) -> str:
    """The id of one of the users whose events are observed."""
    return f"observed-{index}"


def write_log(bundle: InterestBundle, path: Path, events: int) -> Log:
    """Writes a log: items as popular as in the bundle's own log, in sessions over two years until an hour ago.

    Args:
        bundle: For its catalog and log.
        path: File to write.
        events: In all; those of the users of `LENGTHS` and `OBSERVED` are among them, so a million at least.
    """
    random = np.random.default_rng(_SEED)
    popular = read_dataset(bundle.config.data).log.item
    ids = [asked_id(length, index) for length, users in LENGTHS.items() for index in range(users)]
    ids += [observed_id(index) for index in range(OBSERVED)]
    counts = np.concatenate(
        [np.repeat(list(LENGTHS), list(LENGTHS.values())), np.full(OBSERVED, OBSERVED_EVENTS)]
    ).astype(np.int64)
    others = _lengths_of_others(random, max(events - int(counts.sum()), 0))
    ids += [f"user-{index}" for index in range(others.size)]
    counts = np.concatenate([counts, others])

    user = np.arange(counts.size).repeat(counts)
    time_ms = _times(random, counts)
    item = random.choice(popular, user.size)
    item_ids = list(bundle.catalog.item_id)
    order = np.argsort(time_ms, kind="stable")
    pl.DataFrame(
        {
            "user": pl.Series(ids).gather(user[order]),
            "item": pl.Series(item_ids).gather(item[order]),
            "time": time_ms[order],
        }
    ).write_parquet(path)

    starts = np.cumsum(counts) - counts
    asked: dict[int, list[list[Event]]] = {}
    index = 0
    for length, users in LENGTHS.items():
        asked[length] = []
        for _ in range(users):
            last = starts[index] + np.arange(max(length - 512, 0), length)
            last = last[np.argsort(time_ms[last], kind="stable")]
            asked[length].append([event(item_id=item_ids[int(item[one])], time_ms=int(time_ms[one])) for one in last])
            index += 1
    return Log(path, int(user.size), int(counts.size), asked, item_ids)


def _lengths_of_others(random: np.random.Generator, events: int) -> Ints:
    """Log-normal lengths that sum to a number of events."""
    users = max(events // _MEAN_EVENTS, 1)
    drawn = np.exp(random.normal(0, _SPREAD, users))
    # Rounded down after summing up, so that the sum is kept.
    borders = np.floor(np.cumsum(drawn) * (events / drawn.sum()) + 0.5).astype(np.int64)
    lengths = np.diff(borders, prepend=0)
    kept: Ints = lengths[lengths > 0]
    return kept


def _times(random: np.random.Generator, counts: Ints) -> Ints:
    """A time for each event, Unix milliseconds: sessions anywhere in the span, their events a minute apart."""
    sessions = -(-counts // _SESSION_EVENTS)
    session_counts = np.full(int(sessions.sum()), _SESSION_EVENTS)
    session_counts[np.cumsum(sessions) - 1] = counts - (sessions - 1) * _SESSION_EVENTS
    newest_ms = time.time_ns() // 1_000_000 - _SINCE_LAST_MS - _SESSION_EVENTS * _BETWEEN_MS
    begin_ms = newest_ms - random.integers(0, _SPAN_MS, session_counts.size)
    index = np.arange(int(counts.sum())) - (np.cumsum(session_counts) - session_counts).repeat(session_counts)
    times: Ints = begin_ms.repeat(session_counts) + index * _BETWEEN_MS
    return times
