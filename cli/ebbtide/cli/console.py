"""What every command shares: terminal output, progress bars, timing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

console = Console(highlight=False)
"""Results go to standard output."""
errors = Console(stderr=True, highlight=False)


def counting_progress() -> Progress:
    """A progress bar that counts things; it disappears at the end."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


def percentage_progress() -> Progress:
    """A progress bar that shows a percentage."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )


@contextmanager
def timed(done: str) -> Iterator[None]:
    """Prints ``done`` and how long the block took, in seconds, when it ends well."""
    began = time.monotonic()
    yield
    console.print(f"[green]✓[/green] {done} [dim]({time.monotonic() - began:.1f} s)[/dim]")
