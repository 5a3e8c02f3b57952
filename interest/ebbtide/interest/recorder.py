"""Adds events to the records of many users at once, and reads them for requests: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ebbtide.interest.events import MS_PER_DAY
from ebbtide.interest.folded import FoldedItems, check_folded, decode_folded, encode_folded, item_rates
from ebbtide.interest.lookup import UNKNOWN, KeyIndex
from ebbtide.interest.parameters import InterestParameters
from ebbtide.interest.record import (
    HALF_KNOWN_IDS,
    HALF_TAIL_EVENTS,
    KNOWN_IDS,
    TAIL_EVENTS,
    NewEvents,
    RawEvents,
    Records,
    index_from_end,
    index_in_user,
)
from ebbtide.interest.state import InterestState, advance

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Observed:
    """Records after new events, and what became of the events."""

    records: list[bytes | None]
    """``[U]``; the very object that was given where nothing changed, None included."""
    counts: npt.NDArray[np.int32]
    """``[U, 4]``: events added; duplicates; late ones among those added, which count by age alone; and events left out
    because their items are not in the catalog. The first, second and last sum to the events given."""
    is_new: Bools
    """``[E]``: the events that were added."""


@dataclass(frozen=True)
class UserStates:
    """What the records of U users hold."""

    known: Bools
    """``[U]``: whether the user has a record."""
    tail: RawEvents
    """``[T]``: raw events, oldest first for each user; their ids are left out, all 0."""
    item: Ints
    """``[T]``: catalog index of each raw event, -1 where the item is not in the catalog."""
    folded: InterestState
    """The sums of older events."""
    items: FoldedItems
    """Of older events."""
    alpha_offset: Floats
    """``[U]``: added to the logit of the gate."""
    headers: npt.NDArray[np.void]
    """``[U]``, `ebbtide.interest.record.HEADER`."""

    @property
    def late(self) -> Ints:
        """``[U]``: events that were folded after newer ones, so by age alone."""
        return self.headers["late"].astype(np.int64)

    @property
    def dropped(self) -> Ints:
        """``[U]``: raw events that were dropped before this export could fold them."""
        return self.headers["dropped"].astype(np.int64)


class Recorder:
    """Reads and writes the records of one export."""

    def __init__(
        self, parameters: InterestParameters, index: KeyIndex, vectors: Floats, *, half_precision: bool = False
    ) -> None:
        """Takes what one export wrote.

        Args:
            parameters: Decay rates, session gap, repeat score and limits.
            index: The catalog's keys.
            vectors: ``[items, d]``, the event vector of each item in catalog order; may be memory-mapped.
            half_precision: Whether to write folded sums in 16 bits instead of 32. Records of both are read.
        """
        self._parameters = parameters
        self._index = index
        self._vectors = np.asarray(vectors)
        self._half_precision = half_precision
        self._tail_events = HALF_TAIL_EVENTS if half_precision else TAIL_EVENTS
        self._known_ids = HALF_KNOWN_IDS if half_precision else KNOWN_IDS
        limits = parameters.config.limits
        # As many seen items as a request can exclude; as many scored ones as a request can have events.
        self._most_items = limits.adjustments if parameters.repeat is None else limits.max_events

    def observe(self, records: Sequence[bytes | None], events: NewEvents) -> Observed:
        """The records after new events; a pure function of both.

        Events whose time is not before the newest folded event count exactly, in whatever order they arrive. Raw events
        of `append_raw` are folded along. The same call again changes nothing, however many events it has, unless more
        new events than a record has ids of came between.

        Args:
            records: ``[U]``, of distinct users and of this export; None for a user without one.
            events: Of these users.

        Raises:
            RecordError: A record is damaged, or of another version or width.
        """
        users = len(records)
        old, given = Records.decode(records), events.raw()
        check_folded(old, self._parameters)
        is_known = self._index.find(given.key) != UNKNOWN
        is_new = is_known.copy()
        is_new[is_known] = old.is_new(given.take(is_known))
        added = given.take(is_new)
        counts = np.stack(
            [
                np.bincount(one.user, minlength=users)
                for one in (
                    added,
                    given.take(is_known & ~is_new),
                    added.take(added.time_ms < old.headers["newest_ms"][added.user]),
                    given.take(~is_known),
                )
            ],
            axis=1,
        )

        merged = old.events.merged(added)
        item = self._index.find(merged.key)
        in_catalog = item != UNKNOWN
        merged, item = merged.take(in_catalog), item[in_catalog]
        stays = index_from_end(merged.user, users) < self._tail_events
        raw, leaving = merged.take(stays), merged.take(~stays)
        raw_counts = np.bincount(raw.user, minlength=users)
        leaving_counts = np.bincount(leaving.user, minlength=users)
        changed = (counts[:, 0] > 0) | (raw_counts != old.headers["events"])
        folds = np.flatnonzero(leaving_counts)
        headers, sections = old.headers.copy(), list(old.folded)
        if folds.size:
            renumbered = np.zeros(users, dtype=np.int64)
            renumbered[folds] = np.arange(folds.size)
            fields, written = self._fold(
                old.take(folds), leaving.renumbered(renumbered), leaving_counts[folds], item[~stays]
            )
            headers[folds] = fields
            for user, section in zip(folds.tolist(), written, strict=True):
                sections[user] = section
        id_user, ids = old.folded_ids_after(leaving, raw_counts, np.full(users, self._known_ids))
        encoded = Records(headers, old.known, raw, id_user, ids, sections).encode()
        return Observed(
            [
                new if has_changed else record
                for record, new, has_changed in zip(records, encoded, changed, strict=True)
            ],
            counts.astype(np.int32),
            is_new,
        )

    def read(self, records: Sequence[bytes | None]) -> UserStates:
        """What the records hold; writes nothing.

        Args:
            records: ``[U]``, of this export or from `ebbtide.interest.record.tail_only`; None for a user without one.

        Raises:
            RecordError: A record is damaged, or of another version or width.
        """
        decoded = Records.decode(records, with_ids=False)
        state, items = decode_folded(decoded, self._parameters, check_folded(decoded, self._parameters))
        headers = decoded.headers
        return UserStates(
            decoded.known,
            decoded.events,
            self._index.find(decoded.events.key),
            state,
            items,
            headers["alpha_offset"],
            headers,
        )

    def _fold(
        self, old: Records, leaving: RawEvents, counts: Ints, item: Ints
    ) -> tuple[npt.NDArray[np.void], list[bytes]]:
        """Headers and folded sections after more events.

        Args:
            old: Of F users.
            leaving: Events to fold; at least one of each user.
            counts: ``[F]``, of the events.
            item: Catalog index of each event.
        """
        before, items = decode_folded(old, self._parameters)
        # A user without folded events has time 0, before which no event is.
        late = np.bincount(leaving.user[leaving.time_ms < before.time_ms[leaving.user]], minlength=counts.size)
        vectors = self._vectors.take(item, axis=0)
        after = advance(before, self._parameters, counts, leaving.time_ms, vectors, leaving.weight)
        items = self._folded_items(items, before.time_ms, after.time_ms, leaving, item)
        fields, sections = encode_folded(after, items, self._parameters, half_precision=self._half_precision)
        for name in ("alpha_offset", "dropped", "log_mark"):
            fields[name] = old.headers[name]
        fields["late"] = old.headers["late"] + late.astype(np.uint32)
        return fields, sections

    def _folded_items(
        self, old: FoldedItems, old_ms: Ints, new_ms: Ints, leaving: RawEvents, item: Ints
    ) -> FoldedItems:
        """The items after more events were folded.

        Without a repeat score those folded last come first. With one it is those with the largest count at the longest
        half-life: strong items and new ones. Those beyond the most that are kept are forgotten.

        Args:
            old: Before.
            old_ms: ``[F]``, the time of their counts.
            new_ms: ``[F]``, the time of the new counts.
            leaving: The events.
            item: Catalog index of each.
        """
        rates = item_rates(self._parameters)
        # Each new item once, the one folded last first; sorting is stable.
        order = np.lexsort((item[::-1], leaving.user[::-1]))
        user, items = leaving.user[::-1][order], item[::-1][order]
        starts = np.flatnonzero(np.r_[True, (user[1:] != user[:-1]) | (items[1:] != items[:-1])])
        days = (new_ms[leaving.user] - leaving.time_ms) / MS_PER_DAY
        terms = np.exp(-np.outer(days, rates)) * leaving.weight[:, None]
        newest_ms = np.maximum.reduceat(leaving.time_ms[::-1][order], starts)
        new = FoldedItems(user[starts], items[starts], newest_ms, np.add.reduceat(terms[::-1][order], starts, axis=0))

        decay = np.exp(-np.outer((new_ms - old_ms) / MS_PER_DAY, rates))
        old_counts = old.counts * decay[old.user] if rates.size else old.counts
        again, where = matches(new, old)
        new.counts[where] += old_counts[again]
        new.newest_ms[where] = np.maximum(new.newest_ms[where], old.newest_ms[again])
        by_last = new.take(np.lexsort((order[starts], new.user)))
        return self._foremost(by_last, replace(old, counts=old_counts), again, new_ms.size)

    def _foremost(self, newer: FoldedItems, older: FoldedItems, again: Bools, users: int) -> FoldedItems:
        """The items that a record keeps.

        Args:
            newer: Those folded last come first.
            older: The same, as of the same time.
            again: Which of these are among the newer ones, and counted there.
            users: How many there are.
        """
        both = FoldedItems(
            np.concatenate([newer.user, older.user]),
            np.concatenate([newer.item, older.item]),
            np.concatenate([newer.newest_ms, older.newest_ms]),
            np.concatenate([newer.counts, older.counts]),
        )
        rates = item_rates(self._parameters)
        kept = np.flatnonzero(np.r_[np.ones(newer.user.size, dtype=np.bool_), ~again])
        if rates.size:
            ranks = (-both.newest_ms[kept], -both.counts[kept, np.argmin(rates)], both.user[kept])
            kept = kept[np.lexsort(ranks)]
        else:
            kept = kept[np.argsort(both.user[kept], kind="stable")]
        sizes = np.bincount(both.user[kept], minlength=users)
        if sizes.max() > self._most_items:
            kept = kept[index_in_user(sizes, both.user[kept]) < self._most_items]
        return both.take(kept)


def matches(new: FoldedItems, old: FoldedItems) -> tuple[Bools, Ints]:
    """Which old items are among the new ones, and the index of each of these.

    Args:
        new: Sorted by user and item; at least one.
        old: In any order.
    """
    keys, asked = (one.user << 32 | one.item for one in (new, old))
    index = np.minimum(keys.searchsorted(asked), keys.size - 1)
    again = keys[index] == asked
    return again, index[again]


def has_folded(records: Records) -> Bools:
    """Which records have folded events, ``[U]``."""
    has: Bools = records.headers["folded"].any(axis=1)
    return has
