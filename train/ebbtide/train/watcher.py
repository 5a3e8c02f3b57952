"""Progress reports of the train stage while it runs, for a command line, a notebook or a log.

Loads neither torch nor polars, so that the command line starts without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebbtide.train.progress import Epoch

if TYPE_CHECKING:
    from ebbtide.data.dataset import Dataset


class Watcher:
    """Receives progress reports. Every method does nothing here; override the ones you need."""

    def data_read(self, data: Dataset) -> None:
        """The events and the catalog have been read."""

    def texts_embedded(self, done: int, total: int) -> None:
        """``done`` more of ``total`` texts have been embedded."""

    def repeats_detected(self, share: float, repeats: bool) -> None:
        """The log decided whether seen items are recommended again; ``share`` of its events are repeats."""

    def fit_started(self, name: str, epochs: int, done: int) -> None:
        """A fit of at most ``epochs`` epochs starts, or resumes after ``done`` of them."""

    def epoch_part_done(self, part: float) -> None:
        """A further share of the running epoch is done; the shares of one epoch add up to 1."""

    def epoch_ended(self, epoch: Epoch) -> None:
        """An epoch has ended."""


class Watchers(Watcher):
    """Passes every report on to several watchers."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def data_read(self, data: Dataset) -> None:
        """Reports to all."""
        for watcher in self._watchers:
            watcher.data_read(data)

    def texts_embedded(self, done: int, total: int) -> None:
        """Reports to all."""
        for watcher in self._watchers:
            watcher.texts_embedded(done, total)

    def repeats_detected(self, share: float, repeats: bool) -> None:
        """Reports to all."""
        for watcher in self._watchers:
            watcher.repeats_detected(share, repeats)

    def fit_started(self, name: str, epochs: int, done: int) -> None:
        """Reports to all."""
        for watcher in self._watchers:
            watcher.fit_started(name, epochs, done)

    def epoch_part_done(self, part: float) -> None:
        """Reports to all."""
        for watcher in self._watchers:
            watcher.epoch_part_done(part)

    def epoch_ended(self, epoch: Epoch) -> None:
        """Reports to all."""
        for watcher in self._watchers:
            watcher.epoch_ended(epoch)
