"""Translates the server's errors about tensors into errors about fields of the caller's request."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ebbtide.client.codec import (
    EventRequest,
    ItemsRequest,
    RulesRequest,
    StateRequest,
    UserRequest,
    event_groups,
    field_of_items,
    field_of_rules,
    slate_error,
    tensor_order,
)
from ebbtide.client.errors import InvalidArgumentError
from ebbtide.interest import contract
from ebbtide.interest.errors import RequestError
from ebbtide.interest.keys import item_key
from ebbtide.v1 import (
    ExplainRequest,
    ForgetRequest,
    InterestRequest,
    ObserveRequest,
    RankRequest,
    RecommendRequest,
)

_INDEXED = re.compile(r"(?P<tensor>\w+)\[(?P<index>\d+)\]")

_FIELD_OF_EVENT = {
    contract.EVENT_ITEM.name: ".item_id",
    contract.EVENT_TIME.name: ".time",
    contract.EVENT_IS_CURRENT.name: "",
    contract.EVENT_WEIGHT.name: ".weight",
    contract.EVENT_TYPE.name: ".event_type",
    contract.EVENT_ID.name: ".event_id",
}
"""The field of an event that each tensor of events holds."""

_BESIDE_EVENTS = {
    contract.EXCLUDE_ITEM.name: "exclude_item_ids",
    contract.IGNORE_UNKNOWN.name: "unknown_items",
    contract.USER.name: "user_id",
    contract.SHOWN_ITEM.name: "shown_item_ids",
}
"""Tensors whose field has another name; all other tensors have the name of their field."""

_KEYED = (
    contract.EVENT_ITEM.name,
    contract.EVENT_TYPE.name,
    contract.EXCLUDE_ITEM.name,
    contract.CANDIDATE_ITEM.name,
    contract.ALLOW_ATTRIBUTE.name,
)
_ENTRIES_OF_RANGE = 3
"""Entries of ``allow_attribute`` that a range takes."""
_OF_TEXTS = (contract.TEXT.name, contract.TEXT_VECTOR.name, contract.TEXT_EVENT.name)


def caller_error(
    error: RequestError, request: UserRequest | StateRequest | ItemsRequest | RulesRequest | None
) -> InvalidArgumentError:
    """The server's error, with the caller's field instead of the tensor and the item id instead of its key.

    Args:
        error: The server's error.
        request: The caller's request; None for a request of texts only.
    """
    if request is None:
        return InvalidArgumentError.of_field(_field_of_texts(error.field), error.value, error.expected)
    if isinstance(request, RulesRequest):
        return InvalidArgumentError.of_field(field_of_rules(request), error.value, error.expected)
    if isinstance(request, ItemsRequest):
        return InvalidArgumentError.of_field(field_of_items(request, *_split(error.field)), error.value, error.expected)
    if error.field == contract.SLATE.name and isinstance(request, (RecommendRequest, ExplainRequest)):
        field, value = slate_error(error.value, request.slate)
        return InvalidArgumentError.of_field(field, value, error.expected)
    expected = error.expected
    for tensor, name in _BESIDE_EVENTS.items():
        expected = expected.replace(f"`{tensor}`", f"`{name}`")
    return InvalidArgumentError.of_field(_field(error.field, request), _value(error, request), expected)


def _split(field: str) -> tuple[str, int | None]:
    match = _INDEXED.fullmatch(field)
    return (match["tensor"], int(match["index"])) if match else (field, None)


def _field_of_texts(field: str) -> str:
    tensor, index = _split(field)
    if tensor not in _OF_TEXTS:
        return field
    return "texts" if index is None else f"texts[{index}]"


def _field(field: str, request: UserRequest | StateRequest) -> str:
    tensor, index = _split(field)
    if isinstance(request, (InterestRequest, ForgetRequest)):
        return _BESIDE_EVENTS.get(tensor, tensor)
    if tensor in _FIELD_OF_EVENT:
        order = tensor_order(request)
        entries = [*order.items, *order.texts]
        if index is None or index >= len(entries):
            return _all_events(request)
        return entries[index].path + _FIELD_OF_EVENT[tensor]
    if tensor in _OF_TEXTS:
        order = tensor_order(request)
        paths = [f"{event.path}.fallback_text" for event in order.stand_ins]
        paths += [f"{event.path}.text" for event in order.texts]
        return _all_events(request) if index is None or index >= len(paths) else paths[index]
    if tensor == contract.ALLOW_ATTRIBUTE.name:
        paths = [path for path, _, _ in _conditions(request)]
        return "allow" if index is None or index >= len(paths) else paths[index]
    if tensor == contract.CANDIDATE_ITEM.name:
        name = "item_ids" if isinstance(request, ExplainRequest) else "candidate_item_ids"
    else:
        name = _BESIDE_EVENTS.get(tensor, tensor)
    return name if index is None else f"{name}[{index}]"


def _all_events(request: EventRequest) -> str:
    return "events" if request.events or isinstance(request, ObserveRequest) else "history and current"


def _conditions(request: EventRequest) -> list[tuple[str, str, str]]:
    """Path, hashed text and shown text of each entry of ``allow_attribute``."""
    if isinstance(request, (RankRequest, ObserveRequest)):
        return []
    entries: list[tuple[str, str, str]] = []
    for position, condition in enumerate(request.allow):
        path, column = f"allow[{position}]", condition.column
        if condition.HasField("range"):
            entries += [(f"{path}.range", column, f"a range of {column}")] * _ENTRIES_OF_RANGE
        for index, value in enumerate(condition.values):
            entries.append((f"{path}.values[{index}]", f"{column}={value}", repr(f"{column}={value}")))
    return entries


def _value(error: RequestError, request: UserRequest | StateRequest) -> str:
    tensor, _ = _split(error.field)
    if tensor not in _KEYED or isinstance(request, (InterestRequest, ForgetRequest)):
        return error.value
    if tensor == contract.ALLOW_ATTRIBUTE.name:
        shown = {str(item_key(text)): word for _, text, word in _conditions(request)}
        return shown.get(error.value.strip(), error.value)
    if tensor == contract.EVENT_TYPE.name:
        words = [event.event_type for _, events in event_groups(request) for event in events]
    else:
        words = [event.item_id for _, events in event_groups(request) for event in events if event.item_id]
        words += _named_items(request)
    by_key = {str(item_key(word)): word for word in words}
    word = by_key.get(error.value.strip())
    return error.value if word is None else repr(word)


def _named_items(request: EventRequest) -> list[str]:
    """Ids of items beside those of the events."""
    if isinstance(request, ObserveRequest):
        return []
    candidates: Sequence[str] = ()
    if not isinstance(request, RecommendRequest):
        candidates = request.item_ids if isinstance(request, ExplainRequest) else request.candidate_item_ids
    return [*request.exclude_item_ids, *candidates]


def moved(error: InvalidArgumentError, field: str, by: int) -> InvalidArgumentError:
    """The error about an entry of a list that was sent in parts, with its index in the whole list.

    Args:
        error: About a part.
        field: The list's name.
        by: Index of the part's first entry in the whole list.
    """
    match = re.match(rf"{field}\[(\d+)\]", error.field or "")
    if not by or match is None or error.field is None:
        return error
    path = f"{field}[{int(match[1]) + by}]{error.field[match.end() :]}"
    return InvalidArgumentError.of_field(path, error.value, error.expected or "")
