"""Item-to-item models, with one weight for each pair of items: EASE, and item kNN with decayed histories."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from benchmarks.quality.split import Floats, Ints, Scorer, Split, rank
from ebbtide.interest.events import MS_PER_DAY
from ebbtide.train.evaluation.lists import RankedLists

MAX_ITEMS = 8000
"""Maximum number of items, the most frequent first: the dense matrix of more pairs does not fit common machines."""


def ease(split: Split, *, regularisation: float, half_life_days: float = math.inf) -> RankedLists:
    """EASE^R (Steck, WWW 2019, eq. 8): the closed-form item-to-item regression without self-weights.

    Args:
        split: Data and protocol.
        regularisation: Added to the diagonal of the co-occurrence matrix.
        half_life_days: Half-life of the history's events; infinity for the published model.
    """
    return rank(split, ease_scorer(split, regularisation, half_life_days))


def ease_scorer(split: Split, regularisation: float, half_life_days: float = math.inf) -> Scorer:
    """Scores by EASE; the arguments are those of `ease`."""
    kept, gram = _cooccurrence(split)
    inverse = np.linalg.inv(gram + np.float32(regularisation) * np.eye(gram.shape[0], dtype=np.float32))
    weights = inverse / -np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return _scorer(split, kept, weights, half_life_days)


def decayed_neighbours(split: Split, *, half_life_days: float, shrinkage: float, neighbours: int) -> RankedLists:
    """Item kNN in which an event has the weight 2 ** (-age / half-life) (after Ding and Li, CIKM 2005).

    Args:
        split: Data and protocol.
        half_life_days: Half-life of the history's events.
        shrinkage: Added to the denominator of the cosine; lowers the similarity of rare items.
        neighbours: Number of neighbours of each item.
    """
    kept, gram = _cooccurrence(split)
    norms = np.sqrt(np.diag(gram))
    similarity = gram / (np.outer(norms, norms) + np.float32(shrinkage))
    if not split.repeats:
        np.fill_diagonal(similarity, 0)
    if neighbours < similarity.shape[0]:
        lowest = np.partition(similarity, -neighbours, axis=1)[:, -neighbours, None]
        similarity[similarity < lowest] = 0
    return rank(split, _scorer(split, kept, similarity, half_life_days))


@lru_cache(maxsize=1)
def _cooccurrence(split: Split) -> tuple[Ints, Floats]:
    """The kept items, ``[kept items]``, and the number of users of each pair of them, ``[kept items, kept items]``."""
    log, training = split.test.log, split.training
    counts = np.bincount(log.item[training], minlength=len(split.test.catalog))
    kept = np.sort(np.argsort(-counts, kind="stable")[: min(MAX_ITEMS, int((counts > 0).sum()))])
    column = np.full(counts.shape[0], -1)
    column[kept] = np.arange(kept.shape[0])
    pairs = np.unique(np.stack([log.user[training], column[log.item[training]]], axis=1), axis=0)
    pairs = pairs[pairs[:, 1] >= 0]
    ones = np.ones(pairs.shape[0], dtype=np.float32)
    interactions = csr_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=(len(log.users), kept.shape[0]))
    return kept, np.asarray((interactions.T @ interactions).toarray(), dtype=np.float32)


def _scorer(split: Split, kept: Ints, weights: npt.NDArray[np.float32], half_life_days: float) -> Scorer:
    """Scores by the decayed history times the weights; items that were not kept rank below all others."""
    test = split.test
    column = np.full(len(test.catalog), -1)
    column[kept] = np.arange(kept.shape[0])

    def score(cases: Ints) -> Floats:
        rows: list[int] = []
        columns: list[int] = []
        values: list[float] = []
        for row, case in enumerate(cases.tolist()):
            past = split.history(case)
            past_columns = column[test.log.item[past]]
            age_days = (test.log.time_ms[test.baskets.head[case]] - test.log.time_ms[past]) / MS_PER_DAY
            # Only the newest event of an item counts: a later entry overwrites an earlier one.
            newest = dict(zip(past_columns.tolist(), np.exp2(-age_days / half_life_days).tolist(), strict=True))
            newest.pop(-1, None)
            rows += [row] * len(newest)
            columns += newest.keys()
            values += newest.values()
        shape = (cases.shape[0], kept.shape[0])
        past_matrix = csr_matrix((np.asarray(values, dtype=np.float32), (rows, columns)), shape=shape)
        kept_scores = np.asarray(past_matrix @ weights, dtype=np.float32)
        scores = np.full((cases.shape[0], len(test.catalog)), kept_scores.min(initial=0) - 1, dtype=np.float32)
        scores[:, kept] = kept_scores
        return scores

    return score
