"""Series and films: rated as they come out, a burst in the first days and a long tail; users come in bursts."""

from __future__ import annotations

import numpy as np

from benchmarks.quality.zoo.attributes import drifting, factors, favourites, one_hots, skewed
from benchmarks.quality.zoo.choice import Design, Floats, Past, never_again
from benchmarks.quality.zoo.schedule import (
    EVENING,
    at_hours,
    bursts,
    scheduled,
    visits,
    with_sessions,
)
from benchmarks.quality.zoo.texts import COUNTRIES, GENRES, film_text, made_up_name

_DAYS = 730.0
_START_MS = 1_640_995_200_000
"""2022-01-01."""
_THEMES = len(next(iter(GENRES.values())))
_DAYS_BETWEEN_SEASONS = 240.0
_FACTORS = 6


def series(rng: np.random.Generator, scale: float) -> Design:
    """Designs the world.

    Appeal: quality + 3 exp(-age / 6 days) - 0.9 log(1 + age / 20 days), from the day of release.
    Repeat: no title twice; +3 for the season that follows one which the user has seen, -1.5 for a season without it.
    """
    users, shows = round(1500 * scale), round(1100 * scale)
    show_seasons = np.where(rng.random(shows) < 0.3, rng.integers(2, 5, shows), 0)
    show = np.repeat(np.arange(shows), np.maximum(show_seasons, 1))
    items = show.shape[0]
    season = np.arange(items) - np.searchsorted(show, show) + 1
    season[show_seasons[show] == 0] = 0
    genre, theme = skewed(rng, shows, len(GENRES))[show], skewed(rng, shows, _THEMES)[show]
    country = skewed(rng, shows, len(COUNTRIES), 1.0)[show]
    first = np.floor(rng.uniform(-600, _DAYS, shows))[show]
    born = first + np.maximum(season - 1, 0) * _DAYS_BETWEEN_SEASONS + rng.integers(-20, 21, items) + 6 / 24
    quality = rng.normal(0, 0.9, shows)[show] + rng.normal(0, 0.2, items)
    hidden = factors(rng, shows, _FACTORS, 0.5)[show]

    def appeal(now: Floats) -> Floats:
        age = np.maximum(now[:, None] - born, 0)
        value = quality + 3 * np.exp(-age / 6) - 0.9 * np.log1p(age / 20)
        return np.where(now[:, None] > born, value, -np.inf)

    previous = np.where(season > 1, np.arange(items) - 1, -1)
    following = np.full(items, -1)
    following[previous[previous >= 0]] = np.flatnonzero(previous >= 0)

    def repeat(utility: Floats, past: Past, trait: Floats) -> None:
        utility[:, previous >= 0] -= 1.5
        known = following[past.item] >= 0
        utility[past.row[known], following[past.item[known]]] += 4.5
        never_again(utility, past, trait)

    themes = genre * _THEMES + theme
    blocks = (len(GENRES), len(GENRES) * _THEMES, len(COUNTRIES))
    attributes = one_hots((genre, themes, country), blocks, hidden)
    fixed = np.hstack(
        [
            favourites(rng, users, blocks[0], 3, 2.5, 0.5),
            favourites(rng, users, blocks[1], 8, 1.2, 0.3),
            favourites(rng, users, blocks[2], 1, 0.8, 0.3),
            factors(rng, users, _FACTORS, 0.5),
        ]
    )
    spreads = [(blocks[0], 0.6), (blocks[1], 0.3), (blocks[2], 0.0), (_FACTORS, 0.0)]
    tastes = drifting(rng, fixed, spreads, memory_days=150.0)

    user, day = visits(rng, users, _DAYS, newcomers=0.5, mean=(6, 1), spread=0.6, least=1)
    user, day = bursts(rng, user, day, mean_sessions=3.0, gap_days=1.5)
    user, time = with_sessions(rng, user, at_hours(rng, day, EVENING), mean_events=2.0, gap_minutes=60.0)
    schedule = scheduled(user, time, np.ones_like(user), _DAYS)
    names = [made_up_name(rng) for _ in range(shows)]
    texts = [
        film_text(names[show], *values)
        for show, *values in zip(*(a.tolist() for a in (show, season, genre, theme, country)), strict=True)
    ]
    return Design(
        name="series",
        start_ms=_START_MS,
        repeats=False,
        schedule=schedule,
        texts=texts,
        born_days=born,
        attributes=attributes,
        tastes=tastes,
        appeal=appeal,
        repeat=repeat,
        trait=np.zeros(users),
    )
