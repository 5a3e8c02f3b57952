"""Held-out events, ranks over the whole catalog, and their means."""

import numpy as np
import pytest
import torch

from ebbtide.train.config import ModelConfig
from ebbtide.train.errors import DataError
from ebbtide.train.evaluation import after_time, held_out, leave_last_out, metrics_of, target_ranks
from ebbtide.train.model import InterestModel
from ebbtide.train.trainer import prior_snapshots
from ebbtide.train.windows import LogTensors, predict_windows


def model_of(**settings):
    torch.manual_seed(2)
    return InterestModel(ModelConfig(dimensions=4, **settings), torch.randn(12, 8))


def test_leave_last_out_holds_out_one_event_of_everyone_with_a_past(random_log):
    assert np.flatnonzero(leave_last_out(random_log)).tolist() == [2, 32, 39, 59]


def test_after_time_holds_out_the_end_of_the_log(random_log):
    mask = after_time(random_log, 0.25)
    assert random_log.time_ms[mask].min() > random_log.time_ms[~mask].max()
    assert 0.2 <= mask.mean() <= 0.35


@pytest.mark.parametrize("holdout", ["last", "time:", "time:1.5", "time:x"])
def test_holdout_is_refused_when_it_is_no_protocol(random_log, holdout):
    with pytest.raises(DataError, match="'leave-last-out' or 'time:F'"):
        held_out(random_log, holdout)


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("candidates", [None, np.arange(12) % 3 > 0], ids=["all", "some"])
def test_ranks_equal_a_plain_sort_of_every_score(random_log, exclude_seen, candidates):
    model = model_of(exclude_seen=exclude_seen)
    tensors = LogTensors.of(random_log, model.config.session_gap_ms)
    popularity = prior_snapshots(random_log, 12, model.config)
    targets = held_out(random_log, "time:0.5")
    events, ranks = target_ranks(model, random_log, tensors, targets, popularity, candidates)
    has_past = ~np.isin(np.arange(random_log.events), random_log.start[:-1])
    wanted = targets & has_past & (True if candidates is None else candidates[random_log.item])
    assert sorted(events.tolist()) == np.flatnonzero(wanted).tolist()
    with torch.inference_mode():
        for event, rank in zip(events, ranks, strict=True):
            single = torch.zeros(random_log.events, dtype=torch.bool)
            single[event] = True
            window = np.array([[event, event]])
            interest = predict_windows(model, tensors, window, 60, 1, single, model.event_vectors()).interest
            columns = popularity.columns[popularity.index_at(random_log.time_ms[event : event + 1])[0]]
            scores = (interest @ model.item_factors().T)[0].numpy() + columns @ model.prior_weight.numpy()
            first = tensors.first[event]
            out = set(random_log.item[first:event].tolist()) if exclude_seen else set()
            out |= set() if candidates is None else set(np.flatnonzero(~candidates).tolist())
            out.discard(int(random_log.item[event]))
            kept = [scores[item] for item in range(12) if item not in out]
            assert sorted(kept, reverse=True)[rank] == pytest.approx(scores[random_log.item[event]], abs=1e-5)


def test_metrics_average_within_people_first(random_log):
    # Person 2 owns events 3 to 32, person 3 events 33 to 39.
    metrics = metrics_of(random_log, np.array([5, 6, 35]), np.array([0, 12, 1]))
    assert (metrics.persons, metrics.events) == (2, 3)
    assert metrics.hit_rate_at_10 == pytest.approx((0.5 + 1) / 2)
    assert metrics.ndcg_at_10 == pytest.approx((0.5 + 1 / np.log2(3)) / 2)
    assert metrics.mrr == pytest.approx(((1 + 1 / 13) / 2 + 0.5) / 2)
