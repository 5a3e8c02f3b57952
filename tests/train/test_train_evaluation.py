"""Held-out events, baskets, ranks over the whole catalog, and their means."""

import subprocess
import sys

import numpy as np
import polars as pl
import pytest
import torch

from ebbtide.data.baskets import basket_heads, has_past
from ebbtide.data.catalog import Catalog
from ebbtide.data.errors import DataError
from ebbtide.data.events import build_log
from ebbtide.data.splits import held_out
from ebbtide.train.config import ModelConfig
from ebbtide.train.evaluation.evaluate import compare, evaluate_lists
from ebbtide.train.evaluation.lists import RankedLists
from ebbtide.train.evaluation.ranks import Variant, metrics_of, target_ranks
from ebbtide.train.evaluation.scores import live_popularity
from ebbtide.train.evaluation.testset import TestSet
from ebbtide.train.model import InterestModel
from ebbtide.train.popularity import columns_at
from ebbtide.train.windows import LogTensors, predict_windows


def model_of(**settings):
    torch.manual_seed(2)
    return InterestModel(ModelConfig(dimensions=4, **settings), torch.randn(12, 8))


def log_of(*users):
    """A log from ``[(time, item), ...]`` for each user."""
    rows = [(f"u{user}", f"i{item}", time) for user, events in enumerate(users) for time, item in events]
    frame = pl.DataFrame(rows, schema=["user", "item", "time_ms"], orient="row").with_columns(
        weight=pl.lit(1.0, pl.Float32)
    )
    return build_log(frame, {f"i{item}": item for item in range(12)})


BASKETS = [
    (user, [(time, (3 * time + index + user) % 12) for time in range(1, 9) for index in range(2)]) for user in (0, 1)
]


@pytest.mark.parametrize("exclude_seen", [True, False])
def test_ranks_equal_a_plain_sort_of_every_score(exclude_seen):
    log = log_of(*(events for _, events in BASKETS))
    model = model_of(exclude_seen=exclude_seen)
    tensors = LogTensors.of(log, model.config.session_gap_ms)
    targets = held_out(log, "time:0.5")
    events, ranks = target_ranks(model, log, tensors, targets, live_popularity(model, log), [Variant(0.5)])
    assert sorted(events.tolist()) == np.flatnonzero(targets & has_past(log)).tolist()
    heads = basket_heads(log)
    seen_targets = 0
    with torch.inference_mode():
        for event, rank in zip(events, ranks[0], strict=True):
            head = heads[event]
            single = torch.zeros(log.events, dtype=torch.bool)
            single[head] = True
            window = np.array([[head, head]])
            interest = predict_windows(model, tensors, window, 60, 1, single, model.event_vectors()).blend.interest
            columns = columns_at(log.item, log.time_ms, 12, model.smoothing, int(log.time_ms[event]))
            scores = 0.5 * (interest @ model.item_factors().T)[0].numpy() + columns @ model.prior_weight.numpy()
            seen = set(log.item[tensors.first[event] : head].tolist()) if exclude_seen else set()
            kept = sorted((scores[item] for item in range(12) if item not in seen), reverse=True)
            if log.item[event] in seen:
                seen_targets += 1
                assert rank == 11
            else:
                assert kept[rank] == pytest.approx(scores[log.item[event]], abs=1e-5)
    assert 0 <= seen_targets < len(events)
    assert (seen_targets > 0) == exclude_seen


def test_metrics_average_within_users_first(random_log):
    # User 2 owns events 3 to 32, user 3 events 33 to 39; all of these stand at a time of their own.
    metrics = metrics_of(random_log, np.array([20, 21, 35]), np.array([0, 12, 1]))
    assert (metrics.users, metrics.baskets, metrics.events) == (2, 3, 3)
    assert metrics.hit_rate_at_10 == pytest.approx((0.5 + 1) / 2)
    assert metrics.ndcg_at_10 == pytest.approx((0.5 + 1 / np.log2(3)) / 2)
    assert metrics.mrr == pytest.approx(((1 + 1 / 13) / 2 + 0.5) / 2)


def test_metrics_take_a_basket_as_one_set_when_events_share_an_basket():
    log = log_of([(1, 0), (2, 1), (2, 2), (2, 2), (2, 3)])
    metrics = metrics_of(log, np.array([1, 2, 3, 4]), np.array([0, 2, 2, 11]))
    best = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    assert (metrics.baskets, metrics.events, metrics.hit_rate_at_10, metrics.mrr) == (1, 3, 1.0, 1.0)
    assert metrics.ndcg_at_10 == pytest.approx((1 + 1 / np.log2(4)) / best)


def test_metrics_are_nan_when_nothing_was_ranked(random_log):
    empty = np.empty(0, np.int64)
    assert np.isnan(metrics_of(random_log, empty, empty).ndcg_at_10)


def test_two_evaluations_are_compared_on_the_same_baskets_alone():
    # Two holdouts of as many users and baskets; the second one is of other users.
    catalog = Catalog(*([f"i{item}" for item in range(12)] for _ in range(3)))
    log = log_of([(1, 0), (2, 1), (3, 2)], [(1, 3), (2, 4), (3, 5)], [(1, 6), (2, 7), (3, 8)])
    lists = RankedLists(np.tile(np.arange(12), (2, 1)), np.tile(-np.arange(12.0), (2, 1)))
    found = []
    for users in ([0, 1], [1, 2], [0, 1]):
        test = TestSet.where(log, catalog, np.isin(log.user, users) & (log.time_ms == 3))
        found.append(evaluate_lists(test, lists, np.eye(12, dtype=np.float32)))
    assert compare(found[0], found[2])["ndcg_at_10"].mean == 0
    with pytest.raises(DataError, match=r"got 2 users with 2 baskets; expected the 2 users.*on one TestSet"):
        compare(found[0], found[1])


def test_split_imports_no_torch():
    code = "import sys, ebbtide.train.evaluation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
