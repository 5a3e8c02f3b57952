"""What the exported ONNX graphs share: opset, typed inputs and outputs, checking and writing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from ebbtide.export.encoder.graph_edits import MAX_MESSAGE_BYTES, weight_bytes
from ebbtide.interest.contract import Dtype, Size, Tensor
from ebbtide.interest.modelfile import MODEL_FILE, write_fingerprint

OPSET = 18
"""What torch's exporter writes without converting; ONNX Runtime 1.14 and later read it (scatter adds since 16)."""
_DATA_FILE = f"{MODEL_FILE}.data"
_ELEMENT_TYPES = {
    Dtype.BOOL: TensorProto.BOOL,
    Dtype.INT32: TensorProto.INT32,
    Dtype.INT64: TensorProto.INT64,
    Dtype.FP32: TensorProto.FLOAT,
    Dtype.BYTES: TensorProto.STRING,
}


def value_info(tensor: Tensor, batch: str, sizes: Mapping[Size, int]) -> onnx.ValueInfoProto:
    """A tensor of a batching model as a graph's input or output.

    Args:
        tensor: Without variable dimensions.
        batch: Name of the leading axis.
        sizes: Of the export.
    """
    return helper.make_tensor_value_info(
        tensor.name, _ELEMENT_TYPES[tensor.dtype], [batch, *tensor.config_dims(sizes, batching=True)]
    )


def write_graph(graph: onnx.ModelProto, fingerprint: str, folder: Path) -> None:
    """Writes a graph as `MODEL_FILE`, checks it, and notes the export's id beside it.

    Weights go into a separate file only where protobuf's limit of 2 GiB asks for it.
    """
    strip(graph)
    path = folder / MODEL_FILE
    if weight_bytes(graph) >= MAX_MESSAGE_BYTES:
        onnx.save_model(graph, str(path), save_as_external_data=True, location=_DATA_FILE)
    else:
        onnx.save_model(graph, str(path))
    onnx.checker.check_model(str(path))
    write_fingerprint(folder, fingerprint)


def strip(graph: onnx.ModelProto) -> None:
    """Removes what the exporter notes about this machine: stack traces with the paths of source files."""
    for node in graph.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        value.ClearField("metadata_props")
    graph.graph.ClearField("metadata_props")
    graph.ClearField("metadata_props")
