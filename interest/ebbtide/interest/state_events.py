"""The raw events in a user's state as answers show them: newest first, by the ids of their items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.interest.item_ids import ItemIds
from ebbtide.interest.lookup import UNKNOWN
from ebbtide.interest.new_items import NewItems
from ebbtide.interest.weighed import Weighed

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class StateEvents:
    """The raw events of one user, newest first."""

    position: Ints
    """``[events that count]``: for each event of `Weighed.batch` its index among these, -1 for one of the request."""
    item_id: npt.NDArray[np.object_]
    """``[raw events]``: UTF-8, empty for an item that is not in the catalog."""
    time_ms: Ints
    """``[raw events]``."""
    weight: Floats
    """``[raw events]``."""
    is_current: Bools
    """``[raw events]``: false also for an event that does not count, as the request has it too."""
    decay: Floats
    """``[raw events]``: 0 for an event that does not count."""

    @classmethod
    def of(cls, weighed: Weighed, decays: Floats, ids: ItemIds | None) -> StateEvents:
        """Those of the only user of a batch.

        Args:
            weighed: Of the batch.
            decays: ``[events that count, d]``, in the batch's order.
            ids: Of the catalog; None leaves the ids empty.
        """
        events = weighed.batch.source.size
        found = weighed.from_records
        if found is None:
            nothing = np.zeros(0, dtype=np.int64)
            return cls(
                np.full(events, UNKNOWN),
                nothing.astype(np.object_),
                nothing,
                nothing.astype(np.float32),
                nothing.astype(np.bool_),
                nothing.astype(np.float32),
            )
        tail, item = found.states.tail, found.states.item
        count = item.size
        index = found.tail[weighed.batch.source]
        of_state = index != UNKNOWN
        # Records have them oldest first.
        position = np.where(of_state, count - 1 - index, UNKNOWN)
        is_current = np.zeros(count, dtype=np.bool_)
        is_current[position[of_state]] = weighed.batch.is_current[of_state]
        decay = np.zeros(count, dtype=np.float32)
        decay[position[of_state]] = decays[of_state].mean(axis=1)
        item_id = np.full(count, b"", dtype=np.object_)
        newest_first = item[::-1]
        if ids is not None:
            known = newest_first != UNKNOWN
            item_id[known] = _item_ids(ids, weighed.items.new, newest_first[known])
        return cls(position, item_id, tail.time_ms[::-1], tail.weight[::-1], is_current, decay)


def _item_ids(ids: ItemIds, new: NewItems | None, item: Ints) -> npt.NDArray[np.object_]:
    """The ids of items of the export or new ones, in the shape of their catalog indices."""
    if new is None:
        return ids.take(item)
    is_new = item >= new.first
    found = ids.take(np.where(is_new, 0, item))
    found[is_new] = new.item_id.take(new.row(item[is_new]))
    return found
