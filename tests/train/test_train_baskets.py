"""The items of a basket are learned together, from the events strictly before it, with the popularity of that time."""

import numpy as np
import polars as pl
import pytest
import torch

from ebbtide.data.events import build_log
from ebbtide.interest.popularity import Smoothing
from ebbtide.train.choices import Start
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.losses import full_softmax
from ebbtide.train.popularity import LivePopularity
from ebbtide.train.trainer import fit

DAY_MS = 86_400_000


def baskets(order):
    """A log of 6 users with 8 baskets of 3 items each; `order` permutes the lines within every basket."""
    random = np.random.default_rng(1)
    rows = []
    for user in range(6):
        for day in range(8):
            items = random.choice(20, 3, replace=False)
            rows += [(f"u{user}", f"i{items[index]}", day * DAY_MS + user * 1000, 1.0) for index in order]
    schema = {"user": pl.String, "item": pl.String, "time_ms": pl.Int64, "weight": pl.Float32}
    return build_log(pl.DataFrame(rows, schema=schema, orient="row"), {f"i{item}": item for item in range(20)})


@pytest.mark.parametrize("repeats", [False, True])
def test_fit_sees_nothing_of_the_basket_it_predicts_when_lines_change_places(repeats):
    # Only the order of ranks within older baskets could tell, and without rank decay nothing does.
    config = ModelConfig(dimensions=4, decay="none", alpha="fixed:1.0", exclude_seen=not repeats, repeat_score=repeats)
    training = TrainConfig(
        epochs=1,
        refit=False,
        dropout=0,
        residual_dropout=0,
        context_events=24,
        start=Start.texts,
        text_directions=0,
        windows_per_batch=100,
    )
    vectors = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    losses = []
    for order in ([0, 1, 2], [2, 0, 1]):
        log = baskets(order)
        losses.append(fit(log, np.ones(log.events, bool), vectors, config, training).epochs[1].loss)
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_full_softmax_is_the_mean_cross_entropy_of_each_basket():
    scores = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    row, item = torch.tensor([0, 0, 0, 1]), torch.tensor([1, 4, 2, 6])
    log_shares = scores.log_softmax(1)
    expected = -(log_shares[0, [1, 4, 2]].mean() + log_shares[1, 6]) / 2
    torch.testing.assert_close(full_softmax(scores, row, item), expected)


def test_prior_counts_only_events_before_its_timestamp_when_recounted():
    item, time_ms = np.array([0, 0, 1, 1]), np.array([0, DAY_MS, DAY_MS, 2 * DAY_MS])
    live = LivePopularity(item, time_ms, 2, Smoothing(np.array([1.0]), np.array([1.0]), (0,)))
    found = np.exp([columns[:, 0] for columns in live.columns_at(np.array([0, DAY_MS, 2 * DAY_MS]))]) / 2
    np.testing.assert_allclose(found, [[0.5, 0.5], [1 / 1.5, 0.5 / 1.5], [1.25 / 2.25, 1 / 2.25]], rtol=1e-6)
