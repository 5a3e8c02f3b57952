"""Where training begins: a linear model of what comes together, directions of texts, and how strongly they count."""

import numpy as np
import polars as pl
import pytest
import torch

from ebbtide.data.events import build_log
from ebbtide.train.choice_model import conditional_logit
from ebbtide.train.choices import Loss, Start
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.lowrank import low_rank
from ebbtide.train.model import InterestModel
from ebbtide.train.start import LinearTerm, linear_dimensions, place_linear, start_at_items
from ebbtide.train.trainer import fit

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
    start_at_items(model, factors)
    with torch.no_grad():
        scores = model.event_vectors() @ model.item_factors().T
    expected = factors.event @ factors.item.T
    torch.testing.assert_close(
        scores[:10, :10] / scores[0, 0], expected[:10, :10] / expected[0, 0], atol=1e-3, rtol=1e-3
    )
    assert scores[0, 10] > scores[0, 11]
    rates = model.log_decay_rate.detach()
    assert rates[:4].max() <= rates[4:].min()


def test_linear_term_scores_like_its_factors_when_gamma_says_so_and_keeps_through_steps(two_tastes):
    factors = low_rank(two_tastes, np.ones(two_tastes.events, bool), ITEMS, 4)
    torch.manual_seed(0)
    model = InterestModel(ModelConfig(dimensions=12), torch.randn(ITEMS, 6))
    model.linear_dimensions = 4
    place_linear(model, factors)
    linear = LinearTerm(model)
    before = model.linear_factors().detach().clone()
    assert not model.item_factors()[:, -4:].any()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    (model.event_vectors() @ model.item_factors().T + model.gate_hidden.weight.sum()).square().mean().backward()
    optimizer.step()
    assert not torch.equal(model.linear_factors(), before)
    linear.restore(model)
    assert torch.equal(model.linear_factors(), before)
    assert not model.item_factors()[:, -4:].any()
    model.finish(interest_scale=0.0, linear_scale=2.0)
    scores = (model.event_vectors() @ model.item_factors().T).detach()
    expected = factors.event @ factors.item.T
    torch.testing.assert_close(
        scores[:10, :10] / scores[0, 0], expected[:10, :10] / expected[0, 0], atol=1e-3, rtol=1e-3
    )
    assert model.linear_dimensions == 0
    assert (np.log(2) / model.decay_rate_per_day[-4:].detach() > 365 * 1000).all()


def test_linear_term_is_a_third_of_a_start_at_the_texts_and_nowhere_else():
    model, training = ModelConfig(dimensions=96), TrainConfig()
    assert linear_dimensions(Start.texts, model, training) == 32
    assert linear_dimensions(Start.items, model, training) == 0
    assert linear_dimensions(Start.texts, model, TrainConfig(loss=Loss.mse)) == 0


def test_finished_model_has_the_linear_term_of_all_events_when_texts_say_nothing(two_tastes):
    texts = np.random.default_rng(0).normal(size=(ITEMS, 6)).astype(np.float32)
    config = TrainConfig(start=Start.texts, epochs=1, text_directions=2, windows_per_batch=8)
    repeats = ModelConfig(dimensions=12, exclude_seen=False)
    model = fit(two_tastes, np.ones(two_tastes.events, bool), texts, repeats, config).model
    with torch.no_grad():
        scores = model.event_vectors() @ model.item_factors().T
    assert scores[:5, :5].mean() > scores[:5, 5:10].mean()
    assert scores[5:10, 5:10].mean() > scores[5:10, :5].mean()
    assert model.gamma[-2:].unique().shape == (1,)
    assert model.gamma[-1] > 0


@pytest.mark.parametrize("true", [(0.0, 0.0), (1.5, 0.0), (0.7, 2.0)])
def test_logit_finds_the_weights_that_choices_were_made_with(true):
    random = torch.Generator().manual_seed(5)
    baskets, items = 3000, 20
    parts = [torch.randn(baskets, items, generator=random) for _ in true]
    prior = torch.randn(baskets, items, generator=random)
    prior[:, 3] = -torch.inf
    scores = prior + sum(weight * part for weight, part in zip(true, parts, strict=True))
    item = torch.multinomial(scores.softmax(1), 1, generator=random)[:, 0]
    found = conditional_logit(parts, prior, torch.arange(baskets), item)
    np.testing.assert_allclose(found, true, atol=0.1)
    assert (found >= 0).all()


def test_logit_gives_no_weight_to_what_misleads():
    random = torch.Generator().manual_seed(6)
    part = torch.randn(500, 10, generator=random)
    item = torch.multinomial((-part).softmax(1), 1, generator=random)[:, 0]
    assert conditional_logit([part], torch.zeros(500, 10), torch.arange(500), item).tolist() == [0.0]
