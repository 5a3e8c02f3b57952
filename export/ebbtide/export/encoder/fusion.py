"""Fuses the traced encoder into ONNX Runtime's own operators: whole attention blocks, GELU with bias, normalisation.

onnxscript's rules find attention, GELU and skip connections in the graph that torch's exporter writes
(`onnxruntime.transformers.optimizer` finds only GELU in it). Three steps of our own follow: the attention mask goes in
as it comes, ``[texts, tokens]``, where the trace builds ``[texts, 1, tokens, tokens]``; projections of query, key and
value become one weight; and normalisation takes the form that the target runs fastest. Anything that is taken for
something simpler is first run and compared, and the result once more against the graph as traced.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper
from onnxscript.rewriter.ort_fusions import optimize_for_ort

from ebbtide.export.encoder.graph_edits import (
    CONTRIB,
    MAX_MESSAGE_BYTES,
    Array,
    GraphEditor,
    attributes,
    operator_counts,
    session_of,
    weight_bytes,
)
from ebbtide.export.parity import TOLERANCE, largest_difference
from ebbtide.interest import contract

Target = Literal["cpu", "gpu"]
"""Whose fastest form of normalisation is written. Both forms run on both."""

FUSED = ("Attention", "BiasGelu", "EmbedLayerNormalization", "Gelu", "SkipLayerNormalization")
"""Operators that fusing puts in."""
_INPUT_IDS, _ATTENTION_MASK = (tensor.name for tensor in contract.ENCODER.inputs)
_SHAPES = ((1, 1), (2, 16), (3, 7), (5, 33))
_SMALL_TOKEN_IDS = 100
_MASKED = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Fused:
    """A graph, and what fusing did to it."""

    graph: onnx.ModelProto
    operators: dict[str, int] = field(default_factory=dict)
    """How often each of `FUSED` is in the graph."""
    kept_plain: str | None = None
    """Why the graph is as it was traced; None for a fused one."""


class _NoMatchError(Exception):
    """The graph is not of the form that can be fused."""


def fuse(graph: onnx.ModelProto, target: Target = "cpu") -> Fused:
    """The fused graph, or the same one with the reason why it cannot be fused.

    Args:
        graph: As `encoder_graph` traces it.
        target: ``cpu`` normalises with ONNX's own operator after a sum: ONNX Runtime 1.32 takes 0.09 ms for it on one
            core (512 tokens, width 384) and 0.73 ms for the fused `SkipLayerNormalization`, whose loop is scalar.
            ``gpu`` keeps the fused ones, which there save kernel launches.
    """
    if weight_bytes(graph) >= MAX_MESSAGE_BYTES:
        return Fused(graph, kept_plain="its weights are above 2 GiB, more than one protobuf message holds")
    try:
        fused = _fuse(graph, target)
        _require_equal(graph, fused)
    except _NoMatchError as reason:
        return Fused(graph, kept_plain=str(reason))
    counts = operator_counts(fused)
    return Fused(fused, {name: counts[name] for name in FUSED if name in counts})


def _fuse(graph: onnx.ModelProto, target: Target) -> onnx.ModelProto:
    layers = operator_counts(graph).get("Softmax", 0)
    # The rules rename weights in the very message that they are given, and the trace is used again.
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    try:
        matched, _ = optimize_for_ort(ir.from_proto(copy), clear_metadata=True)
    # The rules are another project's, and any graph may come: whatever they raise, the traced graph still serves.
    except Exception as error:
        raise _NoMatchError(f"onnxscript's rules failed on it: {type(error).__name__}: {error}") from error
    editor = GraphEditor(ir.to_proto(matched))
    attention = [node for node in editor.nodes if node.op_type == "Attention" and node.domain == CONTRIB]
    if not layers or len(attention) != layers:
        raise _NoMatchError(f"{len(attention)} of its {layers} attention blocks have the form that is fused")
    _pack_projections(editor, attention)
    _take_mask(editor, attention)
    _sum_embeddings(editor, target)
    if target == "cpu":
        _split_normalisation(editor)
    return editor.finish()


def _pack_projections(editor: GraphEditor, attention: list[onnx.NodeProto]) -> None:
    """Joins the weights of query, key and value, which the rules leave to be joined at every run."""
    for node in attention:
        joined = editor.producer(node.input[1])
        parts = [editor.constant(name) for name in joined.input] if joined is not None else []
        if any(part is None for part in parts):
            raise _NoMatchError("the projections of an attention block are computed, not weights")
        if parts:
            packed = np.concatenate([part for part in parts if part is not None], axis=1)
            node.input[1] = editor.add_constant(f"{node.output[0]}.qkv_weight", packed)
        sizes = attributes(node).get("qkv_hidden_sizes", ())
        if len(set(sizes)) == 1:
            # Equal sizes are the default, and quantised attention does not know the attribute.
            kept = [entry for entry in node.attribute if entry.name != "qkv_hidden_sizes"]
            del node.attribute[:]
            node.attribute.extend(kept)


def _take_mask(editor: GraphEditor, attention: list[onnx.NodeProto]) -> None:
    """Gives attention the mask itself, where what is added to its scores says no more than the mask."""
    added = {node.input[5] for node in attention if len(node.input) > 5 and node.input[5]}
    if not added:
        return
    feeds = list(_feeds())
    for feed, values in zip(feeds, editor.run_part(sorted(added), feeds), strict=True):
        present = feed[_ATTENTION_MASK][:, None, None, :] != 0
        for value in values:
            expected = np.broadcast_to(present, value.shape)
            if not (np.all(value[expected] == 0) and np.all(value[~expected] <= _MASKED)):
                # For example relative positions: they stay, and attention still is one operator.
                return
    name = "attention_mask_int32"
    editor.prepend(helper.make_node("Cast", [_ATTENTION_MASK], [name], to=TensorProto.INT32))
    for node in attention:
        kept = list(node.input[:3])
        del node.input[:]
        node.input.extend([*kept, name])
        node.attribute.append(helper.make_attribute("mask_filter_value", _MASKED))


def _sum_embeddings(editor: GraphEditor, target: Target) -> None:
    """Takes position and token-type embeddings as one table by position, where that is what they are."""
    first = next((node for node in editor.nodes if node.op_type == "LayerNormalization"), None)
    tables = [] if first is None else _embedding_tables(editor, first.input[0])
    word = next((table for table, index in tables if index == _INPUT_IDS), None)
    rest = [(table, index) for table, index in tables if index != _INPUT_IDS]
    if first is None or word is None or not 1 <= len(rest) <= 2:
        return
    by_position: Array | None = None
    constant: Array = np.zeros(1, np.float32)
    for table, index in rest:
        weight = editor.constant(table)
        kind = _index_kind(editor, index)
        if weight is None or kind is None:
            return
        if kind == "position":
            by_position = weight
        else:
            constant = weight[0]
    if by_position is None:
        return
    position = editor.add_constant("position_embedding", by_position + constant)
    if target == "gpu":
        ids, unused = "input_ids_int32", "embedding_mask_index"
        editor.prepend(helper.make_node("Cast", [_INPUT_IDS], [ids], to=TensorProto.INT32))
        fused = helper.make_node(
            "EmbedLayerNormalization",
            [ids, "", word, position, "", first.input[1], first.input[2]],
            [first.output[0], unused],
            domain=CONTRIB,
            epsilon=attributes(first)["epsilon"],
        )
        editor.replace(first, [fused])
        return
    zero, one = (editor.add_constant(f"axis_{value}", np.array([value])) for value in (0, 1))
    normalise = onnx.NodeProto()
    normalise.CopyFrom(first)
    normalise.input[0] = "summed_embedding"
    editor.replace(
        first,
        [
            helper.make_node("Gather", [word, _INPUT_IDS], ["word_embedding_rows"]),
            helper.make_node("Shape", [_INPUT_IDS], ["token_count"], start=1, end=2),
            helper.make_node("Slice", [position, zero, "token_count", zero, one], ["position_embedding_rows"]),
            helper.make_node("Sum", ["word_embedding_rows", "position_embedding_rows"], ["summed_embedding"]),
            normalise,
        ],
    )


def _embedding_tables(editor: GraphEditor, name: str) -> list[tuple[str, str]]:
    """Table and index of each look-up whose sum a value is; empty where it is no such sum."""
    node = editor.producer(name)
    if node is None:
        return []
    if node.op_type == "Gather":
        return [(node.input[0], node.input[1])]
    if node.op_type != "Add":
        return []
    parts = [_embedding_tables(editor, part) for part in node.input]
    return [table for part in parts for table in part] if all(parts) else []


def _index_kind(editor: GraphEditor, index: str) -> Literal["position", "constant"] | None:
    """What an embedding is looked up by: the token's place, always the first row, or something else."""
    feeds = list(_feeds())
    kinds = set()
    for feed, (value,) in zip(feeds, editor.run_part([index], feeds), strict=True):
        shape = feed[_INPUT_IDS].shape
        if shape[1] == 1:
            # One token stands at place 0 either way.
            continue
        if np.array_equal(np.broadcast_to(value, shape), np.broadcast_to(np.arange(shape[1]), shape)):
            kinds.add("position")
        elif not value.any():
            kinds.add("constant")
        else:
            return None
    if kinds == {"position"}:
        return "position"
    return "constant" if kinds == {"constant"} else None


