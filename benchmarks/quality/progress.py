"""A progress bar for fits of very different duration, with an estimate of the remaining time."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.quality.console import console

_S_PER_MINUTE = 60


class Steps:
    """Weights fits by their approximate cost; cached fits are removed from the total, because they take no time."""

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
        """Shows the name of the model that is fitted."""
        self._progress.update(self._task, description=f"{self._title}: {name}")

    def done(self, cost: float, cached: bool) -> None:
        """Counts a finished fit.

        Args:
            cost: Cost of the fit, in the unit of the total.
            cached: Whether the fit was in the cache.
        """
        task = self._progress.tasks[0]
        total, completed = task.total or 0.0, task.completed
        if cached:
            total -= cost
        else:
            completed += cost
        left = ""
        if completed:
            seconds = (time.monotonic() - self._began) / completed * (total - completed)
            left = f"about {seconds / _S_PER_MINUTE:.0f} min left"
        self._progress.update(self._task, total=total, completed=completed, left=left)
