"""Each loss against a plain loop over its formula, what drawing gives on average, and a real fit with each."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ebbtide.data.errors import DataError
from ebbtide.train.choices import Loss
from ebbtide.train.config import FULL_SOFTMAX_ITEMS, ModelConfig, TrainConfig
from ebbtide.train.losses import PriorRows, bpr, catalog_softmax, full_softmax, gbce, mse, sampled_softmax
from ebbtide.train.model import InterestModel
from ebbtide.train.negatives import Sampler
from ebbtide.train.popularity import LivePopularity, PopularitySnapshots
from ebbtide.train.stage import train_bundle
from ebbtide.train.step import Step
from ebbtide.train.trainer import fit
from ebbtide.train.windows import LogTensors, training_windows
from films import films_in

TARGETS = [[2], [0, 5], [5]]
"""The target candidates of each of three baskets."""
DRAWN = [0, 2, 1, 0, 3, 1, 0]
EXPECTED = [0.5, 1.5, 0.7, 0.2, 2.5, 1.1, 0.5]


@pytest.fixture
def scores():
    return torch.randn(3, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def pairs():
    flat = [(row, column) for row, columns in enumerate(TARGETS) for column in columns]
    return (torch.tensor(part) for part in zip(*flat, strict=True))


def averaged(scores, value):
    """The mean over baskets of the mean over targets of ``value(scores of the basket, targets, item)``."""
    rows = scores.tolist()
    return sum(
        sum(value(row, targets, item) for item in targets) / len(targets)
        for row, targets in zip(rows, TARGETS, strict=True)
    ) / len(rows)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_full_softmax_is_the_loop_over_its_formula(scores):
    expected = averaged(scores, lambda s, _, i: -math.log(math.exp(s[i]) / sum(map(math.exp, s))))
    assert float(full_softmax(scores, *pairs())) == pytest.approx(expected)


def test_gradient_of_the_full_softmax_passes_the_check_of_finite_differences(scores):
    row, column = pairs()
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda given: 3 * full_softmax(given, row, column), [scores])
    # The same item twice at one basket.
    twice = torch.cat([row, row[:2]]), torch.cat([column, column[:2]])
    assert torch.autograd.gradcheck(lambda given: full_softmax(given, *twice), [scores])


def test_sampled_softmax_is_the_loop_over_its_formula(scores):
    def value(s, _, i):
        others = sum(DRAWN[j] * math.exp(s[j]) / EXPECTED[j] for j in range(7) if j != i)
        return -math.log(math.exp(s[i]) / (math.exp(s[i]) + others))

    found = sampled_softmax(scores, *pairs(), torch.tensor(DRAWN), torch.tensor(EXPECTED).double().log())
    assert float(found) == pytest.approx(averaged(scores, value), rel=1e-6)


def test_sampled_softmax_is_the_full_one_when_every_item_is_drawn_as_often_as_expected(scores):
    drawn = torch.full((7,), 3.0)
    torch.testing.assert_close(sampled_softmax(scores, *pairs(), drawn, drawn.log()), full_softmax(scores, *pairs()))


def test_sampled_softmax_has_finite_gradients_when_what_came_was_not_drawn(scores):
    scores.requires_grad_()
    nothing = torch.zeros(7)
    sampled_softmax(scores, *pairs(), nothing, nothing).backward()
    assert scores.grad.isfinite().all()


def test_bpr_is_the_loop_over_its_formula(scores):
    def value(s, targets, i):
        drawn = [j for j in range(7) for _ in range(DRAWN[j]) if j not in targets]
        return -sum(math.log(sigmoid(s[i] - s[j])) for j in drawn) / len(drawn)

    assert float(bpr(scores, *pairs(), torch.tensor(DRAWN))) == pytest.approx(averaged(scores, value))


def test_gbce_is_the_loop_over_its_formula(scores):
    negatives, items, t = sum(DRAWN), 50, 0.75
    rate = negatives / (items - 1)
    beta = rate * (t * (1 - 1 / rate) + 1 / rate)

    def value(s, targets, i):
        drawn = [j for j in range(7) for _ in range(DRAWN[j]) if j not in targets]
        against = sum(math.log(1 - sigmoid(s[j])) for j in drawn)
        return -(beta * math.log(sigmoid(s[i])) + against) / (negatives + 1)

    found = gbce(scores, *pairs(), torch.tensor(DRAWN), items, t)
    assert float(found) == pytest.approx(averaged(scores, value))


def test_mse_is_the_loop_over_its_formula(scores):
    ratings = iter([0.5, -1.0, 2.0, 0.25])
    expected = averaged(scores, lambda s, _, i: (next(ratings) - s[i]) ** 2)
    assert float(mse(scores, *pairs(), torch.tensor([0.5, -1.0, 2.0, 0.25]))) == pytest.approx(expected)


def test_sampler_draws_as_often_as_it_says_when_by_popularity():
    torch.manual_seed(0)
    counts = np.array([0, 5, 80, 20])
    sampler = Sampler(counts, 200_000, by_popularity=True)
    found = sampler.candidates(torch.tensor([3]))
    assert found.item.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(found.drawn, found.log_expected.exp(), rtol=0.03)
    share = (counts + 1.0) ** 0.75
    np.testing.assert_allclose(found.log_expected.exp(), 200_000 * share / share.sum(), rtol=1e-5)


def test_sampler_keeps_what_came_among_the_candidates_when_it_is_not_drawn():
    torch.manual_seed(0)
    targets = torch.tensor([900, 3, 900])
    found = Sampler(np.zeros(1000, np.int64), 5, by_popularity=False).candidates(targets)
    assert found.item[found.column(targets)].tolist() == targets.tolist()
    assert float(found.drawn.sum()) == 5


@pytest.mark.parametrize("columns", [0, 1, 3])
@pytest.mark.parametrize("slice_scores", [1 << 20, 40])
def test_catalog_softmax_is_the_full_softmax_of_its_scores(columns, slice_scores):
    generator = torch.Generator().manual_seed(1)
    leaves = [torch.randn(*shape, generator=generator, requires_grad=True) for shape in ((7, 4), (12, 4), (columns,))]
    interest, factors, weight = leaves
    table, timestamp = torch.randn(3, 12, columns, generator=generator), torch.tensor([2, 0, 0, 1, 2, 1, 0])
    row, item = torch.tensor([0, 1, 1, 1, 2, 3, 4, 5, 5, 6]), torch.tensor([3, 0, 11, 0, 5, 5, 1, 2, 9, 7])
    prior = PriorRows(table, timestamp, weight) if columns else None
    scores = interest @ factors.T + (table @ weight)[timestamp]
    found = []
    for loss in (full_softmax(scores, row, item), catalog_softmax(interest, factors, prior, row, item, slice_scores)):
        gradient = torch.autograd.grad(3 * loss, leaves if columns else leaves[:2])
        found.append((loss.detach(), gradient))
    torch.testing.assert_close(*found)


def step_of(log, vectors, **settings):
    torch.manual_seed(0)
    config = ModelConfig(dimensions=8, exclude_seen=False, repeat_score=True)
    model = InterestModel(config, torch.from_numpy(vectors))
    timestamps = np.quantile(log.time_ms, [0.2, 0.6], method="lower")
    live = LivePopularity(log.item, log.time_ms, vectors.shape[0], model.smoothing)
    popularity = PopularitySnapshots.of(live, timestamps, vectors.shape[0], len(config.prior_starts))
    extra = {name: settings.pop(name) for name in ("max_scores",) if name in settings}
    training = TrainConfig(dropout=0.0, residual_dropout=0.0, **settings)
    return Step(model, log, LogTensors.of(log, 600_000), popularity, np.ones(log.events, bool), training, **extra)


@pytest.fixture
def vectors():
    return np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)


def gradients(step, windows):
    loss, _, _ = step(windows)
    loss.backward()
    return loss.detach(), {name: value.grad for name, value in step.named_parameters()}


@pytest.mark.parametrize("loss", list(Loss))
def test_step_gives_the_same_gradients_when_scores_are_made_in_slices(random_log, vectors, loss):
    found = []
    for scores in (1 << 20, 40):
        step = step_of(random_log, vectors, loss=loss, negatives=6, max_scores=scores)
        windows = training_windows(random_log, step.heads, 32, np.random.default_rng(0))
        torch.manual_seed(3)
        found.append(gradients(step, windows))
    torch.testing.assert_close(*found)


def test_step_approaches_the_full_softmax_when_many_negatives_are_drawn(random_log, vectors):
    # The loss among a user's seen items is the same for both and would hide how they differ.
    full = step_of(random_log, vectors, seen_items_weight=0)
    sampled = step_of(random_log, vectors, seen_items_weight=0, loss=Loss.sampled_softmax, negatives=100_000)
    windows = training_windows(random_log, full.heads, 32, np.random.default_rng(0))
    (loss, gradient), (other, approximate) = gradients(full, windows), gradients(sampled, windows)
    torch.testing.assert_close(other, loss, rtol=0.01, atol=0.01)
    for name, value in gradient.items():
        torch.testing.assert_close(approximate[name], value, rtol=0.1, atol=0.01)


@pytest.mark.parametrize("loss", list(Loss))
def test_training_lowers_the_loss_and_beats_chance_with_every_loss(small_log, small_vectors, loss):
    log, catalog = small_log
    # Without ratings there would be nothing to predict: these say who likes what by a rule that factors can learn.
    log = replace(log, weight=np.where((log.item + log.user) % 2, 1.0, 5.0).astype(np.float32))
    config = TrainConfig(loss=loss, negatives=64, epochs=4, windows_per_batch=8, refit=False)
    result = fit(log, np.ones(log.events, bool), small_vectors, ModelConfig(dimensions=16), config)
    assert result.epochs[-1].loss < result.epochs[1].loss
    assert (result.rating_mean is None) == (loss is not Loss.mse)
    if loss is Loss.mse:
        assert result.best_epoch == config.epochs
    else:
        best = result.epochs[result.best_epoch].validation
        by_chance = sum(1 / math.log2(rank + 2) for rank in range(10)) / len(catalog)
        assert best.ndcg_at_10 > 2 * by_chance


def test_training_is_refused_when_mse_has_no_ratings(small_files):
    data = films_in(small_files, catalog=None, text_template="{title}", title_template=None)
    with pytest.raises(DataError, match="--weight-col"):
        train_bundle(data, "packaged", ModelConfig(), TrainConfig(loss=Loss.mse))


def test_loss_suits_the_size_of_the_catalog_when_none_was_given():
    config = TrainConfig()
    assert config.for_catalog(FULL_SOFTMAX_ITEMS).loss is Loss.full_softmax
    assert config.for_catalog(FULL_SOFTMAX_ITEMS + 1).loss is Loss.sampled_softmax
    assert TrainConfig(loss=Loss.bpr).for_catalog(FULL_SOFTMAX_ITEMS + 1).loss is Loss.bpr
