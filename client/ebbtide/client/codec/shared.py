"""Fields that two kinds of messages share, found by their descriptors: a new field is carried over without new code."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from google.protobuf.message import Message

_type = attrgetter("type", "message_type", "enum_type")


def shared_fields(message: Message, kind: type[Message]) -> dict[str, Any]:
    """The fields that are set in `message` and that messages of `kind` have too.

    Args:
        message: Any message.
        kind: The class of another message.

    Returns:
        Values by field name, for the constructor of `kind`. A field counts as shared where its name and its type are
        the same in both: `items` of an explanation are not the `items` of a recommendation.
    """
    others = kind.DESCRIPTOR.fields_by_name
    return {
        field.name: value
        for field, value in message.ListFields()
        if field.name in others and _type(others[field.name]) == _type(field)
    }
