"""Item factors of a catalog of any size, grown from trained ones: blends of near items, so that they lie as those do.

Random factors would not do: without structure no index can leave most of a catalog unread.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_NEIGHBOURS = 8
_MOST_TRAINED = 10_000
_NOISE = 0.5
"""Of the distance from an item to its nearest one, so that no two items are the same."""
_CHUNK = 100_000


def grow_factors(trained: Floats, dimensions: int, items: int, seed: int = 0) -> Floats:
    """As many item factors as asked for.

    Args:
        trained: ``[N, d + p]``.
        dimensions: d; the prior's columns behind them are drawn from other items.
        items: How many.
        seed: Equal seeds give equal factors.
    """
    random = np.random.default_rng(seed)
    trained = trained[random.permutation(len(trained))[:_MOST_TRAINED]]
    vectors, prior = trained[:, :dimensions], trained[:, dimensions:]
    length = np.linalg.norm(vectors, axis=1)
    directions = vectors / np.maximum(length, np.finfo(np.float32).tiny)[:, None]
    nearest = np.argsort(-(directions @ directions.T), axis=1)[:, :_NEIGHBOURS]
    spread = _NOISE * np.linalg.norm(vectors - vectors[nearest[:, 1]], axis=1) / np.sqrt(dimensions)
    grown = np.empty((items, trained.shape[1]), dtype=np.float32)
    for start in range(0, items, _CHUNK):
        count = min(_CHUNK, items - start)
        first = random.integers(0, len(trained), count)
        others = nearest[first[:, None], random.integers(1, _NEIGHBOURS, (count, 2))]
        share = random.dirichlet([2, 1, 1], count).astype(np.float32)
        blend = np.einsum("nk,nkd->nd", share, vectors[np.concatenate([first[:, None], others], axis=1)])
        blend += random.standard_normal(blend.shape, dtype=np.float32) * spread[first, None].astype(np.float32)
        # A blend is shorter than what it is made of; items are not.
        blend *= (length[first] / np.linalg.norm(blend, axis=1))[:, None]
        grown[start : start + count, :dimensions] = blend
        grown[start : start + count, dimensions:] = prior[random.integers(0, len(trained), count)]
    return grown
