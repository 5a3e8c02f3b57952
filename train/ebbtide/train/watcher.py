"""What the train stage tells while it runs, so that a command line, a notebook or nobody can show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ebbtide.data.dataset import Dataset
    from ebbtide.train.progress import Epoch


class Watcher:
    """Every method does nothing here; override those that matter."""

    def data_read(self, data: Dataset) -> None:
        """The data is there."""

    def texts_embedded(self, done: int, total: int) -> None:
        """``done`` more of ``total`` texts have a vector."""

    def fit_started(self, name: str, epochs: int, done: int) -> None:
        """A fit of so many epochs at most begins, or goes on after those done."""

    def epoch_part_done(self, part: float) -> None:
        """Another part of the running epoch is done; the parts of one epoch add up to 1."""

    def epoch_ended(self, epoch: Epoch) -> None:
        """An epoch is over."""


class Watchers(Watcher):
    """Tells several."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def data_read(self, data: Dataset) -> None:
        """To all."""
        for watcher in self._watchers:
            watcher.data_read(data)

    def texts_embedded(self, done: int, total: int) -> None:
        """To all."""
        for watcher in self._watchers:
            watcher.texts_embedded(done, total)

    def fit_started(self, name: str, epochs: int, done: int) -> None:
        """To all."""
        for watcher in self._watchers:
            watcher.fit_started(name, epochs, done)

    def epoch_part_done(self, part: float) -> None:
        """To all."""
        for watcher in self._watchers:
            watcher.epoch_part_done(part)

    def epoch_ended(self, epoch: Epoch) -> None:
        """To all."""
        for watcher in self._watchers:
            watcher.epoch_ended(epoch)
