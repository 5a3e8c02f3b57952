"""The interest of the users of a batch, with everything it was computed from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.interest.blend import Blend
from ebbtide.interest.columns import Columns
from ebbtide.interest.contract import StateStatus
from ebbtide.interest.events import MS_PER_DAY, EventBatch
from ebbtide.interest.lookup import ItemIndex
from ebbtide.interest.new_items import NewItems, Table
from ebbtide.interest.recorder import UserStates
from ebbtide.interest.repeat import FoldedCounts, RepeatParameters
from ebbtide.interest.rules import RuleBook
from ebbtide.interest.sources import EventSources
from ebbtide.interest.state import FoldedSums, scaled_days
from ebbtide.interest.stock import OutOfStock

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_STATUS_IF_KNOWN = np.array([int(StateStatus.UNKNOWN_USER), int(StateStatus.USED)], dtype=np.int32)


@dataclass(frozen=True)
class KnownItems:
    """The items of the export, and those that were added since, at one moment."""

    index: ItemIndex
    vectors: Table
    """``[items, d]``: event vectors."""
    repeat: RepeatParameters | None
    new: NewItems | None = None
    """None without new items."""
    out_of_stock: OutOfStock | None = None
    """None where everything is in stock."""
    rules: RuleBook | None = None
    """None without rules of the house, or if nobody follows them."""


@dataclass(frozen=True)
class FromRecords:
    """What the records of B users gave."""

    states: UserStates
    tail: Ints
    """``[events that count]``: index among the raw events of the records, in the order of `Weighed.sources`; -1 for an
    event of a request."""
    base: FoldedSums
    """Of the folded events."""
    clock_ms: Ints
    """``[users]``: from which ages are measured: `now`, or the newest folded event where that is later."""


@dataclass(frozen=True)
class Weighed:
    """The interest of B users, and everything it was computed from."""

    columns: Columns
    sources: EventSources
    batch: EventBatch
    """The events that count, ordered; those of records that are folded are not among them."""
    vectors: Floats
    """``[events that count, d]``, in the batch's order."""
    blend: Blend
    items: KnownItems
    """Those that the items of the events were looked up in."""
    from_records: FromRecords | None = None
    """None without records."""

    @property
    def alpha_used(self) -> Floats:
        """``[users, 1]``."""
        alpha = self.blend.alpha
        return alpha if alpha.shape[1] == 1 else np.asarray(alpha.mean(axis=1, keepdims=True))

    @property
    def event_counts(self) -> npt.NDArray[np.int32]:
        """``[users, 3]``."""
        users = self.columns.users
        counts = np.empty((users, 3), dtype=np.int32)
        folded = 0 if self.from_records is None else self.from_records.base.counts
        np.add(self.batch.half_counts.reshape(users, 2), folded, out=counts[:, :2], casting="same_kind")
        counts[:, 2] = self.sources.left_out
        return counts

    @property
    def partly_scaled(self) -> Bools:
        """Users whose `decay_scale` cannot reach the decay inside their folded sums, ``[users]``."""
        if self.from_records is None or self.columns.decay_scale is None:
            return np.zeros(self.columns.users, dtype=np.bool_)
        scaled: Bools = self.from_records.base.counts.any(axis=1) & (self.columns.decay_scale != 1)
        return scaled

    @property
    def state_status(self) -> npt.NDArray[np.int32]:
        """`StateStatus` of users who came with a record or may have one, ``[users, 1]``."""
        known = np.zeros(self.columns.users, dtype=np.bool_)
        if self.from_records is not None:
            known = self.from_records.states.known
        status = _STATUS_IF_KNOWN.take(known)
        if self.columns.decay_scale is not None:
            status[self.partly_scaled] = int(StateStatus.PARTLY_SCALED)
        return status[:, None]

    def seen_items(self, *, by_importance: bool = True) -> list[tuple[Ints, Ints]]:
        """User and catalog index of seen items, -1 for a text; first of events that count singly, then of folded ones.

        Args:
            by_importance: Whether those of records stand in order of importance: the newest first, then as the record
                has them. If not, a user's stand in any order.
        """
        user, item, counts = self.sources.user, self.sources.item, self.sources.counts
        if self.from_records is None:
            return [(user, item)]
        if by_importance:
            stop = np.cumsum(counts)
            item = item[(2 * stop - counts - 1)[user] - np.arange(user.size)]
        folded = self.from_records.states.items
        return [(user, item), (folded.user, folded.item)]

    def folded_counts(self, repeat: RepeatParameters) -> FoldedCounts | None:
        """The counts of folded events for the repeat score; None without records."""
        if self.from_records is None:
            return None
        items, base = self.from_records.states.items, self.from_records.base
        days = scaled_days(base.age_ms, self.columns.decay_scale)
        decay = np.exp(-np.outer(days, repeat.decay_rate_per_day))
        newest_ms = self.from_records.clock_ms[items.user] - items.newest_ms
        return FoldedCounts(
            items.user,
            items.item,
            items.counts * decay[items.user],
            (newest_ms / MS_PER_DAY).astype(np.float32),
            base.counts.sum(axis=1),
            base.idle_hours(self.batch),
        )
