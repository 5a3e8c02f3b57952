"""Exposure: how much of the attention to a list each of its items gets.

A list of ten ranks gives out one unit of attention, in proportion to 1 / log2(1 + rank), the discount of DCG (Singh and
Joachims, KDD 2018, "Fairness of Exposure in Rankings", section 3.1). Shares are averaged within each user, then over
users, as every metric here; so a share of a group is a mean over users.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from ebbtide.data.baskets import Ints
from ebbtide.train.evaluation.accuracy import user_means
from ebbtide.train.evaluation.lists import NO_ITEM, RankedLists
from ebbtide.train.evaluation.relevance import Relevance

Floats = npt.NDArray[np.float64]

RANKS = 10
"""Ranks that get attention."""
_BASKETS_AT_ONCE = 4096


def attention(lists: RankedLists) -> Floats:
    """What each rank gets, ``[baskets, RANKS]``: a row sums to 1, or to 0 for a list without items."""
    shown = lists.item[:, :RANKS] != NO_ITEM
    discount = shown / np.log2(np.arange(shown.shape[1]) + 2)
    total = discount.sum(1, keepdims=True)
    return np.asarray(np.divide(discount, total, out=np.zeros_like(discount), where=total > 0))


def exposure_shares(lists: RankedLists, owner: Ints, weight: Floats) -> Floats:
    """Share of each group in the exposure of each user's lists, ``[users, groups]``.

    Args:
        lists: The ranked lists of all baskets.
        owner: ``[baskets]``, the user of each basket.
        weight: ``[items, groups]``; a row sums to 1.
    """
    each = attention(lists)
    shares = np.empty((each.shape[0], weight.shape[1]))
    for start in range(0, each.shape[0], _BASKETS_AT_ONCE):
        part = slice(start, start + _BASKETS_AT_ONCE)
        shares[part] = np.einsum("br,brg->bg", each[part], weight[lists.item[part, :RANKS]])
    return user_means(owner, shares)


def relevant_shares(relevance: Relevance, owner: Ints, weight: Floats) -> Floats:
    """Share of each group in the relevant items of each user's baskets, ``[users, groups]``: what exposure is due.

    Args:
        relevance: Of all baskets; each has a relevant item.
        owner: ``[baskets]``, the user of each basket.
        weight: ``[items, groups]``; a row sums to 1.
    """
    sums = np.add.reduceat(weight[relevance.item], relevance.start[:-1], axis=0)
    return user_means(owner, sums / relevance.counts[:, None])


def item_exposure(lists: RankedLists, owner: Ints, items: int) -> Floats:
    """Exposure of each item, the mean over users, ``[items]``: sums to 1 if every list has an item."""
    shown = lists.item[:, :RANKS] != NO_ITEM
    _, user, baskets = np.unique(owner, return_inverse=True, return_counts=True)
    each = attention(lists) / baskets[user][:, None] / baskets.shape[0]
    return np.bincount(lists.item[:, :RANKS][shown], weights=each[shown], minlength=items).astype(np.float64)


def gini(exposure: Floats) -> float:
    """Gini coefficient: 0 if all have the same, (n - 1) / n if one of n has everything; NaN without any exposure.

    Equals ``ExposureGini(10, items=n, weight=LogRankWeight(offset=1))`` of LensKit 2025.8.1 to 2e-9 on 20 random sets
    of lists with ten ranks, one for each user. LensKit is no dependency: that version needs pandas 2, and 2026.4 needs
    NumPy 2 and Python 3.12.5.

    Args:
        exposure: ``[items]``, of the whole catalog: items that are in no list count with 0.
    """
    total = exposure.sum()
    return float(exposure @ _gini_slope(exposure) / total) if total > 0 else float("nan")


def gini_of_users(lists: RankedLists, owner: Ints, items: int) -> Floats:
    """What each user's lists add to the Gini coefficient, ``[users]``: its mean is the coefficient itself.

    The coefficient is a mean over users of the exposed items' ranks by exposure. A bootstrap of these values is that
    of the coefficient's linear approximation, whose interval is the usual one (Langel and Tillé, JRSS A 176(2), 2013,
    section 4). A bootstrap of the coefficient itself repeats users, whose items then seem more exposed than they are.

    Args:
        lists: The ranked lists of all baskets.
        owner: ``[baskets]``, the user of each basket.
        items: In the catalog.
    """
    exposure = item_exposure(lists, owner, items)
    total = exposure.sum()
    if total == 0:
        return np.full(np.unique(owner).size, np.nan)
    return np.asarray(exposure_shares(lists, owner, _gini_slope(exposure)[:, None])[:, 0] / total)


def _gini_slope(exposure: Floats) -> Floats:
    """How the coefficient changes with each item's share of the exposure, ``[items]``, from -1 to 1."""
    items = exposure.shape[0]
    return np.asarray((2 * rankdata(exposure) - items - 1) / items)


def concentration(exposure: Floats, count: Ints) -> Floats:
    """Share of the exposure that the most exposed items get together, ``[points]``.

    Args:
        exposure: ``[items]``.
        count: ``[points]``: how many of the most exposed items, from 1.
    """
    gathered = np.cumsum(np.sort(exposure)[::-1])
    return np.asarray(gathered[count - 1] / max(gathered[-1], np.finfo(np.float64).tiny))
