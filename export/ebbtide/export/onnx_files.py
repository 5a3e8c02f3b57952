"""Common code of the exported ONNX graphs: opset, typed inputs and outputs, checking and writing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from ebbtide.export.encoder.graph_edits import MAX_MESSAGE_BYTES, weight_bytes
from ebbtide.interest.contract import Axis, Dtype, Size, Tensor
from ebbtide.interest.modelfile import MODEL_FILE, write_fingerprint

OPSET = 18
"""The opset that torch's exporter writes without conversion. ONNX Runtime 1.14 and later support it."""
_DATA_FILE = f"{MODEL_FILE}.data"
_ELEMENT_TYPES = {
    Dtype.BOOL: TensorProto.BOOL,
    Dtype.INT32: TensorProto.INT32,
    Dtype.INT64: TensorProto.INT64,
    Dtype.FP32: TensorProto.FLOAT,
    Dtype.BYTES: TensorProto.STRING,
}


def value_info(tensor: Tensor, batch: str, sizes: Mapping[Size, int]) -> onnx.ValueInfoProto:
    """The declaration of a graph's input or output, for a tensor of a batching model.

    Args:
        tensor: Its variable dimensions become axes with their names.
        batch: Name of the leading axis.
        sizes: Sizes of the export.
    """
    sized = tensor.config_dims(sizes, batching=True)
    dims = [dim.value if isinstance(dim, Axis) else size for dim, size in zip(tensor.dims, sized, strict=True)]
    return helper.make_tensor_value_info(tensor.name, _ELEMENT_TYPES[tensor.dtype], [batch, *dims])


def write_graph(graph: onnx.ModelProto, fingerprint: str, folder: Path) -> None:
    """Writes a graph as `MODEL_FILE`, checks it, and writes the export's id into the same folder.

    Weights are in a separate file only if the graph would exceed protobuf's limit of 2 GiB.
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
    """Removes the exporter's notes, such as stack traces with paths of source files on this machine."""
    for node in graph.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        value.ClearField("metadata_props")
    graph.graph.ClearField("metadata_props")
    graph.ClearField("metadata_props")
