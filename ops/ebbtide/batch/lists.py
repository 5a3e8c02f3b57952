"""The lists of some users of a log; what each process does.

The exported files answer whole requests, as a server would: events go in, and what `recommend` returns comes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from ebbtide.backfill.spill import UserEvents, ids_by_key
from ebbtide.batch.errors import BatchError
from ebbtide.batch.parts import write_part
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.interest import contract, served_models
from ebbtide.interest.errors import RequestError

_USERS_PER_REQUEST = 64
"""As many as a server puts into one batch."""
_SCORES_PER_REQUEST = 1 << 23
"""Users times items, 32 MiB of scores."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """What a process needs to know."""

    repository: Path
    version: int
    fingerprint: str
    """Of the version."""
    now_ms: int
    """The time of the lists, Unix milliseconds."""
    top_n: int | None
    """Length of a list; None for that of the export."""
    with_weight: bool
    """Whether the log has weights."""
    with_type: bool
    """Whether the log has event types."""
    exclude_seen: bool | None
    """None for the policy of the export."""
    threads: int | None
    """Of each graph; None for those of its config."""
    out: Path
    """Folder of the parts."""


@dataclass(frozen=True)
class Part:
    """Some of the users."""

    number: int
    files: tuple[Path, ...]
    """Of `Spill`, with all events of these users."""


@dataclass
class Counts:
    """What was written."""

    users: int = 0
    items: int = 0
    """In all lists."""
    cut: int = 0
    """Users with more events than a request takes, of whom the newest were taken."""

    def add(self, other: Counts) -> None:
        """Adds the counts of other users."""
        for one in fields(self):
            setattr(self, one.name, getattr(self, one.name) + getattr(other, one.name))


class Lists:
    """Computes lists with one version of a repository."""

    def __init__(self, task: Task) -> None:
        """Opens the version.

        Raises:
            RepositoryError: It is damaged.
            BatchError: It has been replaced.
        """
        self._task = task
        self._pipeline = InProcessPipeline(task.repository, task.version, threads=task.threads)
        if self._pipeline.fingerprint != task.fingerprint:
            raise BatchError(
                f"{task.repository}, version {task.version}: got the export {self._pipeline.fingerprint}; expected "
                f"{task.fingerprint}, with which the run began: run the command again, into a new folder"
            )
        items = self._pipeline.weights.items.index.end
        self._rows = min(_USERS_PER_REQUEST, max(_SCORES_PER_REQUEST // items, 1))

    def write(self, part: Part) -> Counts:
        """Writes the lists of a part's users in one step, so that a file that is there is whole.

        Raises:
            BatchError: The exported files refuse a request.
        """
        found = UserEvents.read(*part.files, with_id=False, with_type=self._task.with_type)
        ids = {key: user for path in part.files for key, user in ids_by_key(path).items()}
        users = [ids[key] for key in found.users]
        most = self._pipeline.limits.max_events
        counts = Counts(users=len(users), cut=int((found.events.counts > most).sum()))
        # Histories of similar length share a request, so that there is little padding.
        order = np.argsort(found.events.counts, kind="stable")
        frames = [
            self._lists(users, found, order[start : start + self._rows]) for start in range(0, order.size, self._rows)
        ]
        frame = pl.concat(frames).sort("user", "rank")
        counts.items = frame.height
        write_part(self._task.out, part.number, frame)
        return counts

    def _lists(self, users: list[str], of_part: UserEvents, chosen: Ints) -> pl.DataFrame:
        found = self._pipeline.run(served_models.RECOMMEND.name, dict(self._tensors(of_part, chosen)))
        if isinstance(found, RequestError):
            raise BatchError(f"{self._task.repository}: got {found}; expected a repository of this version of Ebbtide")
        score = found[contract.SCORE.name][:, : self._task.top_n]
        row, rank = np.nonzero(np.isfinite(score))
        return pl.DataFrame(
            {
                "user": [users[index] for index in chosen[row].tolist()],
                "time": np.full(row.size, self._task.now_ms),
                "rank": rank.astype(np.int32) + 1,
                "item": found[contract.ITEM_ID.name][row, rank].tolist(),
                "score": score[row, rank],
            },
            schema_overrides={"user": pl.String, "item": pl.String},
        ).with_columns(pl.from_epoch("time", "ms").dt.replace_time_zone("UTC"))

    def _tensors(self, of_part: UserEvents, chosen: Ints) -> Iterator[tuple[str, npt.NDArray[Any]]]:
        """The tensors of a request with a row for each of some users, of whom the newest events are taken."""
        events = of_part.events
        stops = np.cumsum(events.counts)[chosen]
        kept = np.minimum(events.counts[chosen], self._pipeline.limits.max_events)
        index = (stops - kept)[:, None] + np.arange(int(kept.max()))
        # Behind the events of a row stand those of others, which do not count.
        index = np.minimum(index, events.item_key.size - 1)
        rows = chosen.size
        yield contract.EVENT_ITEM.name, events.item_key[index]
        yield contract.EVENT_TIME.name, events.time_ms[index]
        yield contract.EVENT_COUNT.name, kept.astype(np.int32)[:, None]
        if self._task.with_weight and events.weight is not None:
            yield contract.EVENT_WEIGHT.name, events.weight[index]
        if of_part.event_type is not None:
            yield contract.EVENT_TYPE.name, of_part.event_type[index]
        yield contract.NOW.name, np.full((rows, 1), self._task.now_ms)
        if self._task.exclude_seen is not None:
            yield contract.EXCLUDE_SEEN.name, np.full((rows, 1), self._task.exclude_seen)


@lru_cache(1)
def _of_process(task: Task) -> Lists:
    return Lists(task)


def write_in_process(task: Task, part: Part) -> Counts:
    """`Lists.write` in a process that does it for many parts of one task."""
    return _of_process(task).write(part)
