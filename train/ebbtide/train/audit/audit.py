"""Measures which groups of items get exposure and which groups of users get good lists, for one or two sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ebbtide.train.audit.exposure import (
    RANKS,
    concentration,
    exposure_shares,
    gini_of_users,
    item_exposure,
    relevant_shares,
)
from ebbtide.train.audit.groups import HEAD, Groups, activity_tiers, newness, popularity_tiers
from ebbtide.train.evaluation.accuracy import accuracy, user_means
from ebbtide.train.evaluation.intervals import Estimate, interval_of, resampled_means
from ebbtide.train.evaluation.lists import NO_ITEM, RankedLists
from ebbtide.train.evaluation.relevance import Relevance
from ebbtide.train.evaluation.testset import TestSet

Floats = npt.NDArray[np.float64]

_NDCG = ("ndcg_at_10", "hit_rate_at_10")
"""ranx gives no dictionary for one metric alone."""
_POINTS = 60
"""Of the curve of concentration."""
_FEWEST_USERS = 2
"""Users of a group that an interval needs."""


@dataclass(frozen=True)
class Compared:
    """One number of the lists, and of the lists after a constraint; 95 % intervals by bootstrap over users."""

    before: Estimate
    after: Estimate | None = None
    difference: Estimate | None = None
    """After minus before, paired over users."""


@dataclass(frozen=True)
class ItemGroup:
    """What the lists do with a group of items."""

    label: str
    items: int
    users: int
    """Those with a relevant item of the group."""
    catalog_share: float
    """Share of the catalog's items."""
    relevant_share: Estimate
    """Share of the relevant items, the mean over users."""
    exposure_share: Compared
    """Share of the exposure, the mean over users."""
    exposure_to_catalog: Compared
    """Ratio of the shares; 1 if every item gets the same exposure."""
    exposure_to_relevant: Compared
    """Ratio of the shares; 1 if exposure is in proportion to what users interact with. NaN if no item is relevant."""
    ndcg_at_10: Compared
    """Of lists over the whole catalog, judged by the relevant items of the group alone."""


@dataclass(frozen=True)
class ItemContrast:
    """The protected items against the unprotected ones; items without a value count as neither."""

    catalog_ratio: Compared
    """Exposure per item of the catalog, protected over unprotected."""
    relevant_ratio: Compared
    """Exposure per relevant item, protected over unprotected: the disparate treatment ratio of Singh and Joachims, KDD
    2018, section 3.2, with interactions as merit."""
    ndcg_difference: Compared
    """NDCG@10, protected minus unprotected."""


@dataclass(frozen=True)
class ItemAudit:
    """The groups of one attribute of items."""

    name: str
    title: str
    groups: list[ItemGroup]
    contrast: ItemContrast | None


@dataclass(frozen=True)
class UserGroup:
    """How a group of users is served."""

    label: str
    users: int
    baskets: int
    ndcg_at_10: Compared
    head_relevant: Estimate
    """Share of the head, the most popular items, in their relevant items."""
    head_exposure: Compared
    """Share of the head in the exposure of their lists."""


@dataclass(frozen=True)
class UserAudit:
    """The groups of one attribute of users."""

    name: str
    title: str
    groups: list[UserGroup]
    ndcg_difference: Compared | None
    """NDCG@10 of protected minus unprotected users; None where nobody is protected."""


@dataclass(frozen=True)
class Concentration:
    """Share of the exposure that the most exposed items get together."""

    items: list[int]
    before: list[float]
    after: list[float] | None = None


@dataclass(frozen=True)
class Audit:
    """Everything measured."""

    users: int
    baskets: int
    items: int
    ndcg_at_10: Compared
    gini: Compared
    """Of the items' exposure over the whole catalog."""
    coverage_at_10: tuple[float, float | None]
    """Share of the catalog in at least one list, before and after."""
    concentration: Concentration
    item_audits: list[ItemAudit]
    user_audits: list[UserAudit]


