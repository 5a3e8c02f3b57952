"""Shows a training run on the terminal: what was read, a bar while texts are embedded, a bar and a line per epoch."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from ebbtide.cli.console import console, counting_progress, escape, percentage_progress
from ebbtide.train.watcher import Watcher

if TYPE_CHECKING:
    from ebbtide.data.bad_rows import BadRows
    from ebbtide.data.dataset import Dataset
    from ebbtide.train.progress import Epoch


class TrainingDisplay(Watcher):
    """A watcher that prints; a context manager, so that no progress bar outlives an error."""

    def __init__(self) -> None:
        self.bad_vectors: dict[str, BadRows] = {}
        """Of the files of vectors, by the name of their feature block; shown with what was read."""
        self._embedding = counting_progress()
        self._embed_task = self._embedding.add_task("Embedding the catalog", total=None)
        self._training = percentage_progress()
        self._train_task = self._training.add_task("Training", total=1.0)
        self._name = ""
        self._epochs = 0
        self._embedding_began = 0.0

    def __enter__(self) -> TrainingDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._embedding.stop()
        self._training.stop()

    def data_read(self, data: Dataset) -> None:
        """Prints what was read, and which rows were ignored and why."""
        log = data.log
        console.print(
            f"[green]✓[/green] read {log.events:,} events of {len(log.users):,} users on {len(data.catalog):,} items, "
            f"{log.period}"
        )
        read = {"events": data.bad_events, "catalog": data.bad_items, **self.bad_vectors}
        for what, bad in read.items():
            for message in bad.messages if bad is not None else ():
                console.print(f"  [yellow]{what}:[/yellow] {escape(message)}")

    def repeats_detected(self, share: float, repeats: bool) -> None:
        """Prints the share and what follows from it."""
        policy = "a repeat score is learned (--no-repeats)" if repeats else "seen items are left out (--repeats)"
        console.print(f"[green]✓[/green] {share:.1%} of the events repeat an earlier item of their user: {policy}")

    def texts_embedded(self, done: int, total: int) -> None:
        """Advances the progress bar; the last text ends it."""
        if not self._embedding_began:
            self._embedding_began = time.monotonic()
            self._embedding.start()
        self._embedding.update(self._embed_task, total=total, advance=done)
        if self._embedding.finished:
            self._embedding.stop()
            elapsed = time.monotonic() - self._embedding_began
            console.print(f"[green]✓[/green] embedded {total:,} items [dim]({elapsed:.1f} s)[/dim]")

    def fit_started(self, name: str, epochs: int, done: int) -> None:
        """Starts a progress bar for the first epoch."""
        self._name, self._epochs = name, epochs
        self._training.start()
        self._begin_epoch(done + 1)

    def epoch_part_done(self, part: float) -> None:
        """Advances the progress bar."""
        self._training.advance(self._train_task, part)

    def epoch_ended(self, epoch: Epoch) -> None:
        """Prints one line, and starts a progress bar for the next epoch."""
        validation = f"  validation NDCG@10 {epoch.validation.ndcg_at_10:.4f}" if epoch.validation else ""
        seconds = epoch.seconds + epoch.validation_seconds
        if not epoch.number:
            console.print(f"  {self._name}: before the first step{validation}  [dim]{seconds:.0f} s[/dim]")
            return
        console.print(
            f"  {self._name}: epoch {epoch.number}  loss {epoch.loss:.3f}{validation}  [dim]{seconds:.0f} s[/dim]"
        )
        self._begin_epoch(epoch.number + 1)

    def _begin_epoch(self, number: int) -> None:
        self._training.update(
            self._train_task, description=f"{self._name}: epoch {number} of {self._epochs}", completed=0.0
        )
