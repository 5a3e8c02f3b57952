"""Makes messages from what callers gave; a value of a wrong kind becomes an error that names its field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from ebbtide.client.errors import InvalidArgumentError

Built = TypeVar("Built", bound=Message)

_KINDS = {
    FieldDescriptor.TYPE_STRING: "text",
    FieldDescriptor.TYPE_BOOL: "True or False",
    FieldDescriptor.TYPE_FLOAT: "a number",
    FieldDescriptor.TYPE_DOUBLE: "a number",
}
"""What a field takes, by its type; all other plain types are whole numbers."""


def message(kind: type[Built], **fields: Any) -> Built:  # noqa: ANN401 - whatever the caller gave
    """A message of its fields; None for one that is not given.

    Raises:
        InvalidArgumentError: A value is of another kind than its field; the error names the field, and the entry of a
            list.
    """
    try:
        return kind(**fields)
    except (TypeError, ValueError) as error:
        for name, value in fields.items():
            found = _wrong(kind, name, value)
            if found is not None:
                raise found from error
        raise


def messages(field: str, values: Iterable[Built], kind: type[Built], makers: str) -> list[Built]:
    """A list of messages.

    Args:
        field: Named in the error.
        values: What the caller gave for it.
        kind: Of each of them.
        makers: What makes such a message, for the error.

    Raises:
        InvalidArgumentError: It is no list, or an entry is no such message.
    """
    if isinstance(values, (str, bytes, Mapping, Message)) or not isinstance(values, Iterable):
        raise InvalidArgumentError.of_field(field, _shown(values), f"a list of what {makers} makes")
    found = list(values)
    for index, one in enumerate(found):
        if not isinstance(one, kind):
            raise InvalidArgumentError.of_field(f"{field}[{index}]", _shown(one), f"what {makers} makes")
    return found


def _wrong(kind: type[Message], name: str, value: object) -> InvalidArgumentError | None:
    """The error of one field; None if its value can be taken."""
    if not isinstance(value, list):
        return None if _takes(kind, name, value) else _error(kind, name, name, value)
    for index, one in enumerate(value):
        if not _takes(kind, name, [one]):
            return _error(kind, name, f"{name}[{index}]", one)
    return None


def _takes(kind: type[Message], name: str, value: object) -> bool:
    try:
        kind(**{name: value})
    except (TypeError, ValueError):
        return False
    return True


def _error(kind: type[Message], name: str, path: str, value: object) -> InvalidArgumentError:
    field = kind.DESCRIPTOR.fields_by_name[name]
    if field.message_type is not None:
        expected = f"a message {field.message_type.name}"
    else:
        expected = _KINDS.get(field.type, "a whole number of 32 bits")
    if expected == "text":
        expected += " that UTF-8 can hold" if isinstance(value, str) else f", as in {str(value)!r}"
    return InvalidArgumentError.of_field(path, _shown(value), expected)


def _shown(value: object) -> str:
    return " ".join(repr(value).split())[:100]
