"""The replay of a log through learning online, against a plain loop over its baskets."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from ebbtide.data.baskets import baskets_of
from ebbtide.data.events import build_log
from ebbtide.data.splits import held_out
from ebbtide.interest.events import MS_PER_DAY
from ebbtide.interest.online import OnlineLearning, feedback_direction, shifted_alpha
from ebbtide.train.config import ModelConfig
from ebbtide.train.evaluation.accuracy import owners
from ebbtide.train.evaluation.lists import rank_baskets
from ebbtide.train.evaluation.online import OnlineReplay
from ebbtide.train.evaluation.relevance import Relevance
from ebbtide.train.evaluation.scores import exclude_seen, live_popularity, score_baskets
from ebbtide.train.model import InterestModel
from ebbtide.train.windows import LogTensors

SETTINGS = [
    {"exclude_seen": True},
    {"exclude_seen": True, "alpha": "per-dimension"},
    {"exclude_seen": False, "repeat_score": True},
]


@pytest.fixture
def log():
    """Users with sessions of a few events, minutes apart within a session and days between sessions."""
    random, users, events = np.random.default_rng(4), 6, 24
    pauses_ms = np.where(random.random((users, events)) < 0.3, 2 * MS_PER_DAY, 300_000)
    rows = pl.DataFrame(
        {
            "user": np.repeat(np.arange(users), events).astype(str),
            "item": random.integers(0, 60, users * events).astype(str),
            "time_ms": (1_700_000_000_000 + pauses_ms.cumsum(axis=1)).ravel(),
            "weight": np.ones(users * events, dtype=np.float32),
        }
    )
    return build_log(rows, {str(item): item for item in range(60)})


def model_of(**settings):
    torch.manual_seed(2)
    model = InterestModel(ModelConfig(dimensions=4, **settings), torch.randn(60, 8))
    with torch.no_grad():
        # So that the halves of the interest differ, and with them the lists.
        model.gamma.mul_(5)
        if model.repeat is not None:
            model.repeat.interest_share.fill_(0.3)
    return model


def replayed(model, log, rate):
    baskets = baskets_of(log, held_out(log, "time:0.6"))
    replay = OnlineReplay(model, baskets, Relevance.of(log, baskets), owners(log, baskets), OnlineLearning(rate))
    lists, alpha = rank_baskets(
        *(model, log, baskets, live_popularity(model, log)), repeats=not model.config.exclude_seen, learner=replay
    )
    return baskets, replay, lists, alpha


@pytest.mark.parametrize("settings", SETTINGS)
def test_nothing_changes_when_the_learning_rate_is_0(log, settings):
    model = model_of(**settings)
    baskets, replay, lists, alpha = replayed(model, log, 0.0)
    expected, expected_alpha = rank_baskets(
        *(model, log, baskets, live_popularity(model, log)), repeats=not model.config.exclude_seen
    )
    assert not replay.offset.any()
    np.testing.assert_array_equal(lists.item, expected.item)
    np.testing.assert_array_equal(lists.score, expected.score)
    np.testing.assert_array_equal(alpha, expected_alpha)


@pytest.mark.parametrize("settings", SETTINGS)
def test_replay_equals_a_loop_that_blends_each_basket_anew(log, settings):
    model, learning = model_of(**settings), OnlineLearning(2.0)
    baskets, replay, lists, _ = replayed(model, log, learning.learning_rate)
    assert np.count_nonzero(replay.offset) > 1

    tensors = LogTensors.of(log, model.config.session_gap_ms)
    factors = model.item_factors().detach()
    offset = np.zeros_like(replay.offset)
    owner, relevance = owners(log, baskets), Relevance.of(log, baskets)
    order = np.lexsort((baskets.head, log.time_ms[baskets.head]))
    for case in order.tolist():
        # One basket at a time, in the log's order of time.
        head, user = baskets.head[case : case + 1], owner[case : case + 1]
        scored = next(score_baskets(model, log, tensors, head, live_popularity(model, log), with_difference=True))
        alpha = shifted_alpha(scored.alpha.numpy(), offset[user])
        moved = (torch.from_numpy(alpha) - scored.alpha) * scored.difference
        scores = replace(scored, interest=scored.interest + moved @ factors.T).scores()
        if model.config.exclude_seen:
            exclude_seen(scores, tensors, head)
        best = scores[0].topk(5).values.numpy()
        np.testing.assert_allclose(lists.score[case, :5], best, rtol=1e-4, atol=1e-5)
        items = relevance.item[relevance.start[case] : relevance.start[case + 1]]
        seen = np.isin(np.arange(len(factors)), [] if scored.seen is None else scored.seen.item.numpy())
        taken = np.isin(np.arange(len(factors)), items)
        share = np.where(seen, np.float32(0.3), np.float32(1))
        direction = feedback_direction(factors.numpy(), scores[0].numpy(), taken, share)
        offset[user] = learning.step(offset[user], alpha, scored.difference.numpy(), direction[None])
    np.testing.assert_allclose(replay.offset, offset, atol=1e-5)
