"""Who writes the parts of a run: this process, several processes of this machine, or the workers of a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from ebbtide.backfill.processes import in_processes
from ebbtide.batch.errors import BatchError

P = TypeVar("P")
T = TypeVar("T")


def results(function: Callable[[P], T], pieces: Sequence[P], processes: int) -> Iterator[T]:
    """The results of a function for each piece, as they end.

    Args:
        function: Can be pickled; a process calls it for many pieces.
        pieces: Can be pickled.
        processes: How many call it; 1 stands for this process.

    Raises:
        BatchError: A process was killed.
    """
    if not pieces:
        return
    if processes == 1:
        yield from map(function, pieces)
        return
    try:
        yield from in_processes(function, pieces, min(processes, len(pieces)))
    except BrokenProcessPool:
        raise BatchError(
            "a process was killed, perhaps for memory; what was written stays: run the same command again, with fewer "
            "--processes"
        ) from None
