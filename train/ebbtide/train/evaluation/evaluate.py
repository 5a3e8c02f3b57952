"""Puts an evaluation together: a model's or a file's lists, every metric with its interval, and two models compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ebbtide.data.errors import DataError
from ebbtide.interest.online import OnlineLearning
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.evaluation.accuracy import METRICS, Floats, accuracy, user_means
from ebbtide.train.evaluation.beyond import Beyond, beyond_accuracy
from ebbtide.train.evaluation.breakdowns import (
    Breakdown,
    breakdowns,
    gap_days,
    history_events,
    interest_age_days,
)
from ebbtide.train.evaluation.intervals import Difference, Estimate, estimate, paired
from ebbtide.train.evaluation.learned import Learned, learned
from ebbtide.train.evaluation.lists import LENGTH, RankedLists, rank_baskets, read_predictions
from ebbtide.train.evaluation.online import OnlineReplay
from ebbtide.train.evaluation.ratings import Ratings, predicted_ratings, rating_errors
from ebbtide.train.evaluation.scores import CONTEXT_EVENTS, frozen_popularity, live_popularity
from ebbtide.train.evaluation.testset import TestSet
from ebbtide.train.popularity import Popularity

COLD_EVENTS = 5
"""Items with at most so many training events are cold or of the long tail."""


@dataclass(frozen=True)
class Cold:
    """Lists over the whole catalog, judged by the cold items alone."""

    users: int
    baskets: int
    """Baskets with a cold item."""
    ndcg_at_10: Estimate
    """NaN without such a basket."""


@dataclass(frozen=True)
class Evaluation:
    """Everything measured on one model's lists."""

    users: int
    baskets: int
    events: int
    """Relevant items in all."""
    metrics: dict[str, Estimate]
    """By the names of `METRICS`."""
    beyond: Beyond
    cold: Cold
    breakdowns: list[Breakdown]
    user_values: dict[str, Floats]
    """Each metric of each user, ``[users]``, for paired tests."""
    predicted: dict[str, int]
    """Number of baskets of each user, by user id, in the order of `user_values`."""

    @property
    def means(self) -> dict[str, float]:
        """The mean of each of `metrics`."""
        return {name: found.mean for name, found in self.metrics.items()}


@dataclass(frozen=True)
class Run:
    """A bundle with the lists it gave."""

    bundle: InterestBundle
    test: TestSet
    lists: RankedLists
    repeats: bool
    all_events: bool
    """Whether all events of a user counted, not the newest of them."""
    evaluation: Evaluation
    learned: Learned
    ratings: Ratings | None
    """None for a bundle that was trained to rank."""


@dataclass(frozen=True)
class Online:
    """The same test baskets again, with each user's alpha offset adapted after every basket."""

    learning_rate: float
    metrics: dict[str, float]
    """Means over users, by the names of `METRICS`."""
    differences: dict[str, Difference]
    """Online minus without, by metric."""
    offset: npt.NDArray[np.float32]
    """``[users]``: the offset of each test user after the last basket."""


def evaluate_lists(
    test: TestSet,
    lists: RankedLists,
    text_vectors: npt.NDArray[np.float32],
    seed: int = 0,
    age_days: Floats | None = None,
) -> Evaluation:
    """Measures lists of any recommender.

    Args:
        test: Split log.
        lists: One for each of its baskets.
        text_vectors: ``[items, width]``, for diversity and for the age of the matching interest.
        seed: Of all random draws.
        age_days: ``[baskets]``, from `interest_age_days`, which is the same for every model; None finds it here.
    """
    if age_days is None:
        age_days = interest_age_days(test.log, test.baskets, test.relevance, text_vectors, seed)
    values = accuracy(lists, test.relevance)
    user_values = {name: user_means(test.owner, column) for name, column in values.items()}
    return Evaluation(
        users=np.unique(test.owner).size,
        baskets=len(test.baskets),
        events=test.relevance.item.shape[0],
        metrics={name: estimate(column, seed) for name, column in user_values.items()},
        beyond=beyond_accuracy(lists, test.relevance, test.owner, test.training_item, test.training_user, text_vectors),
        cold=_cold(test, lists, seed),
        breakdowns=breakdowns(test.log, test.baskets, test.owner, values["ndcg_at_10"], age_days, seed),
        user_values=user_values,
        predicted={
            test.log.users[user]: int(count)
            for user, count in zip(*np.unique(test.owner, return_counts=True), strict=True)
        },
    )


def cold_values(test: TestSet, lists: RankedLists) -> tuple[Floats, npt.NDArray[np.int64]]:
    """NDCG@10 on cold items of each user with one, ``[users]``, and each such basket's user."""
    relevance = test.relevance.only(test.seldom(COLD_EVENTS))
    met = relevance.counts > 0
    ndcg = accuracy(lists, relevance)["ndcg_at_10"]
    return user_means(test.owner[met], ndcg[met]), test.owner[met]


def _cold(test: TestSet, lists: RankedLists, seed: int) -> Cold:
    values, owner = cold_values(test, lists)
    return Cold(values.shape[0], owner.shape[0], estimate(values, seed))


