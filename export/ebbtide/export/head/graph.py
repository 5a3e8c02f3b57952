"""The scoring head as an ONNX graph: from interest, adjustments and filter to the top N items and their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ebbtide.export.choices import Precision
from ebbtide.export.head.adjusting import adjusting_nodes
from ebbtide.export.head.attributes import ItemAttributes, best_nodes
from ebbtide.export.head.int8 import int8_head
from ebbtide.export.onnx_files import OPSET, value_info
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Size
from ebbtide.interest.exported import CATALOG_ID
from ebbtide.train.bundle import InterestBundle

Floats = npt.NDArray[np.float32]

# The oldest IR version for the opset, so that older containers of ONNX Runtime can read it.
_IR_VERSION = 8
_MAX_FLOAT16 = float(np.finfo(np.float16).max)


def item_factors(bundle: InterestBundle) -> Floats:
    """The item factors: gamma (x) a, followed by the prior's columns, float32 ``[items, d + p]``."""
    factors: Floats = bundle.model.item_factors().detach().numpy()
    return np.concatenate([factors, bundle.prior_columns.astype(np.float32, copy=False)], axis=1)


def head_graph(
    factors: Floats,
    item_id: Sequence[str],
    sizes: Mapping[Size, int],
    precision: Precision = "fp32",
    attributes: ItemAttributes | None = None,
) -> onnx.ModelProto:
    """Builds the graph: scores = interest . factors^T, or a request's adjustments; then the top N allowed items.

    Args:
        factors: ``[items, d + p]``, in catalog order.
        item_id: ``[items]``, the ids in catalog order.
        sizes: Sizes of the export; `Size.TOP_N` is at most the number of items.
        precision: ``fp32``; ``fp16``, which stores the factors rounded to half precision and computes in float32;
            ``int8``, which selects candidates with integers and scores them in float32, see `ebbtide.export.head.int8`.
        attributes: Attributes that requests may filter by; with None the graph ignores its input `item_filter`.

    Returns:
        The graph. An adjustment replaces its item's score; a value of 0 is padding and has no effect. An item with
        several adjustments is excluded if one of them excludes it. Items that a request does not allow get minus
        infinity, adjusted or not.
    """
    model = served_models.SCORING_HEAD
    top_n = sizes[Size.TOP_N]
    if precision == "int8":
        nodes, weights = int8_head(factors, top_n, attributes)
    else:
        nodes, weights = _exact_head(factors, top_n, precision, attributes)
    best_id = contract.ITEM_ID.name
    initializers = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in weights.items()]
    initializers.append(
        onnx.TensorProto(
            name=CATALOG_ID,
            data_type=TensorProto.STRING,
            dims=[len(item_id)],
            string_data=[text.encode() for text in item_id],
        )
    )
    graph = helper.make_graph(
        [*nodes, helper.make_node("Gather", [CATALOG_ID, contract.ITEM_INDEX.name], [best_id], axis=0)],
        model.name,
        [value_info(tensor, "requests", sizes) for tensor in model.inputs],
        [value_info(tensor, "requests", sizes) for tensor in model.outputs],
        initializers,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)


def _exact_head(
    factors: Floats, top_n: int, precision: Precision, attributes: ItemAttributes | None
) -> tuple[list[NodeProto], dict[str, npt.NDArray[np.generic]]]:
    """The nodes up to ``item_index`` and their weights: one matrix product with all factors."""
    nodes: list[NodeProto] = []
    adjusting, weights = adjusting_nodes("linear_score", contract.ADJUST_SCORE.name, "adjusted_score")
    weights["top_n"] = np.array([top_n], dtype=np.int64)
    if precision == "fp16":
        # ONNX Runtime runs this Cast once at load: the file is half as large, memory and speed are those of fp32.
        nodes.append(helper.make_node("Cast", ["factors_fp16"], ["factors"], to=TensorProto.FLOAT))
        weights["factors_fp16"] = np.clip(factors, -_MAX_FLOAT16, _MAX_FLOAT16).astype(np.float16)
    else:
        weights["factors"] = factors
    # In catalog order, not transposed: a refresh replaces only columns, and ONNX Runtime packs either layout at load
    # (9,742 and 100,000 items, batches of 1 to 32: Gemm with transB and MatMul were within 7 percent of each other).
    nodes += [helper.make_node("Gemm", [contract.INTEREST.name, "factors"], ["linear_score"], transB=1), *adjusting]
    outputs = [contract.SCORE.name, contract.ITEM_INDEX.name]
    best, best_weights = best_nodes("adjusted_score", "top_n", outputs, attributes)
    return [*nodes, *best], weights | best_weights
