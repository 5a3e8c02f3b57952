"""The guide to plain Triton requests: its tables match the contract, and its example runs on a server."""

from __future__ import annotations

import json
import re
import urllib.request
from dataclasses import fields
from enum import Enum
from pathlib import Path

import numpy as np

from ebbtide.client.codec.rules import decode_rules, encode_set_rules
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Limits, Tensor
from ebbtide.interest.keys import item_key
from ebbtide.interest.served_models import Kind
from ebbtide.serve import TritonServer
from ebbtide.v1 import SetRulesRequest

GUIDE = Path(__file__).parents[2] / "docs" / "requests.md"
CALLED = (
    "recommend",
    "recommend_slate",
    "rank",
    "explain",
    "recommend_text",
    "recommend_slate_text",
    "rank_text",
    "explain_text",
    "embed",
)
"""Models that clients call; the others are their steps."""
OF_STATES = ("observe", "interest", "forget")
"""Those that read or write states of users alone."""
OF_ITEMS = ("add_items", "items", "stock", "rules")
"""Those that add, remove and list items, and keep stock and rules."""


def section(title: str) -> str:
    return GUIDE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def shape(tensor: Tensor) -> str:
    names = {contract.Size.TOP_N: "top N", contract.Size.VECTOR: "d"}
    axes = ["texts"] if tensor.rows == contract.VARIABLE else []
    axes += [names.get(dim, dim.value if isinstance(dim, Enum) else str(dim)) for dim in tensor.dims]
    return f"[{', '.join(axes)}]"


def rows(side: str, called: tuple[str, ...]) -> list[str]:
    tensors = {tensor.name: tensor for name in called for tensor in getattr(served_models.MODELS[name], side)}
    lines = []
    for name, tensor in tensors.items():
        users = [model for model in called if name in {one.name for one in getattr(served_models.MODELS[model], side)}]
        meaning = tensor.meaning[0].upper() + tensor.meaning[1:]
        optional = ", optional" if tensor.optional else ""
        lines.append(f"| `{name}` | {tensor.dtype.value} {shape(tensor)}{optional} | {meaning} | {', '.join(users)} |")
    return lines


def table_rows(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("| `")]


def test_guide_lists_every_tensor_when_compared_with_the_contract() -> None:
    assert table_rows(section("Inputs")) == rows("inputs", CALLED)
    assert table_rows(section("Outputs")) == rows("outputs", CALLED)
    inputs, outputs = section("States of users").split("| output |")
    assert table_rows(inputs) == rows("inputs", OF_STATES)
    assert table_rows(outputs) == rows("outputs", OF_STATES)
    inputs, outputs = section("Items that are added").split("| output |")
    assert table_rows(inputs) == rows("inputs", OF_ITEMS)
    assert table_rows(outputs) == rows("outputs", OF_ITEMS)
    assert {name for name, model in served_models.MODELS.items() if model.kind is Kind.ENSEMBLE} == {
        *CALLED,
        *OF_STATES,
        *OF_ITEMS,
    }


def test_guide_lists_every_limit_when_compared_with_the_contract() -> None:
    stated = re.findall(r"^\| `(\w+)` \| ([\d,]+) \|", section("Limits"), re.MULTILINE)
    assert {name: int(value.replace(",", "")) for name, value in stated} == {
        limit.name: limit.default for limit in fields(Limits)
    }


def test_guides_requests_are_answered_when_sent_over_http(server: TritonServer) -> None:
    asked = re.findall(r"models/(\w+)/infer -d '(\{.*?\})'$", section("Over HTTP"), re.MULTILINE | re.DOTALL)
    assert [name for name, _ in asked] == ["recommend", "recommend_text"]
    for name, body in asked:
        content = json.loads(body)
        given = {entry["name"]: entry["data"] for entry in content["inputs"]}
        assert given["event_item"] == [item_key("1"), item_key("2")][: len(given["event_item"])]
        request = urllib.request.Request(  # noqa: S310 - the server of this session
            f"{server.http_url}/v2/models/{name}/infer", json.dumps(content).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=300) as reply:  # noqa: S310 - as above
            outputs = {entry["name"]: entry["data"] for entry in json.load(reply)["outputs"]}
        assert outputs.keys() == {tensor.name for tensor in served_models.MODELS[name].outputs}
        assert outputs["event_counts"] == [1, 1, 0]


def test_guides_rule_is_one_of_the_client_when_parsed() -> None:
    found = re.search(r"such as\n\n( +\{.*?\})\n\n", section("Items that are added"), re.DOTALL)
    assert found is not None
    written = json.loads(found[1])
    assert written["item_keys"] == [item_key(item_id) for item_id in written["item_ids"]]
    assert written["attribute_keys"] == [item_key("genres=Comedy")]
    answer = decode_rules({contract.LISTED_RULES.name: np.array([json.dumps([written]).encode()], dtype=np.object_)})
    again = encode_set_rules(SetRulesRequest(rules=answer.rules)).tensors[contract.CHANGE_RULES.name]
    assert json.loads(again.item()) == {"set": [written]}
