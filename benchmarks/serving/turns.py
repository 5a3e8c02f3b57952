"""Systems take turns, so that noise of the machine affects all alike; ratios are medians of ratios within rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, TypeVar

from benchmarks.serving.load import Turn

Rounds = dict[str, list[Turn]]
"""The turns of each system."""
Result = TypeVar("Result")


def take_turns(systems: dict[str, Callable[[], Result]], repeats: int) -> dict[str, list[Result]]:
    """Runs rounds with one turn of each system; every other round has the opposite order."""
    rounds: dict[str, list[Result]] = {name: [] for name in systems}
    for repeat in range(repeats):
        names = list(systems)
        for name in names if repeat % 2 == 0 else reversed(names):
            rounds[name].append(systems[name]())
    return rounds


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """The median over rounds of the ratio within a round."""
    return round(median(a / b for a, b in zip(over, under, strict=True)), 3)


def medians(turns: Sequence[Turn]) -> dict[str, float]:
    """The median of each figure over the rounds."""
    return {name: round(median(turn.raw()[name] for turn in turns), 4) for name in turns[0].raw()}


def raw(rounds: Rounds) -> dict[str, Any]:
    """For each system the medians and all its turns, as JSON values."""
    return {name: {**medians(turns), "turns": [turn.raw() for turn in turns]} for name, turns in rounds.items()}
