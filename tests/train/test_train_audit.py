"""The audit's numbers against small examples worked out by hand, and against what must hold of them."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.data.catalog import Catalog
from ebbtide.data.errors import DataError
from ebbtide.train.audit.audit import audit
from ebbtide.train.audit.exposure import (
    RANKS,
    attention,
    exposure_shares,
    gini,
    gini_of_users,
    item_exposure,
    relevant_shares,
)
from ebbtide.train.audit.groups import MISSING, activity_tiers, by_value, contrast, popularity_tiers
from ebbtide.train.evaluation.intervals import RESAMPLES, estimate, interval_of, paired, resampled_means
from ebbtide.train.evaluation.lists import LENGTH, NO_ITEM, RankedLists
from ebbtide.train.evaluation.relevance import Relevance
from ebbtide.train.evaluation.segments import MOST_SEGMENTS, OTHER
from ebbtide.train.evaluation.testset import TestSet

DAY = 86_400_000


def lists_of(*rows):
    item = np.full((len(rows), LENGTH), NO_ITEM, dtype=np.int64)
    for index, row in enumerate(rows):
        item[index, : len(row)] = row
    return RankedLists(item, np.where(item == NO_ITEM, -np.inf, -np.arange(LENGTH)).astype(np.float32))


def values_of(**values):
    """Values by member, several with ``|`` between them."""
    rows = [(member, value) for member, joined in values.items() for value in joined.split("|")]
    return pl.DataFrame(rows, schema={"id": pl.String, "value": pl.String}, orient="row")


def column(groups, label):
    return groups.weight[:, groups.labels.index(label)].tolist()


random_lists = st.integers(1, 12).flatmap(
    lambda items: st.tuples(
        st.just(items),
        st.lists(
            st.tuples(st.integers(0, 4), st.permutations(range(items)).map(lambda order: order[:LENGTH])),
            min_size=1,
            max_size=8,
        ),
    )
)


def test_attention_falls_with_the_rank_and_sums_to_one():
    found = attention(lists_of([5, 6, 7], [], list(range(20))))
    gain = 1 / np.log2([2, 3, 4])
    assert found[0, :3].tolist() == pytest.approx((gain / gain.sum()).tolist())
    assert found.shape == (3, RANKS)
    assert found.sum(1).tolist() == pytest.approx([1, 0, 1])


def test_exposure_and_relevance_are_shares_by_hand():
    # Items 0 and 1 are of the first group, 2 of the second, 3 of each by half. User 7 has two baskets.
    weight = np.array([[1, 0], [1, 0], [0, 1], [0.5, 0.5]])
    owner = np.array([7, 7, 9])
    found = exposure_shares(lists_of([0], [2], [3, 2]), owner, weight)
    first = 1 / (1 + 1 / np.log2(3))
    assert found[0].tolist() == pytest.approx([0.5, 0.5])
    assert found[1].tolist() == pytest.approx([first / 2, 1 - first / 2])
    relevance = Relevance(np.array([0, 2, 3, 4]), np.array([0, 2, 2, 3]))
    assert relevant_shares(relevance, owner, weight).tolist() == [[0.25, 0.75], [0.5, 0.5]]


def test_gini_is_zero_when_all_items_have_the_same_exposure_and_highest_when_one_has_all():
    assert gini(np.full(7, 0.3)) == pytest.approx(0)
    assert gini(np.eye(5)[2]) == pytest.approx(4 / 5)
    # By hand: |differences| of all ordered pairs are 2 * (1 + 3 + 2), over 2 n^2 times the mean of 5 / 3.
    assert gini(np.array([3.0, 0.0, 1.0]) + 1 / 3) == pytest.approx(12 / (2 * 9 * (5 / 3)))
    assert np.isnan(gini(np.zeros(4)))


@given(random_lists)
def test_gini_is_the_mean_over_users_and_shares_sum_to_one(drawn):
    items, rows = drawn
    owner = np.sort([user for user, _ in rows])
    lists = lists_of(*(row for _, row in rows))
    exposure = item_exposure(lists, owner, items)
    assert exposure.sum() == pytest.approx(1)
    assert gini_of_users(lists, owner, items).mean() == pytest.approx(gini(exposure), abs=1e-12)
    weight = np.random.default_rng(items).dirichlet([1, 1, 1], items)
    shares = exposure_shares(lists, owner, weight)
    assert shares.sum(1).tolist() == pytest.approx([1] * len(shares))
    assert shares.mean(0).tolist() == pytest.approx((exposure @ weight).tolist())


def test_interval_of_gini_is_as_wide_as_the_spread_over_draws_of_the_users():
    random = np.random.default_rng(0)
    popular = random.dirichlet(np.full(60, 0.5))

    def drawn(users):
        return lists_of(*(random.choice(60, RANKS, replace=False, p=popular) for _ in range(users))), np.arange(users)

    spread = np.std([gini_of_users(*drawn(300), 60).mean() for _ in range(100)])
    found = estimate(gini_of_users(*drawn(300), 60), 0)
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.3)


def test_popularity_tiers_part_the_events_and_keep_ties_together():
    tiers = popularity_tiers(np.array([0, 50, 20, 10, 10, 5, 3, 2]))
    assert tiers.labels == ("head", "middle", "tail", "new")
    assert column(tiers, "new") == [1, 0, 0, 0, 0, 0, 0, 0]
    # Above the items of 10 events are 70 %, above those of 5 are 90 %.
    assert column(tiers, "head") == [0, 1, 0, 0, 0, 0, 0, 0]
    assert column(tiers, "middle") == [0, 0, 1, 1, 1, 0, 0, 0]
    assert column(tiers, "tail") == [0, 0, 0, 0, 0, 1, 1, 1]
    assert popularity_tiers(np.array([4, 4, 4])).labels == ("head",)


def test_activity_tiers_are_thirds_of_the_tested_users():
    tiers = activity_tiers(np.array([1, 2, 3, 4, 5, 6, 900]), np.array([1, 1, 1, 1, 1, 1, 0], dtype=bool))
    assert tiers.labels == ("1 to 2 events", "3 to 4 events", "5 events or more")
    assert tiers.weight.argmax(1).tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert activity_tiers(np.array([4, 4, 4]), np.ones(3, dtype=bool)).labels == ("1 to 4 events",)


def test_missing_value_is_a_group_of_its_own_and_rows_sum_to_one():
    groups = by_value("genre", "", values_of(a="x|y", b="x", d="z"), ["a", "b", "c", "d"], np.array([1, 1, 1, 5]))
    assert groups.labels == ("z", "x", "y", MISSING)
    assert column(groups, "x") == [0.5, 1, 0, 0]
    assert column(groups, MISSING) == [0, 0, 1, 0]
    assert groups.weight.sum(1).tolist() == [1, 1, 1, 1]


def test_values_beyond_the_most_important_are_one_group():
    ids = [f"i{index}" for index in range(30)]
    groups = by_value("shop", "", values_of(**{one: f"shop {one}" for one in ids}), ids, np.arange(30))
    assert groups.labels[0] == "shop i29"
    assert groups.labels[-1] == OTHER
    assert len(groups.labels) == MOST_SEGMENTS + 1
    assert sum(column(groups, OTHER)) == 30 - MOST_SEGMENTS


def test_missing_value_is_neither_protected_nor_unprotected():
    groups = contrast("sex", "", values_of(a="f|m", b="m", d="f"), ["a", "b", "c", "d"], "f")
    assert groups.labels == ("f", "not f", MISSING)
    assert groups.weight.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize(
    ("values", "protected", "message"),
    [
        ({"a": "x", "b": "y"}, "z", "got sex=z, which nobody has; expected a value such as 'x', 'y'"),
        ({"a": "x"}, "x", "got sex=x, which all have"),
        ({"q": "x"}, "x", "got no value for any of the 2 ids such as 'a', 'b'"),
    ],
)
def test_contrast_is_refused_when_a_side_of_it_is_empty(values, protected, message):
    with pytest.raises(DataError, match=message):
        contrast("sex", "", values_of(**values), ["a", "b"], protected)


def test_resampled_means_have_the_interval_of_the_bootstrap_and_ratios_may_be_infinite():
    values = np.random.default_rng(3).exponential(1.0, (200, 2))
    drawn = resampled_means(values, 0)
    assert drawn.shape == (1 + RESAMPLES, 2)
    for index in range(2):
        found, scipy = interval_of(drawn[:, index]), estimate(values[:, index], 0)
        assert found.mean == pytest.approx(scipy.mean)
        assert (found.low, found.high) == pytest.approx((scipy.low, scipy.high), rel=0.02)
    difference, scipy = interval_of(drawn[:, 0] - drawn[:, 1]), paired(values[:, 0], values[:, 1], 0)
    assert (difference.low, difference.high) == pytest.approx((scipy.low, scipy.high), abs=0.02)
    assert interval_of(np.array([1.0, *[0.5] * 900, *[np.inf] * 100, np.nan])).high == np.inf
    assert np.isnan(interval_of(np.array([np.nan, 1.0])).low)


def hand_made():
    """Four users with three training events and one test event each; items 0 to 5, of which 5 has no event before."""
    users = np.repeat(np.arange(4), 4)
    item = np.array([0, 1, 2, 3, 0, 1, 3, 5, 0, 2, 1, 0, 0, 1, 4, 2])
    time = np.tile([0, DAY, 2 * DAY, 9 * DAY], 4)
    frame = pl.DataFrame({"user": [f"u{u}" for u in users], "item": [f"i{i}" for i in item], "time_ms": time})
    from ebbtide.data.events import build_log

    log = build_log(frame.with_columns(weight=pl.lit(1.0, pl.Float32)), {f"i{i}": i for i in range(6)})
    ids = [f"i{i}" for i in range(6)]
    return TestSet.of(log, Catalog(ids, ids, ids), "leave-last-out")


def test_audit_by_hand_before_and_after():
    test = hand_made()
    assert test.relevance.item.tolist() == [3, 5, 0, 2]
    before = lists_of([3, 0], [0, 1], [0, 1], [0, 1])
    after = lists_of([3, 5], [5, 1], [0, 5], [5, 2])
    shop = by_value("shop", "By shop", values_of(i0="a", i1="a", i3="b", i5="b"), test.catalog.item_id, np.ones(6, int))
    young = contrast("age", "By age", values_of(u0="young", u1="young", u2="old"), list(test.log.users), "young")
    found = audit(test, before, after, [shop], [young])
    second = 1 / np.log2(3)
    assert found.ndcg_at_10.before.mean == pytest.approx((1 + 0 + 1 + 0) / 4)
    assert found.ndcg_at_10.after.mean == pytest.approx((1 + 1 + 1 + second) / 4)
    assert found.ndcg_at_10.difference.mean == pytest.approx((1 + second) / 4)
    assert found.coverage_at_10 == (3 / 6, 5 / 6)
    assert found.gini.difference.mean < 0
    by_shop, groups = found.item_audits[1], {row.label: row for row in found.item_audits[1].groups}
    assert by_shop.contrast is None
    first = 1 / (1 + second)
    b = groups["b"]
    assert (b.items, b.users, b.catalog_share) == (2, 2, pytest.approx(2 / 6))
    assert b.relevant_share.mean == pytest.approx(0.5)
    assert b.exposure_share.before.mean == pytest.approx(first / 4)
    assert b.exposure_share.after.mean == pytest.approx((1 + first + (1 - first) + first) / 4)
    assert b.exposure_to_catalog.before.mean == pytest.approx(first / 4 * 3)
    assert b.exposure_to_relevant.before.mean == pytest.approx(first / 4 * 2)
    assert b.ndcg_at_10.before.mean == pytest.approx(0.5)
    assert b.ndcg_at_10.after.mean == pytest.approx(1)
    assert groups[MISSING].relevant_share.mean == pytest.approx(0.25)
    assert sum(row.exposure_share.after.mean for row in groups.values()) == pytest.approx(1)
    assert sum(row.relevant_share.mean for row in groups.values()) == pytest.approx(1)
    by_age = found.user_audits[-1]
    assert [row.label for row in by_age.groups] == ["young", "not young", MISSING]
    assert [row.users for row in by_age.groups] == [2, 1, 1]
    # The user without a value has the worst list, which counts for neither.
    assert by_age.ndcg_difference.before.mean == pytest.approx(0.5 - 1)
    assert np.isnan(by_age.groups[2].ndcg_at_10.before.low)


def test_audit_contrast_compares_exposure_per_relevant_item():
    test = hand_made()
    ids = test.catalog.item_id
    shop = contrast("shop", "", values_of(i0="a", i1="a", i2="a", i3="b", i5="b"), ids, "b")
    found = audit(test, lists_of([3], [0], [0], [4]), item_groups=[shop]).item_audits[1].contrast
    # Exposure 1/4 and 2/4, of two relevant items each; two and three items of the catalog.
    assert found.relevant_ratio.before.mean == pytest.approx(1 / 2)
    assert found.catalog_ratio.before.mean == pytest.approx((1 / 4 / 2) / (2 / 4 / 3))
    assert found.relevant_ratio.after is None


def test_audit_says_nothing_of_the_ratio_when_no_item_of_the_group_is_relevant():
    test = hand_made()
    shop = by_value("shop", "", values_of(i0="a", i1="c"), test.catalog.item_id, np.ones(6, int))
    [row] = [
        row
        for row in audit(test, lists_of([1], [0], [0], [0]), item_groups=[shop]).item_audits[1].groups
        if row.label == "c"
    ]
    assert row.relevant_share.mean == 0
    assert row.exposure_to_relevant.before.mean == np.inf
    assert np.isnan(row.exposure_to_relevant.before.low)
    assert np.isnan(row.ndcg_at_10.before.mean)


def test_same_lists_differ_in_nothing():
    test = hand_made()
    lists = lists_of([3, 0], [0, 1], [0, 1], [0, 1])
    found = audit(test, lists, lists)
    for row in found.item_audits[0].groups:
        assert (row.exposure_share.difference.low, row.exposure_share.difference.high) == (0, 0)
