"""Which events are held out of training and tested."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np

from ebbtide.data.baskets import Mask, basket_heads, has_past
from ebbtide.data.errors import DataError
from ebbtide.data.events import EventLog

_MS_PER_SECOND = 1000


def leave_last_out(log: EventLog) -> Mask:
    """True for each user's last basket if there is an earlier one, ``[events]``."""
    heads = basket_heads(log)
    last = np.repeat(heads[log.start[1:] - 1], np.diff(log.start))
    return np.asarray((heads == last) & has_past(log))


def after_time(log: EventLog, fraction: float, among: Mask | None = None) -> Mask:
    """True for the last ``fraction`` of the events by time, of all or of those in ``among``, ``[events]``."""
    times = log.time_ms if among is None else log.time_ms[among]
    split_time = np.quantile(times, 1 - fraction, method="lower")
    mask = log.time_ms >= split_time
    return mask if among is None else mask & among


def held_out(log: EventLog, holdout: str) -> Mask:
    """The test events of a protocol, ``[events]``.

    Args:
        log: Events.
        holdout: ``none``; ``leave-last-out``; ``time:F``, the last share F of the events; or ``time:DATE``, all from
            an ISO 8601 date or date-time on (UTC where it names no zone).

    Raises:
        DataError: Another protocol, or a date that leaves nothing to train on or to test.
    """
    if holdout == "none":
        return np.zeros(log.events, dtype=np.bool_)
    if holdout == "leave-last-out":
        return leave_last_out(log)
    kind, _, split_time = holdout.partition(":")
    if kind == "time":
        try:
            share = float(split_time)
        except ValueError:
            return _from_date(log, holdout, split_time)
        if 0 < share < 1:
            return after_time(log, share)
    raise _no_protocol(holdout)


def _from_date(log: EventLog, holdout: str, split_time: str) -> Mask:
    try:
        # Python 3.10 reads no final Z.
        timestamp = datetime.fromisoformat(split_time.removesuffix("Z"))
    except ValueError:
        raise _no_protocol(holdout) from None
    timestamp = timestamp.replace(tzinfo=timestamp.tzinfo or timezone.utc)
    mask = log.time_ms >= round(timestamp.timestamp() * _MS_PER_SECOND)
    if mask.all() or not mask.any():
        first, last = (_date(time) for time in (log.time_ms.min(), log.time_ms.max()))
        raise DataError(f"holdout: got {holdout!r}; expected a time between the log's first event, {first}, and {last}")
    return mask


def _date(time_ms: int) -> str:
    return datetime.fromtimestamp(int(time_ms) / _MS_PER_SECOND, timezone.utc).isoformat(timespec="seconds")


def _no_protocol(holdout: str) -> DataError:
    return DataError(
        f"holdout: got {holdout!r}; expected 'none', 'leave-last-out' or 'time:F' with 0 < F < 1, "
        "or 'time:DATE' as in time:2024-03-01"
    )
