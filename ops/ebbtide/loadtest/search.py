"""The highest rate that holds an objective: bisection that repeats trials at each rate until the result is clear.

A trial at a rate holds or breaks the objective partly by chance. So trials are repeated, and a rate counts as held when
the upper end of a one-sided 95 % interval of each limited percentile's logarithm (Student's t over trials, which are
independent, where requests are not) is below its limit; as broken when the lower end is above. A rate that is
still undecided after the last trial counts as broken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from ebbtide.loadtest.run import Run
from ebbtide.loadtest.samples import histogram
from ebbtide.loadtest.settings import Slo

CONFIDENCE = 0.95

_FEWEST_TRIALS, _MOST_TRIALS = 3, 6
_PRECISION = 0.05
"""The bracket's width, relative to its lower end, at which the search ends."""
_MOST_RATES = 14
_LOWEST_SHARE = 0.05
"""The search ends below this share of the first guess: load is not what breaks the objective."""
_BEYOND = 3
_ALMOST_FLAT = 0.02
"""Least standard deviation that is assumed: three trials may agree by chance."""


@dataclass(frozen=True)
class Level:
    """A rate, its trials and their result."""

    rate: float
    held: bool
    trials: list[Run]
    bound_ms: dict[float, tuple[float, float]]
    """For each limited percentile: its geometric mean over trials, and the upper end of its interval."""
    why: str


@dataclass(frozen=True)
class Search:
    """How a search went."""

    slo: Slo
    levels: list[Level] = field(default_factory=list)
    generator_limit: str | None = None
    """Why a higher rate could not be tried: the generator's limit, not the server's."""

    @property
    def highest_held(self) -> Level | None:
        """The best level that held; None if none did."""
        held = [level for level in self.levels if level.held]
        return max(held, key=lambda level: level.rate, default=None)

    @property
    def lowest_broken(self) -> Level | None:
        """The lowest level that did not hold; None if all did."""
        broken = [level for level in self.levels if not level.held]
        return min(broken, key=lambda level: level.rate, default=None)

    @property
    def is_limit(self) -> bool:
        """Whether the highest rate held is a limit of the server: a higher one was refused, not by the generator."""
        return self.generator_limit is None and self.highest_held is not None and self.lowest_broken is not None


def find_highest_rate(slo: Slo, trial: Callable[[float], Run], first_rate: float) -> Search:
    """Searches from a first guess: doubling or halving until the limit is between two rates, then bisecting.

    Args:
        slo: The objective.
        trial: Runs the load at a rate once.
        first_rate: Where to begin, per second.
    """
    search_levels: list[Level] = []
    held, broken = 0.0, math.inf
    rate, limit = float(f"{first_rate:.3g}"), None
    while len(search_levels) < _MOST_RATES:
        level = judge(slo, rate, trial)
        search_levels.append(level)
        if not level.held and (limit := _generator_limit(level)) is not None:
            break
        if level.held:
            held = rate
        else:
            broken = rate
        if held and broken <= held * (1 + _PRECISION):
            break
        if not held:
            rate /= 2
        else:
            rate = min(2 * held, math.sqrt(held * broken)) if math.isfinite(broken) else 1.5 * held
        # Rounded, so that the report's rates can be asked for again.
        rate = float(f"{rate:.3g}")
        if rate < first_rate * _LOWEST_SHARE:
            break
    return Search(slo, search_levels, limit)


def judge(slo: Slo, rate: float, trial: Callable[[float], Run]) -> Level:
    """Repeats trials at a rate until the result is clear, up to the largest number of trials."""
    trials: list[Run] = []
    logs: dict[float, list[float]] = {percentile: [] for percentile in slo.latency_limit_ms}
    while True:
        trials.append(trial(rate))
        lost = error_share(trials)
        if lost > slo.error_share:
            return Level(rate, False, trials, {}, f"{100 * lost:.2f} % of requests had no answer")
        filled = histogram(trials[-1].phase.records)
        for percentile, values in logs.items():
            values.append(math.log(max(1e-3, filled.get_value_at_percentile(percentile) / 1e3)))
        if trials[-1].phase.interrupted:
            return Level(rate, False, trials, {}, "interrupted")
        if len(trials) < _FEWEST_TRIALS and not _hopeless(slo, logs):
            continue
        bounds = {percentile: _interval(values) for percentile, values in logs.items()}
        shown = {percentile: (math.exp(middle), math.exp(high)) for percentile, (_, middle, high) in bounds.items()}
        limits = {percentile: math.log(limit) for percentile, limit in slo.latency_limit_ms.items()}
        if all(high < limits[percentile] for percentile, (_, _, high) in bounds.items()):
            return Level(rate, True, trials, shown, "held")
        above = [percentile for percentile, (low, _, _) in bounds.items() if low > limits[percentile]]
        if above:
            return Level(rate, False, trials, shown, f"p{above[0]:g} is above its limit")
        if len(trials) >= _MOST_TRIALS:
            return Level(rate, False, trials, shown, f"undecided after {_MOST_TRIALS} trials")


def enough_s(slo: Slo, rate: float, duration_s: float) -> float:
    """How long a trial must be for every limited percentile to have three requests beyond it, on average.

    Args:
        slo: The objective.
        rate: Requests per second.
        duration_s: At least so long.
    """
    rarest = min(1 - percentile / 100 for percentile in slo.latency_limit_ms)
    return max(duration_s, _BEYOND / rarest / rate)


def error_share(runs: list[Run]) -> float:
    """Share of the requests sent, or due, that were not answered."""
    due = sum(run.phase.due for run in runs)
    return 1 - sum(run.phase.counts.answered for run in runs) / due if due else 0.0


def _hopeless(slo: Slo, logs: dict[float, list[float]]) -> bool:
    """Whether two trials both exceed a limit twice over, so that a third cannot change the result."""
    return any(
        len(values) >= 2 and min(values) > math.log(2 * slo.latency_limit_ms[percentile])
        for percentile, values in logs.items()
    )


def _interval(values: list[float]) -> tuple[float, float, float]:
    """Lower end, mean and upper end of a mean's interval, each end one-sided."""
    mean = float(np.mean(values))
    spread = max(float(np.std(values, ddof=1)), _ALMOST_FLAT) / math.sqrt(len(values))
    reach = float(stats.t.ppf(CONFIDENCE, len(values) - 1)) * spread
    return mean - reach, mean, mean + reach


def _generator_limit(level: Level) -> str | None:
    reasons = [run.generator_limit for run in level.trials if run.generator_limit is not None]
    return reasons[0] if len(reasons) > len(level.trials) / 2 else None
