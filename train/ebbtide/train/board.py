"""Logs a training for TensorBoard: loss, validation, learning rate, half-lives and alpha, epoch by epoch."""

from __future__ import annotations

from pathlib import Path

from ebbtide.train.errors import TrainError
from ebbtide.train.progress import QUANTILES, Epoch
from ebbtide.train.watcher import Watcher


class Board(Watcher):
    """A watcher that writes; each fit has a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Names the folder.

        Raises:
            TrainError: tensorboard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError:
            raise TrainError('tensorboard is not installed: pip install "ebbtide[tensorboard]"') from None
        self._folder = folder
        self._open = SummaryWriter
        self._name = ""

    def fit_started(self, name: str, epochs: int, done: int) -> None:  # noqa: ARG002 - the watcher's signature
        """Later epochs are of this fit."""
        self._name = name.replace(" ", "-")

    def epoch_ended(self, epoch: Epoch) -> None:
        """Writes and closes, so that a kill loses nothing."""
        values = {}
        if epoch.number:
            values = {"loss": epoch.loss, "learning_rate": epoch.learning_rate, "alpha": epoch.alpha}
        if epoch.validation is not None:
            values["validation/ndcg_at_10"] = epoch.validation.ndcg_at_10
        for quantile, days in zip(QUANTILES, epoch.half_life_days, strict=False):
            values[f"half_life_days/{quantile:g}"] = days
        with self._open(str(self._folder / self._name)) as writer:
            for tag, value in values.items():
                writer.add_scalar(tag, value, epoch.number)
