"""The repeat score: torch, served and reference agree; it never sees the basket it predicts."""

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ebbtide.data.baskets import has_past
from ebbtide.interest.contract import REPEAT_PARTS
from ebbtide.interest.events import EventBatch, order_events
from ebbtide.interest.repeat import RepeatParameters, repeat_parts, repeat_score, time_context
from ebbtide.train.choices import Loss
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.evaluation.ranks import Variant, target_ranks
from ebbtide.train.evaluation.scores import live_popularity
from ebbtide.train.model import InterestModel
from ebbtide.train.reference import score_request
from ebbtide.train.repeat import RepeatScore, seen_items_loss, with_repeat_scores
from ebbtide.train.seen_items import seen_items
from ebbtide.train.step import Step
from ebbtide.train.trainer import fit
from ebbtide.train.windows import LogTensors, training_windows

HOUR_MS = 3_600_000
VECTORS = torch.randn(12, 4, generator=torch.Generator().manual_seed(2))
"""Text vectors of the twelve items."""
HALF_LIFE_DAYS = (1.0, 7.0, 30.0)
PRIOR = torch.rand(12, 3, generator=torch.Generator().manual_seed(3))
"""Columns of their popularity."""


def repeat_of(decays):
    torch.manual_seed(5)
    repeat = fresh_repeat(decays).eval()
    for parameter in (
        repeat.direct_weight,
        repeat.text_weight,
        repeat.item_bias,
        repeat.item_time_weights,
        repeat.output.weight,
    ):
        torch.nn.init.normal_(parameter)
    repeat.repeat_offset.fill_(2.0)
    repeat.interest_share.fill_(0.3)
    repeat.centre.uniform_(-1, 2)
    repeat.spread.uniform_(0.5, 2)
    repeat.context_centre.uniform_(-1, 2)
    repeat.context_spread.uniform_(0.5, 2)
    return repeat


def fresh_repeat(decays=True):
    policy = {"exclude_seen": False, "repeat_score": True, "decay": "learned" if decays else "none"}
    return RepeatScore(ModelConfig(prior_half_life_days=HALF_LIFE_DAYS, **policy), 4, 12)


def prior_of(repeat, items):
    """Columns of the items' popularity, ``[items, p]``: without decay there is one column and so no trend."""
    return PRIOR[items] if repeat.decays else PRIOR[items, :1]


def item_bias_of(repeat):
    return VECTORS @ repeat.text_weight + repeat.item_bias


def served(repeat):
    return repeat.parameters_to_serve(item_bias_of(repeat), prior_of(repeat, slice(None)).numpy())


def scores_of(repeat, seen):
    return repeat(seen, item_bias_of(repeat), prior_of(repeat, seen.item))


def seen_of(log, heads, at_most=512):
    first = log.start[np.searchsorted(log.start, heads, side="right") - 1]
    return seen_items(log.item, log.time_ms, log.weight, first, heads, at_most)


def batch_of(log, heads):
    first = log.start[np.searchsorted(log.start, heads, side="right") - 1]
    indices = np.concatenate([np.arange(*span) for span in zip(first, heads, strict=True)])
    batch = order_events(heads - first, log.time_ms[indices], log.time_ms[heads], log.weight[indices], None, HOUR_MS)
    return batch, log.item[indices][batch.source], log.time_ms[heads]


