"""Rules of the house as tensors and back, and what they did to an answer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from ebbtide.client.codec.items import attribute_texts
from ebbtide.client.codec.tensors import Arrays, EncodedRequest, encoded, flat, output
from ebbtide.client.codec.user import checked_id, checked_ids
from ebbtide.client.errors import InternalError, InvalidArgumentError
from ebbtide.interest import contract, served_models
from ebbtide.interest.keys import item_keys
from ebbtide.interest.rules import MOVED, PINNED
from ebbtide.v1 import (
    ItemAttribute,
    ListRulesRequest,
    ListRulesResponse,
    RecommendResponse,
    RemoveRulesRequest,
    RemoveRulesResponse,
    Rule,
    SetRulesRequest,
    SetRulesResponse,
)

RulesRequest = SetRulesRequest | RemoveRulesRequest | ListRulesRequest
"""The requests about rules of the house."""


def encode_set_rules(request: SetRulesRequest) -> EncodedRequest:
    """The tensor of rules to set: ``change_rules`` of bytes ``[1]``.

    Raises:
        InvalidArgumentError: There is no rule, a name is empty, too long or there twice, or a rule has no effect, no
            items, or a time that is not valid.
    """
    if not request.rules:
        raise InvalidArgumentError.of_field("rules", "none", "at least one rule")
    rules = [_encoded(f"rules[{index}]", rule) for index, rule in enumerate(request.rules)]
    names = [rule["name"] for rule in rules]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidArgumentError.of_field(f"rules[{index}].name", repr(name), "each name once")
    return _change({"set": rules})


def encode_remove_rules(request: RemoveRulesRequest) -> EncodedRequest:
    """The tensor of rules to remove: ``change_rules`` of bytes ``[1]``.

    Raises:
        InvalidArgumentError: There is no name, or one is empty.
    """
    if not request.names:
        raise InvalidArgumentError.of_field("names", "none", "at least one name")
    return _change({"remove": list(checked_ids("names", request.names))})


def encode_list_rules(_: ListRulesRequest) -> EncodedRequest:
    """The tensor that asks for all rules: ``change_rules`` of bytes ``[1]``, empty."""
    return _change({})


def decode_set_rules(outputs: Arrays, *, model_version: str = "") -> SetRulesResponse:
    """What became of rules to set, from ``rule_counts`` int32, four values, and ``listed_rules``.

    Raises:
        InternalError: An output is missing, or has another shape.
    """
    added, replaced, _, _ = flat(outputs, contract.RULE_COUNTS, 4).tolist()
    total = len(_listed(outputs))
    return SetRulesResponse(added_rules=added, replaced_rules=replaced, total_rules=total, model_version=model_version)


def decode_removed_rules(outputs: Arrays, *, model_version: str = "") -> RemoveRulesResponse:
    """What became of rules to remove, from ``rule_counts`` int32, four values, and ``listed_rules``.

    Raises:
        InternalError: An output is missing, or has another shape.
    """
    _, _, removed, unknown = flat(outputs, contract.RULE_COUNTS, 4).tolist()
    total = len(_listed(outputs))
    return RemoveRulesResponse(
        removed_rules=removed, unknown_rules=unknown, total_rules=total, model_version=model_version
    )


def decode_rules(outputs: Arrays, *, model_version: str = "") -> ListRulesResponse:
    """All rules, from ``listed_rules`` of bytes ``[1]``.

    Raises:
        InternalError: The output is missing, or does not hold what was set.
    """
    response = ListRulesResponse(model_version=model_version)
    try:
        for found in _listed(outputs):
            rule = response.rules.add(name=found["name"], item_ids=found["item_ids"])
            setattr(rule, found["kind"], found["amount"])
            rule.attributes.extend(
                ItemAttribute(column=column, values=values) for column, values in found["attributes"]
            )
            for name, milliseconds in (("since", found.get("from_ms")), ("until", found.get("until_ms"))):
                if milliseconds is not None:
                    getattr(rule, name).FromMilliseconds(milliseconds)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InternalError(
            f"{contract.LISTED_RULES.name}: got {error!r}; expected what this client writes. Does another program set "
            "rules of this server?"
        ) from error
    return response


def apply_rules(response: RecommendResponse, outputs: Arrays, wanted: int) -> None:
    """Pins items in a list, and names the rules of those that were moved.

    Args:
        response: With the best items.
        outputs: With ``applied_rules`` of bytes ``[1]``, or none; may be missing.
        wanted: Items of the list, at most.

    Raises:
        InternalError: The output is damaged.
    """
    array = outputs.get(contract.APPLIED_RULES.name)
    told = b"" if array is None or not array.size else array.reshape(-1)[0]
    if not told:
        return
    try:
        found = json.loads(told)
        moved: Mapping[str, Sequence[str]] = found[MOVED]
        pins: Sequence[tuple[int, str, float, str]] = found[PINNED]
        listed = {item.item_id: item.score for item in response.items}
        for position, item_id, score, _ in pins:
            if position <= wanted:
                listed.pop(item_id, None)
                pairs = list(listed.items())
                pairs.insert(position - 1, (item_id, score))
                listed = dict(pairs)
        pinned = {item_id: name for position, item_id, _, name in pins if position <= wanted}
        del response.items[:]
        for item_id, score in list(listed.items())[:wanted]:
            rules = [pinned[item_id]] if item_id in pinned else moved.get(item_id, ())
            response.items.add(item_id=item_id, score=score, rules=rules)
    except (ValueError, KeyError, TypeError) as error:
        raise InternalError(
            f"{contract.APPLIED_RULES.name}: got {error!r}; expected what Ebbtide's models say"
        ) from error


def field_of_rules(request: RulesRequest) -> str:
    """The field of a request about rules that the tensor holds."""
    return "names" if isinstance(request, RemoveRulesRequest) else "rules"


def _encoded(path: str, rule: Rule) -> dict[str, Any]:
    """A rule as the server keeps it.

    Raises:
        InvalidArgumentError: It is not complete.
    """
    kind = rule.WhichOneof("effect")
    if kind is None:
        raise InvalidArgumentError.of_field(path, "no effect", "boost, bury or pin")
    if not rule.item_ids and not rule.attributes:
        raise InvalidArgumentError.of_field(f"{path}.item_ids", "none", "at least one id, or attributes")
    amount = getattr(rule, kind)
    most = 1000 if kind == "pin" else 100
    if not (0 < amount <= most):
        raise InvalidArgumentError.of_field(f"{path}.{kind}", amount, f"above 0, at most {most}")
    found: dict[str, Any] = {
        "name": checked_id(f"{path}.name", rule.name),
        "kind": kind,
        "amount": amount,
        "item_ids": list(checked_ids(f"{path}.item_ids", rule.item_ids)),
        "item_keys": item_keys(rule.item_ids).tolist(),
        "attributes": [[one.column, list(one.values)] for one in rule.attributes],
        "attribute_keys": item_keys(attribute_texts(f"{path}.attributes", rule.attributes)).tolist(),
    }
    if rule.HasField("since"):
        found["from_ms"] = _milliseconds(f"{path}.since", rule.since)
    if rule.HasField("until"):
        found["until_ms"] = _milliseconds(f"{path}.until", rule.until)
    if found.get("until_ms", 2**63) <= found.get("from_ms", -(2**63)):
        raise InvalidArgumentError.of_field(f"{path}.until", "a time not after since", "a later time")
    return found


def _milliseconds(path: str, time: Timestamp) -> int:
    try:
        return time.ToMilliseconds()
    except ValueError as error:
        raise InvalidArgumentError.of_field(path, str(time).strip(), "a time from year 1 to 9999") from error


def _change(change: Mapping[str, Any]) -> EncodedRequest:
    text = json.dumps(change, ensure_ascii=False).encode() if change else b""
    return encoded(served_models.RULES, {contract.CHANGE_RULES: [text]})


def _listed(outputs: Arrays) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = json.loads(output(outputs, contract.LISTED_RULES).reshape(-1)[0])
    except (ValueError, TypeError, IndexError) as error:
        raise InternalError(f"{contract.LISTED_RULES.name}: got {error!r}; expected a JSON list") from error
    return found
