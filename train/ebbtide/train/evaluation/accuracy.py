"""Ranking metrics of lists, computed by ranx, and their means over users."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from ranx import evaluate

from ebbtide.data.baskets import Baskets, Ints
from ebbtide.data.events import EventLog
from ebbtide.train.evaluation.lists import RankedLists
from ebbtide.train.evaluation.relevance import Relevance

Floats = npt.NDArray[np.float64]

CUT_OFFS = (5, 10, 20)
METRICS = tuple(
    f"{name}_at_{cut}" for name in ("precision", "recall", "f1", "ndcg", "mrr", "hit_rate") for cut in CUT_OFFS
)
_BASKETS_PER_CALL = 50_000
_NOT_RELEVANT = -2
"""Fills the rows of relevant items; differs from what fills the lists."""


def accuracy(lists: RankedLists, relevance: Relevance, metrics: Sequence[str] = METRICS) -> dict[str, Floats]:
    """Each of some metrics for each basket, ``[baskets]``; 0 where nothing is relevant.

    Precision divides by the cut-off even for a shorter list. Recall and NDCG count all relevant items, listed or not.

    Args:
        lists: The ranked lists of all baskets.
        relevance: Of the same.
        metrics: Of `METRICS`, at least two.
    """
    values = {metric: np.zeros(lists.item.shape[0]) for metric in metrics}
    indices = np.broadcast_to(-np.arange(lists.item.shape[1]), lists.item.shape)
    for start in range(0, lists.item.shape[0], _BASKETS_PER_CALL):
        part = slice(start, start + _BASKETS_PER_CALL)
        relevant = relevance.padded(part, _NOT_RELEVANT)
        found = evaluate(
            np.stack([relevant, relevant != _NOT_RELEVANT], axis=2).astype(np.float64),
            np.stack([lists.item[part], indices[part]], axis=2).astype(np.float64),
            [metric.replace("_at_", "@") for metric in metrics],
            return_mean=False,
        )
        for metric in metrics:
            values[metric][part] = found[metric.replace("_at_", "@")]
    return values


def owners(log: EventLog, baskets: Baskets) -> Ints:
    """Which of the log's users each basket belongs to, ``[baskets]``."""
    return np.searchsorted(log.start, baskets.head, side="right") - 1


def user_means(owner: Ints, values: Floats) -> Floats:
    """The mean within each user who has a basket, ``[users]``, in the order of their numbers.

    Args:
        owner: ``[baskets]``.
        values: ``[baskets]`` or ``[baskets, metrics]``.
    """
    _, user = np.unique(owner, return_inverse=True)
    counts = np.bincount(user)
    if values.ndim == 1:
        return np.bincount(user, weights=values) / counts
    return np.stack([np.bincount(user, weights=column) for column in values.T], axis=1) / counts[:, None]