def _split_normalisation(editor: GraphEditor) -> None:
    """Sum and `LayerNormalization` for `SkipLayerNormalization`; not Add, which ONNX Runtime would fuse at load."""
    for node in [node for node in editor.nodes if node.op_type == "SkipLayerNormalization"]:
        own, skip, weight, *rest = (name for name in node.input)
        offset, bias = [*rest, "", ""][:2]
        total = f"{node.output[0]}.sum"
        if any(name and editor.consumers(name) for name in list(node.output)[1:3]):
            continue
        summed = list(node.output)[3] if len(node.output) > 3 and node.output[3] else total
        editor.replace(
            node,
            [
                helper.make_node("Sum", [name for name in (own, skip, bias) if name], [summed]),
                helper.make_node(
                    "LayerNormalization",
                    [name for name in (summed, weight, offset) if name],
                    [node.output[0]],
                    epsilon=attributes(node)["epsilon"],
                    axis=-1,
                ),
            ],
        )


def _require_equal(graph: onnx.ModelProto, fused: onnx.ModelProto) -> None:
    """Runs both graphs on random tokens.

    Raises:
        _NoMatchError: They differ by more than the tolerance of parity.
    """
    plain, changed = session_of(graph), session_of(fused)
    for feed in _feeds():
        difference = largest_difference(changed.run(None, feed)[0], plain.run(None, feed)[0])
        if not difference <= TOLERANCE:
            raise _NoMatchError(f"once fused it differs by {difference:.3g} on random tokens")


def _feeds() -> Iterator[dict[str, Array]]:
    """Random tokens of a few shapes, with padding at the end and, in some texts, holes in the mask."""
    random = np.random.default_rng(0)
    for texts, tokens in _SHAPES:
        input_ids = random.integers(0, _SMALL_TOKEN_IDS, (texts, tokens))
        mask = (np.arange(tokens) < random.integers(1, tokens + 1, (texts, 1))).astype(np.int64)
        mask[0] = random.integers(0, 2, tokens)
        mask[:, 0] = 1
        yield {_INPUT_IDS: input_ids, _ATTENTION_MASK: mask}
