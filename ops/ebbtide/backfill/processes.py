"""Work on many files, spread over new processes."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


def in_processes(function: Callable[[Path], T], files: Sequence[Path], processes: int) -> Iterator[T]:
    """The results of a function for each file, as they end. When something fails, what has not begun does not begin.

    Args:
        function: Can be pickled.
        files: What it is called with.
        processes: How many run it.

    Raises:
        BrokenProcessPool: A process was killed.
    """
    # Not forked: the threads of polars would be missing in the children, and the locks that they hold would stay.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, _ignore_interrupts)
    try:
        for future in as_completed([pool.submit(function, path) for path in files]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    """Ctrl-C reaches all processes of the terminal; the first one ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
