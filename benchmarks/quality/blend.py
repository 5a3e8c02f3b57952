"""The blend that one would try in an afternoon: EASE, decayed popularity and own counts, mixed by validation.

The score of an item is

    log(popularity + floor) + ease_weight EASE + own_weight log(1 + own count)

where popularity is the decayed count, kept up to date, over the largest one, EASE scores the user's history, and the
own count is the user's decayed count of the item (on logs with repeats only).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, partial

import numpy as np

from benchmarks.quality.exchange import Settings
from benchmarks.quality.linear import ease_scorer
from benchmarks.quality.personal import own_counts_scorer
from benchmarks.quality.popularity import popularity_scorer
from benchmarks.quality.split import Floats, Ints, Scorer, Split, by_time, ndcg_at_10, rank
from ebbtide.train.evaluation.lists import RankedLists

_BASKETS = 1_000
"""Validation baskets that the settings are chosen on."""
_HOUR = 1 / 24
_GRID: dict[str, tuple[float, ...]] = {
    "half_life_days": (30.0, _HOUR / 3, _HOUR, 3 * _HOUR, 9 * _HOUR, 1.0, 3.0, 10.0, 90.0, 365.0, math.inf),
    "ease_weight": (10.0, 0.0, 1.0, 3.0, 30.0, 100.0),
    "own_weight": (1.0, 0.0, 0.3, 3.0, 10.0, 30.0),
    "own_half_life_days": (math.inf, 7.0, 30.0, 180.0),
    "regularisation": (300.0, 30.0, 3000.0),
    "floor": (1e-3, 1e-1, 1e-2, 1e-4, 1e-6),
}
"""Values of each setting, the one that the search begins with first."""
_OWN = ("own_weight", "own_half_life_days")
"""Settings for logs with repeats only."""
_ROUNDS = 2


def blend(split: Split, **settings: float) -> RankedLists:
    """Ranks by the blend.

    Args:
        split: Data and protocol.
        **settings: A value for each setting of the search.
    """
    parts = _scorers(split)
    named = {name: parts[name](settings[setting]) for name, setting in _USES.items() if _is_used(name, settings)}
    return rank(split, lambda cases: _mixed({name: scorer(cases) for name, scorer in named.items()}, settings))


def chosen_by_validation(validation: Split) -> tuple[Settings, list[tuple[Settings, float]]]:
    """The settings with the best NDCG@10, and all that were tried; the search changes one at a time, in two rounds.

    Args:
        validation: Split to choose on; of a large one a sample of the baskets, of each user in turn.
    """
    split = validation.drawn(_BASKETS)
    parts = _scorers(split)
    order = by_time(split)
    row = np.argsort(order)
    tried: list[tuple[Settings, float]] = []

    @cache
    def scores(name: str, value: float) -> Floats:
        return parts[name](value)(order)

    @cache
    def ndcg(values: tuple[float, ...]) -> float:
        settings = dict(zip(_GRID, values, strict=True))

        def score(cases: Ints) -> Floats:
            named = {
                name: scores(name, settings[setting])[row[cases]]
                for name, setting in _USES.items()
                if _is_used(name, settings)
            }
            return _mixed(named, settings)

        tried.append((settings, ndcg_at_10(split, rank(split, score))))
        return tried[-1][1]

    grid = {name: values if split.repeats or name not in _OWN else (0.0,) for name, values in _GRID.items()}
    best = tuple(values[0] for values in grid.values())
    for _ in range(_ROUNDS):
        for position, values in enumerate(grid.values()):
            best = max((best, *((*best[:position], value, *best[position + 1 :]) for value in values)), key=ndcg)
    return dict(zip(_GRID, best, strict=True)), tried


_USES = {"popularity": "half_life_days", "ease": "regularisation", "own": "own_half_life_days"}
"""The parts of the score, and the setting that each is made with."""


def _scorers(split: Split) -> dict[str, Callable[[float], Scorer]]:
    return {
        "popularity": partial(popularity_scorer, split, True),
        "ease": partial(ease_scorer, split),
        "own": partial(own_counts_scorer, split),
    }


def _is_used(part: str, settings: Settings) -> bool:
    return settings.get(f"{part}_weight", 1.0) > 0


def _mixed(parts: dict[str, Floats], settings: Settings) -> Floats:
    scores: Floats = np.log(parts["popularity"] + np.float32(settings["floor"]))
    if "ease" in parts:
        scores += np.float32(settings["ease_weight"]) * parts["ease"]
    if "own" in parts:
        scores += np.float32(settings["own_weight"]) * np.log1p(parts["own"])
    return scores
