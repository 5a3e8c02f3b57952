"""Only the contract contains tensor names as literals; no other source does."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from ebbtide.export.sources import model_sources
from ebbtide.interest import served_models
from ebbtide.v1 import Event, RecommendRequest, RecommendResponse

ROOT = Path(__file__).parents[2]
NAMES = {tensor.name for model in served_models.MODELS.values() for tensor in (*model.inputs, *model.outputs)}
TYPED_FIELDS = {
    field.name
    for message in (Event, RecommendRequest, RecommendResponse, RecommendResponse.DESCRIPTOR.fields_by_name["items"])
    for field in (getattr(message, "DESCRIPTOR", None) or message.message_type).fields
}
"""Fields of the typed schema, some of which are called as a tensor is; the client names them to its callers."""


def literals(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@pytest.mark.parametrize(
    ("folder", "allowed"),
    [
        (ROOT / "export" / "ebbtide" / "export", set()),
        (model_sources(), set()),
        (ROOT / "client" / "ebbtide" / "client", TYPED_FIELDS),
    ],
    ids=["export", "model_repository", "client"],
)
def test_sources_spell_out_no_tensor_name(folder: Path, allowed: set[str]) -> None:
    paths = sorted(folder.rglob("*.py"))
    assert paths
    found = {str(path.relative_to(folder)): sorted(literals(path) & (NAMES - allowed)) for path in paths}
    assert {path: names for path, names in found.items() if names} == {}
