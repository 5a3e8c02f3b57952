"""Every metric against a small example worked out by hand, and the statistics against what must hold of them."""

import numpy as np
import pytest

from ebbtide.data.baskets import Baskets
from ebbtide.data.catalog import Catalog
from ebbtide.data.events import EventLog
from ebbtide.train.evaluation.accuracy import METRICS, accuracy, user_means
from ebbtide.train.evaluation.beyond import beyond_accuracy
from ebbtide.train.evaluation.breakdowns import breakdowns, gap_days, history_events, interest_age_days
from ebbtide.train.evaluation.intervals import estimate, paired
from ebbtide.train.evaluation.lists import LENGTH, NO_ITEM, RankedLists
from ebbtide.train.evaluation.ratings import rating_errors
from ebbtide.train.evaluation.relevance import Relevance
from ebbtide.train.evaluation.testset import TestSet

DAY = 86_400_000


def lists_of(*rows):
    item = np.full((len(rows), LENGTH), NO_ITEM, dtype=np.int64)
    for index, row in enumerate(rows):
        item[index, : len(row)] = row
    return RankedLists(item, np.where(item == NO_ITEM, -np.inf, -np.arange(LENGTH)).astype(np.float32))


def relevance_of(*sets):
    return Relevance(
        np.cumsum([0, *map(len, sets)]), np.array([item for items in sets for item in sorted(items)], dtype=np.int64)
    )


def test_accuracy_equals_the_metrics_by_hand():
    # Items 7 and 1 of the three relevant ones are at ranks 2 and 6; then a miss; then a short list.
    lists = lists_of([3, 7, 9, 2, 4, 1, *range(20, 34)], [5, 6], [8])
    found = accuracy(lists, relevance_of({7, 1, 50}, {0}, {8}))
    gain = 1 / np.log2(np.arange(2, 22))
    by_hand = {
        "precision_at_5": [1 / 5, 0, 1 / 5],
        "precision_at_10": [2 / 10, 0, 1 / 10],
        "recall_at_5": [1 / 3, 0, 1],
        "recall_at_10": [2 / 3, 0, 1],
        "f1_at_10": [2 * 0.2 * (2 / 3) / (0.2 + 2 / 3), 0, 2 * 0.1 / 1.1],
        "ndcg_at_5": [gain[1] / gain[:3].sum(), 0, 1],
        "ndcg_at_20": [(gain[1] + gain[5]) / gain[:3].sum(), 0, 1],
        "mrr_at_10": [1 / 2, 0, 1],
        "hit_rate_at_5": [1, 0, 1],
    }
    assert set(found) == set(METRICS)
    for name, values in by_hand.items():
        assert found[name].tolist() == pytest.approx(values), name


def test_ndcg_is_one_when_a_basket_longer_than_the_cut_off_fills_the_list():
    found = accuracy(lists_of(list(range(20))), relevance_of(set(range(30))))
    assert found["ndcg_at_10"][0] == pytest.approx(1)
    assert found["recall_at_10"][0] == pytest.approx(1 / 3)


def test_accuracy_counts_nothing_when_no_item_is_relevant():
    assert accuracy(lists_of([1, 2]), relevance_of(set()))["ndcg_at_10"].tolist() == [0]


def test_user_means_weigh_users_alike_whatever_their_baskets():
    means = user_means(np.array([4, 4, 4, 9]), np.array([0.0, 0.0, 1.0, 1.0]))
    assert means.tolist() == pytest.approx([1 / 3, 1])


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    inside = 0
    for trial in range(100):
        found = estimate(random.exponential(1.0, 60), seed=trial)
        assert found.low < found.mean < found.high
        inside += found.low <= 1.0 <= found.high
    assert 85 <= inside <= 99


def test_interval_is_the_same_when_the_seed_is():
    values = np.random.default_rng(1).random(50)
    assert estimate(values, 3) == estimate(values, 3)
    assert estimate(values, 3) != estimate(values, 4)


def test_paired_difference_is_clear_when_everyone_gains_and_not_when_nobody_does():
    random = np.random.default_rng(2)
    theirs = random.random(80)
    better = paired(theirs + 0.05 + 0.02 * random.random(80), theirs, seed=0)
    assert better.low > 0.05
    assert better.p_value < 0.01
    nothing = paired(theirs + 0.1 * random.standard_normal(80), theirs, seed=0)
    assert nothing.low < 0 < nothing.high
    assert nothing.p_value > 0.05
    same = paired(theirs, theirs, seed=0)
    assert (same.mean, same.low, same.high, same.p_value) == (0, 0, 0, 1)