@pytest.mark.parametrize("decays", [True, False], ids=["decays", "no-decay"])
def test_served_scores_equal_torch_before_every_event(random_log, decays):
    repeat = repeat_of(decays)
    heads = np.setdiff1d(np.arange(random_log.events), random_log.start[:-1])
    seen = seen_of(random_log, heads)
    request, item, value = repeat_score(*batch_of(random_log, heads), served(repeat))
    np.testing.assert_array_equal(request, seen.basket.numpy())
    np.testing.assert_array_equal(item, seen.item.numpy())
    np.testing.assert_allclose(value, scores_of(repeat, seen).detach().numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decay", ["learned", "none"])
def test_reference_scores_seen_items_by_repetition_and_a_share_of_the_interest(random_log, decay):
    torch.manual_seed(0)
    policy = {"decay": decay, "exclude_seen": False, "repeat_score": True}
    config = ModelConfig(dimensions=4, prior_half_life_days=HALF_LIFE_DAYS, **policy)
    model = InterestModel(config, VECTORS).eval()
    model.repeat = repeat_of(decay == "learned")
    head = np.array([30])
    past = slice(random_log.start[2], 30)
    request = {
        "item": random_log.item[past].tolist(),
        "time_ms": random_log.time_ms[past].tolist(),
        "weight": random_log.weight[past].tolist(),
        "now_ms": int(random_log.time_ms[30]),
    }
    columns = PRIOR[:, : len(config.prior_starts)]
    prior = columns.numpy()
    found = score_request(model, prior, **request)
    repeat, model.repeat = model.repeat, None
    without = score_request(model, prior, **request).scores
    with torch.no_grad():
        seen = seen_of(random_log, head)
        value = repeat(seen, item_bias_of(repeat), columns[seen.item])
        value += 0.3 * model.item_factors()[seen.item] @ torch.from_numpy(found.interest).float()
        expected = with_repeat_scores(torch.from_numpy(without).float()[None], seen, value)[0]
    np.testing.assert_allclose(found.scores, expected.numpy(), atol=1e-5)
    assert found.repeats == set(request["item"])
    assert np.abs(found.scores - without).max() > 0.1


def test_popularity_moves_repeat_scores_by_its_trend_alone(random_log):
    repeat, seen = repeat_of(True), seen_of(random_log, np.array([20, 50]))
    item_bias, prior = item_bias_of(repeat), PRIOR[seen.item]
    with torch.no_grad():
        plain = repeat(seen, item_bias, prior)
        np.testing.assert_allclose(repeat(seen, item_bias, prior + 3), plain, rtol=1e-4, atol=1e-5)
        assert (repeat(seen, item_bias, prior + torch.tensor([1.0, 0, 0])) - plain).abs().min() > 0.01


@pytest.mark.parametrize("decays", [True, False], ids=["decays", "no-decay"])
def test_repeat_score_follows_hour_weekday_and_idle_time(random_log, decays):
    repeat = repeat_of(decays)
    batch, item, now_ms = batch_of(random_log, np.array([20, 50]))
    parameters = served(repeat)

    def moved_by(hours, **changed):
        moved = EventBatch(**{**vars(batch), **changed})
        scores = [
            repeat_score(*case, parameters)[2]
            for case in ((batch, item, now_ms), (moved, item, now_ms + hours * HOUR_MS))
        ]
        return np.abs(scores[1] - scores[0]).max()

    assert moved_by(9) > 0.1
    assert moved_by(24) > 0.1
    assert moved_by(7 * 24) == pytest.approx(0, abs=1e-4)
    away = batch.idle_hours + 100
    assert (moved_by(0, idle_hours=away) > 0.1) == decays


def test_time_context_repeats_after_a_week():
    monday = np.array([1_700_438_400_000])  # 2023-11-20 00:00 UTC
    week = time_context(monday + HOUR_MS * np.arange(0, 7 * 24 + 1), None)
    np.testing.assert_allclose(week[0], week[-1], atol=1e-6)
    np.testing.assert_allclose(week[6], week[30][:2].tolist() + week[6][2:].tolist(), atol=1e-6)
    assert len(np.unique(week[:-1].round(5), axis=0)) == 7 * 24
    np.testing.assert_allclose(time_context(monday, np.array([np.e - 1]))[0, 4], 1, rtol=1e-6)


def test_standardised_features_keep_the_order_of_seen_items(random_log):
    torch.manual_seed(5)
    fresh = fresh_repeat()
    seen = seen_of(random_log, np.setdiff1d(np.arange(random_log.events), random_log.start[:-1]))
    prior, item_bias = PRIOR[seen.item], torch.zeros(12)
    with torch.no_grad():
        before = fresh(seen, item_bias, prior)
        fresh.standardise(seen, prior)
        moved = fresh(seen, item_bias, prior) - before
        features = (fresh._features(seen, prior) - fresh.centre) / fresh.spread
        context = (seen.context - fresh.context_centre) / fresh.context_spread
    torch.testing.assert_close(moved, moved[:1].expand_as(moved), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(features.mean(0), torch.zeros(features.shape[1]), rtol=0, atol=1e-4)
    torch.testing.assert_close(features.std(0), torch.ones(features.shape[1]), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(context.mean(0), torch.zeros(5), rtol=0, atol=1e-4)
    torch.testing.assert_close(context.std(0), torch.ones(5), rtol=1e-3, atol=1e-3)


def test_seen_items_are_strictly_before_the_basket_and_the_newest_when_limited(random_log):
    head = np.array([random_log.start[3] - 1])
    seen = seen_of(random_log, head, at_most=5)
    counted = np.bincount(seen.item.numpy()[seen.pair.numpy()], minlength=12)
    np.testing.assert_array_equal(counted, np.bincount(random_log.item[head[0] - 5 : head[0]], minlength=12))


@pytest.mark.parametrize("decays", [True, False], ids=["decays", "no-decay"])
@pytest.mark.parametrize("scale", [None, 0.5], ids=["as-is", "scaled"])
def test_parts_sum_to_the_repeat_score(random_log, decays, scale):
    parameters, case = served(repeat_of(decays)), batch_of(random_log, np.array([20, 50]))
    decay_scale = None if scale is None else np.array([scale, 3], np.float32)
    request, item, value = repeat_score(*case, parameters, decay_scale)
    seen, of_item, parts = repeat_parts(*case, parameters, decay_scale)
    np.testing.assert_array_equal(seen, request)
    np.testing.assert_array_equal(of_item, item)
    np.testing.assert_allclose(parts.sum(axis=1), value, rtol=1e-5, atol=1e-5)
    moves = dict(zip(REPEAT_PARTS, np.abs(parts).max(axis=0) > 0.01, strict=True))
    assert moves == dict.fromkeys(REPEAT_PARTS, True) | {"recency": decays, "trend": decays}


def test_part_is_the_mean_of_what_its_features_add_over_all_orders(random_log):
    parameters, (batch, item, now_ms) = served(repeat_of(True)), batch_of(random_log, np.array([50]))
    request, _, parts = repeat_parts(batch, item, now_ms, parameters)
    found = dict(zip(REPEAT_PARTS, parts.T, strict=True))
    level = found["level"]
    np.testing.assert_allclose(level, level[0])

    def score(present):
        """Without a kind of features, the weights that multiply them are 0."""
        kept = np.ones(parameters.direct_weight.size, np.float32)
        for name, columns in {"frequency": slice(0, 4), "recency": slice(5, 6), "trend": slice(6, None)}.items():
            kept[columns] = name in present
        changed = replace(
            parameters,
            direct_weight=parameters.direct_weight * kept,
            hidden_weight=parameters.hidden_weight * kept[:, None],
        )
        return repeat_score(batch, item, now_ms, changed)[2]

    kinds = ("frequency", "recency", "trend")
    added = {kind: np.zeros(request.size) for kind in kinds}
    for order in permutations(kinds):
        for index, kind in enumerate(order):
            added[kind] += (score(order[: index + 1]) - score(order[:index])) / 6
    for kind in kinds:
        np.testing.assert_allclose(found[kind], added[kind], rtol=1e-3, atol=1e-4)


def test_scores_are_finite_when_ages_are_scaled_beyond_all_floats(random_log):
    scale = np.full(1, 3e38, np.float32)
    _, _, value = repeat_score(*batch_of(random_log, np.array([50])), served(repeat_of(True)), scale)
    assert np.isfinite(value).all()


def test_free_text_has_no_repeat_score(random_log):
    batch, item, now_ms = batch_of(random_log, np.array([20]))
    request, _, value = repeat_score(batch, np.full_like(item, -1), now_ms, served(repeat_of(True)))
    assert request.size == 0
    assert value.size == 0


def test_scores_are_those_of_a_request_alone_when_ages_are_scaled(random_log):
    parameters = served(repeat_of(True))
    requests = batch_of(random_log, np.array([20, 50]))
    _, _, plain = repeat_score(*requests, parameters)
    request, _, scaled = repeat_score(*requests, parameters, np.array([1, 0], np.float32))
    np.testing.assert_allclose(scaled[request == 0], plain[request == 0], rtol=1e-5)
    assert not np.allclose(scaled[request == 1], plain[request == 1])


def test_no_score_is_the_padding_of_adjustments(random_log):
    parameters = served(repeat_of(True))
    nothing = {name: np.zeros_like(array) for name, array in parameters.tensors().items()}
    nothing["decay_rate_per_day"] = parameters.decay_rate_per_day
    _, _, value = repeat_score(*batch_of(random_log, np.array([20])), RepeatParameters(**nothing))
    assert value.size
    assert np.all(value != 0)
    np.testing.assert_allclose(value, 0, atol=1e-30)


def test_repeat_scores_replace_only_existing_columns_when_some_items_are_scored(random_log):
    seen = seen_of(random_log, np.array([50]))
    value = torch.arange(1.0, 1 + seen.item.shape[0])
    columns = torch.tensor([0, 3, 5, 11])
    whole = with_repeat_scores(torch.zeros(1, 12), seen, value)
    torch.testing.assert_close(with_repeat_scores(torch.zeros(1, 4), seen, value, columns), whole[:, columns])


def test_repeat_scores_learn_through_the_scores(random_log):
    repeat = repeat_of(True)
    seen = seen_of(random_log, np.array([20, 50]))
    with_repeat_scores(torch.zeros(2, 12), seen, scores_of(repeat, seen)).logsumexp(1).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in repeat.parameters())


def test_config_is_refused_when_seen_items_are_left_out_and_should_be_scored():
    with pytest.raises(ValidationError, match="repeat_score"):
        ModelConfig(repeat_score=True)


def test_seen_items_loss_is_the_cross_entropy_among_seen_items_when_some_are_targets(random_log):
    heads = np.array([20, 50])
    seen = seen_of(random_log, heads)
    value = torch.randn(seen.item.shape[0], generator=torch.Generator().manual_seed(3))
    had = [seen.item[seen.basket == basket].tolist() for basket in (0, 1)]
    new = next(item for item in range(12) if item not in had[1]) if len(had[1]) < 12 else had[1][0]
    row, item = torch.tensor([0, 0, 1]), torch.tensor([had[0][0], had[0][1], new])
    expected = 0.0
    for basket, targets in ((0, had[0][:2]), (1, [new])):
        again = [item for item in targets if item in had[basket]]
        logarithm = torch.log_softmax(value[seen.basket == basket], 0)
        if again:
            expected -= float(sum(logarithm[had[basket].index(item)] for item in again)) / len(again) / 2
    assert float(seen_items_loss(value, seen, row, item, 2)) == pytest.approx(expected, rel=1e-5)


def test_repeat_offset_is_added_when_a_model_ranks_and_not_in_training(random_log):
    repeat, seen = repeat_of(True), seen_of(random_log, np.array([20]))
    ranking = scores_of(repeat, seen)
    torch.testing.assert_close(scores_of(repeat.train(), seen) + 2.0, ranking)


def test_ranks_of_one_pass_are_those_of_models_with_each_repeat_offset(random_log):
    torch.manual_seed(0)
    config = ModelConfig(dimensions=4, exclude_seen=False, repeat_score=True)
    model = InterestModel(config, VECTORS)
    tensors = LogTensors.of(random_log, config.session_gap_ms)

    def ranked(*variants):
        return target_ranks(
            model, random_log, tensors, has_past(random_log), live_popularity(model, random_log), variants
        )

    offsets = TrainConfig().repeat_offsets
    events, ranks = ranked(*(Variant(repeat_offset=offset) for offset in offsets))
    assert len(np.unique(ranks, axis=0)) > 2
    for repeat_offset, found in zip(offsets, ranks, strict=True):
        model.repeat.repeat_offset.fill_(repeat_offset)
        alone = ranked(Variant())
        np.testing.assert_array_equal(alone[0], events)
        np.testing.assert_array_equal(alone[1][0], found)


def test_ranks_of_one_pass_are_those_of_models_with_each_share_of_the_interest(random_log):
    torch.manual_seed(0)
    config = ModelConfig(dimensions=4, exclude_seen=False, repeat_score=True)
    model = InterestModel(config, VECTORS)
    tensors = LogTensors.of(random_log, config.session_gap_ms)
    given = (random_log, tensors, has_past(random_log), live_popularity(model, random_log))
    variants = [Variant(repeat_offset=2.0, interest_share=share) for share in (0.0, 0.2, 0.9)]
    _, ranks = target_ranks(model, *given, variants)
    assert len(np.unique(ranks, axis=0)) == 3
    model.repeat.repeat_offset.fill_(2.0)
    for variant, found in zip(variants, ranks, strict=True):
        model.repeat.interest_share.fill_(variant.interest_share)
        np.testing.assert_array_equal(target_ranks(model, *given)[1][0], found)


def test_common_level_is_equal_for_the_seen_items_of_a_basket(random_log):
    repeat, seen = repeat_of(True), seen_of(random_log, np.array([20, 50]))
    level = repeat.common_level(seen)
    for basket in (0, 1):
        assert level[seen.basket == basket].unique().numel() == 1
    loss = seen_items_loss(scores_of(repeat, seen), seen, seen.basket[:1], seen.item[:1], 2)
    order = torch.autograd.grad(loss, [repeat.output.bias])
    torch.testing.assert_close(order[0], torch.zeros(1), atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss", list(Loss))
def test_repeat_score_is_learned_whatever_the_loss(random_log, loss):
    torch.manual_seed(0)
    config = TrainConfig(loss=loss, epochs=1, negatives=4)
    model_config = ModelConfig(dimensions=4, exclude_seen=False, repeat_score=True)
    everything = np.ones(random_log.events, np.bool_)
    fitted = fit(random_log, everything, VECTORS.numpy(), model_config, config)
    without_prior = model_config.model_copy(update={"prior_half_life_days": ()})
    model, tensors = InterestModel(without_prior, VECTORS), LogTensors.of(random_log, 60_000)
    step = Step(model, random_log, tensors, None, everything, config.for_catalog(len(VECTORS)))
    value, _, _ = step(training_windows(random_log, step.heads, 32, np.random.default_rng(0)))
    value.backward()
    assert model.repeat.item_bias.grad.abs().max() > 0
    assert fitted.best_epoch == 1
    assert fitted.model.repeat.item_bias.detach().abs().max() > 0
    assert float(fitted.model.repeat.repeat_offset) in config.repeat_offsets
    assert float(fitted.model.repeat.interest_share) in np.float32(config.interest_shares)
