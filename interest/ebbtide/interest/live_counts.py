"""Live popularity in the store: decayed counts of the events observed since an export, of each version in use.

The counts of a version lie in `PARTS` shared records, by the leading bits of the items' keys, so that writers rarely
meet. Each writer collects events and adds them once in a while. A batch that may have reached the store is sent again
under its number, which the parts remember, so it counts once. An index record has a number for each part, which is
raised after the part was written: a reader fetches only the parts whose number it does not know.

A writer keeps the counts of all versions in use, as it does with the states of users. A settings record tells the
half-lives of each version, the time from which its export has not counted, and when a server was last seen to serve
it: counts that no server has read for a week are dropped. Versions with the same settings share their counts.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.interest.events import MS_PER_DAY
from ebbtide.interest.popularity import CountedPopularity
from ebbtide.interest.users import Users
from ebbtide.store import Changes, Snapshot, shared_key

Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

PARTS = 256
"""Records that hold the counts of one version."""
INDEX_KEY = shared_key("popi")
SETTINGS_KEY = shared_key("pops")
PART_KEYS = tuple(shared_key("popc", number) for number in range(PARTS))
LEAST_COUNT = 1e-9
"""An item whose counts are all smaller is dropped."""

_PART_SHIFT = 56
_FORMAT = 2
_SEEN_EVERY_MS = 3_600_000
_DROPPED_AFTER_MS = 7 * MS_PER_DAY
_HEAD = struct.Struct("<HHIIq")
_MOST_WRITERS = 64
_NAME_CHARACTERS = 16
_SETTINGS = struct.Struct("<qq")


@dataclass(frozen=True)
class Settings:
    """How the events of one version are counted."""

    half_life_days: Doubles
    """``[half-lives]``."""
    since_ms: int
    """Unix milliseconds: the export has counted what was earlier."""

    @property
    def rate_per_ms(self) -> Doubles:
        """``[half-lives]``."""
        return np.asarray(np.log(2) / (self.half_life_days * MS_PER_DAY))

    @classmethod
    def of(cls, counted: CountedPopularity) -> Settings:
        """How a server goes on from the counts of an export."""
        return cls(counted.smoothing.half_life_days, counted.as_of_ms)

    @property
    def name(self) -> bytes:
        """What the records are kept under; records of an earlier format are as those of a version out of use."""
        told = bytes([_FORMAT]) + self.to_bytes(0)
        return b"popularity " + hashlib.sha256(told).hexdigest()[:_NAME_CHARACTERS].encode()

    def to_bytes(self, seen_ms: int) -> bytes:
        """The settings as a record.

        Args:
            seen_ms: Unix milliseconds when a server was last seen to serve them.
        """
        return _SETTINGS.pack(self.since_ms, seen_ms) + self.half_life_days.astype("<f8").tobytes()

    @classmethod
    def from_bytes(cls, record: bytes) -> tuple[Settings, int]:
        """The inverse of `to_bytes`: the settings, and when they were last seen."""
        half_lives = np.frombuffer(record, dtype="<f8", offset=_SETTINGS.size)
        since_ms, seen_ms = _SETTINGS.unpack_from(record)
        return cls(half_lives.astype(np.float64), since_ms), seen_ms


@dataclass(frozen=True)
class Part:
    """The counts of some items as of a time."""

    as_of_ms: int
    """Of the newest event that is counted."""
    key: Ints
    """``[items]``, ascending."""
    first_ms: Ints
    """``[items]``: of the first event that is counted."""
    counts: Doubles
    """``[half-lives, items]``, without the bonus of first events."""
    batches: Mapping[int, int]
    """The number of the last batch of each writer, the writer that wrote last at the end."""

    def plus(self, settings: Settings, key: Ints, time_ms: Ints, writer: int, batch: int) -> Part:
        """The counts with the events of a batch; unchanged if they have it already.

        Args:
            settings: Of the version.
            key: ``[events]``, of their items.
            time_ms: ``[events]``.
            writer: Who sends the batch.
            batch: Its number; a writer's numbers ascend.
        """
        if self.batches.get(writer, -1) >= batch:
            return self
        as_of_ms = max(self.as_of_ms, int(time_ms.max()))
        rate = settings.rate_per_ms
        union, where = np.unique(np.concatenate([self.key, key]), return_inverse=True)
        old, new = where[: self.key.size], where[self.key.size :]
        counts = np.zeros((rate.size, union.size))
        counts[:, old] = self.counts * np.exp(-rate * (as_of_ms - self.as_of_ms))[:, None]
        for row, of_half_life in zip(counts, rate.tolist(), strict=True):
            row += np.bincount(new, weights=np.exp(-of_half_life * (as_of_ms - time_ms)), minlength=union.size)
        first_ms = np.full(union.size, np.iinfo(np.int64).max)
        first_ms[old] = self.first_ms
        np.minimum.at(first_ms, new, time_ms)
        stays = counts.max(axis=0, initial=0) >= LEAST_COUNT
        batches = {other: last for other, last in self.batches.items() if other != writer}
        kept = dict(list(batches.items())[-(_MOST_WRITERS - 1) :])
        return Part(as_of_ms, union[stays], first_ms[stays], counts[:, stays], {**kept, writer: batch})

    def to_bytes(self) -> bytes:
        """The part as a record."""
        numbers = np.array(list(self.batches.items()), dtype="<u8").reshape(-1)
        head = _HEAD.pack(_FORMAT, self.counts.shape[0], self.key.size, len(self.batches), self.as_of_ms)
        items = (self.key.astype("<i8"), self.first_ms.astype("<i8"), self.counts.astype("<f8"))
        return b"".join([head, numbers.tobytes(), *(column.tobytes() for column in items)])

    @classmethod
    def from_bytes(cls, record: bytes) -> Part:
        """The inverse of `to_bytes`.

        Raises:
            ValueError: The record is damaged, or of a later format.
        """
        try:
            found, half_lives, items, writers, as_of_ms = _HEAD.unpack_from(record)
            if found != _FORMAT:
                raise ValueError(f"counts of popularity: got format {found}; expected {_FORMAT}")
            numbers = np.frombuffer(record, "<u8", 2 * writers, _HEAD.size).reshape(-1, 2)
            start = _HEAD.size + numbers.nbytes
            key, first_ms = np.frombuffer(record, "<i8", 2 * items, start).reshape(2, items)
            start += key.nbytes + first_ms.nbytes
            counts = np.frombuffer(record, "<f8", half_lives * items, start).reshape(half_lives, items)
        except (struct.error, ValueError) as error:
            raise ValueError(f"counts of popularity: got a damaged record: {error}") from error
        batches = {int(writer): int(batch) for writer, batch in numbers.tolist()}
        return cls(as_of_ms, key.astype(np.int64), first_ms.astype(np.int64), counts.astype(np.float64), batches)

    @classmethod
    def empty(cls, settings: Settings) -> Part:
        """A part without events."""
        none = np.empty(0, dtype=np.int64)
        return cls(0, none, none, np.empty((settings.half_life_days.size, 0)), {})


class PopularityWriter:
    """Collects the events that a process observes, and adds them to the counts of all versions in use."""

    def __init__(self, users: Users, counted: CountedPopularity) -> None:
        """Takes the store, and how the process's own version counts.

        Args:
            users: Of the version.
            counted: What the version's export has counted.
        """
        self._users = users
        self._settings = VersionsInUse(users, Settings.of(counted))
        self._writer = int.from_bytes(os.urandom(8), "little")
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._waiting: list[tuple[Ints, Ints]] = []
        self._sent: tuple[Ints, Ints] | None = None
        self._batch = 0

    def add(self, key: Ints, time_ms: Ints) -> None:
        """Takes events that are in the states of their users now.

        Args:
            key: ``[events]``, of their items.
            time_ms: ``[events]``.
        """
        if key.size:
            with self._lock:
                self._waiting.append((key, time_ms))

    def flush(self) -> None:
        """Adds what was collected. After an error the same batch is sent again by the next call, and counts once.

        Raises:
            StoreError: The store failed.
            ValueError: A record is damaged.
        """
        with self._flushing:
            if self._sent is not None:
                self._write(*self._sent)
                self._sent = None
            # What comes meanwhile waits for the next call: a busy server would never return.
            with self._lock:
                waiting, self._waiting = self._waiting, []
            if waiting:
                key, time_ms = (np.concatenate(column) for column in zip(*waiting, strict=True))
                self._sent = key, time_ms
                self._batch += 1
                self._write(key, time_ms)
                self._sent = None

    def _write(self, key: Ints, time_ms: Ints) -> None:
        store = self._users.store()
        versions = self._settings.announced()
        part = (key >> _PART_SHIFT) + PARTS // 2
        order = np.argsort(part, kind="stable")
        parts, first = np.unique(part[order], return_index=True)
        events = [(key[own], time_ms[own]) for own in np.split(order, first[1:])]

        def add(snapshot: Snapshot) -> list[Changes]:
            changes: list[Changes] = []
            for index, found in zip(snapshot.indices, snapshot.records, strict=True):
                changed: Changes = dict.fromkeys(found.keys() - versions.keys())
                for name, settings in versions.items():
                    record = found.get(name)
                    before = Part.empty(settings) if record is None else Part.from_bytes(record)
                    is_new = events[index][1] >= settings.since_ms
                    if is_new.any():
                        new_key, new_time_ms = (column[is_new] for column in events[index])
                        after = before.plus(settings, new_key, new_time_ms, self._writer, self._batch)
                        if after is not before:
                            changed[name] = after.to_bytes()
                changes.append(changed)
            return changes

        store.update([PART_KEYS[number] for number in parts.tolist()], add)
        # In a second update: a reader that sees the new numbers must see the new counts.
        store.update([INDEX_KEY], lambda snapshot: [self._raised(snapshot, versions, parts)])

    def _raised(self, snapshot: Snapshot, versions: Mapping[bytes, Settings], parts: Ints) -> Changes:
        changed: Changes = dict.fromkeys(snapshot.records[0].keys() - versions.keys())
        for name in versions:
            numbers = index_numbers(snapshot.records[0].get(name))
            numbers[parts] += 1
            changed[name] = numbers.astype("<i8").tobytes()
        return changed


class VersionsInUse:
    """Whose events are counted: the settings of every version that a server of the store serves."""

    def __init__(self, users: Users, own: Settings) -> None:
        """Takes the store, and the settings of the version that this process serves."""
        self._users = users
        self._own = own
        self._announced_ms = 0

    def announced(self) -> dict[bytes, Settings]:
        """The settings of all versions by their names, after the store knows that this process's is in use.

        Raises:
            StoreError: The store failed.
        """
        now_ms = time.time_ns() // 1_000_000
        if now_ms - self._announced_ms >= _SEEN_EVERY_MS:
            self._users.store().update([SETTINGS_KEY], lambda snapshot: [self._seen(snapshot, now_ms)])
            self._announced_ms = now_ms
        [records] = self._users.store().read_all([SETTINGS_KEY])
        return {name: Settings.from_bytes(record)[0] for name, record in records.items()}

    def _seen(self, snapshot: Snapshot, now_ms: int) -> Changes:
        changed: Changes = {
            name: None
            for name, record in snapshot.records[0].items()
            if Settings.from_bytes(record)[1] < now_ms - _DROPPED_AFTER_MS
        }
        return {**changed, self._own.name: self._own.to_bytes(now_ms)}


def index_numbers(record: bytes | None) -> Ints:
    """The number of each part, int64 ``[PARTS]``, from the index record of a version; zeros without one.

    Raises:
        ValueError: The record is damaged.
    """
    if record is None:
        return np.zeros(PARTS, dtype=np.int64)
    if len(record) != 8 * PARTS:
        raise ValueError(f"index of popularity: got {len(record)} bytes; expected {8 * PARTS}")
    return np.frombuffer(record, dtype="<i8").astype(np.int64)


def read_parts(users: Users, name: bytes, numbers: Sequence[int]) -> list[Part | None]:
    """Some parts of a version's counts, in one read; None for a part without events.

    Args:
        users: Of the version.
        name: Of its settings.
        numbers: Of the parts.

    Raises:
        StoreError: The store failed.
        ValueError: A record is damaged.
    """
    records = users.store().read([PART_KEYS[number] for number in numbers], name)
    return [None if record is None else Part.from_bytes(record) for record in records]
