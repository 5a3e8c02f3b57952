"""Events on the disk, spread by user over many small files, so that one file at a time fits into memory.

Every user is in one file: the first byte of the user's key, which is a hash, names it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest.keys import user_keys
from ebbtide.interest.record import NewEvents, store_keys

Ints = npt.NDArray[np.int64]

PARTITIONS = 256
_IDS = ".ids"
_EVENT: list[Any] = [
    ("user", "<i8", 2),  # as the tensor `user`
    ("item_key", "<i8"),
    ("time_ms", "<i8"),
    ("weight", "<f4"),
]
PLAIN = np.dtype(_EVENT)
"""An event without an id."""
WITH_ID = np.dtype([*_EVENT, ("event_id", "<i8")])


class Spill:
    """Writes events to the files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_used = np.zeros(PARTITIONS, dtype=np.bool_)

    def add(self, events: npt.NDArray[np.void]) -> None:
        """Appends events, of `PLAIN` or `WITH_ID`."""
        partition = _partition(events["user"])
        order = partition.argsort(kind="stable")
        starts = partition[order].searchsorted(np.arange(PARTITIONS + 1))
        for number in np.flatnonzero(np.diff(starts)).tolist():
            with self._path(number).open("ab") as file:
                file.write(events[order[starts[number] : starts[number + 1]]].tobytes())
            self._is_used[number] = True

    def add_ids(self, users: Sequence[str]) -> None:
        """Notes the ids of users, which the files of events do not have; one user may come several times."""
        partition = _partition(user_keys(users))
        for number in np.unique(partition).tolist():
            with self._path(number).with_suffix(_IDS).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(users[index]) + "\n" for index in np.flatnonzero(partition == number))

    def files(self) -> list[Path]:
        """The files that hold events."""
        return [self._path(number) for number in np.flatnonzero(self._is_used).tolist()]

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:03d}.events"


def ids_by_key(path: Path) -> dict[bytes, str]:
    """The ids that `Spill.add_ids` has noted of the users of a file of events, by key."""
    ids = [json.loads(line) for line in path.with_suffix(_IDS).read_text(encoding="utf-8").splitlines()]
    return dict(zip(store_keys(user_keys(ids)), ids, strict=True))


def _partition(user: Ints) -> Ints:
    """The number of the file of each user, ``[users]``; ``user`` are keys, ``[users, 2]``."""
    return user[:, 0] & (PARTITIONS - 1)


@dataclass(frozen=True)
class UserEvents:
    """The events of some users."""

    users: list[bytes]
    """``[U]``: keys, each once."""
    events: NewEvents
    """Of these users, oldest first for each."""

    @classmethod
    def read(cls, *paths: Path, with_id: bool) -> UserEvents:
        """The events of files of `Spill`, one or more."""
        events = np.concatenate([np.fromfile(path, dtype=WITH_ID if with_id else PLAIN) for path in paths])
        # Sorting is stable: events of one time stay in the order of the log.
        order = np.lexsort((events["time_ms"], events["user"][:, 1], events["user"][:, 0]))
        events = events[order]
        user = np.ascontiguousarray(events["user"])
        first = np.flatnonzero(np.r_[True, (user[1:] != user[:-1]).any(axis=1)])
        return cls(
            store_keys(user[first]),
            NewEvents(
                np.diff(first, append=user.shape[0]),
                np.ascontiguousarray(events["item_key"]),
                np.ascontiguousarray(events["time_ms"]),
                np.ascontiguousarray(events["weight"]),
                np.ascontiguousarray(events["event_id"]) if with_id else None,
            ),
        )

    def batches(self, most_users: int, most_events: int) -> list[tuple[int, int]]:
        """First user and end of batches of whole users.

        Args:
            most_users: Users of a batch.
            most_events: Events of a batch, unless it is one user's.
        """
        stops = self.events.counts.cumsum()
        batches = []
        start = 0
        while start < len(self.users):
            before = stops[start - 1] if start else 0
            end = int(stops.searchsorted(before + most_events, side="right"))
            end = min(max(end, start + 1), start + most_users)
            batches.append((start, end))
            start = end
        return batches
