"""Attribute filters in the scoring head: items that a request does not allow get minus infinity before the top-N.

A batch without filters skips them: the condition of an ONNX `If` depends only on the requests' words.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto, TensorProto, helper

from ebbtide.export.errors import LimitError
from ebbtide.interest import contract
from ebbtide.interest.attributes import NUMBER_WORDS
from ebbtide.interest.numbers import MISSING, MOST

Words = npt.NDArray[np.int64]
Weights = dict[str, npt.NDArray[np.generic]]

_BEST_TYPES = (TensorProto.FLOAT, TensorProto.INT64)


@dataclass(frozen=True)
class ItemAttributes:
    """The attribute values of a catalog as bits; `contract.ITEM_FILTER` holds the bits of a request."""

    words: Words
    """``[items, filter words]``, in catalog order; the first bit of every column is set for every item."""
    columns: tuple[tuple[int, int], ...]
    """The range of words of each attribute column: the first word, and the word after the last."""
    numeric: frozenset[int] = frozenset()
    """The columns that hold numbers, as indices into `columns`; see `AttributeIndex` for their three words."""

    def __post_init__(self) -> None:
        """Checks that each word belongs to one column, in order.

        Raises:
            LimitError: The columns do not match the words; the message names both.
        """
        indices = [index for first, end in self.columns for index in range(first, end)]
        if any(first >= end for first, end in self.columns) or indices != list(range(self.words.shape[1])):
            raise LimitError(
                f"attribute columns: got words {self.columns} of {self.words.shape[1]}; expected each word in one "
                "column, in order"
            )
        for column in self.numeric:
            first, end = self.columns[column]
            if end - first != NUMBER_WORDS:
                raise LimitError(
                    f"attribute columns: got {end - first} words of numeric column {column}; expected {NUMBER_WORDS}"
                )


def allowed_items(attributes: ItemAttributes, item_filter: Words) -> npt.NDArray[np.bool_]:
    """The items that each request allows, ``[requests, items]``; the NumPy reference for the graph.

    Args:
        attributes: Attributes of the items.
        item_filter: ``[requests, filter words]``.
    """
    allowed = np.ones((len(item_filter), len(attributes.words)), dtype=np.bool_)
    for column, (first, end) in enumerate(attributes.columns):
        passes = np.zeros_like(allowed)
        if column in attributes.numeric:
            unfiltered, least, most = (item_filter[:, first + word, None] for word in range(NUMBER_WORDS))
            number = attributes.words[:, first + 1]
            passes |= (unfiltered & 1 != 0) | ((number >= least) & (number <= most))
            end = first
        for word in range(first, end):
            passes |= (attributes.words[:, word] & item_filter[:, word, None]) != 0
        allowed &= passes
    return allowed


def best_nodes(
    scores: str, count: str, outputs: Sequence[str], attributes: ItemAttributes | None
) -> tuple[list[NodeProto], Weights]:
    """Nodes that select the best allowed items of each request.

    Args:
        scores: Name of ``[requests, items]``.
        count: Name of an initializer ``[1]``: the number of items to select.
        outputs: Names for the best scores and their catalog indices, best first.
        attributes: Attributes of the items; None without attribute filters.

    Returns:
        The nodes and the weights that they read.
    """
    if attributes is None:
        return [_top(scores, count, outputs)], {}
    node = helper.make_node
    filtered, plain = ([f"{branch}_{name}" for name in outputs] for branch in ("filtered", "plain"))
    chosen = [
        *_allowing(attributes),
        node("Where", ["is_allowed", scores, "rejected"], ["allowed_score"]),
        _top("allowed_score", count, filtered),
    ]
    nodes = [
        # [requests, columns]: the first bit is set where a request does not filter by the column.
        node("Gather", [contract.ITEM_FILTER.name, "first_words"], ["column_words"], axis=1),
        node("BitwiseAnd", ["column_words", "first_bit"], ["unfiltered"]),
        node("ReduceMin", ["unfiltered", "requests_axis"], ["column_unfiltered"], keepdims=0),
        node("ReduceMin", ["column_unfiltered"], ["all_unfiltered"], keepdims=0),
        node("Cast", ["all_unfiltered"], ["nobody_filters"], to=TensorProto.BOOL),
        # Each branch contains the TopK: a branch with all scores as its output would copy them.
        node(
            "If",
            ["nobody_filters"],
            list(outputs),
            then_branch=_branch([_top(scores, count, plain)], zip(plain, _BEST_TYPES, strict=True)),
            else_branch=_branch(chosen, zip(filtered, _BEST_TYPES, strict=True)),
        ),
    ]
    return nodes, _weights(attributes)


def _allowing(attributes: ItemAttributes) -> list[NodeProto]:
    """Nodes for ``is_allowed``, bool ``[requests, items]``: item and request share a bit in every filtered column."""
    node = helper.make_node
    nodes: list[NodeProto] = []
    passing: list[str] = []
    for column, (first, end) in enumerate(attributes.columns):
        passes = f"passes_{column}"
        output = f"checked_{column}"
        if column in attributes.numeric:
            check = _number_check(column, first, output)
        else:
            check = _column_check(first, end, output)
        everything = [node("Identity", ["everything"], [f"unchecked_{column}"])]
        nodes += [
            node("Gather", ["column_unfiltered", f"column_{column}"], [f"column_unfiltered_{column}"], axis=0),
            node("Cast", [f"column_unfiltered_{column}"], [f"is_unfiltered_{column}"], to=TensorProto.BOOL),
            node(
                "If",
                [f"is_unfiltered_{column}"],
                [passes],
                then_branch=_branch(everything, [(f"unchecked_{column}", TensorProto.BOOL)]),
                else_branch=_branch(check, [(f"checked_{column}", TensorProto.BOOL)]),
            ),
        ]
        passing.append(passes)
    for index, passes in enumerate(passing[1:], start=1):
        nodes.append(node("And", [passing[index - 1], passes], [f"passes_to_{index}"]))
        passing[index] = f"passes_to_{index}"
    nodes.append(node("Identity", [passing[-1]], ["is_allowed"]))
    return nodes


def _column_check(first: int, end: int, output: str) -> list[NodeProto]:
    """Whether items and requests share a bit in any word of one column, bool ``[requests, items]``."""
    node = helper.make_node
    nodes: list[NodeProto] = []
    for word in range(first, end):
        nodes += [
            node("Gather", [contract.ITEM_FILTER.name, f"word_{word}"], [f"request_word_{word}"], axis=1),
            node("BitwiseAnd", [f"request_word_{word}", _item_word(word)], [f"shared_{word}"]),
        ]
        if word > first:
            before = f"shared_{word - 1}" if word - 1 == first else f"shared_to_{word - 1}"
            nodes.append(node("BitwiseOr", [before, f"shared_{word}"], [f"shared_to_{word}"]))
    shared = f"shared_{first}" if end - first == 1 else f"shared_to_{end - 1}"
    return [*nodes, node("Cast", [shared], [output], to=TensorProto.BOOL)]


def _number_check(column: int, first: int, output: str) -> list[NodeProto]:
    """Whether the numbers of items lie in the ranges of requests, bool ``[requests, items]``.

    Exact for any bound. Bins of numbers as bits would be exact too if the items of the bins at the bounds that lie
    outside the range were excluded one by one, but of a million items these are more than a request may exclude.
    """
    node = helper.make_node
    number, least, most = _item_number(first + 1), f"least_{column}", f"most_{column}"
    is_unfiltered = f"is_unfiltered_by_{column}"
    return [
        node("Gather", [contract.ITEM_FILTER.name, f"word_{first}"], [f"by_{column}"], axis=1),
        node("Cast", [f"by_{column}"], [is_unfiltered], to=TensorProto.BOOL),
        node("Gather", [contract.ITEM_FILTER.name, f"word_{first + 1}"], [f"given_{least}"], axis=1),
        node("Gather", [contract.ITEM_FILTER.name, f"word_{first + 2}"], [f"given_{most}"], axis=1),
        # A request without the range takes all items, those without a number too.
        node("Where", [is_unfiltered, "least_number", f"given_{least}"], [least]),
        node("Where", [is_unfiltered, "most_number", f"given_{most}"], [most]),
        node("GreaterOrEqual", [number, least], [f"from_{least}"]),
        node("LessOrEqual", [number, most], [f"to_{most}"]),
        node("And", [f"from_{least}", f"to_{most}"], [output]),
    ]


def _weights(attributes: ItemAttributes) -> Weights:
    weights: Weights = {
        "first_words": np.array([first for first, _ in attributes.columns], dtype=np.int64),
        "first_bit": np.array(1, dtype=np.int64),
        "requests_axis": np.array([0], dtype=np.int64),
        "rejected": np.array(-np.inf, dtype=np.float32),
        "everything": np.ones((1, 1), dtype=np.bool_),
    }
    for column in range(len(attributes.columns)):
        weights[f"column_{column}"] = np.array(column, dtype=np.int64)
    if attributes.numeric:
        weights["least_number"] = np.array(MISSING, dtype=np.int64)
        weights["most_number"] = np.array(MOST, dtype=np.int64)
    numbers = {attributes.columns[column][0] + 1 for column in attributes.numeric}
    without_bits = {first + word for first in numbers for word in (-1, 0, 1)}
    for word in range(attributes.words.shape[1]):
        weights[f"word_{word}"] = np.array([word], dtype=np.int64)
        if word in numbers:
            weights[_item_number(word)] = np.ascontiguousarray(attributes.words[:, word])
        elif word not in without_bits:
            weights[_item_word(word)] = np.ascontiguousarray(attributes.words[:, word])
    return weights


def _item_number(word: int) -> str:
    return f"item_numbers_{word}"


def _item_word(word: int) -> str:
    return f"item_words_{word}"


def _branch(nodes: list[NodeProto], outputs: Iterable[tuple[str, int]]) -> GraphProto:
    values = [helper.make_tensor_value_info(name, element_type, None) for name, element_type in outputs]
    return helper.make_graph(nodes, "branch", [], values)


def _top(scores: str, count: str, outputs: Sequence[str]) -> NodeProto:
    return helper.make_node("TopK", [scores, count], list(outputs), axis=1, largest=1, sorted=1)
