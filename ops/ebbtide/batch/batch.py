"""Computes the lists of all users: spills the log by user, and ranks with several processes."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from ebbtide.backfill import BackfillError, LogFiles
from ebbtide.backfill.reading import Spilled, spill_log
from ebbtide.backfill.spill import Spill
from ebbtide.batch.errors import BatchError
from ebbtide.batch.lists import Counts, Part, Task, write_in_process
from ebbtide.batch.parts import require_same_run, run_of_parts
from ebbtide.batch.workers import Workers
from ebbtide.export.inprocess import InProcessPipeline

_COMMAND = "batch-recommend"
_FEW_EVENTS = 300_000
"""For which one process is done before others have started."""
_EVENTS_PER_PART = 20_000
"""Where the log has so many; a log of millions has as many parts as `Spill` has files."""


class Progress(Protocol):
    """Follows the work."""

    def reading(self, rows: int) -> None:
        """So many rows were read so far."""
        ...

    def ranking(self, parts: int, of: int) -> None:
        """So many of the parts into which the users are spread are written."""
        ...


class Silent:
    """A `Progress` that tells nobody."""

    def reading(self, rows: int) -> None:
        """See `Progress`."""

    def ranking(self, parts: int, of: int) -> None:
        """See `Progress`."""


@dataclass(frozen=True)
class Summary:
    """What was written."""

    version: int
    now_ms: int
    """The time of the lists, Unix milliseconds."""
    log: Spilled
    counts: Counts
    """Of the parts that this run wrote."""
    parts: int
    kept_parts: int
    """Parts that an earlier run of the same lists had written."""
    reading_s: float
    ranking_s: float

    @property
    def users_per_s(self) -> float:
        """Lists per second of ranking."""
        return self.counts.users / max(self.ranking_s, 1e-9)


def batch_recommend(
    repository: Path,
    log: LogFiles,
    out: Path,
    *,
    now_ms: int | None = None,
    top_n: int | None = None,
    exclude_seen: bool | None = None,
    version: int | None = None,
    processes: int | None = None,
    ray: str | None = None,
    scratch: Path | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Writes the list of every user of a log, as a server would answer a request with the user's newest events.

    The folder gets Parquet files with a row for each rank of each list: ``user``, ``time``, ``rank`` (from 1), ``item``
    and ``score``, which is the format of predictions that `ebbtide evaluate` reads. A run that was ended, by whatever
    means, goes on when it is run again, and gives the same files; a folder of another run is refused.

    Args:
        repository: Written by `ebbtide export`.
        log: Its events; those at the time of the lists or later are left out.
        out: A new folder, or one with parts of the same lists.
        now_ms: The time of the lists, Unix milliseconds; None for just after the newest event.
        top_n: Length of a list, at most that of the export; None for that of the export.
        exclude_seen: Whether items that a user has seen are left out; None for the policy of the export.
        version: None for the one that the repository answers with.
        processes: How many rank; None for one for each processor, less one on Ray, or one for a short log.
        ray: Address of a Ray cluster whose workers rank, or ``local`` for one that is started on this machine; its
            machines share the folders of ``repository``, ``out`` and ``scratch``. None for processes of this machine.
        scratch: Folder for temporary files, about 40 bytes for each event; None for the system's.
        progress: Is told how far the work is.

    Raises:
        DataError: A file of the log cannot be used; nothing was written.
        RepositoryError: The repository is damaged, or has no such version.
        BatchError: The log has no event of the repository's items, the folder has other lists, a process was killed,
            or the cluster cannot be used.
    """
    progress = progress or Silent()
    pipeline = InProcessPipeline(repository, version)
    config = pipeline.weights.parameters.config
    if top_n is not None and 0 < config.top_n < top_n:
        raise BatchError(f"top N: got {top_n}; expected at most {config.top_n}, the top N of the export")
    known = {
        "export": pipeline.fingerprint,
        "version": pipeline.version,
        "top N": config.top_n if top_n is None else top_n,
        "seen items left out": exclude_seen,
        "weight column": log.columns.weight is not None,
        "event type column": log.columns.event_type is not None,
    }
    # Before the log is read, which may take long.
    require_same_run(out, _COMMAND, known)
    began = time.monotonic()
    with (
        Workers(processes, ray) as workers,
        tempfile.TemporaryDirectory(prefix="ebbtide-batch-", dir=scratch) as spilled,
    ):
        workers.require_shared(scratch)
        spill = Spill(Path(spilled))
        try:
            found = spill_log(
                replace(log, until_ms=now_ms),
                pipeline.weights.index,
                spill,
                progress.reading,
                pipeline.weights.parameters.event_types,
                with_ids=True,
            )
        except BackfillError as error:
            raise BatchError(str(error)) from None
        read_at = time.monotonic()
        few = found.events <= _FEW_EVENTS
        now = found.newest_ms + 1 if now_ms is None else now_ms
        task = Task(
            repository=repository.absolute(),
            version=pipeline.version,
            fingerprint=pipeline.fingerprint,
            now_ms=now,
            top_n=top_n,
            with_weight=log.columns.weight is not None,
            with_type=log.columns.event_type is not None,
            exclude_seen=exclude_seen,
            threads=workers.threads(few=few),
            out=out.absolute(),
        )
        parts = _parts(spill.files(), found.events)
        inputs = {
            **known,
            "time of the lists": f"{np.datetime64(now, 'ms')}Z",
            "events": f"{found.events:,} ({found.mark:08x})",
        }
        counts = Counts()
        with run_of_parts(out, _COMMAND, inputs, len(parts)) as missing:
            pieces = [parts[number] for number in missing]
            for done, of_part in enumerate(workers.results(partial(write_in_process, task), pieces, few=few), start=1):
                counts.add(of_part)
                progress.ranking(len(parts) - len(missing) + done, len(parts))
    seconds = read_at - began, time.monotonic() - read_at
    return Summary(pipeline.version, now, found, counts, len(parts), len(parts) - len(missing), *seconds)


def _parts(files: list[Path], events: int) -> list[Part]:
    """The users in parts of about equal size; the same log has the same parts."""
    count = min(len(files), -(-events // _EVENTS_PER_PART))
    bounds = [len(files) * number // count for number in range(count + 1)]
    return [Part(number, tuple(files[start:stop])) for number, (start, stop) in enumerate(pairwise(bounds))]
