"""The encoder in half precision for GPUs: half the size, and tensor cores; inputs and outputs do not change."""

from __future__ import annotations

import warnings

import onnx
import onnx_ir as ir
from onnx import TensorProto, helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from ebbtide.export.encoder.graph_edits import CONTRIB, GraphEditor

_NORMALISATIONS = ("EmbedLayerNormalization", "LayerNormalization", "SkipLayerNormalization")


def to_fp16(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with weights and the language model's values in float16.

    The operators after the last layer (pooling, normalising, projection) stay float32: sums over hundreds of tokens
    lose precision in float16, and they are a thousandth of the work.

    Args:
        graph: A float32 graph, fused or not.
    """
    editor = GraphEditor(graph)
    end = [node for node in editor.nodes if node.op_type in _NORMALISATIONS][-1].output[0]
    layers = editor.part([end])
    # ONNX infers no types for ONNX Runtime's operators, and the converter casts only values that it knows as float.
    known = [end, *(node.output[0] for node in layers.graph.node if node.domain == CONTRIB)]
    typed = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in dict.fromkeys(known)]
    layers.graph.output[0].CopyFrom(typed[0])
    layers.graph.value_info.extend(typed[1:])
    with warnings.catch_warnings():
        # The converter warns about every weight below 6e-8, which it rounds.
        warnings.filterwarnings("ignore", message=".*float32 number.*will be truncated.*")
        editor.take_over(convert_float_to_float16(layers, keep_io_types=True), [end])
    # The converter appends its casts at the end, but ONNX requires every node after the nodes that it reads from.
    ordered = ir.from_proto(editor.finish())
    ordered.graph.sort()
    result: onnx.ModelProto = ir.to_proto(ordered)
    return result
