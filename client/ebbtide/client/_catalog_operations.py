"""What the clients do to the living catalog, as steps without I/O: added items, stock and rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from ebbtide.client._failures import Asked
from ebbtide.client._fields import moved
from ebbtide.client._inference import Inference
from ebbtide.client._retry import Deadline
from ebbtide.client._steps import Steps
from ebbtide.client.codec import (
    Arrays,
    EncodedRequest,
    decode_added,
    decode_listed,
    decode_out_of_stock,
    decode_removed,
    decode_removed_rules,
    decode_rules,
    decode_set_rules,
    decode_stock,
    encode_add_items,
    encode_list_items,
    encode_list_out_of_stock,
    encode_list_rules,
    encode_remove_items,
    encode_remove_rules,
    encode_set_rules,
    encode_set_stock,
)
from ebbtide.client.config import Unset
from ebbtide.client.errors import InvalidArgumentError
from ebbtide.interest import served_models
from ebbtide.interest.contract import Limits
from ebbtide.v1 import (
    AddItemsRequest,
    AddItemsResponse,
    ListItemsRequest,
    ListItemsResponse,
    ListOutOfStockRequest,
    ListOutOfStockResponse,
    ListRulesRequest,
    ListRulesResponse,
    NewItem,
    RemoveItemsRequest,
    RemoveItemsResponse,
    RemoveRulesRequest,
    RemoveRulesResponse,
    SetRulesRequest,
    SetRulesResponse,
    SetStockRequest,
    SetStockResponse,
)

Metadata = Mapping[str, str] | None
"""gRPC metadata of one call."""

Answer_co = TypeVar("Answer_co", covariant=True)
Answer = TypeVar("Answer")


class Decode(Protocol[Answer_co]):
    """Reads output tensors as an answer."""

    def __call__(self, outputs: Arrays, *, model_version: str) -> Answer_co:
        """The answer."""
        ...


class CatalogOperations:
    """The methods about the catalog of one client as steps; see those of `InterestClient` of the same names."""

    def __init__(self, inference: Inference, deadline: Callable[[float | Unset], Deadline]) -> None:
        """Makes those of a client.

        Args:
            inference: Asks the models.
            deadline: The deadline of a call that starts now.
        """
        self._inference = inference
        self._deadline = deadline

    def add_items(
        self, request: AddItemsRequest, timeout_s: float | Unset, metadata: Metadata = None
    ) -> Steps[AddItemsResponse]:
        """See `InterestClient.add_items`."""
        deadline = self._deadline(timeout_s)
        known = yield from self._inference.prepare(served_models.ADD_ITEMS.name, deadline, metadata)
        most = known.limits.get("max_texts", Limits.max_texts) - 1
        total = AddItemsResponse()
        for start in range(0, max(1, len(request.items)), most):
            part = AddItemsRequest(items=request.items[start : start + most], only_update=request.only_update)
            try:
                encoded = encode_add_items(part)
                answer = yield from self._ask("add_items", encoded, decode_added, part, deadline, metadata)
            except InvalidArgumentError as error:
                raise moved(error, "items", start) from error
            for name in ("added_items", "replaced_items", "catalog_items", "unknown_items"):
                setattr(total, name, getattr(total, name) + getattr(answer, name))
            total.total_items, total.model_version = answer.total_items, answer.model_version
        return total

    def remove_items(
        self, request: RemoveItemsRequest, timeout_s: float | Unset, metadata: Metadata = None
    ) -> Steps[RemoveItemsResponse]:
        """See `InterestClient.remove_items`."""
        encoded, deadline = encode_remove_items(request), self._deadline(timeout_s)
        return self._ask("remove_items", encoded, decode_removed, request, deadline, metadata)

    def list_part(
        self, request: ListItemsRequest, timeout_s: float | Unset, metadata: Metadata = None
    ) -> Steps[ListItemsResponse]:
        """See `InterestClient.list_items`: one part of the list."""
        encoded, deadline = encode_list_items(request), self._deadline(timeout_s)
        return self._ask("list_items", encoded, decode_listed, request, deadline, metadata)

    def list_items(self, timeout_s: float | Unset, metadata: Metadata = None) -> Steps[list[NewItem]]:
        """See `InterestClient.list_items`."""
        deadline = self._deadline(timeout_s)
        items: list[NewItem] = []
        request = ListItemsRequest()
        while True:
            encoded = encode_list_items(request)
            answer = yield from self._ask("list_items", encoded, decode_listed, request, deadline, metadata)
            items.extend(answer.items)
            if not answer.next_part:
                return items
            request = ListItemsRequest(part=answer.next_part)

    def set_stock(
        self, request: SetStockRequest, timeout_s: float | Unset, metadata: Metadata = None
    ) -> Steps[SetStockResponse]:
        """See `InterestClient.set_stock`."""
        encoded, deadline = encode_set_stock(request), self._deadline(timeout_s)
        return self._ask("set_stock", encoded, decode_stock, request, deadline, metadata)

    def out_of_stock_part(
        self, request: ListOutOfStockRequest, timeout_s: float | Unset, metadata: Metadata = None
    ) -> Steps[ListOutOfStockResponse]:
        """See `InterestClient.list_out_of_stock`: one part of the list."""
        encoded, deadline = encode_list_out_of_stock(request), self._deadline(timeout_s)
        return self._ask("list_out_of_stock", encoded, decode_out_of_stock, request, deadline, metadata)

    def list_out_of_stock(self, timeout_s: float | Unset, metadata: Metadata = None) -> Steps[list[str]]:
        """See `InterestClient.list_out_of_stock`."""
        deadline = self._deadline(timeout_s)
        item_ids: list[str] = []
        request = ListOutOfStockRequest()
        while True:
            encoded = encode_list_out_of_stock(request)
            answer = yield from self._ask(
                "list_out_of_stock", encoded, decode_out_of_stock, request, deadline, metadata
            )
            item_ids.extend(answer.item_ids)
            if not answer.next_part:
                return item_ids
            request = ListOutOfStockRequest(part=answer.next_part)

    def set_rules(
        self, request: SetRulesRequest, timeout_s: float | Unset, metadata: Metadata = None
    ) -> Steps[SetRulesResponse]:
        """See `InterestClient.set_rules`."""
        encoded, deadline = encode_set_rules(request), self._deadline(timeout_s)
        return self._ask("set_rules", encoded, decode_set_rules, request, deadline, metadata)

    def remove_rules(
        self, request: RemoveRulesRequest, timeout_s: float | Unset, metadata: Metadata = None
    ) -> Steps[RemoveRulesResponse]:
        """See `InterestClient.remove_rules`."""
        encoded, deadline = encode_remove_rules(request), self._deadline(timeout_s)
        return self._ask("remove_rules", encoded, decode_removed_rules, request, deadline, metadata)

    def list_rules(
        self, request: ListRulesRequest, timeout_s: float | Unset, metadata: Metadata = None
    ) -> Steps[ListRulesResponse]:
        """See `InterestClient.list_rules`."""
        encoded, deadline = encode_list_rules(request), self._deadline(timeout_s)
        return self._ask("list_rules", encoded, decode_rules, request, deadline, metadata)

    def _ask(
        self,
        method: str,
        encoded: EncodedRequest,
        decode: Decode[Answer],
        request: Asked,
        deadline: Deadline,
        metadata: Metadata,
    ) -> Steps[Answer]:
        def read(outputs: Arrays, version: str) -> Answer:
            return decode(outputs, model_version=version)

        return (yield from self._inference.infer(method, encoded, read, deadline, metadata, request))
