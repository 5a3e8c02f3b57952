"""The nodes of a scoring head's graph that replace the scores of items by a request's score adjustments."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper

from ebbtide.interest import contract


def adjusting_nodes(
    score: str, adjust_score: str, adjusted: str
) -> tuple[list[NodeProto], dict[str, npt.NDArray[np.generic]]]:
    """Nodes that add to each adjusted item's score its difference from the adjustment, and the weights that they read.

    The nodes do not scatter the values themselves, since the result is undefined for several pairs of one item, and
    padding consists of pairs of item 0. The nodes add 0 for padding; adding minus infinity always excludes the item.

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
    """The same in NumPy, in place; checks compare the graph with it.

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
    """Random score adjustments for checks of a head: scores, exclusions (some twice) and padding.

    Args:
        random: Random generator.
        requests: Number of requests.
        width: Adjustments of a request; the last quarter is padding.
        items: Number of catalog items.
    """
    item = np.zeros((requests, width), dtype=np.int64)
    score = np.zeros((requests, width), dtype=np.float32)
    used = max(1, min(width // 2, items))
    for row in range(requests):
        item[row, :used] = random.permutation(items)[:used]
        score[row, :used] = random.choice(np.array([0, 0.5, -np.inf], dtype=np.float32), used)
        # Some items occur twice: excluded ones, and ones with a score that are then excluded.
        again = random.integers(0, used, used // 4)
        item[row, used : used + len(again)] = item[row, again]
        score[row, used : used + len(again)] = -np.inf
    return {contract.ADJUST_ITEM.name: item, contract.ADJUST_SCORE.name: score}
