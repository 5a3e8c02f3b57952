"""The messages of the schema as JSON: types that msgspec decodes and describes, made from the schema's descriptors.

A field has the name that the schema gives it, ``item_id`` and not ``itemId``; enumerations are names, times are
RFC 3339 with an offset. An unknown field is an error, so that a misspelt one is not ignored. In requests ``null`` is
the same as a missing field. JSON has no infinity: an infinite number of an answer, always a half-life, is ``null``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Annotated, Any, Literal

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from ebbtide.client.errors import InvalidArgumentError

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_SECOND = timedelta(seconds=1)
_TIMESTAMP = "google.protobuf.Timestamp"
_LOCATION = re.compile(r"^(?P<message>.*) - at `\$\.?(?P<path>.*)`$", re.DOTALL)
_SHOWN_CHARACTERS = 200
_UNKNOWN_FIELD = "Object contains unknown field "
"""How msgspec begins to say so."""

_SCALARS: dict[int, Any] = {
    FieldDescriptor.TYPE_STRING: str,
    FieldDescriptor.TYPE_BOOL: bool,
    FieldDescriptor.TYPE_FLOAT: float,
    FieldDescriptor.TYPE_DOUBLE: float,
    FieldDescriptor.TYPE_INT32: Annotated[int, msgspec.Meta(ge=-(2**31), le=2**31 - 1)],
    FieldDescriptor.TYPE_UINT32: Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)],
}

Set = Callable[[Message, Any], None]
"""Sets a field of a message from its decoded JSON value."""
Get = Callable[[Message], Any]
"""A field of a message as a plain value; None if it is absent."""


@dataclass(frozen=True)
class _Field:
    name: str
    set: Set
    get: Get
    oneof: str | None
    """Name of the group of which a message has at most one field."""


class JsonMessage:
    """JSON of one kind of message."""

    def __init__(self, descriptor: Descriptor) -> None:
        """Prepares decoding and encoding; see `json_message`.

        Raises:
            TypeError: The schema has a kind of field that is not handled here.
        """
        self.name = descriptor.name
        self.type = _struct(descriptor)
        """What JSON decodes to, a `msgspec.Struct`; its schema is that of the JSON."""
        self._message: type[Message] = GetMessageClass(descriptor)
        self._decoder = msgspec.json.Decoder(self.type)
        self._fields = _fields(descriptor)

    def decode(self, body: bytes) -> Message:
        """The message of a JSON object.

        Raises:
            InvalidArgumentError: The body is no JSON, or not of this kind of message; the error names the field.
        """
        try:
            decoded = self._decoder.decode(body)
        except msgspec.ValidationError as error:
            raise _located(error) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InvalidArgumentError.of_field("body", f"no JSON ({error})", f"a JSON object: {self.name}") from None
        except RecursionError:
            raise InvalidArgumentError.of_field("body", "JSON nested too deeply", f"a {self.name}") from None
        message = self._message()
        try:
            _fill(message, decoded, self._fields)
        except _FieldError as error:
            raise InvalidArgumentError.of_field(error.path, error.value, error.expected) from None
        return message

    def encode(self, message: Message) -> bytes:
        """The JSON object of a message. Fields without a value are left out, if the schema calls them optional."""
        return msgspec.json.encode(_plain(message, self._fields))


@cache
def json_message(descriptor: Descriptor) -> JsonMessage:
    """The JSON of a kind of message, prepared once."""
    return JsonMessage(descriptor)


class _FieldError(Exception):
    """A value that the JSON type admits and the schema does not."""

    def __init__(self, path: str, value: str, expected: str) -> None:
        super().__init__(path)
        self.path, self.value, self.expected = path, value, expected

    def inside(self, outer: str) -> _FieldError:
        return _FieldError(f"{outer}.{self.path}", self.value, self.expected)


@cache
def _requests(file: FileDescriptor) -> frozenset[str]:
    """Full names of the messages that occur in requests; their fields may all be absent."""
    found: set[str] = set()

    def add(descriptor: Descriptor) -> None:
        if descriptor.full_name not in found:
            found.add(descriptor.full_name)
            for field in descriptor.fields:
                if field.message_type is not None:
                    add(field.message_type)

    for service in file.services_by_name.values():
        for method in service.methods:
            add(method.input_type)
    return frozenset(found)


@cache
def _struct(descriptor: Descriptor) -> Any:  # noqa: ANN401 - a type, made here
    is_request = descriptor.full_name in _requests(descriptor.file)
    members: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    optional: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for field in descriptor.fields:
        kind = _type(field, is_request=is_request)
        if is_request or field.has_presence:
            optional.append((field.name, kind | None, None))
        else:
            members.append((field.name, kind))
    return msgspec.defstruct(descriptor.name, [*members, *optional], forbid_unknown_fields=True)


def _type(field: FieldDescriptor, *, is_request: bool) -> Any:  # noqa: ANN401 - a type
    kind: Any
    if _is_time(field):
        kind = Annotated[datetime, msgspec.Meta(tz=True)]
    elif field.message_type is not None:
        kind = _struct(field.message_type)
    elif field.enum_type is not None:
        kind = Literal[tuple(field.enum_type.values_by_name)]
    elif field.type in _SCALARS:
        kind = _SCALARS[field.type]
        if field.type == FieldDescriptor.TYPE_FLOAT and field.is_repeated and not is_request:
            kind = float | None
    else:
        raise TypeError(f"{field.full_name} has a type without a form in JSON here")
    return list[kind] if field.is_repeated else kind


@cache
def _fields(descriptor: Descriptor) -> tuple[_Field, ...]:
    return tuple(_Field(field.name, _setter(field), _getter(field), _oneof(field)) for field in descriptor.fields)


def _is_time(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.full_name == _TIMESTAMP


def _oneof(field: FieldDescriptor) -> str | None:
    group = field.containing_oneof
    # An `optional` field is the only one of a group that the compiler makes.
    return group.name if group is not None and len(group.fields) > 1 else None


def _setter(field: FieldDescriptor) -> Set:
    name = field.name
    if _is_time(field):

        def set_time(message: Message, value: datetime) -> None:
            since = value - _EPOCH
            seconds = since // _SECOND
            time = getattr(message, name)
            time.seconds, time.nanos = seconds, (since - seconds * _SECOND).microseconds * 1000
            time.SetInParent()

        return set_time
    if field.message_type is not None:
        nested = _fields(field.message_type)

        def set_message(message: Message, value: msgspec.Struct) -> None:
            getattr(message, name).SetInParent()
            _fill_inside(getattr(message, name), value, nested, name)

        def set_messages(message: Message, values: list[msgspec.Struct]) -> None:
            add = getattr(message, name).add
            for index, value in enumerate(values):
                _fill_inside(add(), value, nested, name, index)

        return set_messages if field.is_repeated else set_message
    if field.enum_type is not None:
        number = {value.name: value.number for value in field.enum_type.values}
        return lambda message, value: setattr(message, name, number[value])
    if field.is_repeated:
        return lambda message, values: getattr(message, name).extend(values)
    return lambda message, value: setattr(message, name, value)


def _getter(field: FieldDescriptor) -> Get:
    name = field.name
    if _is_time(field):
        return lambda message: getattr(message, name).ToDatetime(timezone.utc) if message.HasField(name) else None
    if field.message_type is not None:
        nested = _fields(field.message_type)
        if field.is_repeated:
            return lambda message: [_plain(each, nested) for each in getattr(message, name)]
        return lambda message: _plain(getattr(message, name), nested) if message.HasField(name) else None
    if field.enum_type is not None:
        names = {value.number: value.name for value in field.enum_type.values}
        return lambda message: names.get(getattr(message, name), getattr(message, name))
    if field.is_repeated:
        return lambda message: list(getattr(message, name))
    if field.has_presence:
        return lambda message: getattr(message, name) if message.HasField(name) else None
    return lambda message: getattr(message, name)


def _fill_inside(
    message: Message, decoded: msgspec.Struct, fields: tuple[_Field, ...], name: str, index: int | None = None
) -> None:
    try:
        _fill(message, decoded, fields)
    except _FieldError as error:
        raise error.inside(name if index is None else f"{name}[{index}]") from None


def _fill(message: Message, decoded: msgspec.Struct, fields: tuple[_Field, ...]) -> None:
    chosen: dict[str, str] = {}
    for field in fields:
        value = getattr(decoded, field.name)
        if value is None:
            continue
        if field.oneof is not None and chosen.setdefault(field.oneof, field.name) != field.name:
            raise _FieldError(field.name, f"both {chosen[field.oneof]} and {field.name}", "one of the two")
        field.set(message, value)


def _plain(message: Message, fields: tuple[_Field, ...]) -> dict[str, Any]:
    return {name: value for name, value in _values(message, fields) if value is not None}


def _values(message: Message, fields: tuple[_Field, ...]) -> Iterator[tuple[str, Any]]:
    for field in fields:
        yield field.name, field.get(message)


def _located(error: msgspec.ValidationError) -> InvalidArgumentError:
    """The error of a field, in the client's words."""
    text = str(error)
    match = _LOCATION.match(text)
    message, path = (match["message"], match["path"]) if match else (text, "")
    message = message if len(message) <= _SHOWN_CHARACTERS else f"{message[:_SHOWN_CHARACTERS]}..."
    field = path or "body"
    if message.startswith(_UNKNOWN_FIELD):
        name = message.removeprefix(_UNKNOWN_FIELD)
        return InvalidArgumentError.of_field(field, f"the unknown field {name}", "a field that /openapi.json describes")
    return InvalidArgumentError(f"{field}: {message}", field=field, value=None, expected=message)
