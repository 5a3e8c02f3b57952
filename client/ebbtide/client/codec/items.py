"""Items to add, to remove and to list, and their stock, as tensors, and what the models answer."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from google.protobuf.message import Message

from ebbtide.client.codec.tensors import Arrays, EncodedRequest, Values, encoded, flat, output
from ebbtide.client.codec.user import checked_id, checked_ids
from ebbtide.client.errors import InternalError, InvalidArgumentError
from ebbtide.interest import contract, served_models
from ebbtide.interest.keys import item_key, item_keys
from ebbtide.interest.numbers import ordered
from ebbtide.v1 import (
    AddItemsRequest,
    AddItemsResponse,
    ItemAttribute,
    ListItemsRequest,
    ListItemsResponse,
    ListOutOfStockRequest,
    ListOutOfStockResponse,
    NewItem,
    RemoveItemsRequest,
    RemoveItemsResponse,
    SetStockRequest,
    SetStockResponse,
)

ItemsRequest = AddItemsRequest | RemoveItemsRequest | ListItemsRequest | SetStockRequest | ListOutOfStockRequest
"""The requests about items that are added to a running server, and about its stock."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_LAST_PART = 2**31 - 1
"""The field is unsigned, the tensor is signed."""
_TEXT, _TITLE, _ATTRIBUTES = "text", "title", "attributes"


def encode_add_items(request: AddItemsRequest) -> EncodedRequest:
    """The tensors of items to add.

    Returns:
        For ``add_items``: ``text`` of bytes ``[items + 1]``, the last one a marker, ``item_key`` int64, ``item_name``
        and ``item_details`` of bytes, ``[items]`` each, and the optional tensors that the request calls for.

    Raises:
        InvalidArgumentError: There is no item, an id is empty or too long, a text is blank, or an attribute has no
            column or no value.
    """
    items = request.items
    if not items:
        raise InvalidArgumentError.of_field("items", "none", "at least one item")
    for index, item in enumerate(items):
        checked_id(f"items[{index}].item_id", item.item_id)
        if not item.text.strip():
            raise InvalidArgumentError.of_field(f"items[{index}].text", repr(item.text), "a text that is not blank")
    values_of = [attribute_texts(f"items[{index}].attributes", item.attributes) for index, item in enumerate(items)]
    values: Values = {
        contract.TEXT: [*(item.text.encode() for item in items), contract.ITEMS_MARKER],
        contract.ITEM_KEY: item_keys(item.item_id for item in items),
        contract.ITEM_NAME: [item.item_id.encode() for item in items],
        contract.ITEM_DETAILS: [_details(item) for item in items],
    }
    if any(values_of):
        keys_of = [
            [*item_keys(of_item).tolist(), *_number_entries(item)]
            for item, of_item in zip(items, values_of, strict=True)
        ]
        values[contract.ITEM_ATTRIBUTE] = [key for of_item in keys_of for key in of_item]
        values[contract.ITEM_ATTRIBUTE_COUNT] = [len(of_item) for of_item in keys_of]
    if request.only_update:
        values[contract.ONLY_UPDATE] = [True]
    return encoded(served_models.ADD_ITEMS, values)


def encode_remove_items(request: RemoveItemsRequest) -> EncodedRequest:
    """The tensor of items to remove: ``item_key`` int64 ``[items]``.

    Raises:
        InvalidArgumentError: There is no id, or one is empty.
    """
    if not request.item_ids:
        raise InvalidArgumentError.of_field("item_ids", "none", "at least one id")
    keys = item_keys(checked_ids("item_ids", request.item_ids))
    return encoded(served_models.ITEMS, {contract.ITEM_KEY: keys})


def encode_list_items(request: ListItemsRequest) -> EncodedRequest:
    """The tensor that asks for a part of the list: ``list_after`` int32 ``[1]``.

    Raises:
        InvalidArgumentError: The part is none that an answer names.
    """
    return encoded(served_models.ITEMS, {contract.LIST_AFTER: [_checked_part(request.part)]})


