"""What the train stage tells while it runs, so that a command line, a notebook or nobody can show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ebbtide.train.stage import Data
    from ebbtide.train.trainer import Epoch


class Watcher:
    """Every method does nothing here; override those that matter."""

    def data_read(self, data: Data) -> None:
        """The data is there."""

    def texts_embedded(self, done: int, total: int) -> None:
        """``done`` more of ``total`` texts have a vector."""

    def fit_started(self, name: str, epochs: int) -> None:
        """A fit begins, of so many epochs at most."""

    def epoch_part_done(self, part: float) -> None:
        """Another part of the running epoch is done; the parts of one epoch add up to 1."""

    def epoch_ended(self, epoch: Epoch) -> None:
        """An epoch is over."""