@dataclass(frozen=True)
class _Side:
    """One set of lists, with what many groups need of it."""

    lists: RankedLists
    test: TestSet

    @cached_property
    def ndcg(self) -> Floats:
        """``[baskets]``."""
        return self.ndcg_of(self.test.relevance)

    def ndcg_of(self, relevance: Relevance) -> Floats:
        """``[baskets]``; 0 where nothing is relevant."""
        return accuracy(self.lists, relevance, _NDCG)["ndcg_at_10"]

    def exposure(self, weight: Floats) -> Floats:
        """``[users, groups]``."""
        return exposure_shares(self.lists, self.test.owner, weight)

    def coverage(self) -> float:
        """Share of the catalog in at least one list."""
        shown = self.lists.item[:, :RANKS]
        return float(np.unique(shown[shown != NO_ITEM]).size / len(self.test.catalog))


def audit(
    test: TestSet,
    before: RankedLists,
    after: RankedLists | None = None,
    item_groups: Sequence[Groups] = (),
    user_groups: Sequence[Groups] = (),
    seed: int = 0,
) -> Audit:
    """Audits lists by popularity, by activity and by further groups.

    Args:
        test: Split log.
        before: One list for each of its baskets.
        after: The same baskets, ranked with a constraint.
        item_groups: Further groups of the catalog's items.
        user_groups: Further groups of the log's users.
        seed: Of the intervals.
    """
    sides = [_Side(lists, test) for lists in (before, after) if lists is not None]
    tiers = built_in_item_groups(test)
    head = tiers.weight[:, [tiers.labels.index(HEAD)]]
    items = len(test.catalog)
    overall = [_resampled([user_means(test.owner, side.ndcg)], seed)[:, 0] for side in sides]
    ginis = [_resampled([gini_of_users(side.lists, test.owner, items)], seed)[:, 0] for side in sides]
    return Audit(
        users=np.unique(test.owner).size,
        baskets=len(test.baskets),
        items=items,
        ndcg_at_10=_compared(overall),
        gini=_compared(ginis),
        coverage_at_10=(sides[0].coverage(), sides[1].coverage() if len(sides) > 1 else None),
        concentration=_concentration(sides, items),
        item_audits=[_of_items(groups, test, sides, seed) for groups in (tiers, *item_groups)],
        user_audits=[
            _of_users(groups, test, sides, head, seed) for groups in (*built_in_user_groups(test), *user_groups)
        ],
    )


def _concentration(sides: Sequence[_Side], items: int) -> Concentration:
    counts = np.unique(np.geomspace(1, items, _POINTS).round().astype(np.int64))
    found = [concentration(item_exposure(side.lists, side.test.owner, items), counts).tolist() for side in sides]
    return Concentration(counts.tolist(), *found)


def built_in_item_groups(test: TestSet) -> Groups:
    """Items by popularity, from the training events."""
    return popularity_tiers(np.bincount(test.training_item, minlength=len(test.catalog)))


def built_in_user_groups(test: TestSet) -> list[Groups]:
    """Users by activity, and new users where there are some and others."""
    users = len(test.log.users)
    tested = np.zeros(users, dtype=np.bool_)
    tested[test.owner] = True
    activity = activity_tiers(np.diff(test.log.start), tested)
    new = newness(np.bincount(test.training_user, minlength=users))
    is_mixed = new.weight[tested].any(0).all() and len(new.labels) > 1
    return [activity, *([new] if is_mixed else [])]


def _of_items(groups: Groups, test: TestSet, sides: Sequence[_Side], seed: int) -> ItemAudit:
    count = len(groups.labels)
    inside = groups.weight > 0
    relevances = [test.relevance.only(inside[:, group]) for group in range(count)]
    met = user_means(test.owner, np.stack([one.counts > 0 for one in relevances], axis=1).astype(np.float64)) > 0
    columns = [relevant_shares(test.relevance, test.owner, groups.weight), met.astype(np.float64)]
    for side in sides:
        columns += [side.exposure(groups.weight), _ndcg_by_group(side, relevances)]
    drawn = np.split(_resampled(columns, seed), len(columns), axis=1)
    relevant, users = drawn[:2]
    exposures, ndcgs = drawn[2::2], [_ratio(one, users) for one in drawn[3::2]]
    catalog = groups.weight.mean(0)
    to_catalog = [_ratio(one, catalog) for one in exposures]
    to_relevant = [_ratio(one, relevant) for one in exposures]
    found = [
        ItemGroup(
            label=label,
            items=int(inside[:, group].sum()),
            users=int(met[:, group].sum()),
            catalog_share=float(catalog[group]),
            relevant_share=interval_of(relevant[:, group]),
            exposure_share=_compared([one[:, group] for one in exposures]),
            exposure_to_catalog=_compared([one[:, group] for one in to_catalog]),
            exposure_to_relevant=_compared([one[:, group] for one in to_relevant], int(met[:, group].sum())),
            ndcg_at_10=_compared([one[:, group] for one in ndcgs], int(met[:, group].sum())),
        )
        for group, label in enumerate(groups.labels)
    ]
    contrast = None
    if groups.is_contrast:
        fewest = int(met[:, :2].sum(0).min())
        contrast = ItemContrast(
            catalog_ratio=_compared([_ratio(one[:, 0], one[:, 1]) for one in to_catalog]),
            relevant_ratio=_compared([_ratio(one[:, 0], one[:, 1]) for one in to_relevant], fewest),
            ndcg_difference=_compared([one[:, 0] - one[:, 1] for one in ndcgs], fewest),
        )
    return ItemAudit(groups.name, groups.title, found, contrast)


