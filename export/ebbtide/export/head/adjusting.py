"""The part of a scoring head's graph that puts a request's score adjustments in the place of the catalog's scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper

from ebbtide.interest import contract


def adjusting_nodes(
    score: str, adjust_score: str, adjusted: str
) -> tuple[list[NodeProto], dict[str, npt.NDArray[np.generic]]]:
    """Adds to each adjusted item's score what it lacks of the adjustment, and the weights that the nodes read.

    Not a scatter of the values themselves: which of several pairs of one item wins is not defined there, and padding
    comes as pairs of item 0. What is added for padding is 0, and minus infinity wins wherever it is added.

    Args:
        score: Input, ``[requests, items]``, finite.
        adjust_score: Input, ``[requests, adjustments]``, in the unit of the scores.
        adjusted: Output, ``[requests, items]``.
    """
    adjust_item = contract.ADJUST_ITEM.name
    node = helper.make_node
    nodes = [
        node("GatherElements", [score, adjust_item], ["replaced_score"], axis=1),
        node("Equal", [adjust_score, "padding"], ["is_padding"]),
        node("Where", ["is_padding", "padding", "replaced_score"], ["score_to_take_off"]),
        node("Sub", [adjust_score, "score_to_take_off"], ["score_to_add"]),
        node("ScatterElements", [score, adjust_item, "score_to_add"], [adjusted], axis=1, reduction="add"),
    ]
    return nodes, {"padding": np.array(0, dtype=np.float32)}


def adjust(
    scores: npt.NDArray[np.float32], adjust_item: npt.NDArray[np.int64], adjust_score: npt.NDArray[np.float32]
) -> None:
    """The same in NumPy, in place: what checks hold a graph against.

    Args:
        scores: ``[requests, items]``.
        adjust_item: ``[requests, adjustments]``.
        adjust_score: ``[requests, adjustments]``.
    """
    excludes = np.isneginf(adjust_score)
    for chosen in ((adjust_score != 0) & ~excludes, excludes):
        row, column = np.nonzero(chosen)
        scores[row, adjust_item[row, column]] = adjust_score[row, column]


def random_adjustments(
    random: np.random.Generator, requests: int, width: int, items: int
) -> dict[str, npt.NDArray[Any]]:
    """Inputs of a head for its checks: scores, exclusions (often doubled) and padding, as the pipeline writes them.

    Args:
        random: Source.
        requests: B.
        width: Adjustments of a request; the last quarter is padding.
        items: N.
    """
    item = np.zeros((requests, width), dtype=np.int64)
    score = np.zeros((requests, width), dtype=np.float32)
    used = max(1, min(width // 2, items))
    for row in range(requests):
        item[row, :used] = random.permutation(items)[:used]
        score[row, :used] = random.choice(np.array([0, 0.5, -np.inf], dtype=np.float32), used)
        # Of the excluded ones some come again, and so do some that have a score.
        again = random.integers(0, used, used // 4)
        item[row, used : used + len(again)] = item[row, again]
        score[row, used : used + len(again)] = -np.inf
    return {contract.ADJUST_ITEM.name: item, contract.ADJUST_SCORE.name: score}
