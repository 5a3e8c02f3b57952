"""The repeat bonus: torch, served and reference agree; it never sees its own instant."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ebbtide.interest.contract import REPEAT_ITEMS
from ebbtide.interest.events import order_events
from ebbtide.interest.repeat import repeat_bonus, strongest
from ebbtide.train.config import ModelConfig
from ebbtide.train.model import InterestModel
from ebbtide.train.reference import score_request
from ebbtide.train.repeat import RepeatBonus, own_events, own_items_loss

HOUR_MS = 3_600_000
VECTORS = torch.randn(12, 4, generator=torch.Generator().manual_seed(2))
"""Event vectors of the twelve items."""


def bonus_of(ebbs):
    torch.manual_seed(5)
    bonus = RepeatBonus(ebbs, 4)
    for parameter in (bonus.direct_weight, bonus.vector_weight, bonus.output.weight, bonus.output.bias):
        torch.nn.init.normal_(parameter)
    return bonus


def liking_of(bonus):
    return VECTORS @ bonus.vector_weight


def served(bonus):
    return bonus.parameters_to_serve(liking_of(bonus))


def own_of(log, heads, at_most=512):
    first = log.start[np.searchsorted(log.start, heads, side="right") - 1]
    return own_events(log.item, log.time_ms, log.weight, first, heads, at_most)


def batch_of(log, heads):
    first = log.start[np.searchsorted(log.start, heads, side="right") - 1]
    places = np.concatenate([np.arange(*span) for span in zip(first, heads, strict=True)])
    batch = order_events(heads - first, log.time_ms[places], log.time_ms[heads], log.weight[places], None, HOUR_MS)
    return batch, log.item[places][batch.source]


@pytest.mark.parametrize("ebbs", [True, False], ids=["ebbs", "nothing-ebbs"])
def test_served_bonus_equals_torch_before_every_event(random_log, ebbs):
    bonus = bonus_of(ebbs)
    heads = np.setdiff1d(np.arange(random_log.events), random_log.start[:-1])
    own = own_of(random_log, heads)
    request, item, value = repeat_bonus(*batch_of(random_log, heads), served(bonus))
    np.testing.assert_array_equal(request, own.moment.numpy())
    np.testing.assert_array_equal(item, own.item.numpy())
    np.testing.assert_allclose(value, bonus(own, liking_of(bonus)).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decay", ["learned", "none"])
def test_reference_adds_the_bonus_when_the_model_has_one(random_log, decay):
    torch.manual_seed(0)
    config = ModelConfig(dimensions=4, decay=decay, exclude_seen=False, repeat_bonus=True, prior_half_life_days=())
    model = InterestModel(config, torch.randn(12, 8)).eval()
    model.repeat = bonus_of(decay == "learned")
    head = np.array([30])
    past = slice(random_log.start[2], 30)
    request = {
        "item": random_log.item[past].tolist(),
        "time_ms": random_log.time_ms[past].tolist(),
        "weight": random_log.weight[past].tolist(),
        "now_ms": int(random_log.time_ms[30]),
    }
    prior = np.zeros((12, model.prior_weight.shape[0]), np.float32)
    with_bonus = score_request(model, prior, **request).scores
    bonus, model.repeat = model.repeat, None
    without = score_request(model, prior, **request).scores
    with torch.no_grad():
        liking = model.event_vectors() @ bonus.vector_weight
        added = bonus.add_to(torch.zeros(1, 12), own_of(random_log, head), liking)[0]
    np.testing.assert_allclose(with_bonus - without, added.numpy(), atol=1e-5)
    assert np.abs(with_bonus - without).max() > 0.1


def test_own_events_are_strictly_before_the_moment_and_the_newest_when_limited(random_log):
    head = np.array([random_log.start[3] - 1])
    own = own_of(random_log, head, at_most=5)
    counted = np.bincount(own.item.numpy()[own.pair.numpy()], minlength=12)
    np.testing.assert_array_equal(counted, np.bincount(random_log.item[head[0] - 5 : head[0]], minlength=12))


def test_bonus_of_free_text_and_of_nobody_is_empty(random_log):
    batch, item = batch_of(random_log, np.array([20]))
    request, _, value = repeat_bonus(batch, np.full_like(item, -1), served(bonus_of(True)))
    assert request.size == 0
    assert value.size == 0


def test_bonus_is_that_of_a_request_alone_when_ages_are_scaled(random_log):
    parameters = served(bonus_of(True))
    requests = batch_of(random_log, np.array([20, 50]))
    _, _, plain = repeat_bonus(*requests, parameters)
    request, _, scaled = repeat_bonus(*requests, parameters, np.array([1, 0], np.float32))
    np.testing.assert_allclose(scaled[request == 0], plain[request == 0], rtol=1e-5)
    assert not np.allclose(scaled[request == 1], plain[request == 1])


def test_strongest_keeps_the_largest_of_each_request_when_there_are_more():
    random = np.random.default_rng(0)
    request = np.repeat([0, 1], [100, 10])
    value = random.normal(size=110)
    kept = strongest(request, np.arange(110), value)
    assert kept.size == REPEAT_ITEMS + 10
    assert value[kept][:REPEAT_ITEMS].min() >= np.sort(value[:100])[-REPEAT_ITEMS]


def test_bonus_learns_through_the_scores(random_log):
    bonus = bonus_of(True)
    own = own_of(random_log, np.array([20, 50]))
    bonus.add_to(torch.zeros(2, 12), own, liking_of(bonus)).logsumexp(1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in bonus.parameters())


def test_config_is_refused_when_seen_items_are_left_out_and_should_gain():
    with pytest.raises(ValidationError, match="repeat_bonus"):
        ModelConfig(repeat_bonus=True)


def test_own_items_loss_is_the_cross_entropy_among_own_items_when_some_come_again(random_log):
    heads = np.array([20, 50])
    own = own_of(random_log, heads)
    scores = torch.randn(2, 12, generator=torch.Generator().manual_seed(3))
    had = [own.item[own.moment == moment].tolist() for moment in (0, 1)]
    new = next(item for item in range(12) if item not in had[1]) if len(had[1]) < 12 else had[1][0]
    row, item = torch.tensor([0, 0, 1]), torch.tensor([had[0][0], had[0][1], new])
    expected = 0.0
    for moment, came in ((0, had[0][:2]), (1, [new])):
        again = [item for item in came if item in had[moment]]
        logarithm = torch.log_softmax(scores[moment, had[moment]], 0)
        if again:
            expected -= float(sum(logarithm[had[moment].index(item)] for item in again)) / len(again) / 2
    assert float(own_items_loss(scores, own, row, item)) == pytest.approx(expected, rel=1e-5)