def test_estimate_has_no_interval_when_there_is_one_user():
    found = estimate(np.array([0.4]), 0)
    assert found.mean == 0.4
    assert np.isnan(found.low)
    assert found.interval == "-"


def test_beyond_accuracy_equals_the_definitions_by_hand():
    vectors = np.eye(4, dtype=np.float32)
    vectors[1] = vectors[0]
    # User 0 has two events of item 0 and one of item 1, user 1 has one of item 0; user 0 is shown 0, 1 and user 1 0, 2.
    found = beyond_accuracy(
        lists_of([0, 1], [0, 2]),
        relevance_of({1}, {0}),
        owner=np.array([0, 1]),
        training_item=np.array([0, 0, 1, 0]),
        training_user=np.array([0, 0, 0, 1]),
        text_vectors=vectors,
    )
    assert found.coverage_at_10 == pytest.approx(3 / 4)
    surprise = -np.log2((np.array([2, 1, 0]) + 1) / 3)
    assert found.novelty_at_10 == pytest.approx((surprise[[0, 1]].mean() + surprise[[0, 2]].mean()) / 2)
    assert found.intra_list_diversity_at_10 == pytest.approx((0 + 1) / 2)
    assert found.popularity_bias_at_10 == pytest.approx(((3 + 1) / 2 + (3 + 0) / 2) / 2 / ((1 + 3) / 2))


@pytest.fixture
def dated_log():
    """One user: items 0, 1, 0 and 2 on days 0, 10, 20 and 21; then item 0 on day 60, items 0 and 3 on day 61."""
    times = np.array([0, 10, 20, 21, 60, 61, 61]) * DAY
    return EventLog(["u"], np.array([0, 7]), np.array([0, 1, 0, 2, 0, 0, 3]), times, np.ones(7, np.float32))


def test_gap_history_and_age_of_the_interest_are_measured_from_earlier_events(dated_log):
    baskets = Baskets(np.array([4, 5]), np.array([5, 7]))
    vectors = np.eye(4, dtype=np.float32)
    vectors[3] = [0, 0.9, 0.1, 0]
    assert gap_days(dated_log, baskets).tolist() == [39, 1]
    assert history_events(dated_log, baskets).tolist() == [4, 5]
    ages = interest_age_days(dated_log, baskets, Relevance.of(dated_log, baskets), vectors, seed=0)
    # Item 0 had its last event on day 20, then on day 60; item 3 is most like item 1 of day 10.
    assert ages.tolist() == [40, (1 + 51) / 2]


def test_breakdowns_put_every_basket_into_one_bin(dated_log):
    baskets = Baskets(np.array([4, 5]), np.array([5, 7]))
    found = breakdowns(
        dated_log,
        baskets,
        owner=np.array([0, 0]),
        ndcg_at_10=np.array([0.25, 0.75]),
        age_days=np.array([40.0, np.nan]),
        seed=0,
    )
    gap, history, age = found
    assert [(row.label, row.ndcg_at_10.mean) for row in gap.bins] == [
        ("30 min to 1 day", 0.75),
        ("30 to 180 days", 0.25),
    ]
    assert [(row.label, row.baskets, row.users) for row in history.bins] == [("1 to 5", 2, 1)]
    assert [(row.label, row.baskets) for row in age.bins] == [("30 to 180 days", 1)]


def test_rating_errors_average_users_when_one_has_more_to_rate(random_log):
    catalog = Catalog([f"i{item}" for item in range(12)], [], [])
    test = TestSet.of(random_log, catalog, "time:0.5")
    # User 2 owns events 3 to 32, user 3 events 33 to 39.
    events = np.array([30, 31, 36])
    given = random_log.weight[events].astype(float)
    found = rating_errors(test, events, given + np.array([1.0, -3.0, 0.5]), rating_mean=1.0, seed=0)
    assert found.mae.mean == pytest.approx((2 + 0.5) / 2)
    assert found.rmse.mean == pytest.approx(np.sqrt((5 + 0.25) / 2))
    assert found.rmse.low <= found.rmse.mean <= found.rmse.high
    off = given - 1
    assert found.mae_of_mean == pytest.approx((np.abs(off[:2]).mean() + abs(off[2])) / 2)
    assert found.rmse_of_mean == pytest.approx(np.sqrt((np.square(off[:2]).mean() + off[2] ** 2) / 2))
