"""The evaluation protocol of every model.

Settings are chosen on the validation period T1 to T2, after fitting on the events before T1. The test period begins at
the split time T2; models are fitted again on all events before T2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from ebbtide.data.baskets import Baskets, in_turn
from ebbtide.data.catalog import Catalog
from ebbtide.data.events import EventLog
from ebbtide.data.splits import after_time, held_out
from ebbtide.train.evaluation.accuracy import accuracy, user_means
from ebbtide.train.evaluation.lists import LENGTH, NO_ITEM, RankedLists
from ebbtide.train.evaluation.relevance import Relevance
from ebbtide.train.evaluation.testset import TestSet

VALIDATION_FRACTION = 0.1
"""Share of the events before T2, by time; Ebbtide's trainer uses the same share for early stopping."""
_SCORES_PER_BATCH = 1 << 25

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

Scorer = Callable[[Ints], Floats]
"""Gives scores ``[baskets, items]`` for the indices ``[baskets]`` of test baskets; called in order of
their timestamps."""


@dataclass(frozen=True, eq=False)
class Split:
    """A test set and the policy on seen items; compares by identity, so that results for it can be cached."""

    test: TestSet
    repeats: bool
    """Whether seen items may be recommended."""

    @property
    def training(self) -> npt.NDArray[np.bool_]:
        """``[events]``, whether a model may be fitted on each of the log's events."""
        return ~self.test.is_test

    @property
    def training_end_ms(self) -> int:
        """The split time: the timestamp of the first test event."""
        return int(self.test.log.time_ms[self.test.is_test].min())

    def drawn(self, at_most: int, seed: int = 0) -> Split:
        """The same split with so many of its baskets, of each user in turn."""
        test = self.test
        if len(test.baskets) <= at_most:
            return self
        chosen = np.sort(in_turn(test.owner, seed)[:at_most])
        baskets = Baskets(test.baskets.head[chosen], test.baskets.stop[chosen])
        fewer = replace(test, baskets=baskets, relevance=Relevance.of(test.log, baskets), owner=test.owner[chosen])
        return replace(self, test=fewer)

    def history(self, case: int) -> slice:
        """Log indices of the user's events strictly before a test basket."""
        return slice(int(self.test.log.start[self.test.owner[case]]), int(self.test.baskets.head[case]))


def splits(log: EventLog, catalog: Catalog, holdout: str, repeats: bool) -> tuple[Split, Split]:
    """The validation split, which has no event after T2, and the test split."""
    test = held_out(log, holdout)
    before = events_of(log, ~test)
    validation = after_time(before, VALIDATION_FRACTION)
    return (
        Split(TestSet.where(before, catalog, validation), repeats),
        Split(TestSet.where(log, catalog, test), repeats),
    )


def events_of(log: EventLog, keep: npt.NDArray[np.bool_]) -> EventLog:
    """The log of the given events, without users who have none of them."""
    counts = np.bincount(log.user[keep], minlength=len(log.users))
    present = counts > 0
    return EventLog(
        users=[user for user, is_present in zip(log.users, present.tolist(), strict=True) if is_present],
        start=np.concatenate([[0], np.cumsum(counts[present])]).astype(np.int64),
        item=log.item[keep],
        time_ms=log.time_ms[keep],
        weight=log.weight[keep],
    )


def rank(split: Split, scorer: Scorer) -> RankedLists:
    """Ranks the items by a scorer for every test basket, without seen items unless the split allows them."""
    test = split.test
    item = np.full((len(test.baskets), LENGTH), NO_ITEM, dtype=np.int64)
    score = np.full((len(test.baskets), LENGTH), -np.inf, dtype=np.float32)
    order = by_time(split)
    rows = max(_SCORES_PER_BATCH // len(test.catalog), 1)
    for start in range(0, order.shape[0], rows):
        cases = order[start : start + rows]
        scores = scorer(cases)
        if not split.repeats:
            for row, case in enumerate(cases.tolist()):
                scores[row, test.log.item[split.history(case)]] = -np.inf
        best = torch.topk(torch.from_numpy(scores), min(LENGTH, scores.shape[1]))
        values = best.values.numpy()
        item[cases, : values.shape[1]] = np.where(np.isfinite(values), best.indices.numpy(), NO_ITEM)
        score[cases, : values.shape[1]] = values
    return RankedLists(item, score)


def by_time(split: Split) -> Ints:
    """The indices of the test baskets, ordered by their timestamps."""
    return np.argsort(split.test.log.time_ms[split.test.baskets.head], kind="stable")


def ndcg_at_10(split: Split, lists: RankedLists) -> float:
    """NDCG@10 averaged over users; the settings of every model are chosen by it."""
    return float(user_means(split.test.owner, accuracy(lists, split.test.relevance)["ndcg_at_10"]).mean())
