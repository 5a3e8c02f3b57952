"""The progress bar of commands that read a log or a catalog, then work on its parts."""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar

from ebbtide.cli.console import PlainProgress, percentage_progress

T = TypeVar("T", bound="ReadingDisplay")


class ReadingDisplay:
    """Shown while its block runs; a command adds a method for what it does after the reading."""

    def __init__(self, progress: PlainProgress | None = None, reading: str = "Reading the log") -> None:
        """Begins with the reading.

        Args:
            progress: The bar; None for one that shows a percentage.
            reading: What is said first.
        """
        self.progress = percentage_progress() if progress is None else progress
        self.task = self.progress.add_task(reading, total=None)
        self._reading = reading

    def reading(self, rows: int) -> None:
        """Shows how many rows have been read."""
        self.progress.update(self.task, description=f"{self._reading} ({rows:,} rows)")

    def working(self, what: str, done: int, of: int) -> None:
        """Shows how many parts of the work are done."""
        self.progress.update(self.task, description=what, completed=done, total=of)

    def __enter__(self: T) -> T:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()