def rank_bundle(
    bundle: InterestBundle,
    test: TestSet,
    *,
    frozen: bool,
    repeats: bool | None,
    all_events: bool = False,
    progress: Callable[[int], None] | None = None,
    length: int = LENGTH,
) -> tuple[RankedLists, npt.NDArray[np.float32], bool]:
    """Ranks with a bundle; arguments and errors as for `evaluate_bundle`, and the length of the lists.

    Returns:
        The lists; the alpha of each basket ``[baskets]``; and whether seen items may be in the lists.
    """
    model = bundle.model
    if test.catalog.item_id != bundle.catalog.item_id:
        raise DataError(
            f"catalog: got {len(test.catalog):,} items in {bundle.config.data.catalog or bundle.config.data.events}; "
            f"expected the {len(bundle.catalog):,} that the bundle was trained on: train again"
        )
    repeats = not model.config.exclude_seen if repeats is None else repeats
    lists, alpha = rank_baskets(
        *(model, test.log, test.baskets, _popularity(bundle, test, frozen=frozen)),
        repeats=repeats,
        context_events=None if all_events else CONTEXT_EVENTS,
        progress=progress,
        length=length,
    )
    return lists, alpha, repeats


def evaluate_bundle(
    bundle: InterestBundle,
    test: TestSet,
    *,
    frozen: bool,
    repeats: bool | None,
    all_events: bool = False,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Run:
    """Ranks with a bundle and measures its lists.

    Args:
        bundle: Trained on the events that ``test`` does not hold out.
        test: Split log.
        frozen: Popularity as training left it, instead of kept up to date as events happen.
        repeats: Whether seen items may be in the lists; None for the model's policy.
        all_events: Whether all events of a user count, as in a user's state, not only as many as in a request.
        seed: Of all random draws.
        progress: Called with the number of baskets just ranked.

    Raises:
        DataError: The catalog's file has changed since the bundle was trained.
    """
    lists, alpha, repeats = rank_bundle(
        bundle, test, frozen=frozen, repeats=repeats, all_events=all_events, progress=progress
    )
    model = bundle.model
    return Run(
        bundle=bundle,
        test=test,
        lists=lists,
        repeats=repeats,
        all_events=all_events,
        evaluation=evaluate_lists(test, lists, bundle.text_vectors, seed),
        learned=learned(model, alpha, gap_days(test.log, test.baskets), history_events(test.log, test.baskets)),
        ratings=_ratings(bundle, test, _popularity(bundle, test, frozen=frozen), seed),
    )


def evaluate_online(
    run: Run,
    learning: OnlineLearning,
    *,
    frozen: bool,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Online:
    """Replays the test baskets of a run through learning online, from offsets of 0.

    Args:
        run: Measured without.
        learning: Of the offsets.
        frozen: As for the run.
        seed: Of all random draws.
        progress: Called with the number of baskets just replayed.

    Raises:
        DataError: The bundle's alpha is fixed.
    """
    model, test = run.bundle.model, run.test
    replay = OnlineReplay(model, test.baskets, test.relevance, test.owner, learning)
    popularity = _popularity(run.bundle, test, frozen=frozen)
    lists, _ = rank_baskets(
        model, test.log, test.baskets, popularity, repeats=run.repeats, progress=progress, learner=replay
    )
    values = {name: user_means(test.owner, column) for name, column in accuracy(lists, test.relevance).items()}
    return Online(
        learning.learning_rate,
        {name: float(column.mean()) for name, column in values.items()},
        {name: paired(column, run.evaluation.user_values[name], seed) for name, column in values.items()},
        replay.offset[np.unique(test.owner)],
    )


def _popularity(bundle: InterestBundle, test: TestSet, *, frozen: bool) -> Popularity | None:
    return frozen_popularity(bundle) if frozen else live_popularity(bundle.model, test.log)


def _ratings(bundle: InterestBundle, test: TestSet, popularity: Popularity | None, seed: int) -> Ratings | None:
    mean = bundle.config.rating_mean
    if mean is None:
        return None
    return rating_errors(test, *predicted_ratings(bundle.model, test, popularity, mean), mean, seed)


def evaluate_file(path: Path, run: Run, seed: int = 0) -> Evaluation:
    """Measures the lists of a predictions file on the baskets of a run.

    Raises:
        DataError: The file is not of the same data and holdout.
    """
    lists = read_predictions(path, run.test.log, run.test.baskets, run.test.catalog)
    return evaluate_lists(run.test, lists, run.bundle.text_vectors, seed)


def check_comparable(ours: InterestBundle, theirs: InterestBundle, folder: Path) -> None:
    """Refuses to compare bundles of other data or another split.

    Raises:
        DataError: Names what differs.
    """
    for name in ("events", "user_column", "item_column", "time_column", "target_types", "holdout"):
        mine, other = getattr(ours.config.data, name), getattr(theirs.config.data, name)
        if mine != other:
            raise DataError(f"{folder}: {name}: got {other!r}; expected {mine!r} as in the bundle to compare with")
    if ours.catalog.item_id != theirs.catalog.item_id:
        raise DataError(
            f"{folder}: catalog: got other items than the bundle to compare with; train both on one catalog"
        )


def compare(ours: Evaluation, theirs: Evaluation, seed: int = 0) -> dict[str, Difference]:
    """The paired difference of every metric, over the same users.

    Raises:
        DataError: The evaluations are not of the same baskets.
    """
    if ours.predicted != theirs.predicted:
        raise DataError(
            f"compare: got {theirs.users:,} users with {theirs.baskets:,} baskets; expected the {ours.users:,} users "
            f"with {ours.baskets:,} baskets of the other evaluation: measure both on one TestSet"
        )
    return {name: paired(ours.user_values[name], theirs.user_values[name], seed) for name in METRICS}
