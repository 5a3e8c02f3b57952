"""Fashion: styles come and go within weeks to months, garments have seasons, pieces are sold for some months."""

from __future__ import annotations

import numpy as np

from benchmarks.quality.zoo.attributes import drifting, favourites, one_hots, skewed
from benchmarks.quality.zoo.choice import Design, Floats, never_again
from benchmarks.quality.zoo.schedule import EVENING, at_hours, scheduled, visits
from benchmarks.quality.zoo.texts import COLOURS, GARMENTS, STYLES, fashion_text
from benchmarks.quality.zoo.waves import waves

_DAYS = 540.0
_START_MS = 1_677_628_800_000
"""2023-03-01."""
_START_DAY_OF_YEAR = 59
_DAYS_PER_YEAR = 365.25


def fashion(rng: np.random.Generator, scale: float) -> Design:
    """Designs the world.

    Appeal: quality + waves of style and of colour + season of the garment - age / 150 days, sold for 270 days.
    Repeat: no piece twice.
    """
    users, items = round(1000 * scale), round(2400 * scale)
    style, garment = skewed(rng, items, len(STYLES)), skewed(rng, items, len(GARMENTS), 0.2)
    colour = skewed(rng, items, len(COLOURS), 0.7)
    born = np.floor(rng.uniform(-200, _DAYS, items)) + 8 / 24
    quality = rng.normal(0, 0.8, items)
    style_waves = waves(rng, len(STYLES), _DAYS, per_month=0.25, length_days=45.0, height=3.5)
    colour_waves = waves(rng, len(COLOURS), _DAYS, per_month=0.2, length_days=60.0, height=1.5)
    peak, seasonal = (np.asarray([entry[column] for entry in GARMENTS], dtype=float) for column in (1, 2))

    def appeal(now: Floats) -> Floats:
        age = now[:, None] - born
        angle = 2 * np.pi * (now[:, None] + _START_DAY_OF_YEAR - peak) / _DAYS_PER_YEAR
        season = 1.5 * seasonal * (np.cos(angle) - 0.3)
        value = quality + style_waves(now)[:, style] + colour_waves(now)[:, colour] + season[:, garment] - age / 150
        return np.where((age > 0) & (age < 270), value, -np.inf)

    blocks = (len(STYLES), len(GARMENTS), len(COLOURS))
    attributes = one_hots((style, garment, colour), blocks)
    fixed = np.hstack(
        [
            favourites(rng, users, blocks[0], 3, 2.5, 0.6),
            favourites(rng, users, blocks[1], 4, 1.5, 0.5),
            favourites(rng, users, blocks[2], 2, 1.5, 0.4),
        ]
    )
    tastes = drifting(rng, fixed, [(blocks[0], 0.8), (blocks[1], 0.2), (blocks[2], 0.3)], memory_days=120.0)

    user, day = visits(rng, users, _DAYS, newcomers=0.4, mean=(18, 2), spread=0.7, least=2)
    time = at_hours(rng, day, EVENING)
    schedule = scheduled(user, time, np.minimum(rng.geometric(0.55, user.shape[0]), 5), _DAYS)
    texts = [fashion_text(*values) for values in zip(style.tolist(), garment.tolist(), colour.tolist(), strict=True)]
    return Design(
        name="fashion",
        start_ms=_START_MS,
        repeats=False,
        schedule=schedule,
        texts=texts,
        born_days=born,
        attributes=attributes,
        tastes=tastes,
        appeal=appeal,
        repeat=never_again,
        trait=np.zeros(users),
    )
