"""What the newest events add to the scores of related items: those whose texts are nearest, such as the next season.

An interest vector points at a region of the catalog, not at single items. So each item has a short list of the items
with the nearest texts, and an event adds to their scores (docs/method.md, related items).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.interest.adjustments import Pairs
from ebbtide.interest.events import EventBatch
from ebbtide.interest.record import TAIL_EVENTS

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

NEWEST_EVENTS = TAIL_EVENTS
"""Events of a user that count, the newest: as many as a state keeps singly. In half precision it keeps fewer."""
_FIRST = np.ones(1, dtype=np.bool_)
_NONE = Pairs(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))


@dataclass(frozen=True)
class RelatedItems:
    """The related items of each item; k to an item."""

    item: npt.NDArray[np.int32]
    """``[items, k]``: catalog indices."""
    score: Floats
    """``[items, k]``: what an event of the item adds to their scores; 0 for padding."""

    @property
    def most(self) -> int:
        """How many related items a user has at most."""
        return NEWEST_EVENTS * self.item.shape[1]


def related_scores(batch: EventBatch, items: Ints, related: RelatedItems) -> Pairs:
    """What the newest events of each user add to the scores of related items.

    Args:
        batch: The events of the requests; those that weigh nothing or less do not count.
        items: ``[events]``, catalog index of each event's item, in the batch's order; negative for a text event. Those
            that were added after the export have no related items.
        related: Of the export.

    Returns:
        User, catalog index and the sum that is added, each ``[pairs]``, ascending. Each item occurs once in a user.
    """
    known = related.item.shape[0]
    counts = (batch.rank < NEWEST_EVENTS) & (items >= 0) & (items < known)
    if batch.given_weight is not None:
        counts &= batch.given_weight > 0
    event = np.flatnonzero(counts)
    if not event.size:
        return _NONE
    item = items.take(event)
    near = related.item.take(item, axis=0) + (batch.request.take(event) * known)[:, None]
    key = near.reshape(-1)
    order = key.argsort()
    key = key.take(order)
    first = np.flatnonzero(np.concatenate([_FIRST, key[1:] != key[:-1]]))
    total = np.add.reduceat(related.score.take(item, axis=0).reshape(-1).take(order), first)
    added = total > 0
    user, item = np.divmod(key.take(first)[added], known)
    return Pairs(user, item, total[added])


def scores_of_pairs(pairs: Pairs, factors: Floats, interest: Floats) -> Floats:
    """What the factors give to items of users, ``[pairs]``.

    Args:
        pairs: Ascending by user; their values do not count.
        factors: ``[items, d + p]``, in catalog order; may be memory-mapped.
        interest: ``[users, d + p]``.
    """
    score = np.empty(pairs.user.size, dtype=np.float32)
    stops = pairs.user.searchsorted(np.arange(1, interest.shape[0] + 1)).tolist()
    # One user at a time: their factors stay in the processor's cache on the way from gather to product.
    for weights, start, stop in zip(interest, [0, *stops], stops, strict=False):
        np.einsum("nk,k->n", factors.take(pairs.item[start:stop], axis=0), weights, out=score[start:stop])
    return score
