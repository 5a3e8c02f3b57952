"""Personal frequency with decay, for logs with repeat consumption."""

from __future__ import annotations

import numpy as np

from benchmarks.quality.popularity import popularity_scorer
from benchmarks.quality.split import Floats, Ints, Scorer, Split, rank
from ebbtide.interest.events import MS_PER_DAY
from ebbtide.train.evaluation.lists import RankedLists


def personal_frequency(
    split: Split, *, updated: bool, half_life_days: float, popular_share: float = 1e-6
) -> RankedLists:
    """Ranks by the user's own decayed item counts plus a small share of the popularity of the last 30 days.

    This is the personal component of UP-CF (Faggioli et al., UMAP 2020) and TIFU-kNN (Hu et al., SIGIR 2020).

    Args:
        split: Data and protocol.
        updated: Whether popularity uses events after the split time; the user's own counts always do.
        half_life_days: Half-life of the user's own counts; infinity for no decay.
        popular_share: Weight of popularity, scaled to a maximum of 1; the default only orders unseen items.
    """
    popular = popularity_scorer(split, updated, window_days=30.0)
    own = own_counts_scorer(split, half_life_days)
    return rank(split, lambda cases: popular(cases) * np.float32(popular_share) + own(cases))


def own_counts_scorer(split: Split, half_life_days: float) -> Scorer:
    """Scores by the user's own decayed item counts."""
    test = split.test

    def score(cases: Ints) -> Floats:
        scores = np.zeros((cases.shape[0], len(test.catalog)), dtype=np.float32)
        for row, case in enumerate(cases.tolist()):
            past = split.history(case)
            age_days = (test.log.time_ms[test.baskets.head[case]] - test.log.time_ms[past]) / MS_PER_DAY
            np.add.at(scores[row], test.log.item[past], np.exp2(-age_days / half_life_days).astype(np.float32))
        return scores

    return score
