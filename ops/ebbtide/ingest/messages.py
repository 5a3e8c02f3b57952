"""Messages of a source: JSON objects, each an event of a user."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from ebbtide.client import Event, InvalidArgumentError, event
from ebbtide.interest.time_units import TimeUnit, plausible_unit

_SHOWN_CHARACTERS = 60


@dataclass(frozen=True)
class Message:
    """A message as it came."""

    content: bytes | Mapping[str, Any] | None
    """JSON text, or the fields of an object; None for a message whose source has it no more."""
    where: str
    """Where it stands in its source, such as ``line 7``."""
    message_id: str | None = None
    """What the source calls it, the same whenever it is given; None where a source has no such name."""


@dataclass(frozen=True)
class Rejection:
    """A message that is no event, and never will be one."""

    message: Message
    reason: str

    def line(self) -> str:
        """The rejection as JSON text of one line."""
        content = self.message.content
        shown = content.decode(errors="backslashreplace") if isinstance(content, bytes) else content
        return json.dumps({"where": self.message.where, "reason": self.reason, "message": shown}, ensure_ascii=False)


@dataclass(frozen=True)
class UserEvent:
    """An event of a user."""

    user_id: str
    event: Event
    message: Message


class NotAnEventError(ValueError):
    """A message is no event; the text says why."""


@dataclass(frozen=True)
class FieldNames:
    """Which keys of the objects are read; others are ignored."""

    user: str = "user"
    item: str = "item"
    time: str = "time"
    """Unix time, or ISO 8601 text (UTC without an offset)."""
    weight: str | None = "weight"
    """Need not be there; None reads no weight."""
    event_id: str | None = "event_id"
    """Need not be there; None reads no id."""
    time_unit: TimeUnit | None = None
    """Of numeric times; None: by the magnitude of each, for times between 1995 and 2200."""
    event_type: str | None = None
    """Need not be there; None reads no event type."""

    def event_of(self, message: Message, *, id_from_message: bool) -> UserEvent:
        """Reads a message.

        Args:
            message: As its source gives it.
            id_from_message: Whether an event without an id gets that of its message, if the source has ids. Otherwise
                item and time are the id.

        Raises:
            NotAnEventError: It is none.
        """
        fields = _fields(message.content)
        user, item = self._id(fields, self.user), self._id(fields, self.item)
        event_id = None
        if self.event_id is not None and fields.get(self.event_id) is not None:
            event_id = self._id(fields, self.event_id)
        elif id_from_message:
            event_id = message.message_id
        event_type = None
        if self.event_type is not None and fields.get(self.event_type) is not None:
            event_type = self._id(fields, self.event_type)
        try:
            read = event(
                item_id=item,
                time_ms=self._time_ms(fields),
                weight=self._weight(fields),
                event_id=event_id,
                event_type=event_type,
            )
        except InvalidArgumentError as error:
            raise NotAnEventError(str(error)) from None
        return UserEvent(user, read, message)

    def _id(self, fields: Mapping[str, Any], name: str) -> str:
        value = fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value:
            raise _not_expected(name, value, "an id: text, not empty, or a whole number")
        return value

    def _time_ms(self, fields: Mapping[str, Any]) -> int:
        value = fields.get(self.time)
        if isinstance(value, str):
            try:
                value = float(value) if "." in value else int(value)
            except ValueError:
                return self._iso_ms(str(value))
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise _not_expected(self.time, value, "a time: Unix time, or ISO 8601 text")
        unit = self.time_unit or plausible_unit(value)
        if unit is None:
            raise _not_expected(self.time, value, "Unix time in s, ms, us or ns between 1995 and 2200 (--time-unit)")
        if isinstance(value, int):
            return value * 1000 if unit is TimeUnit.s else value * 1000 // unit.per_second
        return round(value * 1000 / unit.per_second)

    def _iso_ms(self, text: str) -> int:
        try:
            # Python 3.10 reads no final Z.
            time = datetime.fromisoformat(text.removesuffix("Z"))
        except ValueError:
            raise _not_expected(self.time, text, "a time: Unix time, or ISO 8601 text") from None
        return round(time.replace(tzinfo=time.tzinfo or timezone.utc).timestamp() * 1000)

    def _weight(self, fields: Mapping[str, Any]) -> float | None:
        value = None if self.weight is None else fields.get(self.weight)
        if value is None:
            return None
        try:
            weight = float(value)
        except (TypeError, ValueError):
            weight = -1.0
        if isinstance(value, bool) or not 0 <= weight <= 1e15:
            raise _not_expected(str(self.weight), value, "a number from 0 to 1e15")
        return weight


def _fields(content: bytes | Mapping[str, Any] | None) -> Mapping[str, Any]:
    if content is None:
        raise NotAnEventError("it was deleted from its source before it was read")
    if not isinstance(content, bytes):
        return content
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise NotAnEventError(
            f"got text that is not JSON ({' '.join(str(error).split())}); expected an object"
        ) from None
    if not isinstance(fields, dict):
        raise NotAnEventError(f"got {_shown(fields)}; expected a JSON object")
    return fields


def _not_expected(name: str, value: object, expected: str) -> NotAnEventError:
    return NotAnEventError(f"{name}: got {'none' if value is None else _shown(value)}; expected {expected}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."
