"""The search: model by model, other settings are compared with the incumbent in pairs and replace it if proven better.

Settings come simplest first, so among equals the simplest stays. A general optimiser (TPE, a Gaussian process) would
treat all choices as one noisy box and name the luckiest of many trials; here every change in the result was proven.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ebbtide.export.tuned_settings import TunedSettings
from ebbtide.tune.ratios import Ratio, log_ratio, ratio_of
from ebbtide.tune.space import Settings, candidates, changed


class Arena(Protocol):
    """Where settings are measured."""

    def pair(self, incumbent: Settings, challenger: Settings) -> tuple[float, float]:
        """Measures both, one after the other: answers per second within the objective; 0 for what cannot serve."""
        ...

    def time_shares(self) -> Mapping[str, float]:
        """The share of a request's time on the server of each model so far, queue included, 0 to 1."""
        ...


@dataclass(frozen=True)
class Rules:
    """When a challenger wins."""

    least_gain: float = 0.05
    """A smaller gain is not worth a change: the same two settings differed by as much from one hour to the next."""
    confidence: float = 0.99
    """Of the interval; above the usual 95 %, since a search has many comparisons and looks at each several times."""
    looks: tuple[int, ...] = (3, 6, 10, 16)
    """Pairs after which a comparison may end."""
    hopeless_below: float = 0.9
    """A challenger with a lower mean ratio at a look is dropped."""
    noise_pairs: int = 4


@dataclass(frozen=True)
class Trial:
    """One comparison."""

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

    start: Settings
    arena: Arena
    cores: int
    rules: Rules = Rules()
    time_is_up: Callable[[], bool] = lambda: False
    on_trial: Callable[[Trial], None] = lambda _: None
    """Called with each comparison when it ends."""
    trials: list[Trial] = field(default_factory=list)
    left_alone: tuple[str, ...] = ()
    """Models that take too little of a request's time for a change to matter."""
    is_complete: bool = False
    """Whether it ended by itself and not by the clock."""

    def run(self) -> Settings:
        """The winner: the start itself where nothing is better."""
        incumbent = self.start
        self._tell(None, self._play(incumbent, incumbent, self.rules.noise_pairs), "the default against itself")
        shares = self.arena.time_shares()
        self.left_alone = tuple(one.model for one in incumbent if shares.get(one.model, 1.0) < self.rules.least_gain)
        # The model that takes most of the time has most to give.
        for own in sorted(self.start, key=lambda one: -shares.get(one.model, 1.0)):
            for value in candidates(own, self.cores) if own.model not in self.left_alone else ():
                if self.time_is_up():
                    return incumbent
                challenger = changed(incumbent, value)
                if self._wins(incumbent, challenger, value):
                    incumbent = challenger
        self.is_complete = True
        return incumbent

    @property
    def noise(self) -> Ratio:
        """The default against itself."""
        return self.trials[0].ratio

    def _wins(self, incumbent: Settings, challenger: Settings, value: TunedSettings) -> bool:
        rules, logs = self.rules, list[float]()
        least, won = 1 + rules.least_gain, False
        for look in rules.looks:
            logs += self._play(incumbent, challenger, look - len(logs))
            ratio = ratio_of(logs, rules.confidence)
            won = ratio.low > 1 and ratio.mean >= least
            if won or ratio.high < least or ratio.mean < rules.hopeless_below:
                break
        self._tell(value, logs, "wins" if won else "slower" if ratio.high < 1 else "not proven better", won=won)
        return won

    def _play(self, incumbent: Settings, challenger: Settings, pairs: int) -> list[float]:
        logs = []
        for _ in range(pairs):
            under, over = self.arena.pair(incumbent, challenger)
            logs.append(log_ratio(over, under))
        return logs

    def _tell(self, value: TunedSettings | None, logs: list[float], outcome: str, *, won: bool = False) -> None:
        trial = Trial(value, tuple(logs), outcome, won)
        self.trials.append(trial)
        self.on_trial(trial)
