"""Events, times and lists from plain Python values."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from ebbtide.client._messages import message, messages
from ebbtide.client.errors import InvalidArgumentError
from ebbtide.interest.time_units import TimeUnit, day, plausible_unit, written_date
from ebbtide.v1 import Event


def event(
    *,
    item_id: str | None = None,
    text: str | None = None,
    fallback_text: str | None = None,
    time: datetime | None = None,
    time_ms: int | None = None,
    weight: float | None = None,
    event_id: str | None = None,
    event_type: str | None = None,
) -> Event:
    """One thing that a user did, with an item or a text, at a time.

    Args:
        item_id: Id of an item of the catalog.
        text: Free text: a search, or an item without an id. Either this or `item_id`.
        fallback_text: What stands in for the item where `item_id` is not in the catalog (yet), such as its title. A
            request with any is answered by the slower text models, so give it for items that may be new.
        time: When it happened, with a timezone; finer parts than milliseconds do not count.
        time_ms: When it happened, in Unix milliseconds. Either this or `time`. A number that is a time between 1995 and
            2200 in seconds, microseconds or nanoseconds is refused.
        weight: Rating, quantity or dwell, finite and not negative; 1 when not given.
        event_id: Id of the event among those of its user, for `InterestClient.observe`: an event that the state
            knows is not added again. Without it, events of the same item, time and type count as the same.
        event_type: What the user did, such as ``"view"`` or ``"dislike"``: one of the event types that the model was
            trained with, whose learned weight multiplies `weight`. Without it, the first target type.

    Raises:
        InvalidArgumentError: Not exactly one of `item_id` and `text`, or of `time` and `time_ms`; an empty item id; a
            `fallback_text` beside `text`; a time without a timezone, or not in milliseconds; or a value of another
            kind, such as a number as id.
    """
    if (item_id is None) == (text is None):
        raise InvalidArgumentError.of_field("event", _given(item_id=item_id, text=text), "one of item_id and text")
    if isinstance(item_id, str) and not item_id:
        raise InvalidArgumentError.of_field("item_id", "''", "the id of an item, not empty")
    if text is not None and fallback_text is not None:
        raise InvalidArgumentError.of_field("fallback_text", "one beside text", "item_id beside it, or none")
    if (time is None) == (time_ms is None):
        raise InvalidArgumentError.of_field("event", _given(time=time, time_ms=time_ms), "one of time and time_ms")
    when = _from_milliseconds(time_ms) if time_ms is not None else timestamp("time", time)
    return message(
        Event,
        item_id=item_id,
        text=text,
        time=when,
        weight=weight,
        fallback_text=fallback_text,
        event_id=event_id,
        event_type=event_type,
    )


def timestamp(field: str, time: datetime | None) -> Timestamp | None:
    """A datetime as a message; None stays None.

    Raises:
        InvalidArgumentError: The time has no timezone; the error names `field`.
    """
    if time is None:
        return None
    if not isinstance(time, datetime):
        expected = "a datetime with a timezone" + ("" if field != "time" else "; a number is given as time_ms")
        raise InvalidArgumentError.of_field(field, repr(time), expected)
    if _has_no_zone(time):
        raise InvalidArgumentError.of_field(
            field, repr(time), "a time with a timezone, such as datetime.now(timezone.utc)"
        )
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def strings(field: str, values: Iterable[str]) -> Sequence[str]:
    """The values as a sequence.

    Raises:
        InvalidArgumentError: `values` is one string, which would be read as its letters, or no list; the error names
            `field`.
    """
    if isinstance(values, (str, bytes)):
        raise InvalidArgumentError.of_field(field, repr(values), "a list of strings, not one string")
    if not isinstance(values, Iterable):
        raise InvalidArgumentError.of_field(field, repr(values), "a list of strings")
    return list(values)


def event_list(field: str, values: Iterable[Event]) -> list[Event]:
    """The events as a list.

    Raises:
        InvalidArgumentError: `values` is no list of events; the error names `field`.
    """
    return messages(field, values, Event, "event(...)")


def _has_no_zone(time: datetime) -> bool:
    try:
        return time.utcoffset() is None
    except ValueError:  # pandas' NaT is a datetime
        return True


def _from_milliseconds(time_ms: object) -> Timestamp:
    expected = "a whole number of Unix milliseconds"
    if isinstance(time_ms, float | np.floating):
        raise InvalidArgumentError.of_field("time_ms", repr(time_ms), f"{expected}: {_in_milliseconds(time_ms)}")
    try:
        number = operator.index(time_ms)  # type: ignore[arg-type]
    except TypeError as error:
        hint = "; a datetime is given as time" if hasattr(time_ms, "year") else ""
        raise InvalidArgumentError.of_field("time_ms", repr(time_ms), expected + hint) from error
    if plausible_unit(number) not in (None, TimeUnit.ms) or _is_date(number):
        raise InvalidArgumentError.of_field("time_ms", time_ms, f"{expected}: {_in_milliseconds(number)}")
    stamp = Timestamp()
    try:
        stamp.FromMilliseconds(number)
    except ValueError as error:
        raise InvalidArgumentError.of_field(
            "time_ms", time_ms, "Unix milliseconds within the years 1 to 9999"
        ) from error
    return stamp


def _is_date(number: int) -> bool:
    """Whether a number is a date of 1995 to 2200 as in 20240501, which would be in 1970 as milliseconds."""
    found = written_date(str(number))
    return found is not None and plausible_unit(found[0].timestamp()) is TimeUnit.s


def _in_milliseconds(number: float | np.floating[Any]) -> str:
    """What a number that is no time in milliseconds probably is, and what to send instead."""
    if not math.isfinite(number):
        return "it is no number"
    whole = round(float(number)) if isinstance(number, float | np.floating) else number
    unit = plausible_unit(whole)
    if unit is not None:
        # In whole numbers: nanoseconds have more digits than a float.
        right = round(float(number) * 1000) if unit is TimeUnit.s else whole * 1000 // unit.per_second
        return f"it is {day(whole, unit)} in {unit.value}, send {right}"
    if (found := written_date(str(whole))) is not None:
        return f"it looks like the date {found[0]:%Y-%m-%d}, send {round(found[0].timestamp() * 1000)}"
    return f"send {whole}"


def _given(**values: object) -> str:
    names = [name for name, value in values.items() if value is not None]
    return " and ".join(names) or "neither"
