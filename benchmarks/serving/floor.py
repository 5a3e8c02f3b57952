"""Writes a do-nothing copy of `recommend`: the same steps, tensors, sizes and batching, but constant answers.

Its cost is that of Triton, its Python stubs and gRPC alone. It uses the configs of the export, without warm-up
requests, so it follows every change of the contract and of the configs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf import text_format
from onnx import TensorProto, helper, numpy_helper
from tritonclient.grpc import model_config_pb2

from ebbtide.export.onnx_files import OPSET, value_info, write_graph
from ebbtide.interest import served_models
from ebbtide.interest.contract import Dtype, Size
from ebbtide.interest.exported import MODEL_CONFIG_FILE
from ebbtide.interest.served_models import Kind, Model

_MODEL_SOURCE = Path(__file__).with_name("floor_model.py")
_IR_VERSION = 8
_ITEM_ID = b"112852"
"""As long as the ids of the demo's catalog."""


def write_floor(repository: Path, out: Path) -> Path:
    """Writes the do-nothing copy of an export's `recommend` and its steps; returns its folder."""
    for name in (*served_models.RECOMMEND.steps, served_models.RECOMMEND.name):
        config = read_config(repository, name)
        config.ClearField("model_warmup")
        (number,) = config.version_policy.specific.versions or [1]
        version = out / name / str(number)
        version.mkdir(parents=True)
        (out / name / MODEL_CONFIG_FILE).write_text(text_format.MessageToString(config), encoding="utf-8")
        if config.backend == Kind.PYTHON.value:
            shutil.copyfile(_MODEL_SOURCE, version / "model.py")
        elif config.backend == Kind.ONNX.value:
            model = served_models.MODELS[name]
            write_graph(_constant_graph(model, sizes_of(model, config)), "floor", version)
    return out


def read_config(repository: Path, name: str) -> Any:  # noqa: ANN401 - tritonclient carries no types
    """A model's config as Triton's message."""
    config = model_config_pb2.ModelConfig()
    text_format.Parse((repository / name / MODEL_CONFIG_FILE).read_text(encoding="utf-8"), config)
    return config


def sizes_of(model: Model, config: Any) -> dict[Size, int]:  # noqa: ANN401 - tritonclient carries no types
    """Returns the sizes of an export, read from the config of one of its models."""
    stated = {tensor.name: tuple(tensor.dims) for tensor in (*config.input, *config.output)}
    return {
        dim: size
        for tensor in (*model.inputs, *model.outputs)
        for dim, size in zip(tensor.dims, stated[tensor.name], strict=True)
        if isinstance(dim, Size)
    }


def _constant_graph(model: Model, sizes: dict[Size, int]) -> onnx.ModelProto:
    """A graph that answers every row with the same constants; it reads only the number of rows."""
    first = model.inputs[0].name
    nodes = [
        helper.make_node("Shape", [first], ["rows"], end=1),
        helper.make_node(
            "ConstantOfShape", ["rows"], ["row"], value=helper.make_tensor("zero", TensorProto.INT64, [1], [0])
        ),
    ]
    weights = []
    for tensor in model.outputs:
        dims = (1, *tensor.config_dims(sizes, batching=True))
        constant = f"constant_{tensor.name}"
        if tensor.dtype is Dtype.BYTES:
            ids = [_ITEM_ID] * int(np.prod(dims))
            weights.append(TensorProto(name=constant, data_type=TensorProto.STRING, dims=dims, string_data=ids))
        else:
            weights.append(numpy_helper.from_array(np.zeros(dims, dtype=_NUMPY[tensor.dtype]), constant))
        nodes.append(helper.make_node("Gather", [constant, "row"], [tensor.name], axis=0))
    graph = helper.make_graph(
        nodes,
        model.name,
        [value_info(tensor, "requests", sizes) for tensor in model.inputs],
        [value_info(tensor, "requests", sizes) for tensor in model.outputs],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)


_NUMPY = {Dtype.BOOL: np.bool_, Dtype.INT32: np.int32, Dtype.INT64: np.int64, Dtype.FP32: np.float32}
