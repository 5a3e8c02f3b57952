"""Puts the events of a log into the records of many users at once: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from ebbtide.interest.events import MS_PER_DAY
from ebbtide.interest.folded import FoldedItems, check_folded, decode_folded, encode_folded, item_rates
from ebbtide.interest.lookup import UNKNOWN
from ebbtide.interest.record import NewEvents, RawEvents, Records, index_from_end
from ebbtide.interest.recorder import Recorder, has_folded, matches
from ebbtide.interest.state import InterestState, advance

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_EVENTS_PER_ROUND = 2048
"""Events of a user that are added up at a time: sums of more would lose digits in single precision, and need memory."""


class Outcome(IntEnum):
    """What a log did to the record of a user."""

    WRITTEN = 0
    """The events of the log are in the record now."""
    DONE_BEFORE = 1
    """The same log was put into the record before; nothing has changed."""
    KEPT = 2
    """An earlier log is in the record, and newer events than this log has: nothing has changed, since what is folded
    cannot be taken apart."""


@dataclass(frozen=True)
class Logged:
    """Records after the events of a log."""

    records: list[bytes | None]
    """``[users]``; the very object that was given where nothing changed, None included."""
    counts: npt.NDArray[np.int32]
    """``[users, 4]``: events added; duplicates, of the log itself or of what the record holds; late ones among those
    added, which came after newer events had been folded; and events left out because their items are not in the
    catalog. The first, second and last sum to the events given; all are 0 where nothing changed."""
    outcome: npt.NDArray[np.int8]
    """``[users]``: `Outcome`."""


class LogRecorder(Recorder):
    """A `Recorder` for events of the past, of which a user has any number.

    ======================================== ==========================================================================
    The record                               becomes
    ======================================== ==========================================================================
    none, or raw events only                 the log and the raw events together; exact
    holds this very log (by its mark)        as it was
    has folded events, none of them newer    the log and the raw events together: the log is taken to have what was
    than the user's newest one of the log    folded
    has newer folded events, and no log      the log before the folded events; exact if none of the folded events is in
                                             the log or older than its newest, or in one session with it
    has newer folded events, and another log as it was
    ======================================== ==========================================================================
    """

    def add_log(
        self, records: Sequence[bytes | None], events: NewEvents, mark: int, *, replace_folded: bool = False
    ) -> Logged:
        """The records after the events of a log; a pure function of its arguments.

        Args:
            records: ``[users]``, of distinct users, of this export or from `ebbtide.interest.record.tail_only`; None
                for a user without one.
            events: All events that the log has of these users, in any order.
            mark: Stands for the log; from 1 to 2^32 - 1.
            replace_folded: Treats every record as if its folded events were in the log.

        Raises:
            RecordError: A record is damaged, or of another version or width.
        """
        users = len(records)
        old, given = Records.decode(records), events.raw()
        check_folded(old, self._parameters)
        newest_ms = np.full(users, -1, dtype=np.int64)
        np.maximum.at(newest_ms, given.user, given.time_ms)
        has_newer = has_folded(old) & (old.headers["newest_ms"] > newest_ms)
        old_mark = old.headers["log_mark"]
        outcome = np.full(users, Outcome.WRITTEN, dtype=np.int8)
        if not replace_folded:
            outcome[has_newer & (old_mark != 0)] = Outcome.KEPT
            outcome[old_mark == mark] = Outcome.DONE_BEFORE
        goes_before = has_newer & (old_mark == 0) & (not replace_folded)
        written = outcome == Outcome.WRITTEN

        keeps_ids = goes_before[old.folded_id_user]
        base = replace(old, folded_id_user=old.folded_id_user[keeps_ids], folded_id=old.folded_id[keeps_ids])
        given = given.take(written[given.user])
        is_known = self._index.find(given.key) != UNKNOWN
        is_new = is_known.copy()
        is_new[is_known] = base.has_new_id(given.take(is_known))
        added = given.take(is_new)
        counts = np.stack(
            [
                np.bincount(one.user, minlength=users)
                for one in (
                    added,
                    given.take(is_known & ~is_new),
                    added.take(goes_before[added.user]),
                    given.take(~is_known),
                )
            ],
            axis=1,
        )
        encoded = self._with_log(base, added, goes_before, mark)
        changed = written & ((counts[:, 0] > 0) | has_folded(old))
        return Logged(
            [new if one else record for record, new, one in zip(records, encoded, changed, strict=True)],
            counts.astype(np.int32),
            outcome,
        )

    def _with_log(self, old: Records, added: RawEvents, goes_before: Bools, mark: int) -> list[bytes]:
        """The records of all users, whatever their outcome.

        Args:
            old: With the ids of those folded events that stay.
            added: New events of known items.
            goes_before: ``[users]``: whether the added events are older than the folded ones, which stay.
            mark: Of the log.
        """
        users = len(old.folded)
        merged = old.events.merged(added.take(~goes_before[added.user]))
        merged = merged.take(self._index.find(merged.key) != UNKNOWN)
        stays = index_from_end(merged.user, users) < self._tail_events
        raw, leaving = merged.take(stays), merged.take(~stays)
        early = added.take(goes_before[added.user])
        state, items = self._history(users, leaving.merged(early))

        stay = np.flatnonzero(goes_before)
        if stay.size:
            later, later_items = decode_folded(old.take(stay), self._parameters)
            state, items = self._before(state, items, stay, later, later_items)
        headers, sections = encode_folded(state, items, self._parameters, half_precision=self._half_precision)
        for name in ("alpha_offset", "dropped"):
            headers[name] = old.headers[name]
        headers["late"] = np.where(goes_before, old.headers["late"], 0)
        headers["log_mark"] = mark
        raw_counts = np.bincount(raw.user, minlength=users)
        id_user, ids = old.folded_ids_after(leaving, raw_counts, np.full(users, self._known_ids))
        return Records(headers, old.known, raw, id_user, ids, sections).encode()

    def _history(self, users: int, events: RawEvents) -> tuple[InterestState, FoldedItems]:
        """Events of known items, folded."""
        state = InterestState.empty(users, self._parameters.vector_width)
        nothing = np.zeros(0, dtype=np.int64)
        items = FoldedItems(nothing, nothing, nothing, np.zeros((0, item_rates(self._parameters).size)))
        counts = np.bincount(events.user, minlength=users)
        turn = (counts[events.user] - 1 - index_from_end(events.user, users)) // _EVENTS_PER_ROUND
        for number in range(int(turn.max(initial=-1)) + 1):
            part = events.take(turn == number)
            item = self._index.find(part.key)
            before_ms = state.time_ms
            state = advance(
                state,
                self._parameters,
                np.bincount(part.user, minlength=users),
                part.time_ms,
                np.asarray(self._vectors.take(item, axis=0)),
                part.weight,
            )
            items = self._folded_items(items, before_ms, state.time_ms, part, item)
        return state, items

    def _before(
        self, state: InterestState, items: FoldedItems, stay: Ints, later: InterestState, later_items: FoldedItems
    ) -> tuple[InterestState, FoldedItems]:
        """Folded events of all users, with those of some users before other folded events of theirs.

        Args:
            state: Of U users, as of their newest events.
            items: Of the same.
            stay: The users who have other folded events.
            later: Those events.
            later_items: Of the same.
        """
        parameters, item_rate = self._parameters, item_rates(self._parameters)
        shape = (stay.size, 2, parameters.vector_width)
        days = (later.time_ms - state.time_ms[stay]) / MS_PER_DAY
        since = np.stack([days, later.counts.sum(axis=1)], axis=1)
        decay = np.exp(since @ parameters.moment_exponents).reshape(shape)
        moments, counts, time_ms = state.moments.copy(), state.counts.copy(), state.time_ms.copy()
        moments[stay] = later.moments
        counts[stay], time_ms[stay] = later.counts, later.time_ms
        # A later session is another one than the log's last.
        moments[stay, 0] += state.moments[stay].sum(axis=1) * decay
        counts[stay, 0] += state.counts[stay].sum(axis=1)

        item_decay = np.ones((counts.shape[0], item_rate.size))
        item_decay[stay] = np.exp(-np.outer(days, item_rate))
        earlier = replace(items, counts=items.counts * item_decay[items.user])
        newer = replace(later_items, user=stay[later_items.user])
        if newer.user.size:
            order = np.lexsort((newer.item, newer.user))
            again, where = matches(newer.take(order), earlier)
            newer.counts[order[where]] += earlier.counts[again]
            earlier = self._foremost(newer, earlier, again, counts.shape[0])
        return InterestState(time_ms, moments, counts), earlier
