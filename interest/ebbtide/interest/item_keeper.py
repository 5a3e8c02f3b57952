"""Items that are added to a running server, its stock and rules: the `item_keeper` model without Triton's API."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.attributes import AttributeIndex
from ebbtide.interest.checks import RequestTensors
from ebbtide.interest.errors import RequestError
from ebbtide.interest.item_records import PARTS, Changed, Details, ItemStore, TooManyItemsError
from ebbtide.interest.lookup import UNKNOWN, KeyIndex
from ebbtide.interest.new_items import NewItem
from ebbtide.interest.parameters import InterestConfig
from ebbtide.interest.rule_records import RuleStore
from ebbtide.interest.rules import MOST_RULED_ITEMS, MOST_RULES, matching, parse_rules
from ebbtide.interest.stock import MOST_OUT_OF_STOCK
from ebbtide.interest.stock_records import StockStore, TooManyOutOfStockError
from ebbtide.interest.users import Users

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Outputs = dict[str, npt.NDArray[Any]]

MAX_ID_BYTES = 256
MAX_DETAILS_BYTES = 16_384
MAX_RULES_BYTES = 262_144
MAX_ATTRIBUTES = 192
"""Entries of `item_attribute` of one item: 64 values, each of which may be a number too."""
_NOTHING = Details([], [], 0)


@dataclass(frozen=True)
class TextProjections:
    """What an export makes of a text vector."""

    event: Floats
    """``[text width, d]``: to the event vector."""
    factor: Floats
    """``[text width, d]``: to the item factor, gamma included."""
    repeat: Floats
    """``[text width]``: to the bias in the repeat score; zeros without one."""


@dataclass(frozen=True)
class KeeperTables:
    """What `ItemKeeper` needs of an export."""

    config: InterestConfig
    index: KeyIndex
    """The keys of the catalog."""
    projections: TextProjections
    attributes: AttributeIndex
    words: Ints
    """``[items, words]``: see `ebbtide.interest.rules.RuleTables`."""


class ItemKeeper:
    """Keeps the items that were added after one export, what is out of stock, and the rules of the house."""

    def __init__(self, tables: KeeperTables, users: Users) -> None:
        """Takes what the export wrote, and the store.

        Args:
            tables: Of the export.
            users: Of the same export.
        """
        self._tables = tables
        self._limits = tables.config.limits
        self._index = tables.index
        self._projections = tables.projections
        self._rules = RuleStore(users)
        self._users = users
        self._store = ItemStore(users)
        self._stock = StockStore(users)

    def run_requests(self, requests: Sequence[RequestTensors]) -> list[Outputs | RequestError]:
        """What became of the items of each request, after the store has them; or what is wrong with the request.

        Args:
            requests: With `text_features` those to add items, with `in_stock` those about stock, else those to remove
                or to list items.

        Raises:
            StoreError: The store failed.
        """
        return [self._answer(request) for request in requests]

    def _answer(self, request: RequestTensors) -> Outputs | RequestError:
        try:
            self._users.store()
            changed, in_catalog = Changed(), 0
            if contract.IN_STOCK.name in request:
                return self._stock_answer(request)
            if contract.CHANGE_RULES.name in request:
                return self._rules_answer(_flat(request, contract.CHANGE_RULES.name)[0])
            if contract.TEXT_FEATURES.name in request:
                changed, in_catalog = self._add(request)
            elif contract.ITEM_KEY.name in request:
                changed = self._store.remove(_flat(request, contract.ITEM_KEY.name).tolist())
            else:
                changed.total = self._store.size()
            listed = self._listed(request)
        except RequestError as error:
            return error
        counts = changed.added, changed.replaced, changed.removed, in_catalog, changed.unknown, changed.total
        return _outputs(listed, items=counts)

    def _stock_answer(self, request: RequestTensors) -> Outputs:
        """What became of the stock of items.

        Raises:
            RequestError: The request cannot be served.
        """
        keys, names = _flat(request, contract.ITEM_KEY.name, np.int64), _flat(request, contract.ITEM_NAME.name)
        in_stock = _flat(request, contract.IN_STOCK.name, np.bool_)
        for name, size in ((contract.ITEM_NAME.name, names.size), (contract.IN_STOCK.name, in_stock.size)):
            if size != keys.size:
                raise RequestError(name, f"{size} entries", f"{keys.size}, one for each item of `item_key`")
        if keys.size > MOST_OUT_OF_STOCK:
            raise RequestError(
                contract.ITEM_KEY.name, f"{keys.size} items", f"at most {MOST_OUT_OF_STOCK} in a request"
            )
        for index, name in enumerate(names.tolist()):
            _check(f"{contract.ITEM_NAME.name}[{index}]", name, MAX_ID_BYTES, least=1)
        given = dict(zip(keys.tolist(), zip(names.tolist(), in_stock.tolist(), strict=True), strict=True))
        try:
            changed = self._stock.put(
                {key: name for key, (name, _) in given.items()}, [is_there for _, is_there in given.values()]
            )
        except TooManyOutOfStockError as error:
            got, expected = str(error).split("; expected ", 1)
            raise RequestError(contract.ITEM_KEY.name, got, expected) from None
        unknown = keys[self._index.find(keys) == UNKNOWN].tolist()
        listed = _NOTHING
        if contract.LIST_AFTER.name in request:
            ids, next_part = self._stock.listed(_part(request))
            listed = Details(ids, [], next_part)
        unknown_items = len(set(unknown) - self._store.added(unknown))
        return _outputs(listed, stock=(changed.changed, unknown_items, changed.total))

    def _rules_answer(self, change: bytes) -> Outputs:
        """What became of the rules.

        Raises:
            RequestError: The request cannot be served.
        """
        name = contract.CHANGE_RULES.name
        try:
            wanted = json.loads(change or b"{}")
            given, removed = {rule["name"]: rule for rule in wanted.get("set", [])}, set(wanted.get("remove", []))
            parse_rules(json.dumps(list(given.values())).encode())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            got, _, expected = str(error).partition("; expected ")
            raise RequestError(
                name, got.replace("got ", ""), expected or "a JSON object with `set` and `remove`"
            ) from None
        while True:
            before = self._rules.document()
            there = {rule["name"]: rule for rule in json.loads(before)}
            after = {name: rule for name, rule in {**there, **given}.items() if name not in removed - given.keys()}
            counts = (
                len(given.keys() - there.keys()),
                len(given.keys() & there.keys()),
                len(there.keys() - after.keys()),
                len(removed - there.keys() - given.keys()),
            )
            if not given and not removed:
                break
            self._require_room(list(after.values()), given)
            if self._rules.write(before, list(after.values())):
                break
        listed = json.dumps(list(after.values()), ensure_ascii=False).encode()
        return _outputs(_NOTHING, rules=counts, listed_rules=listed)

    def _require_room(self, rules: Sequence[dict[str, Any]], given: Mapping[str, Any]) -> None:
        """Refuses rules that servers do not take.

        Raises:
            RequestError: They are too many or too long, name a value that no item has, or too many items.
        """
        name = contract.CHANGE_RULES.name
        size = len(json.dumps(rules))
        if len(rules) > MOST_RULES or size > MAX_RULES_BYTES:
            most = f"at most {MOST_RULES} rules of {MAX_RULES_BYTES} bytes"
            raise RequestError(name, f"{len(rules)} rules of {size} bytes", most)
        items: set[int] = set()
        for rule in parse_rules(json.dumps(rules).encode()):
            values = np.array(rule.attribute_key, dtype=np.int64)
            unknown = self._tables.attributes.find(values) == UNKNOWN
            if rule.name in given and unknown.any():
                shown = _attribute_text(given[rule.name], int(unknown.argmax()))
                expected = "values that items of the catalog have, in columns of `--attribute-col` of the export"
                raise RequestError(name, f"rule {rule.name!r} with the unknown attribute value {shown}", expected)
            items.update(matching(rule, self._index, self._tables.attributes, self._tables.words).tolist())
            if len(items) > MOST_RULED_ITEMS:
                most = f"at most {MOST_RULED_ITEMS} items of the catalog that all rules together are about"
                raise RequestError(name, f"rule {rule.name!r}, with which the rules are about {len(items)} items", most)

    def _add(self, request: RequestTensors) -> tuple[Changed, int]:
        """What became of the items, and how many the catalog has.

        Raises:
            RequestError: The request cannot be served.
        """
        keys, names, details = (
            _flat(request, tensor.name) for tensor in (contract.ITEM_KEY, contract.ITEM_NAME, contract.ITEM_DETAILS)
        )
        # The last text is the marker.
        texts = request[contract.TEXT_FEATURES.name][:-1]
        if not keys.size:
            raise RequestError(contract.ITEM_KEY.name, "no items", f"1 to {self._limits.max_texts - 1} items")
        for name, size in (
            (contract.TEXT.name, len(texts)),
            (contract.ITEM_NAME.name, names.size),
            (contract.ITEM_DETAILS.name, details.size),
        ):
            if size != keys.size:
                raise RequestError(name, f"{size} entries", f"{keys.size}, one for each item of `item_key`")
        for index, (name, described) in enumerate(zip(names.tolist(), details.tolist(), strict=True)):
            _check(f"{contract.ITEM_NAME.name}[{index}]", name, MAX_ID_BYTES, least=1)
            _check(f"{contract.ITEM_DETAILS.name}[{index}]", described, MAX_DETAILS_BYTES)
        attributes = _attributes(request, keys.size)
        projections = self._projections
        vectors, factors, biases = (
            (texts @ matrix).astype(np.float32)
            for matrix in (projections.event, projections.factor, projections.repeat)
        )
        in_catalog = self._index.find(keys) != UNKNOWN
        now_ms = time.time_ns() // 1_000_000
        given = [
            (NewItem(key, UNKNOWN, now_ms, name, values, float(bias), vector, factor), described.decode())
            for key, name, described, values, vector, factor, bias, is_there in zip(
                keys.tolist(),
                names.tolist(),
                details.tolist(),
                attributes,
                vectors,
                factors,
                biases,
                in_catalog,
                strict=True,
            )
            if not is_there
        ]
        only_update = bool(request[contract.ONLY_UPDATE.name].item()) if contract.ONLY_UPDATE.name in request else False
        try:
            return self._store.put(given, only_update=only_update), int(np.count_nonzero(in_catalog))
        except TooManyItemsError as error:
            got, expected = str(error).split("; expected ", 1)
            raise RequestError(contract.ITEM_KEY.name, got, expected) from None

    def _listed(self, request: RequestTensors) -> Details:
        if contract.LIST_AFTER.name not in request:
            return _NOTHING
        return self._store.details(_part(request))


def _outputs(
    listed: Details,
    items: Sequence[int] = (0,) * 6,
    stock: Sequence[int] = (0,) * 3,
    rules: Sequence[int] = (0,) * 4,
    listed_rules: bytes = b"[]",
) -> Outputs:
    return {
        contract.RULE_COUNTS.name: np.array(rules, dtype=np.int32),
        contract.LISTED_RULES.name: _strings([listed_rules]),
        contract.ITEM_COUNTS.name: np.array(items, dtype=np.int32),
        contract.STOCK_COUNTS.name: np.array(stock, dtype=np.int32),
        contract.LISTED_ITEM.name: _strings(listed.item_id),
        contract.LISTED_DETAILS.name: _strings(listed.details),
        contract.NEXT_PART.name: np.array([listed.next_part], dtype=np.int32),
    }


def _part(request: RequestTensors) -> int:
    """Where a list goes on.

    Raises:
        RequestError: There is no such part.
    """
    part = int(request[contract.LIST_AFTER.name].item())
    if not 0 <= part < PARTS:
        raise RequestError(contract.LIST_AFTER.name, str(part), "0, or the `next_part` of an answer")
    return part


def _attributes(request: RequestTensors, items: int) -> list[tuple[int, ...]]:
    """The attribute values of each item.

    Raises:
        RequestError: Counts and values do not match.
    """
    values: Ints = _flat(request, contract.ITEM_ATTRIBUTE.name, np.int64)
    counts: Ints = _flat(request, contract.ITEM_ATTRIBUTE_COUNT.name, np.int32)
    if not counts.size:
        counts = np.zeros(items, dtype=np.int32)
    name = contract.ITEM_ATTRIBUTE_COUNT.name
    if counts.size != items or counts.min(initial=0) < 0 or counts.max(initial=0) > MAX_ATTRIBUTES:
        raise RequestError(name, str(counts.tolist()), f"a number from 0 to {MAX_ATTRIBUTES} for each of {items} items")
    if counts.sum() != values.size:
        raise RequestError(name, f"a sum of {counts.sum()}", f"{values.size}, the attribute values of the request")
    stops = counts.cumsum().tolist()
    return [tuple(values[start:stop].tolist()) for start, stop in zip([0, *stops], stops, strict=False)]


def _attribute_text(rule: Mapping[str, Any], index: int) -> str:
    """An attribute value of a rule, as the client wrote it beside the keys; its key where the client did not."""
    try:
        return [f"{column}={value}" for column, values in rule["attributes"] for value in values][index]
    except (KeyError, TypeError, ValueError, IndexError):
        return f"key {rule['attribute_keys'][index]}"


def _flat(request: RequestTensors, name: str, dtype: npt.DTypeLike = np.object_) -> npt.NDArray[Any]:
    found = request.get(name)
    return np.empty(0, dtype=dtype) if found is None else found.reshape(-1)


def _check(field: str, text: bytes, most: int, least: int = 0) -> None:
    """Refuses a text that is too long, too short or not UTF-8.

    Raises:
        RequestError: It is.
    """
    if not least <= len(text) <= most:
        raise RequestError(field, f"{len(text)} bytes", f"{least} to {most} bytes of UTF-8")
    try:
        text.decode()
    except UnicodeDecodeError:
        raise RequestError(field, repr(text[:40]), "UTF-8") from None


def _strings(texts: Sequence[bytes]) -> npt.NDArray[np.object_]:
    found = np.empty(len(texts), dtype=np.object_)
    found[:] = list(texts)
    return found
