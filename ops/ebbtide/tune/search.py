"""The search: one choice after the other, in races whose every comparison alternates the incumbent and the challenger.

A general optimiser (TPE, a Gaussian process) would treat all choices as one noisy box and name the luckiest of many
trials; on a small, nearly separable grid it needs more of them, and names another winner each time. Here a challenger
wins only by significance, among equals the simplest is taken, and what changes nothing stays as it was:

0. A model that takes less of a request's time than a change must gain is left alone: it has nothing to give.
1. Each choice of each other model races: every value meets the incumbent twice, the better half three times more.
2. Among the values that are as good as the best, within its error, the simplest is taken and meets the incumbent in a
   duel of fresh pairs, so that luck in the race does not count twice. Simpler values then meet the winner and take
   its place unless it is proven to be worth its complexity, if they win such a duel too.
3. Passes are repeated until one changes nothing. Then each change is undone once, and stays only if that costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from ebbtide.export.tuned_settings import TunedSettings
from ebbtide.tune.ratios import Ratio, log_ratio, ratio_of
from ebbtide.tune.space import Coordinate, Settings, Space, simplicity

Stage = Literal["noise", "race", "duel", "simpler", "undo"]


class Arena(Protocol):
    """Where settings are measured."""

    def pair(self, incumbent: Settings, challenger: Settings) -> tuple[float, float]:
        """Measures both, one after the other: answers per second within the objective; 0 for what cannot serve."""
        ...

    def time_shares(self) -> Mapping[str, float]:
        """The part of a request's time on the server that each model has taken so far, queue included, 0 to 1."""
        ...


@dataclass(frozen=True)
class Rules:
    """When a challenger wins."""

    least_gain: float = 0.03
    """Less is not worth a change of configs, nor the pairs to prove it."""
    confidence: float = 0.99
    """Of the interval in a duel; higher than usual, since a search has many duels, each of them looked at often."""
    looks: tuple[int, ...] = (5, 10, 16)
    """Pairs after which a duel may end."""
    noise_pairs: int = 4
    first_pairs: int = 2
    """Of every value in a race: one alone is often lucky or unlucky by a tenth."""
    more_pairs: int = 3
    """Of those that race on."""
    most_passes: int = 3
    drop_below: float = 0.97
    """A value that is slower than this in its first pairs is out of the race."""
    errors: float = 2.0
    """Values that differ by less than so many standard errors are as good as each other."""
    hopeless_below: float = 0.9
    """One that was slower than this is not tried in later passes."""
    worth_of_simplicity: float = 0.05
    """A value must be proven to be faster than a simpler one by more than this. Between one hour and the next the same
    two values differed by as much on a shared machine, so that a finer choice would say another name each time."""


@dataclass(frozen=True)
class Trial:
    """One comparison."""

    stage: Stage
    value: TunedSettings | None
    """What the challenger had instead of the incumbent; None where both were the same."""
    logs: tuple[float, ...]
    """Logarithm of challenger over incumbent, of each pair."""
    outcome: str
    won: bool = False

    @property
    def ratio(self) -> Ratio:
        """Challenger over incumbent, with the 95 % interval."""
        return ratio_of(self.logs)


