"""The rate of learning over a fit, and over the fit again on all events."""

import numpy as np

from ebbtide.train.choices import Start
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.trainer import fit
from ebbtide.train.watcher import Watcher


class Rates(Watcher):
    """The learning rate at the end of every epoch, by fit."""

    def __init__(self):
        self.by_fit = {}

    def fit_started(self, name, _epochs, _done):
        self.rates = self.by_fit.setdefault(name, [])

    def epoch_ended(self, epoch):
        self.rates.append(epoch.learning_rate)


def test_learning_rate_falls_to_the_end_of_the_fit_again_however_few_its_epochs(random_log):
    vectors = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    config = TrainConfig(
        epochs=8, patience=1, windows_per_batch=1, targets_per_window=2, validation_fraction=0.3, start=Start.items
    )
    rates = Rates()
    result = fit(random_log, np.ones(random_log.events, bool), vectors, ModelConfig(dimensions=8), config, rates)
    first, again = rates.by_fit.values()
    assert result.best_epoch < config.epochs / 2
    assert first[result.best_epoch - 1] > 0.5 * config.learning_rate
    assert len(again) == result.best_epoch
    assert again[-1] < 0.05 * config.learning_rate
