"""News: articles live for hours, topics surge for days, tastes drift, some articles are opened again."""

from __future__ import annotations

import numpy as np

from benchmarks.quality.zoo.attributes import drifting, favourites, one_hots, skewed
from benchmarks.quality.zoo.choice import Design, Floats, Past
from benchmarks.quality.zoo.schedule import DAYTIME, at_hours, scheduled, visits, with_sessions
from benchmarks.quality.zoo.texts import NEWS_FORMATS, NEWS_TOPICS, news_text
from benchmarks.quality.zoo.waves import waves

_DAYS = 28.0
_START_MS = 1_725_235_200_000
"""2024-09-02, a Monday."""
_SUBJECTS = len(next(iter(NEWS_TOPICS.values()))[1])


def news(rng: np.random.Generator, scale: float) -> Design:
    """Designs the world.

    Appeal: quality - age / life, after a rise of minutes, plus the surge of the article's topic.
    Repeat: (3 + trait) exp(-age / 6 hours) - 2.5 for an opened article, with the age of the last view.
    """
    users, items = round(900 * scale), round(3200 * scale)
    topic, subject = skewed(rng, items, len(NEWS_TOPICS), 0.4), skewed(rng, items, _SUBJECTS)
    kind = skewed(rng, items, len(NEWS_FORMATS), 1.0)
    born = at_hours(rng, rng.uniform(-2, _DAYS, items), DAYTIME)
    quality = rng.normal(0, 0.7, items) + np.asarray([0.4, 0.0, 0.0, -0.2, 0.2])[kind]
    life_days = rng.lognormal(np.log(5 / 24), 0.4, items) * np.asarray([0.7, 1.0, 1.8, 1.8, 1.0])[kind]
    surge = waves(rng, len(NEWS_TOPICS), _DAYS, per_month=1.5, length_days=2.0, height=1.2)

    def appeal(now: Floats) -> Floats:
        age = now[:, None] - born
        with np.errstate(over="ignore"):
            value = quality + surge(now)[:, topic] - age / life_days - 2 * np.exp(-np.maximum(age, 0) * 96)
        return np.where((age > 0) & (age < 4), value, -np.inf)

    returning = rng.standard_normal(users)

    def repeat(utility: Floats, past: Past, trait: Floats) -> None:
        seen = np.full(utility.shape, np.inf)
        np.minimum.at(seen, (past.row, past.item), past.age_days)
        again = np.isfinite(seen)
        row = np.nonzero(again)[0]
        utility[again] += -2.5 + (3.0 + trait[row]) * np.exp(-seen[again] * 24 / 6)

    subjects = topic * _SUBJECTS + subject
    blocks = (len(NEWS_TOPICS), len(NEWS_TOPICS) * _SUBJECTS, len(NEWS_FORMATS))
    attributes = one_hots((topic, subjects, kind), blocks)
    fixed = np.hstack(
        [
            favourites(rng, users, blocks[0], 3, 2.2, 0.5),
            favourites(rng, users, blocks[1], 10, 1.5, 0.3),
            favourites(rng, users, blocks[2], 1, 0.6, 0.2),
        ]
    )
    tastes = drifting(rng, fixed, [(blocks[0], 0.7), (blocks[1], 0.3), (blocks[2], 0.0)], memory_days=5.0)

    user, day = visits(rng, users, _DAYS, newcomers=0.3, mean=(20, 0), spread=0.8, least=2)
    start = at_hours(rng, day, DAYTIME)
    user, time = with_sessions(rng, user, start, mean_events=2.5, gap_minutes=3.0)
    schedule = scheduled(user, time, np.ones_like(user), _DAYS)
    texts = [news_text(rng, *values) for values in zip(topic.tolist(), subject.tolist(), kind.tolist(), strict=True)]
    return Design(
        name="news",
        start_ms=_START_MS,
        repeats=True,
        schedule=schedule,
        texts=texts,
        born_days=born,
        attributes=attributes,
        tastes=tastes,
        appeal=appeal,
        repeat=repeat,
        trait=returning,
    )