@dataclass
class Search:
    """A search under way, and how it went."""

    space: Space
    arena: Arena
    rules: Rules = Rules()
    time_is_up: Callable[[], bool] = lambda: False
    on_trial: Callable[[Trial], None] = lambda _: None
    """Told of each comparison when it ends."""
    trials: list[Trial] = field(default_factory=list)
    left_alone: tuple[str, ...] = ()
    """Models that take too little of a request's time to be worth a race."""
    passes: int = 0
    is_complete: bool = False
    """Whether it ended by itself and not by the clock."""

    def run(self) -> Settings:
        """The winner: the start itself where nothing is better."""
        start = self.space.start
        self._tell("noise", None, self._play(start, start, self.rules.noise_pairs), "the default against itself")
        shares = self.arena.time_shares()
        models = dict.fromkeys(coordinate.model for coordinate in self.space.coordinates)
        self.left_alone = tuple(model for model in models if shares.get(model, 1.0) < self.rules.least_gain)
        try:
            found = self._climb(start)
        except _TimeIsUpError as stopped:
            return stopped.incumbent
        self.is_complete = True
        return found

    @property
    def noise(self) -> Ratio:
        """The default against itself."""
        return self.trials[0].ratio

    def _climb(self, incumbent: Settings) -> Settings:
        raced: dict[Coordinate, Settings] = {}
        hopeless: set[tuple[Coordinate, TunedSettings]] = set()
        while self.passes < self.rules.most_passes:
            self.passes += 1
            before = incumbent
            for coordinate in self.space.coordinates:
                if coordinate.model in self.left_alone:
                    continue
                # Another race is worth its time only where something else has changed since.
                if raced.get(coordinate) != incumbent:
                    incumbent = self._race(coordinate, incumbent, hopeless)
                    raced[coordinate] = incumbent
            if incumbent == before:
                break
        return self._undo(incumbent)

    def _race(
        self, coordinate: Coordinate, incumbent: Settings, hopeless: set[tuple[Coordinate, TunedSettings]]
    ) -> Settings:
        rules, own = self.rules, coordinate.value(incumbent)
        logs: dict[TunedSettings, list[float]] = {}
        for value in coordinate.values:
            if value != own and (coordinate, value) not in hopeless:
                logs[value] = self._play(incumbent, coordinate.applied(incumbent, value), rules.first_pairs)
                if sum(logs[value]) / len(logs[value]) < math.log(rules.hopeless_below):
                    hopeless.add((coordinate, value))
        again = self._better_half({value: sum(found) / len(found) for value, found in logs.items()})
        for value in again:
            logs[value] += self._play(incumbent, coordinate.applied(incumbent, value), rules.more_pairs)
        means = {value: sum(logs[value]) / len(logs[value]) for value in again}
        hopeful = [value for value in again if means[value] > math.log1p(rules.least_gain)]
        for value, found in logs.items():
            if value not in hopeful:
                self._tell("race", value, found, "no better" if value in again else "slower")
        if not hopeful:
            return incumbent
        best = max(hopeful, key=lambda value: means[value])
        margin = max(self._doubt(len(logs[best])), math.log1p(rules.worth_of_simplicity))
        equals = [value for value in hopeful if means[value] >= means[best] - margin]
        simplest = min(equals, key=simplicity)
        for value in hopeful:
            self._tell(
                "race", value, logs[value], "best" if value == best else "as good" if value in equals else "behind"
            )
        for value in dict.fromkeys((simplest, best)):
            challenger = coordinate.applied(incumbent, value)
            if self._duel(incumbent, challenger, value):
                return self._simplified(coordinate, incumbent, challenger, logs)
        return incumbent

    def _simplified(
        self, coordinate: Coordinate, incumbent: Settings, winner: Settings, logs: dict[TunedSettings, list[float]]
    ) -> Settings:
        """The simplest value that does as well as the winner, so that ties end the same way.

        Whatever was not hopeless meets the winner: the first pairs of a race say too little to leave a value out. It
        has to win against the incumbent as well, since not being proven slower than the winner is no gain by itself.
        """
        won = coordinate.value(winner)
        simpler = [
            value
            for value, found in logs.items()
            if simplicity(value) < simplicity(won) and sum(found) / len(found) >= math.log(self.rules.hopeless_below)
        ]
        for value in sorted(simpler, key=simplicity):
            challenger = coordinate.applied(winner, value)
            if self._is_as_good(winner, challenger, value) and self._duel(incumbent, challenger, value):
                return challenger
        return winner

    def _better_half(self, first: dict[TunedSettings, float]) -> list[TunedSettings]:
        """The values that race on, by their first pairs: half of them, and gains that are as good as the best."""
        ranked = sorted(first, key=lambda value: -first[value])
        half = [value for value in ranked if first[value] > math.log(self.rules.drop_below)][
            : math.ceil(len(ranked) / 2)
        ]
        near = max(first.values(), default=0.0) - self._doubt(self.rules.first_pairs)
        return half + [value for value in ranked if value not in half and first[value] > max(0.0, near)]

    def _doubt(self, pairs: int) -> float:
        """By how much the logarithms of two values, each the mean of so many pairs, differ without meaning anything.

        The spread of a pair is pooled over all trials: three pairs say little of their own.
        """
        trials = [trial.logs for trial in self.trials if len(trial.logs) > 1]
        squares = sum((log - sum(logs) / len(logs)) ** 2 for logs in trials for log in logs)
        spread = math.sqrt(squares / sum(len(logs) - 1 for logs in trials))
        return self.rules.errors * spread * math.sqrt(2 / pairs)

    def _duel(self, incumbent: Settings, challenger: Settings, value: TunedSettings) -> bool:
        """Whether the challenger wins by pairs that were not used to choose it."""
        least = 1 + self.rules.least_gain

        def wins(ratio: Ratio) -> bool:
            return ratio.low > 1 and ratio.mean >= least

        logs, ratio = self._meet(incumbent, challenger, lambda ratio: wins(ratio) or ratio.high < least)
        won = wins(ratio)
        self._tell("duel", value, logs, "wins" if won else "not proven", won=won)
        return won

    def _is_as_good(self, winner: Settings, simpler: Settings, value: TunedSettings) -> bool:
        """Whether the winner is not proven to be worth its complexity."""
        worth = 1 / (1 + self.rules.worth_of_simplicity)
        logs, ratio = self._meet(winner, simpler, lambda ratio: not ratio.low <= worth <= ratio.high)
        as_good = ratio.high >= worth
        said = "as good as what won, and simpler" if as_good else "slower than what won"
        self._tell("simpler", value, logs, said)
        return as_good

    def _undo(self, incumbent: Settings) -> Settings:
        """Takes back what the others have made needless."""
        start = self.space.start
        changed = [one for one in self.space.coordinates if one.value(incumbent) != one.value(start)]
        # A single change has just won against the start.
        for coordinate in changed if len(changed) > 1 else ():
            value = coordinate.value(start)
            undone = coordinate.applied(incumbent, value)
            if self._is_needless(incumbent, undone, value):
                incumbent = undone
        return incumbent

    def _is_needless(self, incumbent: Settings, undone: Settings, value: TunedSettings) -> bool:
        """Whether the change that the incumbent has more gains nothing."""
        least = 1 / (1 + self.rules.least_gain)
        logs, ratio = self._meet(incumbent, undone, lambda ratio: ratio.high < 1 or ratio.low > least)
        needless = ratio.high >= 1 and ratio.mean > least
        self._tell("undo", value, logs, "costs nothing: taken back" if needless else "costs: the change stays")
        return needless

    def _meet(
        self, incumbent: Settings, challenger: Settings, is_clear: Callable[[Ratio], bool]
    ) -> tuple[list[float], Ratio]:
        """Fresh pairs until their ratio, looked at a few times only, is clear."""
        logs = list[float]()
        for look in self.rules.looks:
            logs += self._play(incumbent, challenger, look - len(logs))
            ratio = ratio_of(logs, self.rules.confidence)
            if is_clear(ratio):
                break
        return logs, ratio

    def _play(self, incumbent: Settings, challenger: Settings, pairs: int) -> list[float]:
        logs = []
        for _ in range(pairs):
            if self.time_is_up():
                raise _TimeIsUpError(incumbent)
            under, over = self.arena.pair(incumbent, challenger)
            logs.append(log_ratio(over, under))
        return logs

    def _tell(
        self, stage: Stage, value: TunedSettings | None, logs: list[float], outcome: str, *, won: bool = False
    ) -> None:
        trial = Trial(stage, value, tuple(logs), outcome, won)
        self.trials.append(trial)
        self.on_trial(trial)


class _TimeIsUpError(Exception):
    """The clock ended the search; what had won until then stands."""

    def __init__(self, incumbent: Settings) -> None:
        super().__init__("time is up")
        self.incumbent = incumbent
