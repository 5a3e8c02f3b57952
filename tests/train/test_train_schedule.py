"""The order of the fits of a training: the race of the starts, the fit of the best one, and the refit."""

import numpy as np
import pytest

from ebbtide.data.baskets import basket_heads
from ebbtide.train import trainer
from ebbtide.train.choices import Start
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.loop import Loop
from ebbtide.train.trainer import _some_baskets, fit
from ebbtide.train.watcher import Watcher


class Rates(Watcher):
    """The learning rate at the end of every epoch, by fit."""

    def __init__(self):
        self.by_fit = {}

    def fit_started(self, name, _epochs, _done):
        self.rates = self.by_fit.setdefault(name, [])

    def epoch_ended(self, epoch):
        self.rates.append(epoch.learning_rate)


def test_refit_is_a_whole_cycle_of_the_learning_rate_over_the_best_number_of_epochs(random_log):
    vectors = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    config = TrainConfig(
        epochs=8,
        patience=1,
        windows_per_batch=1,
        targets_per_window=2,
        validation_fraction=0.3,
        start=Start.items,
        related_weights=(0.0,),
    )
    rates = Rates()
    result = fit(random_log, np.ones(random_log.events, bool), vectors, ModelConfig(dimensions=8), config, rates)
    first, again = rates.by_fit.values()
    assert result.best_epoch < config.epochs / 2
    assert first[result.best_epoch - 1] > 0.5 * config.learning_rate
    assert len(again) == result.best_epoch
    assert again[-1] < 0.05 * config.learning_rate


@pytest.mark.parametrize("parameter", [0, -1])
def test_refit_that_diverges_is_an_error_though_nothing_validates_it(parameter, random_log, monkeypatch):
    vectors = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    config = TrainConfig(
        epochs=2, windows_per_batch=1, targets_per_window=2, validation_fraction=0.3, start=Start.items
    )
    descend = Loop._descend

    def broken(self, windows):
        descend(self, windows)
        if self.phase == "refit":
            # Its loss stays what it was, as after the last step.
            list(self.model.parameters())[parameter].data.view(-1)[0] = np.nan
            self.loss_sum = float(self.baskets)

    monkeypatch.setattr(Loop, "_descend", broken)
    with pytest.raises(FloatingPointError, match="training has diverged: lower the learning rate"):
        fit(random_log, np.ones(random_log.events, bool), vectors, ModelConfig(dimensions=8), config)


@pytest.mark.parametrize(("far_behind", "epochs_of_the_other"), [(1.0, 2), (0.0, 5)])
def test_start_that_is_far_behind_is_given_up_after_two_epochs(
    random_log, monkeypatch, far_behind, epochs_of_the_other
):
    monkeypatch.setattr(trainer, "_FAR_BEHIND", far_behind)
    vectors = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    config = TrainConfig(epochs=5, patience=9, windows_per_batch=1, targets_per_window=2, validation_fraction=0.3)
    rates = Rates()
    result = fit(random_log, np.ones(random_log.events, bool), vectors, ModelConfig(dimensions=8), config, rates)
    name = f"train, start at the {result.start.value}"
    lengths = {key: len(found) for key, found in rates.by_fit.items()}
    other = next(key for key in lengths if key not in (name, "refit on all events"))
    # Number 0 is before the first step.
    assert lengths == {name: 6, other: 1 + epochs_of_the_other, "refit on all events": result.best_epoch}


def test_chosen_start_goes_on_as_if_no_other_was_raced(random_log):
    vectors = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    config = TrainConfig(epochs=5, patience=9, windows_per_batch=1, targets_per_window=2, validation_fraction=0.3)
    everything = np.ones(random_log.events, bool)
    raced = fit(random_log, everything, vectors, ModelConfig(dimensions=8), config)
    alone = fit(
        random_log, everything, vectors, ModelConfig(dimensions=8), config.model_copy(update={"start": raced.start})
    )
    assert [one.loss for one in raced.epochs[1:]] == [one.loss for one in alone.epochs[1:]]
    for name, value in alone.model.state_dict().items():
        np.testing.assert_array_equal(raced.model.state_dict()[name], value, err_msg=name)


def test_validation_takes_one_basket_of_each_user_in_turn(random_log):
    heads = basket_heads(random_log)
    of_user = random_log.user
    mask = np.ones(random_log.events, bool)
    taken = _some_baskets(random_log, mask, 9, 0)
    baskets = np.unique(heads[taken])
    assert len(baskets) == 9
    # A basket is taken as a whole.
    assert np.isin(heads, baskets).tolist() == taken.tolist()
    counts = np.bincount(of_user[baskets], minlength=len(random_log.users))
    possible = np.bincount(of_user[np.unique(heads)], minlength=len(random_log.users))
    assert all(counts[user] >= min(possible[user], counts.max() - 1) for user in range(len(random_log.users)))
