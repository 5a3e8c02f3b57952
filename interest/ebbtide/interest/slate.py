"""Composes a list from scored candidates: relevance, likeness, calibration, caps, minimums, exposure and pins.

One greedy pass from the first position to the last. At each position the candidate with the largest gain is taken among
those that the limits allow:

    gain_i = (1 - calibration) * ((1 - diversity) * relevance_i - diversity * likeness_i) - calibration * divergence_i

Limits that cannot be met give way in this order: minimums (the last ones first), then exposures, then caps, which are
passed only if the list would be shorter without that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ebbtide.interest.slate_calibration import Calibration
from ebbtide.interest.slate_counts import FREE, Counts
from ebbtide.interest.slate_diversity import Determinantal, Likeness, MarginalRelevance
from ebbtide.interest.slate_options import CALIBRATION_CAUSE, DIVERSITY_CAUSE

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_TRIES = 8
"""Candidates that minimums may refuse at one position before only those that they need are tried."""
_EVEN = np.float32(1e-6)
"""Preferences that differ by less did not move an item."""


@dataclass(frozen=True)
class Groups:
    """Sets of candidates with a number each, and the number of the cause that each stands for."""

    member: Bools
    """``[candidates, groups]``."""
    count: Ints
    """``[groups]``."""
    cause: Ints
    """``[groups]``."""
    name: Sequence[str] = ()
    """``[groups]``: the value that each has; empty where the cause says it."""

    @classmethod
    def none(cls, candidates: int) -> Groups:
        """No groups."""
        empty = np.empty(0, dtype=np.int64)
        return cls(np.empty((candidates, 0), dtype=np.bool_), empty, empty)

    @property
    def arrays(self) -> tuple[Bools, Ints, Ints]:
        """The three arrays."""
        return self.member, self.count, self.cause


@dataclass(frozen=True)
class ExposedGroup:
    """A protected group of candidates."""

    member: Bools
    """``[candidates]``."""
    least: Ints
    """``[positions]``: see `ebbtide.interest.slate_exposure.least_by_position`."""
    cause: int


@dataclass(frozen=True)
class Wishes:
    """What the list shall be like. The limits' causes are numbers below 63."""

    size: int
    diversity: float = 0.0
    method: str = "mmr"
    directions: Floats | None = None
    """``[candidates, d]``, each of length 1; None without `diversity`."""
    caps: Groups | None = None
    minimums: Groups | None = None
    exposures: Sequence[ExposedGroup] = ()
    calibration: Calibration | None = None
    calibration_weight: float = 0.0
    pinned: Mapping[int, int] = field(default_factory=dict)
    """Candidate by its position, from 0."""


@dataclass(frozen=True)
class Relaxed:
    """A limit that the list does not meet."""

    cause: int
    wanted: int
    got: int
    position: int = 0
    """Of an exposure: the first number of items, from the top, that has too few; else 0."""
    value: str = ""
    """Of a cap on each value: the one with the most items; empty where the cause says it."""


@dataclass(frozen=True)
class Slate:
    """A composed list."""

    chosen: list[int]
    """Candidates in the order of the list."""
    moved_by: list[int]
    """For each of them, bits of the causes that moved it up or down; 0 for one that is where its score puts it."""
    relaxed: list[Relaxed]


def relevance(score: Floats) -> Floats:
    """Scores on the scale of likeness: 0 for the last of the candidates, 1 for the best; all 1 if they are equal.

    Args:
        score: ``[candidates]``, finite.
    """
    if not score.size:
        return score
    least, span = score.min(), np.ptp(score)
    return np.asarray((score - least) / span if span > 0 else np.ones_like(score))


def compose(score: Floats, wishes: Wishes) -> Slate:
    """Composes a list.

    Args:
        score: ``[candidates]``, finite, best first; at least one.
        wishes: What the list shall be like.
    """
    return _Composition(score, wishes).run()


