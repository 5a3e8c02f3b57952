"""How much better the winner is: the highest open-model rates of default and winner, found several times in turn.

Each repeat bisects for both at once, trial by trial with the same arrivals, so that noise of the machine and bursts
affect both alike. Repeats are independent, so their ratios have a confidence interval. Latency counts from the time at
which a request was due.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from ebbtide.tune.errors import TuneError
from ebbtide.tune.ratios import Ratio, ratio_of

Holds = Callable[[float, int], bool]
"""Whether one trial at a rate, per second, holds the objective; trials of the same draw have the same arrivals."""

_FIRST_SPREAD, _SPREAD = 2.0, 1.25
"""A bisection begins between a rate divided and multiplied by this."""
_FIRST_STEPS, _STEPS = 6, 4
FEWEST_REPEATS = 3


@dataclass(frozen=True)
class Verdict:
    """Highest rates that held the objective, repeat by repeat."""

    default_rates: tuple[float, ...]
    winner_rates: tuple[float, ...]

    @property
    def ratio(self) -> Ratio:
        """Winner over default, with the 95 % interval."""
        return ratio_of([math.log(b / a) for a, b in zip(self.default_rates, self.winner_rates, strict=True)])

    @property
    def is_proven(self) -> bool:
        """Whether the interval of the ratio lies above 1."""
        return self.ratio.low > 1

    @property
    def default_rate(self) -> float:
        """The default's median, per second."""
        return median(self.default_rates)

    @property
    def winner_rate(self) -> float:
        """The winner's median, per second."""
        return median(self.winner_rates)


def compare(
    default: Holds, winner: Holds, guesses: tuple[float, float], *, repeats: int, time_is_up: Callable[[], bool]
) -> Verdict:
    """Finds the highest rates of both, `repeats` times or until the time is up, but `FEWEST_REPEATS` times at least.

    Args:
        default: Tries the default at a rate.
        winner: Tries the winner at a rate.
        guesses: Where to begin, for each of them.
        repeats: How often.
        time_is_up: Whether no further repeat should begin.

    Raises:
        TuneError: The default holds the objective at no rate that was tried.
    """
    found: tuple[list[float], list[float]] = ([], [])
    draw = 0
    while len(found[0]) < max(repeats, FEWEST_REPEATS):
        if len(found[0]) >= FEWEST_REPEATS and time_is_up():
            break
        searches = [
            _Bisection(median(rates) if rates else guess, _SPREAD if rates else _FIRST_SPREAD)
            for rates, guess in zip(found, guesses, strict=True)
        ]
        for step in range(_STEPS if found[0] else _FIRST_STEPS):
            turns = list(zip(searches, (default, winner), strict=True))
            for search, holds in turns if step % 2 == 0 else reversed(turns):
                search.step(holds, draw)
            draw += 1
        if not found[0] and not searches[0].has_held:
            raise TuneError(
                "slo: got an objective that the default settings did not hold at any rate tried, down to "
                f"{searches[0].rate:.3g} requests per second; expected one that it can hold, and a machine that is not "
                "overloaded"
            )
        for rates, search in zip(found, searches, strict=True):
            rates.append(search.rate)
    return Verdict(tuple(found[0]), tuple(found[1]))


class _Bisection:
    """The rate between one that held and one that did not, halved on the logarithm at each step."""

    def __init__(self, middle: float, spread: float) -> None:
        self._low, self._high = math.log(middle / spread), math.log(middle * spread)
        self.has_held = False

    @property
    def rate(self) -> float:
        return math.exp((self._low + self._high) / 2)

    def step(self, holds: Holds, draw: int) -> None:
        middle = (self._low + self._high) / 2
        if holds(math.exp(middle), draw):
            self._low = middle
            self.has_held = True
        else:
            self._high = middle
