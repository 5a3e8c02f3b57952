"""Joins the events of requests with those that their users' records hold."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest.columns import Columns
from ebbtide.interest.events import EventBatch, order_by_age
from ebbtide.interest.lookup import UNKNOWN
from ebbtide.interest.recorder import UserStates
from ebbtide.interest.sources import EventSources

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Joined:
    """The events of B users, of their requests and of their records."""

    sources: EventSources
    """``kept`` is -1 for an event of a record."""
    tail: Ints
    """``[events]``: index among the raw events of the records, in the order of `sources`; -1 for one of a request."""
    batch: EventBatch
    clock_ms: Ints
    """``[users]``: the time from which ages count: the request's `now`, or the newest folded event if that is later."""


def join_states(columns: Columns, sources: EventSources, states: UserStates, session_gap_ms: int) -> Joined:
    """The events of requests and records together.

    A raw event with the item and the time of one in the request is the same event, and the request's counts. An event
    after the clock has age 0. The flags of a request hold for its own events; those of the record are split by the
    session gap.

    Args:
        columns: Of the batch.
        sources: Of its events.
        states: Of its users.
        session_gap_ms: A pause longer than this ends a session.
    """
    tail = np.arange(states.item.size)
    left_out = sources.left_out
    is_unknown = states.item == UNKNOWN
    if np.count_nonzero(is_unknown):
        tail = tail[~is_unknown]
        left_out = left_out + np.bincount(states.tail.user[is_unknown], minlength=columns.users)
    events = _of_records(states, tail, with_texts=sources.text is not None)
    if sources.user.size:
        events = _merged(_of_requests(columns, sources), events)
    counts = np.bincount(events.user, minlength=columns.users)
    clock_ms = np.maximum(columns.now_ms, states.folded.time_ms)
    batch = order_by_age(
        events.user,
        counts,
        np.maximum(clock_ms.take(events.user) - events.time_ms, 0),
        events.weight,
        events.is_current if columns.is_current is not None else None,
        session_gap_ms,
        events.has_flags,
    )
    together = EventSources(
        events.user, events.item, events.text, sources.text_vectors, counts, left_out, kept=events.given
    )
    return Joined(together, events.tail, batch, clock_ms)


@dataclass(frozen=True)
class _Events:
    """Events of requests, of records, or of both, oldest first for each user where both are joined."""

    user: Ints
    item: Ints
    text: Ints | None
    time_ms: Ints
    weight: Floats
    is_current: Bools
    has_flags: Bools
    given: Ints
    """Index among the events of the requests, -1 for one of a record."""
    tail: Ints
    """Index among the raw events of the records, -1 for one of a request."""


def _of_records(states: UserStates, tail: Ints, *, with_texts: bool) -> _Events:
    events = states.tail if tail.size == states.item.size else states.tail.take(tail)
    none, off = np.full(tail.size, UNKNOWN), np.zeros(tail.size, dtype=np.bool_)
    text = none if with_texts else None
    return _Events(events.user, states.item[tail], text, events.time_ms, events.weight, off, off, none, tail)


def _of_requests(columns: Columns, sources: EventSources) -> _Events:
    given = np.arange(columns.user.size) if sources.kept is None else sources.kept
    user = sources.user
    weight = np.ones(given.size, dtype=np.float32) if columns.weight is None else columns.weight[given]
    is_current = has_flags = np.zeros(given.size, dtype=np.bool_)
    if columns.is_current is not None:
        is_current = columns.is_current[given]
        has_flags = np.ones(given.size, dtype=np.bool_) if columns.has_flags is None else columns.has_flags[user]
    time_ms = columns.now_ms[user] - columns.age_ms[given]
    none = np.full(given.size, UNKNOWN)
    return _Events(user, sources.item, sources.text, time_ms, weight, is_current, has_flags, given, none)


def _merged(asked: _Events, known: _Events) -> _Events:
    """Events of requests and records, without those of records that a request repeats."""

    def of_both(name: str, index: Ints | Bools) -> npt.NDArray[Any]:
        both: npt.NDArray[Any] = np.concatenate([getattr(asked, name), getattr(known, name)])[index]
        return both

    size = asked.user.size
    everything = np.arange(size + known.user.size)
    user, item, time_ms = (of_both(name, everything) for name in ("user", "item", "time_ms"))
    kept = np.flatnonzero(~_repeats_an_asked_one(user, item, time_ms, size)) if known.user.size else everything
    # At equal times the events of a record come first: they were known before.
    order = kept[np.lexsort((kept < size, time_ms[kept], user[kept]))]
    names = [field.name for field in fields(_Events)]
    return _Events(
        **{name: None if getattr(asked, name) is None else of_both(name, order) for name in names}  # type: ignore[arg-type]
    )


def _repeats_an_asked_one(user: Ints, item: Ints, time_ms: Ints, asked: int) -> Bools:
    """Which events have user, item and time of one of the first ``asked``; never those themselves, ``[events]``."""
    order = np.lexsort((time_ms, item, user))
    first = np.ones(order.size, dtype=np.bool_)
    for values in (user, item, time_ms):
        ordered = values[order]
        first[1:] &= ordered[1:] == ordered[:-1]
    first[1:] = ~first[1:]
    # Sorting is stable, so that the first of its equals is an asked one if any of them is.
    leader = order[np.flatnonzero(first)][np.cumsum(first) - 1]
    repeats = np.zeros(order.size, dtype=np.bool_)
    repeats[order] = leader < asked
    repeats[:asked] = False
    return repeats
