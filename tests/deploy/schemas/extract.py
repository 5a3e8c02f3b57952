"""Writes the two JSON schemas beside it, from packages that are too heavy to test with.

Run by hand, in an environment of its own, when a newer release is to be checked against:

    pip install cloudcoil-models-prometheus-operator
    pip download --no-deps kserve
    python tests/deploy/schemas/extract.py kserve-0.21.0-py3-none-any.whl

Objects with named properties are closed: the API server would silently drop a misspelt field.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
_PRIMITIVES = {"str": "string", "int": "integer", "bool": "boolean", "float": "number", "object": "object"}
# Strings with a rule of their own in Go.
_QUANTITIES = {"ResourceQuantity", "V1beta1MetricQuantity", "KnativeURL"}
# One class for each of the old per-framework predictors, none of which is used.
_UNUSED = {"explainer", "transformer", "huggingface", "lightgbm", "onnx", "paddle", "pmml", "pytorch", "sklearn"}
_UNUSED |= {"tensorflow", "triton", "xgboost", "worker_spec", "status"}


def main() -> None:
    """Reads the wheel named on the command line and the installed package."""
    wheel = Path(sys.argv[1])
    kserve = _kserve(wheel, "V1beta1InferenceService", "V1alpha1ServingRuntime")
    _write("kserve.json", f"kserve {wheel.name.split('-')[1]}", kserve)
    from cloudcoil.models.prometheus_operator.v1 import PodMonitor, PrometheusRule

    package = "cloudcoil-models-prometheus-operator"
    _write("monitoring.json", f"{package} {version(package)}", _pydantic(PodMonitor, PrometheusRule))


def _write(name: str, source: str, definitions: dict[str, Any]) -> None:
    content = {"$comment": f"from {source}; written by extract.py", "$defs": definitions}
    (HERE / name).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _kserve(wheel: Path, *roots: str) -> dict[str, Any]:
    """Schemas of classes that the OpenAPI generator wrote, and of those they refer to."""
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if re.fullmatch(r"kserve/models/v\w+\.py", name)]
        classes = dict(_generated_class(archive.read(name).decode()) for name in names)
    definitions: dict[str, Any] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in definitions:
            continue
        types, keys, required = classes[name]
        used = {key: kind for key, kind in types.items() if key not in _UNUSED}
        definitions[name] = {
            "type": "object",
            "properties": {keys[key]: _kserve_type(kind, classes) for key, kind in used.items()},
            "additionalProperties": False,
            "required": sorted(keys[key] for key in required if key in used),
        }
        waiting += [part for kind in used.values() for part in re.findall(r"V\w+", kind) if part in classes]
    return definitions


def _generated_class(source: str) -> tuple[str, tuple[dict[str, str], dict[str, str], set[str]]]:
    node = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef))
    tables = {
        entry.targets[0].id: ast.literal_eval(entry.value)
        for entry in node.body
        if isinstance(entry, ast.Assign)
        and isinstance(entry.targets[0], ast.Name)
        and isinstance(entry.value, ast.Dict)
    }
    required = set(re.findall(r"Invalid value for `(\w+)`, must not be `None`", source))
    return node.name, (tables["openapi_types"], tables["attribute_map"], required)


def _kserve_type(kind: str, classes: dict[str, Any]) -> dict[str, Any]:
    if inner := re.fullmatch(r"list\[(.+)\]", kind):
        return {"type": "array", "items": _kserve_type(inner[1], classes)}
    if inner := re.fullmatch(r"dict\(str, (.+)\)", kind):
        return {"type": "object", "additionalProperties": _kserve_type(inner[1], classes)}
    if kind in _PRIMITIVES:
        return {"type": _PRIMITIVES[kind]}
    if kind in _QUANTITIES:
        return {"type": ["string", "integer"]}
    # Kubernetes' own types: the tests check those with Kubernetes' own schemas.
    return {"$ref": f"#/$defs/{kind}"} if kind in classes else {"$comment": kind}


def _pydantic(*models: Any) -> dict[str, Any]:
    """Schemas of the models; two of them may have different classes of one name, so each has a prefix."""
    definitions: dict[str, Any] = {}
    for model in models:
        text = json.dumps(model.model_json_schema(by_alias=True))
        schema = json.loads(text.replace("#/$defs/", f"#/$defs/{model.__name__}."))
        definitions |= {f"{model.__name__}.{name}": _tidy(body) for name, body in schema.pop("$defs").items()}
        definitions[model.__name__] = _tidy(schema)
    return definitions


def _tidy(schema: Any) -> Any:
    """Without titles, defaults and nulls; closed."""
    if isinstance(schema, list):
        return [_tidy(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    if "anyOf" in schema and {"type": "null"} in schema["anyOf"]:
        kept = [entry for entry in schema["anyOf"] if entry != {"type": "null"}]
        return _tidy(kept[0] if len(kept) == 1 else {"anyOf": kept})
    tidy = {
        key: {name: _tidy(body) for name, body in value.items()} if key == "properties" else _tidy(value)
        for key, value in schema.items()
        if key not in ("title", "default", "description") or not isinstance(value, str | None)
    }
    if "pattern" in tidy:
        # Go's syntax for ignoring case in the middle of a pattern, which Python refuses.
        tidy["pattern"] = tidy["pattern"].replace("^(?i)", "(?i)^")
    if tidy.get("properties"):
        tidy.setdefault("additionalProperties", False)
    return tidy


if __name__ == "__main__":
    main()
