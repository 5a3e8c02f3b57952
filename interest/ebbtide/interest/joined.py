"""Joins the events of requests with those that their users' records hold."""

from __future__ import annotations

from dataclasses import dataclass

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
    """``[B]``: from which ages are measured: the request's `now`, or the newest folded event where that is later."""


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
    asked = sources.user.size
    given = np.arange(columns.user.size) if sources.kept is None else sources.kept
    own_time_ms = columns.now_ms[sources.user] - columns.age_ms[given]
    tail = np.flatnonzero(states.item != UNKNOWN)
    user = np.concatenate([sources.user, states.tail.user[tail]])
    item = np.concatenate([sources.item, states.item[tail]])
    time_ms = np.concatenate([own_time_ms, states.tail.time_ms[tail]])
    if asked and tail.size:
        kept = ~_repeats_an_asked_one(user, item, time_ms, asked)
        tail, user, item, time_ms = tail[kept[asked:]], user[kept], item[kept], time_ms[kept]
    # At equal times the events of a record come first: they were known before.
    is_asked = np.arange(user.size) < asked
    order = np.lexsort((is_asked, time_ms, user))
    nothing = np.full(tail.size, UNKNOWN, dtype=np.int64)

    def joined(of_requests: Ints, of_records: Ints = nothing) -> Ints:
        values: Ints = np.concatenate([of_requests, of_records])[order]
        return values

    users = columns.users
    counts = np.bincount(user, minlength=users)
    unknown = np.bincount(states.tail.user[states.item == UNKNOWN], minlength=users)
    together = EventSources(
        user[order],
        item[order],
        None if sources.text is None else joined(sources.text),
        sources.text_vectors,
        counts,
        sources.left_out + unknown,
        joined(given),
    )
    clock_ms = np.maximum(columns.now_ms, states.folded.time_ms)
    weight = np.ones(given.size, dtype=np.float32) if columns.weight is None else columns.weight[given]
    is_current = has_flags = None
    if columns.is_current is not None:
        flagged = np.ones(asked, dtype=np.bool_) if columns.has_flags is None else columns.has_flags[sources.user]
        off = np.zeros(tail.size, dtype=np.bool_)
        is_current = np.concatenate([columns.is_current[given], off])[order]
        has_flags = np.concatenate([flagged, off])[order]
    batch = order_by_age(
        together.user,
        counts,
        np.maximum(clock_ms[together.user] - time_ms[order], 0),
        np.concatenate([weight, states.tail.weight[tail]])[order],
        is_current,
        session_gap_ms,
        has_flags,
    )
    return Joined(together, joined(np.full(asked, UNKNOWN, dtype=np.int64), tail), batch, clock_ms)


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
