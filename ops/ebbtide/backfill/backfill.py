"""Runs a backfill: registers the version, spills the log, and puts it into the store with several processes."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from ebbtide.backfill.errors import BackfillError
from ebbtide.backfill.processes import in_processes
from ebbtide.backfill.reading import LogFiles, Spilled, spill_log
from ebbtide.backfill.spill import Spill
from ebbtide.backfill.update import Counts, Task, Writer, observer_folder, put_in_process
from ebbtide.interest import exported
from ebbtide.store import StoreConfig, open_store

_BULK_TIMEOUT_MS = 30_000
"""Of a call of the store, unless a longer one is set: the updates of a backfill are hundreds of times as large as those
of a server."""
_FEW_EVENTS = 300_000
"""Which one process puts into the store before others have started."""


class Progress(Protocol):
    """Follows a backfill."""

    def reading(self, rows: int) -> None:
        """So many rows were read so far."""
        ...

    def writing(self, files: int, of: int) -> None:
        """So many of the parts into which the users are spread are in the store."""
        ...


class Silent:
    """A `Progress` that tells nobody."""

    def reading(self, rows: int) -> None:
        """See `Progress`."""

    def writing(self, files: int, of: int) -> None:
        """See `Progress`."""


@dataclass(frozen=True)
class Summary:
    """What a backfill did."""

    fingerprint: str
    """Of the states that were built."""
    version: int
    store: str
    """Name of the store."""
    log: Spilled
    counts: Counts
    reading_s: float
    """Seconds that reading the log took."""
    writing_s: float
    """Seconds that the store took."""

    @property
    def events_per_s(self) -> float:
        """Events of the log per second of the whole backfill."""
        return self.log.events / max(self.reading_s + self.writing_s, 1e-9)

    @property
    def bytes_per_user(self) -> float:
        """Mean size of the records written."""
        return self.counts.record_bytes / max(self.counts.users, 1)


def backfill(
    repository: Path,
    log: LogFiles,
    address: str,
    config: StoreConfig | None = None,
    *,
    version: int | None = None,
    replace_folded: bool = False,
    processes: int | None = None,
    scratch: Path | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Puts the events of a log into the states of one version; see `ebbtide.interest.log_recorder` for what is exact.

    The version is registered in the store first, so that from then on all versions in service write what they observe
    to its records as well. A backfill that was ended, by whatever means, goes on when it is run again with the same
    log: each record holds a mark of the log that was put into it.

    Args:
        repository: Written by `ebbtide export`.
        log: Its events.
        address: Of the store; see `ebbtide.store.open_store`.
        config: Of the store.
        version: None for the newest one of the repository.
        replace_folded: Builds all records anew from the log and their raw events, those that the same log has built
            included.
        processes: How many write; None for one for each processor, or one for a short log.
        scratch: Folder for temporary files, about 40 bytes for each event; None for the system's.
        progress: Is told how far the work is.

    Raises:
        DataError: A file of the log cannot be used; nothing was written.
        BackfillError: The repository cannot be used, the log has no event of its items, or a process was killed.
        StoreError: The store failed.
    """
    progress = progress or Silent()
    folder = observer_folder(repository, version)
    try:
        fingerprint = exported.read_interest_config(folder).states
        pipeline = exported.read_plain_pipeline(folder)
    except (ValueError, KeyError, OSError) as error:
        raise BackfillError(f"{folder}: damaged export: {error}") from error
    config = config or StoreConfig()
    config = replace(config, timeout_ms=max(config.timeout_ms, _BULK_TIMEOUT_MS))
    with open_store(address, config) as store:
        name = store.name
        store.register(fingerprint.encode())
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ebbtide-backfill-", dir=scratch) as spilled:
        spill = Spill(Path(spilled))
        found = spill_log(log, pipeline.index, spill, progress.reading, pipeline.parameters.event_types)
        read_at = time.monotonic()
        task = Task(
            folder.absolute(),
            fingerprint.encode(),
            address,
            config,
            found.mark,
            log.event_id is not None,
            log.columns.event_type is not None,
            replace_folded,
        )
        if processes is None:
            processes = 1 if found.events <= _FEW_EVENTS else len(os.sched_getaffinity(0))
        counts = _put_all(task, spill.files(), processes, progress)
    return Summary(fingerprint, int(folder.name), name, found, counts, read_at - began, time.monotonic() - read_at)


def _put_all(task: Task, files: list[Path], processes: int, progress: Progress) -> Counts:
    counts = Counts()
    for done, of_file in enumerate(_results(task, files, processes), start=1):
        counts.add(of_file)
        progress.writing(done, len(files))
    return counts


def _results(task: Task, files: list[Path], processes: int) -> Iterator[Counts]:
    if processes == 1:
        with Writer(task) as writer:
            yield from map(writer.put, files)
        return
    try:
        yield from in_processes(partial(put_in_process, task), files, processes)
    except BrokenProcessPool:
        raise BackfillError(
            "a process of the backfill was killed, perhaps for memory; what was written stays: run the same "
            "command again, with fewer --processes"
        ) from None
