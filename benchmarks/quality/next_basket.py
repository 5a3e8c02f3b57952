"""The next-basket recommenders that are hard to beat on groceries: TIFU-kNN and UP-CF@r.

Both add what alike users have to the user's own decayed baskets. The user is seen as of the basket predicted; the
others as of the border where popularity is frozen, else as of a little before the basket.
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
"""So many baskets, in the order of time, see the others as of the first of them."""


def up_cf(split: Split, *, updated: bool, recency: float, locality: float, asymmetry: float) -> RankedLists:
    """UP-CF@r (Faggioli, Polato and Aiolli, UMAP 2020, eqs. 4 to 6).

    Args:
        split: Protocol.
        updated: Whether the others' baskets are kept up to date; the user's own always are.
        recency: r, newest baskets of each user whose shares of an item count; infinity for all.
        locality: q, the power of the similarities.
        asymmetry: alpha, of the asymmetric cosine between the sets of items two users had.
    """
    baskets = Baskets.of(split.test.log, len(split.test.catalog))

    def newest(first: Ints, stop: Ints) -> csr_matrix:
        return baskets.vectors(np.maximum(first, stop - _whole(recency)), stop, lambda _, count: 1.0 / count)

    def others(stop: Ints) -> tuple[csr_matrix, csr_matrix]:
        return _had(baskets, baskets.first, stop), newest(baskets.first, stop)

    def score(stop: Ints, user: Ints, known: tuple[csr_matrix, csr_matrix]) -> Floats:
        first = baskets.first[user]
        theirs, shares = known
        mine = _had(baskets, first, stop)
        sizes, their_sizes = (np.diff(had.indptr).astype(np.float32) for had in (mine, theirs))
        norms = np.outer(sizes**asymmetry, np.maximum(their_sizes, 1) ** (1 - asymmetry))
        alike = ((mine @ theirs.T).toarray() / norms) ** locality
        # The user as of now stands for the user as of then.
        alike[np.arange(user.shape[0]), user] = 0
        own: Floats = newest(first, stop).toarray()
        return _weighted(alike.astype(np.float32), shares) + own

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
        split: Protocol.
        updated: Whether the others' baskets are kept up to date; the user's own always are.
        neighbours: k, nearest users by Euclidean distance.
        within_decay: r_b, of a basket for each later one in its group.
        group_decay: r_g, of a group for each later one.
        own_share: alpha, weight of the user's own vector; the rest is the neighbours' mean.
        groups: m, groups of equally many baskets that a history is parted into.
    """
    baskets = Baskets.of(split.test.log, len(split.test.catalog))

    def weigh(index: Ints, count: Ints) -> npt.NDArray[np.float64]:
        return group_weights(index, count, int(groups), within_decay, group_decay)

    def others(stop: Ints) -> tuple[csr_matrix, csr_matrix]:
        vectors = baskets.vectors(baskets.first, stop, weigh)
        return vectors, vectors.multiply(vectors).sum(1)

    def score(stop: Ints, user: Ints, known: tuple[csr_matrix, csr_matrix]) -> Floats:
        theirs, squares = known
        mine = baskets.vectors(baskets.first[user], stop, weigh)
        # The square of the user's own length is the same for all and orders nothing.
        distance = np.asarray(squares).ravel() - 2 * (mine @ theirs.T).toarray()
        distance[:, np.diff(theirs.indptr) == 0] = np.inf
        distance[np.arange(user.shape[0]), user] = np.inf
        nearest = min(int(neighbours), int(np.isfinite(distance).sum(1).min(initial=distance.shape[1])))
        chosen = np.zeros(distance.shape, dtype=np.float32)
        if nearest:
            index = np.argpartition(distance, nearest - 1, axis=1)[:, :nearest]
            np.put_along_axis(chosen, index, np.float32(1 / nearest), axis=1)
        own: Floats = mine.toarray()
        return np.float32(own_share) * own + np.float32(1 - own_share) * _weighted(chosen, theirs)

    return _ranked(split, baskets, updated, others, score)


def group_weights(
    index: Ints, count: Ints, groups: int, within_decay: float, group_decay: float
) -> npt.NDArray[np.float64]:
    """Weights of baskets in TIFU-kNN (eqs. 1 and 2); where they do not divide evenly, late groups have one more.

    Args:
        index: ``[K]``, of each basket in its user's history, from 0.
        count: ``[K]``, baskets of that history.
        groups: m; a shorter history has a group for each basket.
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
    """Ranks by a few baskets at a time; the others are seen as of the first of these, or of the border."""
    test = split.test
    frozen = None if updated else others(baskets.stop_at(split.training_end_ms))

    def scorer(cases: Ints) -> Floats:
        scores = np.empty((cases.shape[0], baskets.items), dtype=np.float32)
        for start in range(0, cases.shape[0], _BASKETS_AT_ONCE):
            part = slice(start, start + _BASKETS_AT_ONCE)
            head = test.baskets.head[cases[part]]
            known = frozen or others(baskets.stop_at(int(test.log.time_ms[head].min())))
            scores[part] = score(baskets.of_event[head], test.owner[cases[part]], known)
        return scores

    return rank(split, scorer)


def _had(baskets: Baskets, first: Ints, stop: Ints) -> csr_matrix:
    """Who had what, ones."""
    found = baskets.vectors(first, stop, lambda index, _: np.ones(index.shape[0]))
    found.data[:] = 1
    return found


def _weighted(weights: Floats, vectors: csr_matrix) -> Floats:
    """``[K, U]`` times sparse ``[U, N]``."""
    return np.ascontiguousarray((vectors.T @ np.ascontiguousarray(weights.T)).T)


def _whole(recency: float) -> int:
    return int(min(recency, np.iinfo(np.int32).max))
