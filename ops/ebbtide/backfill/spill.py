"""Events on the disk, spread by user over many small files, so that one file at a time fits into memory.

Every user is in one file: the first byte of the user's key, which is a hash, names it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest.event_types import EventTypes
from ebbtide.interest.keys import user_keys
from ebbtide.interest.record import NewEvents, derived_ids, store_keys

Ints = npt.NDArray[np.int64]

PARTITIONS = 256
_IDS = ".ids"
_EVENT: list[Any] = [
    ("user", "<i8", 2),  # as the tensor `user`
    ("item_key", "<i8"),
    ("time_ms", "<i8"),
    ("weight", "<f4"),
]


def event_dtype(*, with_id: bool, with_type: bool) -> np.dtype[np.void]:
    """An event in a file; ``event_type`` is the key of its type."""
    more = [(name, "<i8") for name, is_there in (("event_id", with_id), ("event_type", with_type)) if is_there]
    return np.dtype([*_EVENT, *more])


class Spill:
    """Writes events to the files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_used = np.zeros(PARTITIONS, dtype=np.bool_)

    def add(self, events: npt.NDArray[np.void]) -> None:
        """Appends events, of `event_dtype`."""
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
    """Of these users, oldest first for each, with the weights of the log."""
    event_type: Ints | None
    """``[events]``, keys; None in a log of events of one type."""

    @classmethod
    def read(cls, *paths: Path, with_id: bool, with_type: bool) -> UserEvents:
        """The events of files of `Spill`, one or more."""
        dtype = event_dtype(with_id=with_id, with_type=with_type)
        events = np.concatenate([np.fromfile(path, dtype=dtype) for path in paths])
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
            np.ascontiguousarray(events["event_type"]) if with_type else None,
        )

    def weighed(self, event_types: EventTypes | None) -> NewEvents:
        """The events with the weights that they have in the interest, and with ids that tell their types apart.

        Args:
            event_types: Of the export, which knows the types of all events; None for none.
        """
        if self.event_type is None or event_types is None:
            return self.events
        events = self.events
        event_id = events.event_id
        if event_id is None:
            event_id = derived_ids(events.item_key, events.time_ms, self.event_type, event_types)
        weight = event_types.weighed(event_types.find(self.event_type), events.weight)
        return replace(events, weight=weight, event_id=event_id)

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
