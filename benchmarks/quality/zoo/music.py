"""Music: songs are played again with the power law of human memory, and discovered at a rate of each user's own."""

from __future__ import annotations

import numpy as np

from benchmarks.quality.zoo.attributes import drifting, factors, favourites, one_hots, skewed
from benchmarks.quality.zoo.choice import Design, Floats, Past
from benchmarks.quality.zoo.schedule import EVENING, at_hours, scheduled, visits, with_sessions
from benchmarks.quality.zoo.texts import MOODS, MUSIC, artist_name, made_up_name, music_text

_DAYS = 365.0
_START_MS = 1_672_531_200_000
"""2023-01-01."""
_SOUNDS = len(next(iter(MUSIC.values())))
_FACTORS = 8
_ITEMS_PER_ARTIST = 5
_DECAY = 0.5
"""Exponent of the power law of ACT-R's base-level activation (Anderson and Schooler, Psychological Science 1991)."""


def music(rng: np.random.Generator, scale: float) -> Design:
    """Designs the world.

    Appeal: quality, plus 1.5 exp(-age / 30 days) for a new song.
    Repeat: 6 + 0.7 trait + 1.2 log(sum over earlier plays of (age in hours + 0.1) ** -0.5) for a song that the user has
    played; minus infinity for half an hour after a play.
    """
    users, items = round(550 * scale), round(2500 * scale)
    artists = max(items // _ITEMS_PER_ARTIST, 1)
    artist = skewed(rng, items, artists, 0.4)
    genre = skewed(rng, artists, len(MUSIC))[artist]
    sound, mood = rng.integers(0, _SOUNDS, items), skewed(rng, items, len(MOODS))
    quality = (rng.normal(0, 0.6, artists)[artist] + rng.normal(0, 0.6, items)).astype(float)
    born = np.where(rng.random(items) < 0.7, -1000.0, np.floor(rng.uniform(-100, _DAYS, items)))
    hidden = factors(rng, artists, _FACTORS, 1.2)[artist]

    def appeal(now: Floats) -> Floats:
        age = np.maximum(now[:, None] - born, 0)
        return np.where(now[:, None] > born, quality + 1.5 * np.exp(-age / 30), -np.inf)

    faithful = rng.standard_normal(users)

    def repeat(utility: Floats, past: Past, trait: Floats) -> None:
        activation = np.zeros(utility.shape)
        np.add.at(activation, (past.row, past.item), (past.age_days * 24 + 0.1) ** -_DECAY)
        played = activation > 0
        row = np.nonzero(played)[0]
        utility[played] += 6.0 + 0.7 * trait[row] + 1.2 * np.log(activation[played])
        recent = past.age_days * 24 < 0.5
        utility[past.row[recent], past.item[recent]] = -np.inf

    blocks = (len(MUSIC), len(MUSIC) * _SOUNDS, len(MOODS))
    sounds = genre * _SOUNDS + sound
    attributes = one_hots((genre, sounds, mood), blocks, hidden)
    fixed = np.hstack(
        [
            favourites(rng, users, blocks[0], 3, 2.5, 0.5),
            favourites(rng, users, blocks[1], 6, 0.8, 0.3),
            favourites(rng, users, blocks[2], 2, 0.8, 0.3),
            factors(rng, users, _FACTORS, 1.2),
        ]
    )
    spreads = [(blocks[0], 0.6), (blocks[1], 0.2), (blocks[2], 0.5), (_FACTORS, 0.0)]
    tastes = drifting(rng, fixed, spreads, memory_days=60.0)

    user, day = visits(rng, users, _DAYS, newcomers=0.3, mean=(20, 1), spread=0.7, least=2)
    start = at_hours(rng, day, EVENING)
    user, time = with_sessions(rng, user, start, mean_events=5.0, gap_minutes=5.0)
    schedule = scheduled(user, time, np.ones_like(user), _DAYS)
    artist_names = [artist_name(rng) for _ in range(artists)]
    texts = [
        music_text(artist_names[by], made_up_name(rng), *values)
        for by, *values in zip(*(a.tolist() for a in (artist, genre, sound, mood)), strict=True)
    ]
    return Design(
        name="music",
        start_ms=_START_MS,
        repeats=True,
        schedule=schedule,
        texts=texts,
        born_days=born,
        attributes=attributes,
        tastes=tastes,
        appeal=appeal,
        repeat=repeat,
        trait=faithful,
    )
