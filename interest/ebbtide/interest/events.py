"""A batch of requests as flat arrays: checked, ordered in time, and parted into history and current session."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

MS_PER_DAY = 86_400_000
MS_PER_HOUR = 3_600_000


@dataclass(frozen=True)
class EventBatch:
    """E events of B requests: those of one request stand together, oldest first, ties as they were given."""

    request: npt.NDArray[np.int64]
    """``[E]``: which request an event belongs to, ascending."""
    source: npt.NDArray[np.int64]
    """``[E]``: the event's place in the concatenated input, so that other columns can follow the order."""
    time_ms: npt.NDArray[np.int64]
    """``[E]``: Unix milliseconds."""
    weight: npt.NDArray[np.float32]
    """``[E]``: v, 1 where the request gave none."""
    is_current: npt.NDArray[np.bool_]
    """``[E]``: current session (true) or history."""
    rank: npt.NDArray[np.float32]
    """``[E]``: later events of the same request, by order; 0 for the newest."""
    age_days: npt.NDArray[np.float32]
    """``[E]``: from the event to the request's `now`."""
    idle_hours: npt.NDArray[np.float32]
    """``[B]``: from the newest event to `now`; 0 where there is no event."""

    @property
    def requests(self) -> int:
        """B."""
        return self.idle_hours.shape[0]


def order_events(
    counts: npt.NDArray[np.int64],
    time_ms: npt.NDArray[np.int64],
    now_ms: npt.NDArray[np.int64],
    weight: npt.NDArray[np.float32] | None,
    is_current: npt.NDArray[np.bool_] | None,
    session_gap_ms: int,
    has_flags: npt.NDArray[np.bool_] | None = None,
) -> EventBatch:
    """Orders the events of a batch and parts them into history and current session.

    Args:
        counts: ``[B]``, events of each request.
        time_ms: ``[E]``, the requests' event times one after the other.
        now_ms: ``[B]``, each request's clock.
        weight: ``[E]``, or None where every weight is 1.
        is_current: ``[E]``, or None to part all by the session gap.
        session_gap_ms: A pause longer than this ends a session.
        has_flags: ``[B]``, the requests that `is_current` is taken for; None for all.

    Returns:
        The batch. A request without flags has as current session its last events that follow each other, and are
        followed by `now`, with no pause longer than the gap.
    """
    batch, total = counts.shape[0], time_ms.shape[0]
    request = np.repeat(np.arange(batch), counts)
    first = np.cumsum(counts) - counts
    order = np.arange(total)
    rank = ((first + counts - 1)[request] - order).astype(np.float32)
    if ((time_ms[1:] < time_ms[:-1]) & (request[1:] == request[:-1])).any():
        order = np.lexsort((time_ms, request))
        time_ms = time_ms[order]
        weight = None if weight is None else weight[order]
        is_current = None if is_current is None else is_current[order]
    age_ms = now_ms[request] - time_ms

    newest = first + counts - 1
    has_events = counts > 0
    idle_ms = np.zeros(batch, dtype=np.int64)
    idle_ms[has_events] = age_ms[newest[has_events]]

    if is_current is None or has_flags is not None:
        by_gap = _by_session_gap(time_ms, now_ms, request, newest, has_events, session_gap_ms)
        is_current = (
            by_gap if is_current is None or has_flags is None else np.where(has_flags[request], is_current, by_gap)
        )
    return EventBatch(
        request=request,
        source=order,
        time_ms=time_ms,
        weight=np.ones(total, dtype=np.float32) if weight is None else weight,
        is_current=is_current,
        rank=rank,
        age_days=(age_ms / MS_PER_DAY).astype(np.float32),
        idle_hours=(idle_ms / MS_PER_HOUR).astype(np.float32),
    )


def _by_session_gap(
    time_ms: npt.NDArray[np.int64],
    now_ms: npt.NDArray[np.int64],
    request: npt.NDArray[np.int64],
    newest: npt.NDArray[np.int64],
    has_events: npt.NDArray[np.bool_],
    session_gap_ms: int,
) -> npt.NDArray[np.bool_]:
    """True for events with no long pause between them and `now`, ``[E]``."""
    following = np.empty_like(time_ms)
    following[:-1] = time_ms[1:]
    following[newest[has_events]] = now_ms[has_events]
    pause_after = following - time_ms > session_gap_ms
    pauses = np.cumsum(pause_after)
    pauses_to_the_end = np.zeros(now_ms.shape[0], dtype=np.int64)
    pauses_to_the_end[has_events] = pauses[newest[has_events]]
    current: npt.NDArray[np.bool_] = pauses_to_the_end[request] - pauses + pause_after == 0
    return current
