"""Popularity baselines: counts over all time, over the last days, or decayed; frozen at the split time or updated."""

from __future__ import annotations

import math

import numpy as np

from benchmarks.quality.split import Floats, Ints, Scorer, Split, rank
from ebbtide.interest.events import MS_PER_DAY
from ebbtide.train.evaluation.lists import RankedLists

_LARGEST_EXPONENT = 600.0
"""Counts carry a factor of 2 ** exponent; they are rescaled at this exponent, before a float64 overflows."""


def popularity(
    split: Split, *, updated: bool, half_life_days: float = math.inf, window_days: float = math.inf
) -> RankedLists:
    """Ranks by the decayed event counts of a time window that ends at each basket, or at the split time if frozen."""
    return rank(split, popularity_scorer(split, updated, half_life_days, window_days))


def popularity_scorer(
    split: Split, updated: bool, half_life_days: float = math.inf, window_days: float = math.inf
) -> Scorer:
    """Scores by popularity: at each basket the counts include all users' events strictly before it."""
    log = split.test.log
    known = np.ones(log.events, dtype=np.bool_) if updated else split.training
    order = np.argsort(log.time_ms[known], kind="stable")
    item, time_ms = log.item[known][order], log.time_ms[known][order]
    counts = _Counts(len(split.test.catalog), item, time_ms, half_life_days, window_days)
    heads = split.test.baskets.head
    split_time_ms = split.training_end_ms

    def score(cases: Ints) -> Floats:
        scores = np.empty((cases.shape[0], len(split.test.catalog)), dtype=np.float32)
        for row, case in enumerate(cases.tolist()):
            scores[row] = counts.at(int(log.time_ms[heads[case]]) if updated else split_time_ms)
        return scores

    return score


class _Counts:
    """Decayed counts that advance in time.

    A common factor does not change a ranking. So an event adds 2 ** (time / half-life), older counts are not
    multiplied by a decay, and only a rare rescaling touches all counts.
    """

    def __init__(self, items: int, item: Ints, time_ms: Ints, half_life_days: float, window_days: float) -> None:
        self._item, self._time_ms = item, time_ms
        self._days = (time_ms - time_ms[0]) / MS_PER_DAY
        self._half_life_days, self._window_ms = half_life_days, window_days * MS_PER_DAY
        self._counts = np.zeros(items)
        self._origin_days = 0.0
        self._begin = self._end = 0

    def at(self, time_ms: int) -> Floats:
        """Counts of the events strictly before a time, divided by the largest, ``[items]``; times must not decrease."""
        end = int(np.searchsorted(self._time_ms, time_ms, side="left"))
        self._add(self._end, end)
        self._end = end
        if math.isfinite(self._window_ms):
            begin = int(np.searchsorted(self._time_ms, time_ms - self._window_ms, side="left"))
            np.subtract.at(self._counts, self._item[self._begin : begin], 1.0)
            self._begin = begin
        return (self._counts / max(float(self._counts.max()), 1e-300)).astype(np.float32)

    def _add(self, begin: int, end: int) -> None:
        while begin < end:
            limit_days = self._origin_days + _LARGEST_EXPONENT * self._half_life_days
            stop = min(end, int(np.searchsorted(self._days, limit_days, side="right")))
            exponent = (self._days[begin:stop] - self._origin_days) / self._half_life_days
            np.add.at(self._counts, self._item[begin:stop], np.exp2(exponent))
            begin = stop
            if begin < end:
                moved = self._days[begin] - self._origin_days
                self._counts *= np.exp2(-min(moved / self._half_life_days, 2000.0))
                self._origin_days = float(self._days[begin])
