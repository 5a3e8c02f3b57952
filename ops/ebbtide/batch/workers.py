"""Who writes the parts of a run: this process, several processes of this machine, or the workers of a Ray cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from ebbtide.backfill.processes import in_processes
from ebbtide.batch.errors import BatchError

if TYPE_CHECKING:
    from ebbtide.batch.cluster import Cluster

P = TypeVar("P")
T = TypeVar("T")


class Workers:
    """Processes that each do many pieces of work; of a Ray cluster they are open inside a ``with`` block."""

    def __init__(self, processes: int | None = None, ray: str | None = None) -> None:
        """Starts nothing yet.

        Args:
            processes: How many; None for one for each processor, less one on Ray, or one where there is little to do.
            ray: Address of a Ray cluster, or ``local`` for one that is started on this machine; None for none.
        """
        self._processes = processes
        self._ray = ray
        self._cluster: Cluster | None = None

    def __enter__(self) -> Workers:
        """Connects to the cluster, if one is to be used.

        Raises:
            BatchError: It does not answer, or has no processor.
        """
        if self._ray is not None:
            from ebbtide.batch.cluster import Cluster

            self._cluster = Cluster(self._ray, self._processes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._cluster is not None:
            self._cluster.close()

    def require_shared(self, scratch: Path | None) -> None:
        """Refuses the system's folder for temporary files where the workers are on several machines.

        Raises:
            BatchError: They are, and there is no other folder.
        """
        if self._cluster is not None and scratch is None and self._cluster.machines > 1:
            raise BatchError(
                f"--scratch: got none for {self._cluster.machines} machines of Ray; expected a folder that all of "
                "them share, as for --out"
            )

    def count(self, *, few: bool) -> int:
        """How many pieces are worked on at a time.

        Args:
            few: Whether the work of all is done before processes have started.
        """
        if self._cluster is not None:
            return self._cluster.at_once
        if self._processes is not None:
            return self._processes
        return 1 if few else len(os.sched_getaffinity(0))

    def threads(self, *, few: bool) -> int | None:
        """Of each worker, so that together they use each processor once; None for all of them."""
        return None if self._cluster is None and self.count(few=few) == 1 else 1

    def results(self, function: Callable[[P], T], pieces: Sequence[P], *, few: bool) -> Iterator[T]:
        """The results of a function for each piece, as they end.

        Args:
            function: Can be pickled; a process calls it for many pieces. It may be called twice for a piece, so it
                has to leave the same behind.
            pieces: Can be pickled, and are small.
            few: As for `count`.

        Raises:
            BatchError: A process was killed.
        """
        count = self.count(few=few)
        if not pieces:
            return
        if self._cluster is not None:
            yield from self._cluster.results(function, pieces)
            return
        if count == 1:
            yield from map(function, pieces)
            return
        try:
            yield from in_processes(function, pieces, min(count, len(pieces)))
        except BrokenProcessPool:
            raise BatchError(
                "a process was killed, perhaps for memory; what was written stays: run the same command again, with "
                "fewer --processes"
            ) from None