class _Composition:
    """The state of one `compose`."""

    def __init__(self, score: Floats, wishes: Wishes) -> None:
        candidates = score.size
        self._wishes = wishes
        self._size = min(wishes.size, candidates)
        # A pin beyond the end has the last free position.
        self._pinned: dict[int, int] = {}
        for position, index in sorted(wishes.pinned.items()):
            free = min(position, self._size - 1)
            while free in self._pinned and free >= 0:
                free -= 1
            if free >= 0:
                self._pinned[free] = index
        self._open = np.ones(candidates, dtype=np.bool_)
        self._open[list(self._pinned.values())] = False
        self._likeness: Likeness | None = None
        keep = np.float32(1 - wishes.calibration_weight)
        self._base = keep * np.float32(1 - wishes.diversity) * relevance(score)
        self._alike = keep * np.float32(wishes.diversity)
        if wishes.diversity > 0 and wishes.directions is not None:
            kind = Determinantal if wishes.method == "dpp" else MarginalRelevance
            self._likeness = kind(wishes.directions, self._size)
        self._preferences = [
            (cause, preference)
            for cause, preference in ((DIVERSITY_CAUSE, self._likeness), (CALIBRATION_CAUSE, wishes.calibration))
            if preference is not None
        ]
        self._counts: Counts | None = None
        if wishes.caps is not None or wishes.minimums is not None:
            caps, minimums = wishes.caps or Groups.none(candidates), wishes.minimums or Groups.none(candidates)
            places = self._size - len(self._pinned)
            self._counts = Counts(caps.arrays, minimums.arrays, list(self._pinned.values()), places)
        self._exposed = [0] * len(wishes.exposures)
        self._moved_by = np.zeros(candidates, dtype=np.int64)
        self._chosen: list[int] = []

    def run(self) -> Slate:
        for position in range(self._size):
            index = self._pinned.get(position)
            if index is None:
                index = self._best(position)
                self._open[index] = False
                if self._counts is not None:
                    self._counts.choose(index, self._places(position) - 1)
            self._note(index)
        moved = [0 if place == index else int(self._moved_by[index]) for place, index in enumerate(self._chosen)]
        return Slate(self._chosen, moved, self._relaxed())

    def _places(self, position: int) -> int:
        """Positions from one on that are not pinned."""
        return self._size - position - sum(place >= position for place in self._pinned)

    def _note(self, index: int) -> None:
        self._chosen.append(index)
        if len(self._chosen) < self._size:
            for _, preference in self._preferences:
                preference.choose(index)
        for number, group in enumerate(self._wishes.exposures):
            self._exposed[number] += bool(group.member[index])

    def _best(self, position: int) -> int:
        """The candidate for a position; notes what held back those with better scores."""
        gain = self._base
        if self._likeness is not None:
            gain = gain - self._alike * self._likeness.penalty
        calibration = self._wishes.calibration
        if calibration is not None:
            gain = gain - np.float32(self._wishes.calibration_weight) * calibration.penalty
        allowed, held_by = self._allowed(position)
        choice = self._first_accepted(gain, allowed, held_by, position)
        self._note_held(choice, held_by)
        return choice

    def _allowed(self, position: int) -> tuple[Bools, Ints]:
        """Candidates that caps and exposures allow, and bits of what holds others back, ``[candidates]`` each."""
        held_by = np.zeros(self._open.size, dtype=np.int64)
        allowed = self._open
        if self._counts is not None and self._counts.has_blocked:
            blocked = self._counts.blocked_by
            is_free = blocked == FREE
            np.left_shift(1, blocked, out=held_by, where=~is_free)
            within = allowed & is_free
            # Caps give way last, and only where nothing else is left.
            if within.any():
                allowed = within
            else:
                passed = np.where(allowed, self._counts.passed_by(), self._open.size)
                allowed = passed == passed.min()
        for number, group in enumerate(self._wishes.exposures):
            if self._exposed[number] < group.least[position]:
                narrowed = allowed & group.member
                held_by[~group.member] |= 1 << group.cause
                if narrowed.any():
                    allowed = narrowed
        return allowed, held_by

    def _first_accepted(self, gain: Floats, allowed: Bools, held_by: Ints, position: int) -> int:
        """The candidate with the largest gain that keeps the minimums within reach."""
        counts = self._counts
        gain = np.where(allowed, gain, -np.inf)
        best = int(np.argmax(gain))
        if counts is None or not counts.is_pending:
            return best
        places = self._places(position)
        first, cause = best, 0
        for attempt in range(self._open.size):
            if attempt == (0 if counts.is_tight(places) else _TRIES):
                cause = 1 << counts.pending_cause
                unneeded = ~counts.wanted_now
                held_by[unneeded] |= cause
                gain[unneeded] = -np.inf
                best = int(np.argmax(gain))
            if gain[best] == -np.inf:
                break
            if counts.blocked_by[best] == FREE and counts.accepts(best, places):
                return best
            held_by[best] |= cause or 1 << counts.pending_cause
            gain[best] = -np.inf
            best = int(np.argmax(gain))
        # An exposure or a cap leaves none: the minimum gives way.
        return first

    def _note_held(self, choice: int, held_by: Ints) -> None:
        """Notes what moved the chosen candidate up and those with better scores down."""
        better = np.flatnonzero(self._open[:choice])
        if not better.size:
            return
        causes = held_by[better]
        is_free = causes == 0
        for cause, preference in self._preferences:
            penalty = preference.penalty
            causes |= (is_free & (penalty[better] > penalty[choice] + _EVEN)).astype(np.int64) << cause
        self._moved_by[better] |= causes
        self._moved_by[choice] |= np.bitwise_or.reduce(causes)

    def _relaxed(self) -> list[Relaxed]:
        """What the finished list does not meet: minimums, exposures, caps."""
        found: list[Relaxed] = []
        wishes, chosen = self._wishes, self._chosen
        if wishes.minimums is not None:
            got = wishes.minimums.member[chosen].sum(axis=0)
            found += [
                Relaxed(cause, wanted, count)
                for cause, wanted, count in _rows(wishes.minimums.cause, wishes.minimums.count, got)
                if count < wanted
            ]
        for group in wishes.exposures:
            counts = np.cumsum(group.member[chosen])
            short = np.flatnonzero(counts < group.least[: len(chosen)])
            if short.size:
                first = int(short[0])
                found.append(Relaxed(group.cause, int(group.least[first]), int(counts[first]), first + 1))
        if wishes.caps is not None:
            got = wishes.caps.member[chosen].sum(axis=0)
            names = wishes.caps.name or [""] * got.size
            worst: dict[int, Relaxed] = {}
            for name, (cause, wanted, count) in zip(
                names, _rows(wishes.caps.cause, wishes.caps.count, got), strict=True
            ):
                if count > wanted and (cause not in worst or count > worst[cause].got):
                    worst[cause] = Relaxed(cause, wanted, count, value=name)
            found += worst.values()
        return found


def _rows(*columns: npt.NDArray[np.generic]) -> list[tuple[int, ...]]:
    return [tuple(map(int, row)) for row in zip(*columns, strict=True)]
