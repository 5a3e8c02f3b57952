"""What every command shares: terminal output, progress, timing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich import markup
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

console = Console(highlight=False)
"""Results go to standard output."""
errors = Console(stderr=True, highlight=False)
_LINE_EVERY_S = 30.0
"""Seconds between two lines of progress where there is no terminal."""
_STEERING = (*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_SHOWN_AS = dict.fromkeys(_STEERING, "\N{REPLACEMENT CHARACTER}")


def escape(text: str) -> str:
    """Text from outside, such as a title, an id or a log line, for a terminal: it changes neither style nor terminal.

    Square brackets are no markup, and characters that steer a terminal or turn the direction of the text around it are
    replaced.
    """
    return markup.escape(text.translate(_SHOWN_AS))


class _Lines:
    """Prints a line of progress from time to time, from a thread of its own."""

    def __init__(self, line: Callable[[], str]) -> None:
        self._line = line
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Starts the thread, unless it runs."""
        if self._thread is None:
            self._stopped.clear()
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        if self._thread is not None:
            self._stopped.set()
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stopped.wait(_LINE_EVERY_S):
            line = self._line()
            if line and not console.quiet:
                console.print(f"  {escape(line)} [dim]({time.monotonic() - began:.0f} s)[/dim]", soft_wrap=True)


class PlainProgress(Progress):
    """A progress bar on a terminal; elsewhere, such as in a log file, a line from time to time."""

    def __init__(self, *columns: ProgressColumn, counts: bool) -> None:
        super().__init__(*columns, console=console, transient=True)
        self._counts = counts
        self._lines = _Lines(self._plain)

    def start(self) -> None:
        """Starts to show progress."""
        if console.is_terminal:
            super().start()
        else:
            self._lines.start()

    def stop(self) -> None:
        """Removes the bar."""
        if console.is_terminal:
            super().stop()
        self._lines.stop()

    def _plain(self) -> str:
        shown = []
        for task in self.tasks:
            if task.finished:
                continue
            share = f"{task.percentage:.0f} %" if task.total else ""
            if self._counts:
                share = f"{task.completed:,.0f}" + (f" of {task.total:,.0f}" if task.total else "")
            shown.append(f"{task.description}: {share}" if share else task.description)
        return ", ".join(shown)


class Working:
    """What a command is doing, as `working` shows it."""

    def __init__(self, text: str, show: Callable[[str], None]) -> None:
        self.text = text
        self._show = show

    def update(self, text: str) -> None:
        """Shows another text."""
        self.text = text
        self._show(text)


@contextmanager
def working(text: str) -> Iterator[Working]:
    """Shows what the command is doing: a spinner on a terminal, elsewhere a line from time to time."""
    if console.is_terminal:
        with console.status(text) as status:
            yield Working(text, status.update)
        return
    state = Working(text, lambda _: None)
    lines = _Lines(lambda: state.text)
    lines.start()
    try:
        yield state
    finally:
        lines.stop()


def counting_progress() -> PlainProgress:
    """A progress bar that counts things; it disappears at the end."""
    return PlainProgress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        counts=True,
    )


def percentage_progress() -> PlainProgress:
    """A progress bar that shows a percentage."""
    return PlainProgress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        counts=False,
    )


@contextmanager
def timed(done: str) -> Iterator[None]:
    """Prints ``done`` and how long the block took, in seconds, when it ends well."""
    began = time.monotonic()
    yield
    console.print(f"[green]✓[/green] {escape(done)} [dim]({time.monotonic() - began:.1f} s)[/dim]")
