"""Events, times and lists from plain Python values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from ebbtide.client.errors import InvalidArgumentError
from ebbtide.v1 import Event


def event(
    *,
    item_id: str | None = None,
    text: str | None = None,
    fallback_text: str | None = None,
    time: datetime | None = None,
    time_ms: int | None = None,
    weight: float | None = None,
) -> Event:
    """One thing that a user did, with an item or a text, at a time.

    Args:
        item_id: Id of an item of the catalog.
        text: Free text: a search, or an item without an id. Either this or `item_id`.
        fallback_text: What stands in for the item where `item_id` is not in the catalog (yet), such as its title. A
            request with any is answered by the slower text models, so give it for items that may be new.
        time: When it happened, with a timezone; finer parts than milliseconds do not count.
        time_ms: When it happened, in Unix milliseconds. Either this or `time`.
        weight: Rating, quantity or dwell, finite and not negative; 1 when not given.

    Raises:
        InvalidArgumentError: Not exactly one of `item_id` and `text`, or of `time` and `time_ms`; an empty item id; a
            `fallback_text` beside `text`; a time without a timezone.
    """
    if (item_id is None) == (text is None):
        raise InvalidArgumentError.of_field("event", _given(item_id=item_id, text=text), "one of item_id and text")
    if item_id == "":
        raise InvalidArgumentError.of_field("item_id", "''", "the id of an item, not empty")
    if text is not None and fallback_text is not None:
        raise InvalidArgumentError.of_field("fallback_text", "one beside text", "item_id beside it, or none")
    if (time is None) == (time_ms is None):
        raise InvalidArgumentError.of_field("event", _given(time=time, time_ms=time_ms), "one of time and time_ms")
    when = _from_milliseconds(time_ms) if time_ms is not None else timestamp("time", time)
    message = Event(time=when, weight=weight, fallback_text=fallback_text)
    if item_id is not None:
        message.item_id = item_id
    if text is not None:
        message.text = text
    return message


def timestamp(field: str, time: datetime | None) -> Timestamp | None:
    """A datetime as a message; None stays None.

    Raises:
        InvalidArgumentError: The time has no timezone; the error names `field`.
    """
    if time is None:
        return None
    if time.utcoffset() is None:
        raise InvalidArgumentError.of_field(
            field, repr(time), "a time with a timezone, such as datetime.now(timezone.utc)"
        )
    stamp = Timestamp()
    stamp.FromDatetime(time)
    return stamp


def strings(field: str, values: Iterable[str]) -> Sequence[str]:
    """The values as a sequence.

    Raises:
        InvalidArgumentError: `values` is one string, which would be read as its letters; the error names `field`.
    """
    if isinstance(values, (str, bytes)):
        raise InvalidArgumentError.of_field(field, repr(values), "a list of strings, not one string")
    return list(values)


def _from_milliseconds(time_ms: int) -> Timestamp:
    stamp = Timestamp()
    try:
        stamp.FromMilliseconds(time_ms)
    except ValueError as error:
        raise InvalidArgumentError.of_field(
            "time_ms", time_ms, "Unix milliseconds within the years 1 to 9999"
        ) from error
    return stamp


def _given(**values: object) -> str:
    names = [name for name, value in values.items() if value is not None]
    return " and ".join(names) or "neither"
