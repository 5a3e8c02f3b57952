"""The int8 scoring head: integer scores select candidates, then float32 factors score these exactly.

One pass over the catalog in int8 reads a quarter of the bytes of float32. The integer scores only select candidates.
The head gathers the float32 factors of the candidates, scores them again and returns the top N, so the scores are those
of the float32 head. A true top-N item is lost only if at least `candidate_count` other items have higher integer
scores; the check at export looks for such items.

All operators are standard ONNX. The CUDA provider of ONNX Runtime runs the integer product on the CPU, so use fp32 on a
GPU.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper

from ebbtide.export.head.adjusting import adjusting_nodes
from ebbtide.export.head.attributes import ItemAttributes, best_nodes
from ebbtide.interest import contract

Floats = npt.NDArray[np.float32]

_CANDIDATES_PER_ITEM = 4
_LEAST_MARGIN = 128
_INTEREST_STEPS = 127
_ZERO_POINT = 128
_FACTOR_STEPS = 64
"""Seven bits, not eight: CPUs without VNNI add pairs of products in int16, and 2 * 255 * 64 fits into it. So the
candidates, and the answers, are the same on every machine."""
_LEAST_INTEREST = np.float32(1e-20)


def candidate_count(items: int, top_n: int) -> int:
    """Number of candidates that are scored exactly: four times the top N, and at least the top N plus 128.

    On the shipped data (top 50, 600 random and realistic interests) the worst rank of a true top-50 item among the
    integer scores was 74; the head has 200 candidates.
    """
    return min(items, max(_CANDIDATES_PER_ITEM * top_n, top_n + _LEAST_MARGIN))


def quantise(factors: Floats) -> tuple[npt.NDArray[np.int8], Floats, Floats]:
    """Factors as integers: ``factors[i, k]`` is about ``integers[k, i] * item_scale[i] * column_scale[k]``.

    Columns are first divided by their root mean square. Otherwise the columns of the popularity prior, which hold log
    counts, would leave too few integer steps for an item's other factors. Then each item has its own scale.

    Args:
        factors: ``[items, d + p]``.

    Returns:
        Integers ``[d + p, items]`` from -64 to 64, item scales ``[items]`` and column scales ``[d + p]``.
    """
    column_scale = np.sqrt(np.mean(np.square(factors, dtype=np.float64), axis=0)).astype(np.float32)
    column_scale[column_scale == 0] = 1
    balanced = factors / column_scale
    item_scale = np.abs(balanced).max(axis=1) / np.float32(_FACTOR_STEPS)
    item_scale[item_scale == 0] = 1
    integers = np.rint(balanced / item_scale[:, None]).astype(np.int8)
    return np.ascontiguousarray(integers.T), item_scale, column_scale


def int8_head(
    factors: Floats, top_n: int, attributes: ItemAttributes | None = None
) -> tuple[list[NodeProto], dict[str, npt.NDArray[np.generic]]]:
    """The nodes from the head's inputs to its scores and `item_index`, and the weights they read.

    Args:
        factors: ``[items, d + p]``, in catalog order; kept in float32 too, so memory is 1.25 times that of fp32.
        top_n: At most the number of items.
        attributes: Attributes that requests may filter by; only allowed items become candidates.
    """
    integers, item_scale, column_scale = quantise(factors)
    weights: dict[str, npt.NDArray[np.generic]] = {
        "factors": factors,
        "integer_factors": integers,
        "score_step": item_scale / np.float32(_INTEREST_STEPS),
        "column_scale": column_scale,
        "least_interest": np.array(_LEAST_INTEREST),
        "interest_step": np.array(1 / _INTEREST_STEPS, dtype=np.float32),
        "zero_point": np.array(_ZERO_POINT, dtype=np.uint8),
        "candidates": np.array([candidate_count(len(factors), top_n)], dtype=np.int64),
        "top_n": np.array([top_n], dtype=np.int64),
        "columns": np.array([1], dtype=np.int64),
        "last": np.array([2], dtype=np.int64),
    }
    best, best_weights = best_nodes(
        "adjusted_rough_score", "candidates", ["rough_candidate_score", "candidate"], attributes
    )
    adjusting, padding = adjusting_nodes("rough_score", "unit_adjustment", "adjusted_rough_score")
    in_units = helper.make_node("Div", [contract.ADJUST_SCORE.name, "unit"], ["unit_adjustment"])
    nodes = [*_approximate_nodes(), in_units, *adjusting, *best, *_exact_nodes()]
    return nodes, weights | padding | best_weights


def _approximate_nodes() -> list[NodeProto]:
    """Integer scores of the whole catalog, in units of each request's largest interest (``unit``).

    Each request has its own unit, so that its candidates do not depend on the other requests of the batch. Scores stay
    in this unit, which saves a multiplication of all scores.
    """
    interest = contract.INTEREST.name
    node = helper.make_node
    return [
        node("Mul", [interest, "column_scale"], ["balanced_interest"]),
        node("Abs", ["balanced_interest"], ["interest_size"]),
        node("ReduceMax", ["interest_size", "columns"], ["largest_interest"], keepdims=1),
        # A lower bound, so that an interest of zeros does not divide by 0; tiny interests keep their direction.
        node("Max", ["largest_interest", "least_interest"], ["unit"]),
        node("Div", ["balanced_interest", "unit"], ["unit_interest"]),
        node("QuantizeLinear", ["unit_interest", "interest_step", "zero_point"], ["integer_interest"]),
        node("MatMulInteger", ["integer_interest", "integer_factors", "zero_point"], ["integer_score"]),
        node("Cast", ["integer_score"], ["integer_score_as_float"], to=TensorProto.FLOAT),
        node("Mul", ["integer_score_as_float", "score_step"], ["rough_score"]),
    ]


def _exact_nodes() -> list[NodeProto]:
    """Float32 scores of the candidates, or their adjustments, and the top N of them."""
    node = helper.make_node
    return [
        # A candidate is adjusted if its score differs from the score before adjusting; then the request's adjustment is
        # its exact score.
        node("GatherElements", ["rough_score", "candidate"], ["unadjusted_score"], axis=1),
        node("Equal", ["rough_candidate_score", "unadjusted_score"], ["is_unadjusted"]),
        node("Mul", ["rough_candidate_score", "unit"], ["candidate_adjustment"]),
        node("Gather", ["factors", "candidate"], ["candidate_factors"], axis=0),
        node("Unsqueeze", [contract.INTEREST.name, "last"], ["interest_column"]),
        node("MatMul", ["candidate_factors", "interest_column"], ["candidate_product"]),
        node("Squeeze", ["candidate_product", "last"], ["candidate_linear_score"]),
        node("Where", ["is_unadjusted", "candidate_linear_score", "candidate_adjustment"], ["candidate_exact_score"]),
        node("TopK", ["candidate_exact_score", "top_n"], [contract.SCORE.name, "best_candidate"], axis=1),
        node("GatherElements", ["candidate", "best_candidate"], [contract.ITEM_INDEX.name], axis=1),
    ]
