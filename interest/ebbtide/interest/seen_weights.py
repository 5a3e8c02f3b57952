"""What is left of the weights of seen items: the outputs `SEEN_ITEM` and `SEEN_WEIGHT` of `adaptive_weights`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ebbtide.interest.decay import event_decays
from ebbtide.interest.lookup import UNKNOWN
from ebbtide.interest.parameters import InterestParameters
from ebbtide.interest.weighed import Weighed

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def seen_weights(weighed: Weighed, parameters: InterestParameters) -> tuple[Ints, Floats]:
    """The items of all users' events and what is left of the weights of these, ``[users, seen events]`` each.

    A folded item, whose own weight is in the sums only, counts as the least of the user's other events, or as 1.

    Returns:
        Padded with -1 and 0; weights are not negative.
    """
    batch, users = weighed.batch, weighed.columns.users
    decays = event_decays(batch, parameters.decay_rate_per_day, parameters.rank_decay_rate, weighed.columns.decay_scale)
    user, item = batch.request, weighed.sources.item.take(batch.source)
    weight = np.maximum(decays.mean(axis=1) * batch.weight, 0)
    if weighed.from_records is not None:
        folded = weighed.from_records.states.items
        least = np.full(users, np.inf, dtype=np.float32)
        np.minimum.at(least, user, weight)
        least[~np.isfinite(least)] = 1
        user, item = np.concatenate([user, folded.user]), np.concatenate([item, folded.item])
        weight = np.concatenate([weight, least[folded.user]])
        order = user.argsort(kind="stable")
        user, item, weight = user[order], item[order], weight[order]
    counts = np.bincount(user, minlength=users)
    column = np.arange(user.size) - (np.cumsum(counts) - counts)[user]
    items = np.full((users, int(counts.max(initial=0))), UNKNOWN, dtype=np.int64)
    weights = np.zeros(items.shape, dtype=np.float32)
    items[user, column], weights[user, column] = item, weight
    return items, weights
