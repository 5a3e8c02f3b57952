"""The formula of the popularity prior, and the counts of an export that live counts go on from.

Decayed counts at one half-life are too old for news and too sparse for a long tail, so counts at several half-lives
back each other off, longest first, as n-gram orders do in a language model (Dirichlet smoothing; MacKay and Peto,
1995):

    share_h(i) = (count_h(i) + s_h share_h'(i)) / (total_h + s_h)

where h' is the next longer half-life, and the longest one backs off to 1 / items. s_h is a number of events, fitted to
the log (`ebbtide.train.popularity_fit`): where it is small, half-life h alone decides; where it is infinite, h has no
effect. In a quiet hour, when short counts have decayed to nothing, the longer half-lives take over.

The first event of an item says more than that one user took it: the item is new, and most items are never as popular
as soon after. So it counts as 1 + b events, with b fitted to the log too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest.events import MS_PER_DAY

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_HALF_LIVES, _EVENTS, _STARTS, _COUNTS, _AS_OF = "half_life_days", "smoothing_events", "starts", "counts", "as_of_ms"
_FIRST_EVENT_BONUS = "first_event_bonus"


@dataclass(frozen=True)
class Smoothing:
    """How decayed counts at several half-lives become shares."""

    half_life_days: Doubles
    """``[half-lives]``, ascending; infinity counts without decay."""
    events: Doubles
    """s, ``[half-lives]``: the weight of the next longer half-life, in events; infinity where a half-life has no
    effect."""
    starts: tuple[int, ...]
    """p indices of half-lives. Column c uses the half-lives from ``starts[c]`` on; the first start is 0."""
    first_event_bonus: float = 0.0
    """b: the first event of an item counts as 1 + b events."""

    @property
    def decay_rate_per_ms(self) -> Doubles:
        """Ln 2 over each half-life, ``[half-lives]``."""
        return np.asarray(np.log(2) / (self.half_life_days * MS_PER_DAY))

    def columns(self, counts: Doubles, kept: Doubles) -> Floats:
        """log(items * share) of every item, ``[items, p]``: 0 for an item of average popularity.

        Args:
            counts: ``[half-lives, items]``, decayed counts as of some time.
            kept: ``[half-lives]``, what a later time leaves of them.
        """
        return self.columns_among(counts, kept, counts.sum(axis=1) * kept, counts.shape[1])

    def columns_among(self, counts: Doubles, kept: Doubles, totals: Doubles, items: int) -> Floats:
        """The same for some items of a catalog, or for others, ``[some items, p]``.

        Args:
            counts: ``[half-lives, some items]``, decayed counts as of some time.
            kept: ``[half-lives]``, what a later time leaves of them.
            totals: ``[half-lives]``, at the later time, of all items of the catalog.
            items: Number of items of the catalog.
        """
        share = np.full(counts.shape[1], 1 / items)
        columns = np.empty((counts.shape[1], len(self.starts)), dtype=np.float32)
        for index in reversed(range(counts.shape[0])):
            smoothing = self.events[index]
            if np.isfinite(smoothing):
                share = share * (smoothing / (totals[index] + smoothing))
                share += counts[index] * (kept[index] / (totals[index] + smoothing))
            for column, start in enumerate(self.starts):
                if start == index:
                    columns[:, column] = np.log(share * items)
        return columns


@dataclass(frozen=True)
class CountedPopularity:
    """The decayed counts that an export's prior was computed from."""

    smoothing: Smoothing
    counts: Doubles
    """``[half-lives, items]``, in catalog order, as of `as_of_ms`."""
    as_of_ms: int
    """Unix milliseconds: every earlier event of the log is counted, and no later one."""

    def columns(self) -> Floats:
        """The prior's columns, ``[items, p]``."""
        return self.smoothing.columns(self.counts, np.ones(self.counts.shape[0]))

    def to_tensors(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name, as a safetensors file has them."""
        return {
            _HALF_LIVES: self.smoothing.half_life_days,
            _EVENTS: self.smoothing.events,
            _STARTS: np.array(self.smoothing.starts, dtype=np.int64),
            _FIRST_EVENT_BONUS: np.array([self.smoothing.first_event_bonus]),
            _COUNTS: self.counts,
            _AS_OF: np.array([self.as_of_ms], dtype=np.int64),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, npt.NDArray[Any]]) -> CountedPopularity | None:
        """The inverse of `to_tensors`; None for an empty file, of a bundle without counts."""
        if not tensors:
            return None
        smoothing = Smoothing(
            np.array(tensors[_HALF_LIVES]),
            np.array(tensors[_EVENTS]),
            tuple(np.asarray(tensors[_STARTS]).tolist()),
            # Exports from before there was one have none.
            float(tensors[_FIRST_EVENT_BONUS][0]) if _FIRST_EVENT_BONUS in tensors else 0.0,
        )
        return cls(smoothing, np.asarray(tensors[_COUNTS]), int(tensors[_AS_OF][0]))


@dataclass(frozen=True)
class PriorOfOthers:
    """The popularity prior of items that an export does not have, as if its log had no event of theirs.

    An item of the catalog without events was on offer and nobody took it. Of one that was just added nothing is known,
    so it begins as popular as the average item, with counts that decay as those of events do.
    """

    counted: CountedPopularity
    """Of the export's items, now."""
    weight: Doubles
    """``[p]``: of the prior's columns."""
    shift: float = 0.0
    """What all scores of the export's items gain since the export, which is left out of theirs."""
    key: Ints = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """``[counted items]``, ascending: of items that the export does not have."""
    counts: Doubles = field(default_factory=lambda: np.empty((0, 0)))
    """``[half-lives, counted items]``: their decayed counts, as of the same time."""

    def columns(self) -> Floats:
        """The prior's columns of an item without events, ``[p]``."""
        none = np.zeros((self.counted.counts.shape[0], 1))
        return np.asarray(self._columns(none)[0])

    def scores(self, key: Ints, added_ms: Ints) -> Doubles:
        """What the prior adds to the scores of items, ``[items]``.

        Args:
            key: ``[items]``.
            added_ms: ``[items]``: Unix milliseconds when they were added.
        """
        counted = self.counted
        age_ms = np.maximum(counted.as_of_ms - added_ms, 0)
        counts = counted.counts.mean(axis=1)[:, None] * np.exp(-np.outer(counted.smoothing.decay_rate_per_ms, age_ms))
        if self.key.size:
            position = np.minimum(self.key.searchsorted(key), self.key.size - 1)
            found = self.key[position] == key
            counts[:, found] += self.counts[:, position[found]]
        return np.asarray(self._columns(counts) @ self.weight - self.shift)

    def _columns(self, counts: Doubles) -> Floats:
        counted = self.counted
        kept = np.ones(counts.shape[0])
        totals = counted.counts.sum(axis=1)
        return counted.smoothing.columns_among(counts, kept, totals, counted.counts.shape[1])
