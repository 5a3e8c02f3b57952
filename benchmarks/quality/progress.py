"""A progress bar over fits of very unequal length, with an estimate of the time left."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.quality.console import console

_S_PER_MINUTE = 60


class Steps:
    """Weighs every fit by its rough cost; what is found in the cache leaves the sum instead of seeming fast."""

    def __init__(self, title: str, cost: float) -> None:
        self._title, self._began = title, time.monotonic()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task(title, total=cost, left="")

    def __enter__(self) -> Steps:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def now(self, name: str) -> None:
        """Says what is being fitted."""
        self._progress.update(self._task, description=f"{self._title}: {name}")

    def done(self, cost: float, kept: bool) -> None:
        """One fit more, of this cost; ``kept`` if it was in the cache."""
        task = self._progress.tasks[0]
        total, completed = task.total or 0.0, task.completed
        if kept:
            total -= cost
        else:
            completed += cost
        left = ""
        if completed:
            seconds = (time.monotonic() - self._began) / completed * (total - completed)
            left = f"about {seconds / _S_PER_MINUTE:.0f} min left"
        self._progress.update(self._task, total=total, completed=completed, left=left)