def encode_set_stock(request: SetStockRequest) -> EncodedRequest:
    """The tensors of items that are in stock or not.

    Returns:
        For ``stock``: ``item_key`` int64, ``item_name`` of bytes and ``in_stock`` bool, ``[items]`` each.

    Raises:
        InvalidArgumentError: There is no id, one is empty or too long, or one is in both lists.
    """
    out, back = request.out_of_stock_item_ids, request.in_stock_item_ids
    if not out and not back:
        raise InvalidArgumentError.of_field("out_of_stock_item_ids", "none", "at least one id, or in_stock_item_ids")
    for field, item_ids in (("out_of_stock_item_ids", out), ("in_stock_item_ids", back)):
        for index, item_id in enumerate(item_ids):
            checked_id(f"{field}[{index}]", item_id)
    given = set(out)
    for index, item_id in enumerate(back):
        if item_id in given:
            raise InvalidArgumentError.of_field(
                f"in_stock_item_ids[{index}]", repr(item_id), "an id that is not in out_of_stock_item_ids"
            )
    values: Values = {
        contract.ITEM_KEY: item_keys([*out, *back]),
        contract.ITEM_NAME: [item_id.encode() for item_id in (*out, *back)],
        contract.IN_STOCK: [False] * len(out) + [True] * len(back),
    }
    return encoded(served_models.STOCK, values)


def encode_list_out_of_stock(request: ListOutOfStockRequest) -> EncodedRequest:
    """The tensors that ask for a part of the list: ``list_after`` int32 ``[1]``, and ``in_stock`` without items.

    Raises:
        InvalidArgumentError: The part is none that an answer names.
    """
    return encoded(served_models.STOCK, {contract.LIST_AFTER: [_checked_part(request.part)], contract.IN_STOCK: []})


def _checked_part(part: int) -> int:
    if part > _LAST_PART:
        raise InvalidArgumentError.of_field("part", str(part), "0, or next_part of an answer")
    return part


def decode_added(outputs: Arrays, *, model_version: str = "") -> AddItemsResponse:
    """What became of items to add, from ``item_counts`` int32, six values.

    Raises:
        InternalError: The output is missing, or has another shape.
    """
    added, replaced, _, in_catalog, unknown, total = flat(outputs, contract.ITEM_COUNTS, 6).tolist()
    return AddItemsResponse(
        added_items=added,
        replaced_items=replaced,
        catalog_items=in_catalog,
        unknown_items=unknown,
        total_items=total,
        model_version=model_version,
    )


def decode_removed(outputs: Arrays, *, model_version: str = "") -> RemoveItemsResponse:
    """What became of items to remove, from ``item_counts`` int32, six values.

    Raises:
        InternalError: The output is missing, or has another shape.
    """
    _, _, removed, _, unknown, total = flat(outputs, contract.ITEM_COUNTS, 6).tolist()
    return RemoveItemsResponse(
        removed_items=removed, unknown_items=unknown, total_items=total, model_version=model_version
    )


def decode_listed(outputs: Arrays, *, model_version: str = "") -> ListItemsResponse:
    """A part of the list, from ``listed_item`` and ``listed_details`` of bytes, ``[listed]`` each.

    Raises:
        InternalError: An output is missing, or does not hold what was added.
    """
    response = ListItemsResponse(
        next_part=int(flat(outputs, contract.NEXT_PART, 1)[0]),
        total_items=int(flat(outputs, contract.ITEM_COUNTS, 6)[5]),
        model_version=model_version,
    )
    ids = output(outputs, contract.LISTED_ITEM).reshape(-1).tolist()
    details = output(outputs, contract.LISTED_DETAILS).reshape(-1).tolist()
    try:
        for item_id, described in zip(ids, details, strict=True):
            found = json.loads(described)
            attributes = [ItemAttribute(column=column, values=values) for column, values in found[_ATTRIBUTES].items()]
            response.items.add(item_id=item_id.decode(), text=found[_TEXT], title=found[_TITLE], attributes=attributes)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InternalError(
            f"{contract.LISTED_DETAILS.name}: got {error!r}; expected what this client writes. Does another program "
            "add items to this server?"
        ) from error
    return response


