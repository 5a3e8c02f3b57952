"""Groceries: weekly baskets from stable habits; each product is bought again when the last purchase is used up."""

from __future__ import annotations

import numpy as np

from benchmarks.quality.zoo.attributes import factors, favourites, one_hots, static
from benchmarks.quality.zoo.choice import Design, Floats, Past
from benchmarks.quality.zoo.schedule import DAYTIME, at_hours, scheduled
from benchmarks.quality.zoo.texts import AISLES, BRANDS, PRODUCTS, SIZES, grocery_text

_DAYS = 364.0
_START_MS = 1_672_617_600_000
"""2023-01-02, a Monday."""
_FACTORS = 6


def groceries(rng: np.random.Generator, scale: float) -> Design:
    """Designs the world.

    Appeal: quality, constant.
    Habit: 2.5 to 4.5 for each of the household's 30 usual products, from its first day on.
    Repeat: -5 exp(-age / the household's period of the product), with the age of its last purchase of the product.
    """
    users = round(400 * scale)
    all_items = np.asarray(
        [(p, b, s) for p in range(len(PRODUCTS)) for b in range(len(BRANDS)) for s in range(len(SIZES))]
    )
    product, brand, size = all_items[rng.random(all_items.shape[0]) < min(0.7 * scale**0.5, 1.0)].T
    items = product.shape[0]
    quality = rng.normal(0, 0.7, items)
    hidden = factors(rng, items, _FACTORS, 0.5)
    aisles = list(AISLES)
    aisle = np.asarray([aisles.index(entry[0]) for entry in PRODUCTS])[product]
    weeks = np.asarray([entry[2] for entry in PRODUCTS])[product]

    def appeal(now: Floats) -> Floats:
        return np.broadcast_to(quality, (now.shape[0], items)).copy()

    blocks = (len(AISLES), len(PRODUCTS), len(BRANDS), len(SIZES))
    attributes = one_hots((aisle, product, brand, size), blocks, hidden)
    fixed = np.hstack(
        [
            favourites(rng, users, blocks[0], 4, 1.2, 0.5),
            favourites(rng, users, blocks[1], 20, 1.5, 0.5),
            favourites(rng, users, blocks[2], 2, 1.5, 0.3),
            favourites(rng, users, blocks[3], 1, 1.0, 0.1),
            factors(rng, users, _FACTORS, 0.5),
        ]
    )
    # The usual products are drawn by the household's own tastes, so that similar households share them.
    usual = np.argsort(-(fixed @ attributes.T + quality + rng.gumbel(size=(users, items))), axis=1)[:, :30]
    habit = np.zeros((users, items))
    np.put_along_axis(habit, usual, rng.uniform(2.5, 4.5, usual.shape), axis=1)
    pace = rng.lognormal(0, 0.3, users)

    def repeat(utility: Floats, past: Past, _trait: Floats) -> None:
        last = np.full(utility.shape, np.inf)
        np.minimum.at(last, (past.row, past.item), past.age_days)
        with np.errstate(invalid="ignore"):
            utility -= 5 * np.exp(-last / (7 * weeks * pace[past.user][:, None]))

    weekday = rng.integers(0, 7, users)
    trips = rng.random((users, int(_DAYS) // 7)) < rng.beta(6, 4, users)[:, None]
    user, week = np.nonzero(trips)
    day = week * 7 + (weekday[user] + rng.choice([-1, 0, 0, 0, 1], user.shape[0])) % 7
    sizes = np.clip(rng.poisson(rng.gamma(4, 1.2, users)[user]), 1, 15)
    schedule = scheduled(user, at_hours(rng, day.astype(float), DAYTIME), sizes, _DAYS)
    texts = [grocery_text(*values) for values in zip(product.tolist(), brand.tolist(), size.tolist(), strict=True)]
    return Design(
        name="groceries",
        start_ms=_START_MS,
        repeats=True,
        schedule=schedule,
        texts=texts,
        born_days=np.full(items, -1.0),
        attributes=attributes,
        tastes=static(fixed),
        appeal=appeal,
        repeat=repeat,
        trait=np.zeros(users),
        habit=habit,
    )
