"""Puts the events of one spilled file into the store; what each process of a backfill does."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import TracebackType

import numpy as np

from ebbtide.backfill.errors import BackfillError
from ebbtide.backfill.spill import UserEvents
from ebbtide.interest import exported, served_models
from ebbtide.interest.log_recorder import LogRecorder, Outcome
from ebbtide.interest.record import NewEvents, RecordError
from ebbtide.interest.users import record_of
from ebbtide.store import Changes, Snapshot, StoreConfig, open_store

USERS_PER_UPDATE = 2000
EVENTS_PER_UPDATE = 32_000


@dataclass
class Counts:
    """What became of users and events."""

    users: int = 0
    """Whose events are in the store now."""
    done_before: int = 0
    """Users whose events an earlier run of the same log has put there."""
    kept: int = 0
    """Users whose records stayed as they were; see `Outcome.KEPT`."""
    added: int = 0
    """Events."""
    duplicates: int = 0
    """Events that the log repeats, or that the records held."""
    late: int = 0
    """Events added although newer ones had been folded; see `ebbtide.interest.log_recorder.LogRecorder`."""
    record_bytes: int = 0
    """Of all records written."""
    largest_bytes: int = 0

    def add(self, other: Counts) -> None:
        """Adds the counts of other users."""
        largest = max(self.largest_bytes, other.largest_bytes)
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))
        self.largest_bytes = largest


@dataclass(frozen=True)
class Task:
    """What a process needs to know to put a file into the store."""

    observer: Path
    """Version folder of the model `observer`."""
    fingerprint: bytes
    address: str
    """Of the store."""
    config: StoreConfig
    mark: int
    with_id: bool
    with_type: bool
    replace_folded: bool


class Writer:
    """Puts spilled files into the store; close it, or use it as a context manager."""

    def __init__(self, task: Task) -> None:
        self._task = task
        pipeline = exported.read_plain_pipeline(task.observer)
        self._recorder, self._event_types = pipeline.log_recorder(), pipeline.parameters.event_types
        self._store = open_store(task.address, task.config)

    def put(self, path: Path) -> Counts:
        """Puts the events of one file into the store, some users at a time.

        Raises:
            StoreError: The store failed. What was written stays; another run goes on there.
            BackfillError: A record of the store is damaged.
        """
        of_file = UserEvents.read(path, with_id=self._task.with_id, with_type=self._task.with_type)
        events = of_file.weighed(self._event_types)
        counts = Counts()
        for start, end in of_file.batches(USERS_PER_UPDATE, EVENTS_PER_UPDATE):
            update = _Update(self._task, self._recorder, events.take(np.arange(start, end)))
            try:
                self._store.update(of_file.users[start:end], update.change)
            except RecordError as error:
                raise BackfillError(
                    f"{self._store.name}: got a damaged record ({error}); expected records of this version of Ebbtide"
                ) from None
            counts.add(update.counts())
        return counts

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.close()


@cache
def _of_process(task: Task) -> Writer:
    """The writer of this process, open until it ends."""
    return Writer(task)


def put_in_process(task: Task, path: Path) -> Counts:
    """`Writer.put` in a process that puts many files of one task."""
    return _of_process(task).put(path)


class _Update:
    """One update of the store."""

    def __init__(self, task: Task, recorder: LogRecorder, events: NewEvents) -> None:
        self._task = task
        self._recorder = recorder
        self._events = events
        users = events.counts.size
        self._counts = np.zeros((users, 4), dtype=np.int64)
        self._outcome = np.zeros(users, dtype=np.int8)
        self._bytes = np.zeros(users, dtype=np.int64)

    def change(self, snapshot: Snapshot) -> list[Changes]:
        """What to write; called again for users that another writer changed meanwhile."""
        task = self._task
        indices = np.asarray(snapshot.indices, dtype=np.int64)
        # A user without a record of this version begins with the raw events that another version has, as in serving.
        before = [record_of(task.fingerprint, found)[0] for found in snapshot.records]
        done = self._recorder.add_log(before, self._events.take(indices), task.mark, replace_folded=task.replace_folded)
        self._counts[indices], self._outcome[indices] = done.counts, done.outcome
        self._bytes[indices] = [0 if record is None else len(record) for record in done.records]
        return [
            {} if record is None or record is old else {task.fingerprint: record}
            for record, old in zip(done.records, before, strict=True)
        ]

    def counts(self) -> Counts:
        """What became of all users, after the store has them."""
        written = self._outcome == Outcome.WRITTEN
        added, duplicates, late, _ = self._counts.sum(axis=0).tolist()
        return Counts(
            users=int(written.sum()),
            done_before=int((self._outcome == Outcome.DONE_BEFORE).sum()),
            kept=int((self._outcome == Outcome.KEPT).sum()),
            added=added,
            duplicates=duplicates,
            late=late,
            record_bytes=int(self._bytes[written].sum()),
            largest_bytes=int(self._bytes[written].max(initial=0)),
        )


def observer_folder(repository: Path, version: int | None) -> Path:
    """The version folder of the model that writes states.

    Args:
        repository: Written by `ebbtide export`.
        version: None for the newest one.

    Raises:
        BackfillError: There is none.
    """
    folder = repository / served_models.OBSERVER.name
    versions = sorted(int(path.name) for path in folder.glob("[1-9]*") if path.name.isdigit() and path.is_dir())
    if not versions:
        raise BackfillError(
            f"{repository}: got no model {served_models.OBSERVER.name!r}; expected a repository written by "
            "`ebbtide export` of this version"
        )
    if version is not None and version not in versions:
        raise BackfillError(f"{repository}: got no version {version}; expected one of {versions}")
    return folder / str(versions[-1] if version is None else version)