def decode_stock(outputs: Arrays, *, model_version: str = "") -> SetStockResponse:
    """What became of the stock of items, from ``stock_counts`` int32, three values.

    Raises:
        InternalError: The output is missing, or has another shape.
    """
    changed, unknown, total = flat(outputs, contract.STOCK_COUNTS, 3).tolist()
    return SetStockResponse(
        changed_items=changed, unknown_items=unknown, out_of_stock_items=total, model_version=model_version
    )


def decode_out_of_stock(outputs: Arrays, *, model_version: str = "") -> ListOutOfStockResponse:
    """A part of the list, from ``listed_item`` of bytes ``[listed]``, ``next_part`` and ``stock_counts``.

    Raises:
        InternalError: An output is missing, or has another shape.
    """
    return ListOutOfStockResponse(
        item_ids=[item_id.decode() for item_id in output(outputs, contract.LISTED_ITEM).reshape(-1).tolist()],
        next_part=int(flat(outputs, contract.NEXT_PART, 1)[0]),
        out_of_stock_items=int(flat(outputs, contract.STOCK_COUNTS, 3)[2]),
        model_version=model_version,
    )


def _details(item: NewItem) -> bytes:
    found: dict[str, list[str]] = {}
    for one in item.attributes:
        found.setdefault(one.column, []).extend(one.values)
    return json.dumps({_TEXT: item.text, _TITLE: item.title, _ATTRIBUTES: found}, ensure_ascii=False).encode()


def _number_entries(item: NewItem) -> list[int]:
    """For each column with a single value that is a number: the key of the column, then the number.

    Which columns are numeric, the server knows: it leaves out the others.
    """
    entries: list[int] = []
    for one in item.attributes:
        if len(one.values) == 1 and _NUMBER.fullmatch(one.values[0].strip()):
            entries += [item_key(one.column), int(ordered(float(one.values[0])))]
    return entries


def attribute_texts(path: str, attributes: Sequence[ItemAttribute]) -> list[str]:
    """The texts whose keys stand for the values.

    Raises:
        InvalidArgumentError: One has no column or no values.
    """
    for index, one in enumerate(attributes):
        for name in ("column", "values"):
            if not getattr(one, name):
                raise InvalidArgumentError.of_field(
                    f"{path}[{index}].{name}", "none", "the name of a column, and values"
                )
    return [f"{one.column}={value}" for one in attributes for value in one.values]


def field_of_items(request: Message, tensor: str, index: int | None) -> str:
    """The field of a request about items that a tensor holds.

    Args:
        request: An `ItemsRequest`.
        tensor: Its name.
        index: Of the entry; None for no one.
    """
    if isinstance(request, (ListItemsRequest, ListOutOfStockRequest)):
        return "part"
    if isinstance(request, SetStockRequest):
        out = len(request.out_of_stock_item_ids)
        if index is None:
            return "out_of_stock_item_ids"
        return f"out_of_stock_item_ids[{index}]" if index < out else f"in_stock_item_ids[{index - out}]"
    entry = "" if index is None else f"[{index}]"
    if isinstance(request, RemoveItemsRequest):
        return f"item_ids{entry}"
    names = {contract.TEXT.name: ".text", contract.ITEM_NAME.name: ".item_id", contract.ITEM_DETAILS.name: ".title"}
    if index is None:
        return "items"
    return f"items{entry}{names.get(tensor, '')}" if index < len(getattr(request, "items", ())) else "items"
