"""Peer 3: writes a model repository with an ensemble of one Python model per operator."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from benchmarks.serving.peers.torch_answers import TOP_N
from ebbtide.export.head.graph import item_factors
from ebbtide.interest import served_models
from ebbtide.interest.keys import item_keys
from ebbtide.interest.lookup import KeyIndex
from ebbtide.train.bundle import InterestBundle

_SOURCES = Path(__file__).with_name("operators")
_MAX_BATCH_SIZE = 64
Tables = dict[str, npt.NDArray[Any]]
Tensors = dict[str, tuple[str, list[int]]]


def write_operators(bundle: InterestBundle, out: Path, instances: int) -> Path:
    """Writes the repository and returns its folder.

    Args:
        bundle: Bundle to serve.
        out: A new folder.
        instances: Number of instances of each operator.
    """
    d, width = bundle.model.config.dimensions, bundle.model.config.dimensions + bundle.prior_columns.shape[1]
    tensors: Tensors = {
        "event_item": ("INT64", [-1]),
        "event_time": ("INT64", [-1]),
        "event_is_current": ("BOOL", [-1]),
        "now": ("INT64", [1]),
        "item_index": ("INT64", [-1]),
        "event_vector": ("FP32", [-1, d]),
        "weighted_vector": ("FP32", [-1, d]),
        "ordered_is_current": ("BOOL", [-1]),
        "idle_hours": ("FP32", [1]),
        "interest": ("FP32", [width]),
        "alpha_used": ("FP32", [1]),
        "event_counts": ("INT32", [3]),
        "catalog_score": ("FP32", [len(bundle.catalog)]),
        "item_id": ("STRING", [TOP_N]),
        "score": ("FP32", [TOP_N]),
    }
    operators: dict[str, tuple[list[str], list[str]]] = {
        "lookup": (["event_item"], ["item_index", "event_vector"]),
        "decay": (
            ["event_vector", "event_time", "event_is_current", "now"],
            ["weighted_vector", "ordered_is_current", "idle_hours"],
        ),
        "blend": (["weighted_vector", "ordered_is_current", "idle_hours"], ["interest", "alpha_used", "event_counts"]),
        "score": (["interest", "item_index"], ["catalog_score"]),
        "top_n": (["catalog_score"], ["item_id", "score"]),
    }
    tables = _tables(bundle)
    for name, (inputs, outputs) in operators.items():
        config = _config(name, inputs, outputs, tensors)
        config.backend = "python"
        config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=instances)
        config.dynamic_batching.SetInParent()
        for tensor in config.input:
            tensor.allow_ragged_batch = -1 in tensor.dims
        version = _write(config, out)
        shutil.copyfile(_SOURCES / f"{name}.py", version / "model.py")
        shutil.copyfile(_SOURCES / "ragged.py", version / "ragged.py")
        np.savez(version / "tables.npz", **tables[name])
    inputs = ["event_item", "event_time", "event_is_current", "now"]
    ensemble = _config(
        served_models.RECOMMEND.name, inputs, ["item_id", "score", "alpha_used", "event_counts"], tensors
    )
    ensemble.platform = "ensemble"
    for name, (step_inputs, step_outputs) in operators.items():
        ensemble.ensemble_scheduling.step.add(
            model_name=name,
            model_version=-1,
            input_map={tensor: tensor for tensor in step_inputs},
            output_map={tensor: tensor for tensor in step_outputs},
        )
    _write(ensemble, out)
    return out


def _config(name: str, inputs: list[str], outputs: list[str], tensors: Tensors) -> Any:  # noqa: ANN401 - no types
    config = model_config_pb2.ModelConfig(name=name, max_batch_size=_MAX_BATCH_SIZE)
    for names, field in ((inputs, config.input), (outputs, config.output)):
        for tensor in names:
            dtype, dims = tensors[tensor]
            field.add(name=tensor, data_type=model_config_pb2.DataType.Value(f"TYPE_{dtype}"), dims=dims)
    return config


def _write(config: Any, out: Path) -> Path:  # noqa: ANN401 - tritonclient carries no types
    version = out / str(config.name) / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")
    return version


def _tables(bundle: InterestBundle) -> dict[str, Tables]:
    """The arrays of each operator."""
    model = bundle.model
    index = KeyIndex.build(item_keys(bundle.catalog.item_id))

    def array(tensor: Any) -> npt.NDArray[np.float32]:  # noqa: ANN401
        return np.ascontiguousarray(tensor.detach().numpy())

    blend: Tables = {"prior_weight": array(model.prior_weight)}
    if model.config.fixed_alpha is not None:
        blend["fixed_alpha"] = np.array(model.config.fixed_alpha, dtype=np.float32)
    else:
        for layer, name in ((model.gate_hidden, "hidden"), (model.gate_output, "output")):
            blend |= {f"{name}_weight": array(layer.weight.T), f"{name}_bias": array(layer.bias)}
    return {
        "lookup": {
            "sorted_key": index.sorted_key,
            "catalog_index": index.catalog_index,
            "event_vectors": array(model.event_vectors()),
        },
        "decay": {
            "decay_rate_per_day": array(model.decay_rate_per_day),
            "rank_decay_rate": array(model.rank_decay_rate),
        },
        "blend": blend,
        "score": {"factors": np.ascontiguousarray(item_factors(bundle).T)},
        "top_n": {
            "item_id": np.array([text.encode() for text in bundle.catalog.item_id]),
            "top_n": np.array(min(TOP_N, len(bundle.catalog))),
        },
    }
