"""A linear model of what comes together is where training begins."""

import numpy as np
import polars as pl
import pytest
import torch

from ebbtide.data.events import build_log
from ebbtide.train.config import ModelConfig
from ebbtide.train.lowrank import low_rank, start_from
from ebbtide.train.model import InterestModel

ITEMS = 12


@pytest.fixture
def two_tastes():
    """Even users interact with items 0 to 4, odd ones with 5 to 9, and none with 10 and 11."""
    random = np.random.default_rng(2)
    rows = [
        (f"u{user:02}", f"i{random.integers(5) + 5 * (user % 2):02}", timestamp * 1000, 1.0)
        for user in range(40)
        for timestamp in range(12)
    ]
    schema = {"user": pl.String, "item": pl.String, "time_ms": pl.Int64, "weight": pl.Float32}
    return build_log(pl.DataFrame(rows, schema=schema, orient="row"), {f"i{item:02}": item for item in range(ITEMS)})


def test_factors_score_what_came_together_above_what_did_not(two_tastes):
    factors = low_rank(two_tastes, np.ones(two_tastes.events, bool), ITEMS, 2)
    scores = (factors.event @ factors.item.T).numpy()
    assert scores[:5, :5].min() > scores[:5, 5:].max()
    assert scores[5:10, 5:10].min() > scores[5:10, :5].max()


def test_factors_are_zero_for_items_without_a_training_event(two_tastes):
    training = two_tastes.item != 3
    factors = low_rank(two_tastes, training, ITEMS, 4)
    for row in (3, 10, 11):
        assert not factors.event[row].any()
        assert not factors.item[row].any()


def test_factors_are_none_when_there_are_fewer_windows_than_directions(two_tastes):
    assert low_rank(two_tastes, two_tastes.user < 3, ITEMS, 4) is None


def test_fresh_model_scores_like_the_factors_and_gives_new_items_their_likes_vector(two_tastes):
    factors = low_rank(two_tastes, np.ones(two_tastes.events, bool), ITEMS, 4)
    torch.manual_seed(0)
    taste = torch.tensor([[1.0, 0.0]] * 5 + [[0.0, 1.0]] * 5 + [[1.0, 0.0], [0.0, 1.0]])
    model = InterestModel(ModelConfig(dimensions=8), torch.cat([taste, torch.randn(ITEMS, 6) * 0.01], dim=1))
    start_from(model, factors, None)
    with torch.no_grad():
        scores = model.event_vectors() @ model.item_factors().T
    expected = factors.event @ factors.item.T
    torch.testing.assert_close(
        scores[:10, :10] / scores[0, 0], expected[:10, :10] / expected[0, 0], atol=1e-3, rtol=1e-3
    )
    assert scores[0, 10] > scores[0, 11]
    rates = model.log_decay_rate.detach()
    assert rates[:4].max() <= rates[4:].min()
