"""Attributes of items, drawn per group, and the users' tastes for them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.quality.zoo.choice import Floats, Ints, Tastes


def one_hots(attributes: Sequence[Ints], values: Sequence[int], *others: Floats) -> Floats:
    """Indicator columns of attributes with values from 0, then the other columns, ``[items, columns]``."""
    return np.hstack([*(np.eye(size)[value] for value, size in zip(attributes, values, strict=True)), *others])


def skewed(rng: np.random.Generator, number: int, values: int, exponent: float = 0.5) -> Ints:
    """Draws values of which the first are the most frequent (a Zipf law), ``[number]``."""
    weight = np.arange(1, values + 1) ** -exponent
    return rng.choice(values, size=number, p=weight / weight.sum()).astype(np.int64)


def favourites(rng: np.random.Generator, users: int, values: int, liked: int, strength: float, noise: float) -> Floats:
    """Tastes for the values of an attribute: a few favourites, and small differences elsewhere, ``[users, values]``.

    Args:
        rng: Source of randomness.
        users: Number of users.
        values: Number of values.
        liked: Number of favourites of each user; the first one counts fully, the k-th one 1 / sqrt(k).
        strength: Utility of the first favourite.
        noise: Standard deviation of all values.
    """
    taste = noise * rng.standard_normal((users, values))
    order = np.argsort(rng.random((users, values)), axis=1)[:, :liked]
    np.put_along_axis(taste, order, strength / np.sqrt(np.arange(1, liked + 1)) + np.zeros((users, 1)), axis=1)
    return taste


def factors(rng: np.random.Generator, rows: int, size: int, strength: float) -> Floats:
    """Hidden factors, which no text tells: ``[rows, size]``; products of two such rows have the spread ``strength``."""
    return np.asarray(rng.standard_normal((rows, size)) * np.sqrt(strength) / size**0.25)


def drifting(
    rng: np.random.Generator, fixed: Floats, blocks: Sequence[tuple[int, float]], memory_days: float
) -> Tastes:
    """Tastes with a drifting part.

    Args:
        rng: Source of randomness.
        fixed: ``[users, attributes]``.
        blocks: Columns and standard deviation of the drifting part of each block of attributes, D columns in all.
        memory_days: Time after which the drifting part keeps 1/e of its value.
    """
    spread = np.concatenate([np.full(columns, deviation) for columns, deviation in blocks])
    return Tastes(fixed, rng.standard_normal(fixed.shape) * spread, spread, memory_days)


def static(fixed: Floats) -> Tastes:
    """Tastes that never change, ``[users, attributes]``."""
    return Tastes(fixed, np.zeros_like(fixed), np.zeros(fixed.shape[1]), 1.0)
