"""Sessions of an event log: events of one user without a long pause between them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ebbtide.data.events import EventLog

Ints = npt.NDArray[np.int64]


def pauses_ms(log: EventLog) -> Ints:
    """Milliseconds since the previous event of the same user, ``[events]``; 0 for a user's first event."""
    pauses = np.diff(log.time_ms, prepend=log.time_ms[:1])
    pauses[log.start[:-1]] = 0
    return pauses


def session_starts(log: EventLog, gap_ms: int) -> Ints:
    """The log index of the first event of each event's session, ``[events]``.

    Args:
        log: Events.
        gap_ms: A longer pause ends a session.
    """
    opens = pauses_ms(log) > gap_ms
    opens[log.start[:-1]] = True
    return np.maximum.accumulate(np.where(opens, np.arange(log.events), 0))
