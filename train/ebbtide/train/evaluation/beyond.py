"""What accuracy does not tell: how much of the catalog is shown, how new, how varied and how biased to the popular."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.data.baskets import Ints
from ebbtide.train.evaluation.accuracy import user_means
from ebbtide.train.evaluation.lists import NO_ITEM, RankedLists
from ebbtide.train.evaluation.relevance import Relevance

_INDICES = 10
_BASKETS_AT_ONCE = 4096


@dataclass(frozen=True)
class Beyond:
    """Of the first ten ranks; means over users except for coverage."""

    coverage_at_10: float
    """Share of the catalog that is in at least one list."""
    novelty_at_10: float
    """Mean self-information -log2((users of the item + 1) / (users + 1)), in bits, by the training events; higher is
    less known (Zhou et al., PNAS 2010)."""
    intra_list_diversity_at_10: float
    """Mean of 1 - cosine over the pairs of a list, of the encoder's text vectors (Ziegler et al., WWW 2005)."""
    popularity_bias_at_10: float
    """Mean training events of the recommended items over those of the next items: above 1 favours popular items."""


def beyond_accuracy(
    lists: RankedLists,
    relevance: Relevance,
    owner: Ints,
    training_item: Ints,
    training_user: Ints,
    text_vectors: npt.NDArray[np.float32],
) -> Beyond:
    """Measures the lists.

    Args:
        lists: The ranked lists of all baskets.
        relevance: Of the same.
        owner: ``[baskets]``, the user of each basket.
        training_item: ``[events]``, items of the training events.
        training_user: ``[events]``, users of the training events.
        text_vectors: ``[items, width]``.
    """
    items = text_vectors.shape[0]
    shown = lists.item[:, :_INDICES]
    valid = shown != NO_ITEM
    events = np.bincount(training_item, minlength=items).astype(np.float64)
    users = np.bincount(np.unique(training_user * np.int64(items) + training_item) % items, minlength=items)
    surprise = -np.log2((users + 1) / (np.unique(training_user).size + 1))

    def shown_mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        total = np.where(valid, values[shown], 0.0).sum(1)
        return np.asarray(total / np.maximum(valid.sum(1), 1))

    relevant = np.bincount(relevance.case, weights=events[relevance.item], minlength=owner.shape[0]) / relevance.counts
    relevant_mean = user_means(owner, relevant).mean()
    return Beyond(
        coverage_at_10=np.unique(shown[valid]).size / items,
        novelty_at_10=float(user_means(owner, shown_mean(surprise)).mean()),
        intra_list_diversity_at_10=float(user_means(owner, _diversity(shown, text_vectors)).mean()),
        popularity_bias_at_10=float(user_means(owner, shown_mean(events)).mean() / relevant_mean)
        if relevant_mean
        else float("nan"),
    )


def _diversity(shown: Ints, text_vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """1 - mean cosine over the pairs of each list, ``[baskets]``; 0 for a list without a pair."""
    norms = np.linalg.norm(text_vectors, axis=1, keepdims=True)
    unit = text_vectors / np.where(norms > 0, norms, 1)
    diversity = np.zeros(shown.shape[0])
    for start in range(0, shown.shape[0], _BASKETS_AT_ONCE):
        part = shown[start : start + _BASKETS_AT_ONCE]
        valid = part != NO_ITEM
        vectors = unit[part] * valid[..., None]
        count = valid.sum(1)
        pairs = np.maximum(count * (count - 1), 1)
        # The square of the sum holds every pair twice, and each vector with itself.
        alike = np.square(vectors.sum(1)).sum(1) - np.square(vectors).sum((1, 2))
        diversity[start : start + len(part)] = np.where(count > 1, 1 - alike / pairs, 0.0)
    return diversity
