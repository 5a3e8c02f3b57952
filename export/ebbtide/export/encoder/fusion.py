"""Fuses the traced encoder into ONNX Runtime's own operators: attention blocks, GELU with bias, normalisation.

onnxscript's rules find attention, GELU and skip connections in the graph that torch's exporter writes
(`onnxruntime.transformers.optimizer` finds only GELU in it). This module then does three more steps. Attention reads
the mask ``[texts, tokens]`` itself, where the trace builds ``[texts, 1, tokens, tokens]``. The projections of query,
key and value become one weight. Normalisation gets the form that is fastest on the serving device. Each simplification
is run and compared first, and the fused graph is compared with the traced graph.
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
from ebbtide.export.machines import Device
from ebbtide.export.parity import TOLERANCE, largest_difference
from ebbtide.interest import served_models

FUSED = ("Attention", "BiasGelu", "EmbedLayerNormalization", "Gelu", "SkipLayerNormalization")
"""Operators that fusing inserts."""
_INPUT_IDS, _ATTENTION_MASK = (tensor.name for tensor in served_models.ENCODER.inputs)
_SHAPES = ((1, 1), (2, 16), (3, 7), (5, 33))
_SMALL_TOKEN_IDS = 100
_MASKED = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Fused:
    """A graph and the result of fusing it."""

    graph: onnx.ModelProto
    operators: dict[str, int] = field(default_factory=dict)
    """Count of each operator of `FUSED` in the graph."""
    kept_plain: str | None = None
    """Why the graph was not fused; None for a fused graph."""


class _NoMatchError(Exception):
    """The graph does not have a form that can be fused."""


def fuse(graph: onnx.ModelProto, device: Device = "cpu") -> Fused:
    """Fuses a graph; if that is not possible, returns the same graph with the reason.

    Args:
        graph: A graph from `encoder_graph`.
        device: Chooses the form of normalisation; both forms run on both devices. ``cpu`` normalises with ONNX's own
            operator after a sum, which takes ONNX Runtime 1.32 0.09 ms on one core (512 tokens, width 384); the fused
            `SkipLayerNormalization` takes 0.73 ms, since its loop is scalar. ``gpu`` keeps the fused operators, which
            save kernel launches there.
    """
    if weight_bytes(graph) >= MAX_MESSAGE_BYTES:
        return Fused(graph, kept_plain="its weights exceed 2 GiB, the limit of a protobuf message")
    try:
        fused = _fuse(graph, device)
        _require_equal(graph, fused)
    except _NoMatchError as reason:
        return Fused(graph, kept_plain=str(reason))
    counts = operator_counts(fused)
    return Fused(fused, {name: counts[name] for name in FUSED if name in counts})


def _fuse(graph: onnx.ModelProto, device: Device) -> onnx.ModelProto:
    layers = operator_counts(graph).get("Softmax", 0)
    # The rules change their input, and the traced graph is used again.
    copy = onnx.ModelProto()
    copy.CopyFrom(graph)
    try:
        matched, _ = optimize_for_ort(ir.from_proto(copy), clear_metadata=True)
    # The rules are third-party code and may fail on an unusual graph. The traced graph can be served without them.
    except Exception as error:
        raise _NoMatchError(f"onnxscript's rules failed: {type(error).__name__}: {error}") from error
    editor = GraphEditor(ir.to_proto(matched))
    attention = [node for node in editor.nodes if node.op_type == "Attention" and node.domain == CONTRIB]
    if not layers or len(attention) != layers:
        raise _NoMatchError(f"only {len(attention)} of its {layers} attention blocks have a form that can be fused")
    _pack_projections(editor, attention)
    _take_mask(editor, attention)
    _sum_embeddings(editor, device)
    if device == "cpu":
        _split_normalisation(editor)
    return editor.finish()


def _pack_projections(editor: GraphEditor, attention: list[onnx.NodeProto]) -> None:
    """Joins the weights of query, key and value, which the rules would join at every run."""
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
            # Equal sizes are the default, and quantised attention does not have this attribute.
            kept = [entry for entry in node.attribute if entry.name != "qkv_hidden_sizes"]
            del node.attribute[:]
            node.attribute.extend(kept)


def _take_mask(editor: GraphEditor, attention: list[onnx.NodeProto]) -> None:
    """Passes the mask to attention if the term added to its scores depends only on the mask."""
    added = {node.input[5] for node in attention if len(node.input) > 5 and node.input[5]}
    if not added:
        return
    feeds = list(_feeds())
    for feed, values in zip(feeds, editor.run_part(sorted(added), feeds), strict=True):
        present = feed[_ATTENTION_MASK][:, None, None, :] != 0
        for value in values:
            expected = np.broadcast_to(present, value.shape)
            if not (np.all(value[expected] == 0) and np.all(value[~expected] <= _MASKED)):
                # The term also holds, for example, relative positions: keep it. Attention is still one operator.
                return
    name = "attention_mask_int32"
    editor.prepend(helper.make_node("Cast", [_ATTENTION_MASK], [name], to=TensorProto.INT32))
    for node in attention:
        kept = list(node.input[:3])
        del node.input[:]
        node.input.extend([*kept, name])
        node.attribute.append(helper.make_attribute("mask_filter_value", _MASKED))


def _sum_embeddings(editor: GraphEditor, device: Device) -> None:
    """Joins position and token-type embeddings into one table by position, if the graph allows it."""
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
    if device == "gpu":
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
    """Table and index of each look-up in a sum of embeddings; empty if the value is no such sum."""
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
    """The index of an embedding: the token's position, always row 0 (constant), or something else (None)."""
    feeds = list(_feeds())
    kinds = set()
    for feed, (value,) in zip(feeds, editor.run_part([index], feeds), strict=True):
        shape = feed[_INPUT_IDS].shape
        if shape[1] == 1:
            # A single token has position 0, so it cannot tell the two kinds apart.
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
    """Replaces `SkipLayerNormalization` by Sum and `LayerNormalization`; ONNX Runtime would fuse Add again at load."""
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
        _NoMatchError: The graphs differ by more than `TOLERANCE`.
    """
    plain, changed = session_of(graph), session_of(fused)
    for feed in _feeds():
        difference = largest_difference(changed.run(None, feed)[0], plain.run(None, feed)[0])
        if not difference <= TOLERANCE:
            raise _NoMatchError(f"the fused graph differs by {difference:.3g} on random tokens")


def _feeds() -> Iterator[dict[str, Array]]:
    """Random tokens of several shapes, with padding at the end and, in some texts, gaps in the mask."""
    random = np.random.default_rng(0)
    for texts, tokens in _SHAPES:
        input_ids = random.integers(0, _SMALL_TOKEN_IDS, (texts, tokens))
        mask = (np.arange(tokens) < random.integers(1, tokens + 1, (texts, 1))).astype(np.int64)
        mask[0] = random.integers(0, 2, tokens)
        mask[:, 0] = 1
        yield {_INPUT_IDS: input_ids, _ATTENTION_MASK: mask}
