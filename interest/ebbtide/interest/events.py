"""A batch of requests as flat arrays: ordered by time and split into history and current session."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.interest.contract import Limits

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MS_PER_DAY = 86_400_000
MS_PER_HOUR = 3_600_000

COUNTED_EVENTS = Limits().max_events
"""The gate and the repeat score count the newest events of a user, no more than these, in training and in service."""


@dataclass(frozen=True)
class EventBatch:
    """The events of a batch of requests: events of one request are adjacent, oldest first, ties in the given order.

    Each request has two halves: its history and its current session.
    """

    request: Ints
    """``[events]``: which request an event belongs to, ascending."""
    source: Ints
    """``[events]``: the event's index in the concatenated input; use it to reorder other columns."""
    age_ms: Ints
    """``[events]``: milliseconds from the event to the request's `now`."""
    since: Floats
    """``[events, 2]``: days from the event to the request's `now`, and the number of later events of the request."""
    given_weight: Floats | None
    """``[events]``: the weights v; None if every weight is 1."""
    is_current: Bools
    """``[events]``: true for the current session, false for history."""
    half: Ints
    """``[events]``: 2 b for the history of request b, 2 b + 1 for its current session."""
    half_counts: Ints
    """``[halves]``: events of each half."""
    idle_hours: Floats
    """``[requests]``: hours from the newest event to the request's `now`; 0 without events."""

    @property
    def requests(self) -> int:
        """Number of requests."""
        return self.idle_hours.shape[0]

    @property
    def age_days(self) -> Floats:
        """``[events]``: days from the event to the request's `now`."""
        return self.since[:, 0]

    @property
    def rank(self) -> Floats:
        """``[events]``: number of later events of the same request; 0 for the newest."""
        return self.since[:, 1]

    @property
    def weight(self) -> Floats:
        """``[events]``: the weights v."""
        return np.ones(self.request.shape, dtype=np.float32) if self.given_weight is None else self.given_weight


def order_events(
    counts: Ints,
    time_ms: Ints,
    now_ms: Ints,
    weight: Floats | None,
    is_current: Bools | None,
    session_gap_ms: int,
    has_flags: Bools | None = None,
) -> EventBatch:
    """Orders the events of a batch and splits them into history and current session.

    Args:
        counts: ``[requests]``, events of each request.
        time_ms: ``[events]``, the event times, concatenated over requests.
        now_ms: ``[requests]``, each request's clock.
        weight: ``[events]``, or None if every weight is 1.
        is_current: ``[events]``, or None to split all by the session gap.
        session_gap_ms: A pause longer than this ends a session.
        has_flags: ``[events]``, the events to which `is_current` applies; None for all.

    Returns:
        The batch. For events without flags, the current session is the longest run of newest events with no pause
        longer than the gap between two of them, or between the last one and `now`.
    """
    request = np.arange(counts.shape[0]).repeat(counts)
    age_ms = now_ms[request] - time_ms
    return order_by_age(request, counts, age_ms, weight, is_current, session_gap_ms, has_flags)


def order_by_age(
    request: Ints,
    counts: Ints,
    age_ms: Ints,
    weight: Floats | None,
    is_current: Bools | None,
    session_gap_ms: int,
    has_flags: Bools | None = None,
) -> EventBatch:
    """`order_events` from `age_ms` ``[events]`` and `request` ``[events]``, the ascending request of each event."""
    batch, total = counts.shape[0], age_ms.shape[0]
    newest = counts.cumsum() - 1
    order = np.arange(total)
    since = np.empty((total, 2), dtype=np.float32)
    np.subtract(newest.repeat(counts), order, out=since[:, 1], casting="same_kind")
    older = age_ms[1:] > age_ms[:-1]
    # This also finds increases between two requests; only if there is one, check whether it is within a request.
    if np.count_nonzero(older) and np.count_nonzero(older & (request[1:] == request[:-1])):
        order = np.lexsort((-age_ms, request))
        age_ms = age_ms[order]
        weight = None if weight is None else weight[order]
        is_current = None if is_current is None else is_current[order]
        has_flags = None if has_flags is None else has_flags[order]
    np.divide(age_ms, MS_PER_DAY, out=since[:, 0], casting="same_kind")

    if np.count_nonzero(counts) == batch:
        idle_ms = age_ms[newest]
    else:
        has_events = counts > 0
        newest = newest[has_events]
        idle_ms = np.zeros(batch, dtype=np.int64)
        idle_ms[has_events] = age_ms[newest]
    if is_current is None or has_flags is not None:
        by_gap = _by_session_gap(age_ms, request, counts, newest, session_gap_ms)
        is_current = by_gap if is_current is None or has_flags is None else np.where(has_flags, is_current, by_gap)
    half = 2 * request
    half += is_current
    return EventBatch(
        request=request,
        source=order,
        age_ms=age_ms,
        since=since,
        given_weight=weight,
        is_current=is_current,
        half=half,
        half_counts=np.bincount(half, minlength=2 * batch),
        idle_hours=(idle_ms / MS_PER_HOUR).astype(np.float32),
    )


def _by_session_gap(age_ms: Ints, request: Ints, counts: Ints, newest: Ints, session_gap_ms: int) -> Bools:
    """True for events with no pause above the gap between them and `now`, ``[events]``.

    ``newest`` holds the index of the newest event of each request with events.
    """
    following = np.zeros_like(age_ms)
    following[:-1] = age_ms[1:]
    following[newest] = 0
    pause_after = age_ms - following > session_gap_ms
    pauses = pause_after.cumsum()
    pauses_to_the_end = np.zeros(counts.shape[0], dtype=np.int64)
    pauses_to_the_end[counts > 0] = pauses[newest]
    current: Bools = pauses_to_the_end[request] - pauses + pause_after == 0
    return current
