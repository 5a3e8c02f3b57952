"""What Triton refuses of the calls that `auto_complete_config` makes, as `triton_python_backend_utils` decides it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ebbtide.check.configs import data_type_name
from ebbtide.check.messages import ModelConfig
from ebbtide.check.python_completion import Setting

_NEEDED = ("name", "data_type", "dims")
_PROPERTIES = {"input": (*_NEEDED, "optional"), "output": _NEEDED}


def completion_problem(setting: Setting, config: ModelConfig) -> str:
    """Why Triton refuses a call, as ``VALUE; expected ...``; empty if it does not."""
    value = setting.value
    if setting.setter == "set_max_batch_size":
        if isinstance(value, int) and config.max_batch_size > value:
            return f"{value}; expected at least {config.max_batch_size}, the config's max_batch_size"
        return ""
    if setting.setter == "set_dynamic_batching":
        if config.HasField("sequence_batching"):
            return "`sequence_batching` in the config; expected at most one of the two"
        return ""
    if not isinstance(value, dict):
        return ""
    if setting.setter == "set_model_transaction_policy":
        return _policy(value, config)
    return _tensor(setting.setter.removeprefix("add_"), value, config)


def _policy(value: Mapping[str, Any], config: ModelConfig) -> str:
    others = sorted(value.keys() - {"decoupled"})
    if others:
        return f"property {others[0]!r}; expected only 'decoupled'"
    written = config.model_transaction_policy.decoupled
    if "decoupled" in value and config.HasField("model_transaction_policy") and value["decoupled"] != written:
        return f"decoupled {value['decoupled']}; expected {written}, as in the config"
    return ""


def _tensor(section: str, value: Mapping[str, Any], config: ModelConfig) -> str:
    known = _PROPERTIES[section]
    others = sorted(map(str, value.keys() - set(known)))
    if others:
        return f"property {others[0]!r}; expected only {', '.join(known)}"
    missing = [name for name in _NEEDED if name not in value]
    if missing:
        return f"no {missing[0]!r}; expected {', '.join(_NEEDED)}"
    for tensor in config.input if section == "input" else config.output:
        if tensor.name != value["name"]:
            continue
        written = data_type_name(tensor.data_type)
        if tensor.data_type and written != value["data_type"]:
            return f"{value['data_type']} for {tensor.name!r}; expected {written}, as in the config"
        if tensor.dims and list(tensor.dims) != value["dims"]:
            return f"dims {value['dims']} for {tensor.name!r}; expected {list(tensor.dims)}, as in the config"
        if section == "input" and "optional" in value and bool(value["optional"]) != getattr(tensor, "optional", False):
            return f"optional {value['optional']} for {tensor.name!r}; expected the same as in the config"
    return ""