def _ndcg_by_group(side: _Side, relevances: Sequence[Relevance]) -> Floats:
    """NDCG@10 of each user by the relevant items of each group, ``[users, groups]``; 0 for users who met none."""
    _, user = np.unique(side.test.owner, return_inverse=True)
    columns = []
    for relevance in relevances:
        met = relevance.counts > 0
        sums = np.bincount(user[met], weights=side.ndcg_of(relevance)[met], minlength=user.max() + 1)
        columns.append(sums / np.maximum(np.bincount(user[met], minlength=user.max() + 1), 1))
    return np.stack(columns, axis=1)


def _of_users(groups: Groups, test: TestSet, sides: Sequence[_Side], head: Floats, seed: int) -> UserAudit:
    tested, user = np.unique(test.owner, return_inverse=True)
    weight = groups.weight[tested]
    shown = np.flatnonzero(weight.any(0))
    inside = weight[:, shown]
    columns = [inside, inside * relevant_shares(test.relevance, test.owner, head)]
    for side in sides:
        columns += [inside * user_means(test.owner, side.ndcg)[:, None], inside * side.exposure(head)]
    drawn = np.split(_resampled(columns, seed), len(columns), axis=1)
    relevant = _ratio(drawn[1], drawn[0])
    ndcgs, heads = ([_ratio(one, drawn[0]) for one in drawn[start::2]] for start in (2, 3))
    users = inside.sum(0).astype(np.int64)
    found = [
        UserGroup(
            label=groups.labels[group],
            users=int(users[index]),
            baskets=int(inside[user, index].sum()),
            ndcg_at_10=_compared([one[:, index] for one in ndcgs], int(users[index])),
            head_relevant=_compared([relevant[:, index]], int(users[index])).before,
            head_exposure=_compared([one[:, index] for one in heads], int(users[index])),
        )
        for index, group in enumerate(shown.tolist())
    ]
    difference = None
    if groups.is_contrast and shown[:2].tolist() == [0, 1]:
        difference = _compared([one[:, 0] - one[:, 1] for one in ndcgs], int(users[:2].min()))
    return UserAudit(groups.name, groups.title, found, difference)


def _resampled(columns: Sequence[Floats], seed: int) -> Floats:
    """`resampled_means` of columns ``[users]`` or ``[users, groups]`` beside each other."""
    return resampled_means(np.column_stack(columns), seed)


def _ratio(above: Floats, below: Floats) -> Floats:
    """Infinite above nothing, NaN of nothing above nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(above / below)


def _compared(statistics: Sequence[Floats], users: int = _FEWEST_USERS) -> Compared:
    """One or two statistics of the same resamples, ``[1 + RESAMPLES]`` each.

    Args:
        statistics: Before, and after if there are such lists.
        users: Of the group; too few have no interval.
    """
    with np.errstate(invalid="ignore"):
        found = [*statistics, *([statistics[1] - statistics[0]] if len(statistics) > 1 else [])]
    estimates = [interval_of(one) for one in found]
    if users < _FEWEST_USERS:
        estimates = [Estimate(one.mean, float("nan"), float("nan")) for one in estimates]
    return Compared(*estimates)
