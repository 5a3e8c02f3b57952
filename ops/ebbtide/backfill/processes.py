"""Many pieces of work, spread over new processes."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

P = TypeVar("P")
T = TypeVar("T")


def in_processes(function: Callable[[P], T], pieces: Sequence[P], processes: int) -> Iterator[T]:
    """The results of a function for each piece, as they end. When something fails, what has not begun does not begin.

    Args:
        function: Can be pickled.
        pieces: What it is called with; can be pickled.
        processes: How many run it.

    Raises:
        BrokenProcessPool: A process was killed.
    """
    # Not forked: the threads of polars would be missing in the children, and the locks that they hold would stay.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _ignore_interrupts)
    try:
        for future in as_completed([pool.submit(function, piece) for piece in pieces]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    """Ctrl-C reaches all processes of the terminal; the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
