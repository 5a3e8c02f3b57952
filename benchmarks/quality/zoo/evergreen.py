"""Evergreen: a catalog that never changes, tastes that never change, no trends: nothing decays."""

from __future__ import annotations

import numpy as np

from benchmarks.quality.zoo.attributes import factors, favourites, one_hots, skewed, static
from benchmarks.quality.zoo.choice import Design, Floats, never_again
from benchmarks.quality.zoo.schedule import EVENING, at_hours, scheduled, visits, with_sessions
from benchmarks.quality.zoo.texts import HOBBIES, LEVELS, evergreen_text, made_up_name

_DAYS = 365.0
_START_MS = 1_672_531_200_000
"""2023-01-01."""
_SUBJECTS = len(next(iter(HOBBIES.values())))
_FACTORS = 6


def evergreen(rng: np.random.Generator, scale: float) -> Design:
    """Designs the world.

    Appeal: quality, constant. Repeat: no item twice.
    """
    users, items = round(800 * scale), round(1000 * scale)
    hobby, subject = skewed(rng, items, len(HOBBIES)), skewed(rng, items, _SUBJECTS)
    level = skewed(rng, items, len(LEVELS))
    quality = rng.normal(0, 1.2, items)
    hidden = factors(rng, items, _FACTORS, 0.8)

    def appeal(now: Floats) -> Floats:
        return np.broadcast_to(quality, (now.shape[0], items)).copy()

    blocks = (len(HOBBIES), len(HOBBIES) * _SUBJECTS, len(LEVELS))
    subjects = hobby * _SUBJECTS + subject
    attributes = one_hots((hobby, subjects, level), blocks, hidden)
    fixed = np.hstack(
        [
            favourites(rng, users, blocks[0], 2, 4.5, 0.6),
            favourites(rng, users, blocks[1], 8, 2.0, 0.3),
            favourites(rng, users, blocks[2], 1, 1.0, 0.3),
            factors(rng, users, _FACTORS, 0.8),
        ]
    )

    user, day = visits(rng, users, _DAYS, newcomers=0.3, mean=(24, 1), spread=0.7, least=2)
    start = at_hours(rng, day, EVENING)
    user, time = with_sessions(rng, user, start, mean_events=2.0, gap_minutes=15.0)
    schedule = scheduled(user, time, np.ones_like(user), _DAYS)
    texts = [
        evergreen_text(made_up_name(rng), *values)
        for values in zip(hobby.tolist(), subject.tolist(), level.tolist(), strict=True)
    ]
    return Design(
        name="evergreen",
        start_ms=_START_MS,
        repeats=False,
        schedule=schedule,
        texts=texts,
        born_days=np.full(items, -1.0),
        attributes=attributes,
        tastes=static(fixed),
        appeal=appeal,
        repeat=never_again,
        trait=np.zeros(users),
    )
