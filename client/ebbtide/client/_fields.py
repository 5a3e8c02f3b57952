"""Server's complaints about tensors, told in terms of the caller's request."""

from __future__ import annotations

import re

from ebbtide.client.codec import tensor_order
from ebbtide.client.errors import InvalidArgumentError
from ebbtide.interest import contract
from ebbtide.interest.errors import RequestError
from ebbtide.interest.keys import item_key
from ebbtide.v1 import RecommendRequest

_INDEXED = re.compile(r"(?P<tensor>\w+)\[(?P<index>\d+)\]")

_PART_OF_EVENT = {
    contract.EVENT_ITEM.name: ".item_id",
    contract.EVENT_TIME.name: ".time",
    contract.EVENT_IS_CURRENT.name: "",
    contract.EVENT_WEIGHT.name: ".weight",
    contract.TEXT.name: ".text",
    contract.TEXT_VECTOR.name: ".text",
}
"""What each tensor of events takes from one event."""

_BESIDE_EVENTS = {contract.EXCLUDE_ITEM.name: "exclude_item_ids"}
"""Tensors that are named otherwise in `RecommendRequest`; those that are not here keep their name."""

_KEYED = (contract.EVENT_ITEM.name, contract.EXCLUDE_ITEM.name)
_OF_TEXTS = (contract.TEXT.name, contract.TEXT_VECTOR.name)


def caller_error(error: RequestError, request: RecommendRequest | None) -> InvalidArgumentError:
    """The server's error, with the caller's field in the tensor's place and the item id in its key's.

    Args:
        error: What the server said.
        request: The request as the caller gave it; None for a request of texts alone.
    """
    if request is None:
        return InvalidArgumentError.of_field(_field_of_texts(error.field), error.value, error.expected)
    return InvalidArgumentError.of_field(_field(error.field, request), _value(error, request), error.expected)


def _split(field: str) -> tuple[str, int | None]:
    match = _INDEXED.fullmatch(field)
    return (match["tensor"], int(match["index"])) if match else (field, None)


def _field_of_texts(field: str) -> str:
    tensor, index = _split(field)
    if tensor not in _OF_TEXTS:
        return field
    return "texts" if index is None else f"texts[{index}]"


def _field(field: str, request: RecommendRequest) -> str:
    tensor, index = _split(field)
    if tensor not in _PART_OF_EVENT:
        name = _BESIDE_EVENTS.get(tensor, tensor)
        return name if index is None else f"{name}[{index}]"
    items, texts = tensor_order(request)
    entries = texts if tensor in _OF_TEXTS else [*items, *texts]
    if index is None or index >= len(entries):
        return "events" if request.events else "history and current"
    return entries[index].path + _PART_OF_EVENT[tensor]


def _value(error: RequestError, request: RecommendRequest) -> str:
    tensor, _ = _split(error.field)
    if tensor not in _KEYED:
        return error.value
    groups = (request.history, request.current, request.events)
    ids = [event.item_id for events in groups for event in events if event.item_id]
    by_key = {str(item_key(item_id)): item_id for item_id in (*ids, *request.exclude_item_ids)}
    item_id = by_key.get(error.value.strip())
    return error.value if item_id is None else repr(item_id)
