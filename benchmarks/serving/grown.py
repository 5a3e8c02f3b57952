"""Item factors for a catalog of any size: mixtures of near trained items, so that they keep the trained structure.

Random factors have no structure, and without structure no index can skip most of a catalog.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_NEIGHBOURS = 8
_MOST_TRAINED = 10_000
_NOISE = 0.5
"""Noise added to a mixture, as a share of the distance from an item to its nearest item: no two items are equal."""
_CHUNK = 100_000


def grow_factors(trained: Floats, dimensions: int, items: int, seed: int = 0) -> Floats:
    """Grows item factors to a number of items.

    Args:
        trained: ``[items, d + prior columns]``, trained factors.
        dimensions: d; the p columns of the popularity prior are drawn from random items.
        items: M, number of items.
        seed: Equal seeds give equal factors.

    Returns:
        ``[grown items, d + prior columns]`` float32.
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
        mixture = np.einsum("nk,nkd->nd", share, vectors[np.concatenate([first[:, None], others], axis=1)])
        mixture += random.standard_normal(mixture.shape, dtype=np.float32) * spread[first, None].astype(np.float32)
        # A mixture is shorter than its items; scale it back to an item's length.
        mixture *= (length[first] / np.linalg.norm(mixture, axis=1))[:, None]
        grown[start : start + count, :dimensions] = mixture
        grown[start : start + count, dimensions:] = prior[random.integers(0, len(trained), count)]
    return grown
