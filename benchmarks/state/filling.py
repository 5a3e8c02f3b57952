"""Backfill of a log: its rate and memory, and what the states take."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.state.histories import Log
from benchmarks.state.processes import run_measured
from benchmarks.state.stores import CONFIG, MeasuredStore
from ebbtide.export import versions
from ebbtide.interest import served_models
from ebbtide.interest.exported import read_interest_config
from ebbtide.store import open_store

FULL_EVENTS = 10_000_000
"""Events of the log whose peak of memory has a goal."""
_READ_AT_ONCE = 1000
_GIB = 2**30

Results = dict[str, Any]


def measure_backfill(repository: Path, log: Log, store: MeasuredStore) -> Results:
    """Runs `ebbtide backfill` once, from its start to its end.

    Raises:
        RuntimeError: It failed.
    """
    program = str(Path(sys.executable).with_name("ebbtide"))
    command = (program, "backfill", str(repository), "--events", str(log.path), "--state", store.address)
    seconds, peak, _ = run_measured(command)
    name = "peak_gib_10m" if log.events == FULL_EVENTS else "peak_gib"
    return {
        "events_per_s": round(log.events / seconds),
        name: round(peak / _GIB, 3),
        "events": log.events,
        "users": log.users,
        "seconds": round(seconds, 1),
    }


def measure_sizes(repository: Path, store: MeasuredStore) -> Results:
    """Bytes of the records of all users, and of the store by user."""
    sizes = np.fromiter(_record_bytes(repository, store), dtype=np.int64)
    return {
        "bytes_per_user": {"median": float(np.median(sizes)), "largest": int(sizes.max())},
        "store_bytes_per_user": round(store.size_bytes() / sizes.size),
        "users": int(sizes.size),
    }


def _record_bytes(repository: Path, store: MeasuredStore) -> Iterator[int]:
    version = str(versions.served_version(repository))
    fingerprint = read_interest_config(repository / served_models.OBSERVER.name / version).states.encode()
    with open_store(store.address, CONFIG) as opened:
        users = opened.users(fingerprint)
        while some := list(islice(users, _READ_AT_ONCE)):
            yield from (len(record) for record in opened.read(some, fingerprint) if record is not None)
