"""Memory of ACT-R as a recommender, for logs with repeat consumption."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_matrix, diags

from benchmarks.quality.popularity import popularity_scorer
from benchmarks.quality.split import Floats, Ints, Split, rank
from ebbtide.data.sessions import session_starts
from ebbtide.interest.events import MS_PER_HOUR
from ebbtide.train.evaluation.lists import RankedLists

_SESSION_GAP_MS = 30 * 60 * 1000
_LEAST_HOURS = 1 / 60
_POPULAR_SHARE = 1e-6
"""Orders the items that the user never had."""


def actr(split: Split, *, decay: float, spreading: float) -> RankedLists:
    """Base-level activation and spreading activation (Reiter-Haas et al., RecSys 2021, arXiv 2108.02138).

    The base-level activation of item i is B_i = ln(sum_j t_ij^-d), t_ij being the hours since the user's j-th event of
    i. Each component becomes shares by a softmax over the items, which for B_i are sum_j t_ij^-d over their sum. The
    second component spreads from the items of the user's last session: the share of the training sessions with such
    an item that have item i, too.

    Args:
        split: Data and protocol.
        decay: d.
        spreading: Weight of the second component; the first one has the weight 1.
    """
    test = split.test
    popular = popularity_scorer(split, True, window_days=30.0)
    opened = session_starts(test.log, _SESSION_GAP_MS)
    together = _together(split, opened) if spreading else None

    def score(cases: Ints) -> Floats:
        scores = popular(cases) * np.float32(_POPULAR_SHARE)
        for row, case in enumerate(cases.tolist()):
            past = split.history(case)
            hours = (test.log.time_ms[test.baskets.head[case]] - test.log.time_ms[past]) / MS_PER_HOUR
            strength = np.maximum(hours, _LEAST_HOURS) ** -decay
            np.add.at(scores[row], test.log.item[past], (strength / strength.sum()).astype(np.float32))
            if together is not None:
                sources = np.unique(test.log.item[int(opened[past.stop - 1]) : past.stop])
                spread = np.asarray(together[sources].mean(axis=0), dtype=np.float32).ravel()
                scores[row] += np.float32(spreading) * spread
        return scores

    return rank(split, score)


def _together(split: Split, opened: Ints) -> csr_matrix:
    """Of the training sessions with item i, the share that has item j, ``[N, N]``; nothing for i = j."""
    log, training = split.test.log, split.training
    _, session = np.unique(opened[training], return_inverse=True)
    shape = (int(session.max()) + 1, len(split.test.catalog))
    ones = np.ones(session.shape[0], dtype=np.float32)
    had = csr_matrix((ones, (session, log.item[training])), shape=shape)
    had.data[:] = 1
    pairs = (had.T @ had).tocsr()
    counts = np.maximum(pairs.diagonal(), 1)
    pairs.setdiag(0)
    return csr_matrix(diags(1 / counts) @ pairs, dtype=np.float32)
