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
        DataError: Another protocol, or one that leaves nothing to train on or to test.
    """
    require_protocol(holdout)
    if holdout == "none":
        return np.zeros(log.events, dtype=np.bool_)
    if holdout == "leave-last-out":
        mask = leave_last_out(log)
        if not mask.any():
            raise DataError(
                f"holdout: got {holdout!r}, which holds nothing out: none of the {len(log.users):,} users has events "
                "at two times; expected 'time:F', or 'none'"
            )
        return mask
    split_time = holdout.partition(":")[2]
    timestamp_ms = _timestamp_ms(split_time)
    if timestamp_ms is not None:
        return _from_date(log, holdout, timestamp_ms)
    mask = after_time(log, float(split_time))
    if mask.all():
        raise DataError(
            f"holdout: got {holdout!r}, which leaves nothing to train on; expected a smaller share: {log.events:,} "
            f"events have {len(np.unique(log.time_ms)):,} different times"
        )
    return mask


def require_protocol(holdout: str) -> None:
    """Accepts a protocol that `held_out` knows; whether its date lies in the log is seen with the log only.

    Raises:
        DataError: Another protocol.
    """
    if holdout in ("none", "leave-last-out"):
        return
    kind, _, split_time = holdout.partition(":")
    try:
        known = kind == "time" and (_timestamp_ms(split_time) is not None or 0 < float(split_time) < 1)
    except ValueError:
        known = False
    if not known:
        raise DataError(
            f"holdout: got {holdout!r}; expected 'none', 'leave-last-out' or 'time:F' with 0 < F < 1, "
            "or 'time:DATE' as in time:2024-03-01"
        )


def _timestamp_ms(split_time: str) -> int | None:
    """An ISO 8601 date or date-time in Unix milliseconds; None for a number.

    Raises:
        ValueError: Neither.
    """
    try:
        float(split_time)
    except ValueError:
        # Python 3.10 reads no final Z.
        timestamp = datetime.fromisoformat(split_time.removesuffix("Z"))
        return round(timestamp.replace(tzinfo=timestamp.tzinfo or timezone.utc).timestamp() * _MS_PER_SECOND)
    return None


def _from_date(log: EventLog, holdout: str, timestamp_ms: int) -> Mask:
    mask = log.time_ms >= timestamp_ms
    if mask.all() or not mask.any():
        first, last = (_date(time) for time in (log.time_ms.min(), log.time_ms.max()))
        raise DataError(f"holdout: got {holdout!r}; expected a time between the log's first event, {first}, and {last}")
    return mask


def _date(time_ms: int) -> str:
    return datetime.fromtimestamp(int(time_ms) / _MS_PER_SECOND, timezone.utc).isoformat(timespec="seconds")
