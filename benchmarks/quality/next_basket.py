"""The next-basket recommenders TIFU-kNN and UP-CF@r, strong baselines for groceries.

Both combine the user's own decayed baskets with those of similar users. The user's own baskets are all those before the
predicted basket. The other users' baskets end at the split time if the model is frozen, otherwise shortly before the
predicted basket.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from benchmarks.quality.baskets import Baskets
from benchmarks.quality.split import Floats, Ints, Split, rank
from ebbtide.train.evaluation.lists import RankedLists

_BASKETS_AT_ONCE = 256
"""Test baskets, in order of time, that share one state of the other users: the state before the first of them."""


def up_cf(split: Split, *, updated: bool, recency: float, locality: float, asymmetry: float) -> RankedLists:
    """UP-CF@r (Faggioli, Polato and Aiolli, UMAP 2020, eqs. 4 to 6).

    Args:
        split: Data and protocol.
        updated: Whether the other users' baskets after the split time are used.
        recency: r, number of newest baskets of each user that count; infinity for all.
        locality: q, exponent of the similarities.
        asymmetry: alpha of the asymmetric cosine between the item sets of two users.
    """
    baskets = Baskets.of(split.test.log, len(split.test.catalog))

    def newest(first: Ints, stop: Ints) -> csr_matrix:
        return baskets.vectors(np.maximum(first, stop - _whole(recency)), stop, lambda _, count: 1.0 / count)

    def others(stop: Ints) -> tuple[csr_matrix, csr_matrix]:
        return _item_sets(baskets, baskets.first, stop), newest(baskets.first, stop)

    def score(stop: Ints, user: Ints, known: tuple[csr_matrix, csr_matrix]) -> Floats:
        first = baskets.first[user]
        other_sets, shares = known
        own_sets = _item_sets(baskets, first, stop)
        own_sizes, other_sizes = (np.diff(sets.indptr).astype(np.float32) for sets in (own_sets, other_sets))
        norms = np.outer(own_sizes**asymmetry, np.maximum(other_sizes, 1) ** (1 - asymmetry))
        similarity = ((own_sets @ other_sets.T).toarray() / norms) ** locality
        # A user is not a neighbour of themselves: their own baskets are added below, up to date.
        similarity[np.arange(user.shape[0]), user] = 0
        own: Floats = newest(first, stop).toarray()
        return _weighted(similarity.astype(np.float32), shares) + own

    return _ranked(split, baskets, updated, others, score)


def tifu_knn(
    split: Split,
    *,
    updated: bool,
    neighbours: float,
    within_decay: float,
    group_decay: float,
    own_share: float,
    groups: float,
) -> RankedLists:
    """TIFU-kNN (Hu et al., SIGIR 2020, section 4).

    Args:
        split: Data and protocol.
        updated: Whether the other users' baskets after the split time are used.
        neighbours: k, number of nearest users by Euclidean distance.
        within_decay: r_b, decay of a basket for each later basket of its group.
        group_decay: r_g, decay of a group for each later group.
        own_share: alpha, weight of the user's own vector; the neighbours' mean has the weight 1 - alpha.
        groups: m, number of groups of equal size that a history is divided into.
    """
    baskets = Baskets.of(split.test.log, len(split.test.catalog))

    def weigh(index: Ints, count: Ints) -> npt.NDArray[np.float64]:
        return group_weights(index, count, int(groups), within_decay, group_decay)

    def others(stop: Ints) -> tuple[csr_matrix, csr_matrix]:
        vectors = baskets.vectors(baskets.first, stop, weigh)
        return vectors, vectors.multiply(vectors).sum(1)

    def score(stop: Ints, user: Ints, known: tuple[csr_matrix, csr_matrix]) -> Floats:
        others_vectors, squares = known
        own_vectors = baskets.vectors(baskets.first[user], stop, weigh)
        # The squared norm of the user's own vector is left out: it is the same for all neighbours.
        distance = np.asarray(squares).ravel() - 2 * (own_vectors @ others_vectors.T).toarray()
        distance[:, np.diff(others_vectors.indptr) == 0] = np.inf
        distance[np.arange(user.shape[0]), user] = np.inf
        nearest = min(int(neighbours), int(np.isfinite(distance).sum(1).min(initial=distance.shape[1])))
        chosen = np.zeros(distance.shape, dtype=np.float32)
        if nearest:
            index = np.argpartition(distance, nearest - 1, axis=1)[:, :nearest]
            np.put_along_axis(chosen, index, np.float32(1 / nearest), axis=1)
        own: Floats = own_vectors.toarray()
        return np.float32(own_share) * own + np.float32(1 - own_share) * _weighted(chosen, others_vectors)

    return _ranked(split, baskets, updated, others, score)


def group_weights(
    index: Ints, count: Ints, groups: int, within_decay: float, group_decay: float
) -> npt.NDArray[np.float64]:
    """Weights of baskets in TIFU-kNN (eqs. 1 and 2), ``[histories]``.

    If groups differ in size, later ones have one more.

    Args:
        index: ``[histories]``, index of each basket in its user's history, from 0.
        count: ``[histories]``, number of baskets of that history.
        groups: m, number of groups; a history with fewer baskets has one group for each basket.
        within_decay: r_b.
        group_decay: r_g.
    """
    number = np.minimum(groups, count)
    size = count // number
    small = (number - count % number) * size
    late = index >= small
    size_here = np.where(late, size + 1, size)
    beyond = np.where(late, index - small, index)
    group = beyond // size_here + np.where(late, number - count % number, 0)
    within = within_decay ** (size_here - 1 - beyond % size_here) / size_here
    return np.asarray(within * group_decay ** (number - 1 - group) / number)


def _ranked(
    split: Split,
    baskets: Baskets,
    updated: bool,
    others: Callable[[Ints], tuple[csr_matrix, csr_matrix]],
    score: Callable[[Ints, Ints, tuple[csr_matrix, csr_matrix]], Floats],
) -> RankedLists:
    """Ranks in chunks of test baskets, each with the other users' state before its first basket or the split time."""
    test = split.test
    frozen = None if updated else others(baskets.stop_at(split.training_end_ms))

    def scorer(cases: Ints) -> Floats:
        scores = np.empty((cases.shape[0], baskets.items), dtype=np.float32)
        for start in range(0, cases.shape[0], _BASKETS_AT_ONCE):
            chunk = slice(start, start + _BASKETS_AT_ONCE)
            head = test.baskets.head[cases[chunk]]
            known = frozen or others(baskets.stop_at(int(test.log.time_ms[head].min())))
            scores[chunk] = score(baskets.of_event[head], test.owner[cases[chunk]], known)
        return scores

    return rank(split, scorer)


def _item_sets(baskets: Baskets, first: Ints, stop: Ints) -> csr_matrix:
    """The items of each history, as ones, ``[histories, items]``."""
    sets = baskets.vectors(first, stop, lambda index, _: np.ones(index.shape[0]))
    sets.data[:] = 1
    return sets


def _weighted(weights: Floats, vectors: csr_matrix) -> Floats:
    """The product of ``[histories, users]`` and sparse ``[users, items]``."""
    return np.ascontiguousarray((vectors.T @ np.ascontiguousarray(weights.T)).T)


def _whole(recency: float) -> int:
    return int(min(recency, np.iinfo(np.int32).max))
