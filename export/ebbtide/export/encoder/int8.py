"""Quantises the encoder to 8-bit integers for CPUs: a quarter of the size; fastest with AVX512-VNNI or AVX-VNNI.

Weights have one scale for each output channel. Activations have one scale for each matrix product, measured once on the
catalog's texts, so that a text's vector does not depend on the other texts of its batch. The scales limit the weights,
so that x86 CPUs without VNNI, which add two products in 16 bits, compute the same integers (`_largest_sums`).

Before quantising, smoothing moves some of an activation's spread to the weights, channel by channel (SmoothQuant, Xiao
et al., ICML 2023, eq. 3 and 4), since a few channels of the residual stream of BERT-like encoders are far larger than
the rest. The strength of smoothing and the cut of the range are those with the least error of the product on sample
tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from ebbtide.export.encoder.graph_edits import CONTRIB, Array, GraphEditor, attributes
from ebbtide.interest import served_models

Floats = npt.NDArray[np.float32]

_STRENGTHS = (None, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Candidates for the strength of smoothing; None for no smoothing, which saves a multiplication."""
_CUTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Candidates for the share of an activation's range that is kept."""
_SAMPLE_TOKENS = 1024
_CHOICE_TOKENS = 512
_LEVELS = 127
"""Number of integer levels above 0 and below 0."""
_STEPS = 255
_MIN_TABLE_ROWS = 1024
_SMALLEST = 1e-6


@dataclass(frozen=True)
class _Activation:
    """Statistics of an activation over the sample texts."""

    rows: Floats
    """``[tokens, channels]``, values at some of the tokens."""
    low: Floats
    """``[channels]``, the smallest values over all tokens."""
    high: Floats
    """``[channels]``, the largest values over all tokens."""


@dataclass(frozen=True)
class _Scales:
    """The quantisation of one matrix product."""

    smoothing: Floats | None
    """``[channels]``, factors on the activation, whose inverse is in the weights; None for no smoothing."""
    weight: npt.NDArray[np.int8]
    """``[channels, outputs]``."""
    weight_scale: Floats
    """``[outputs]``."""
    scale: np.float32
    """Scale of the activation."""
    zero: np.uint8
    """Zero point of the activation."""


def to_int8(graph: onnx.ModelProto, samples: Sequence[Mapping[str, Array]]) -> onnx.ModelProto:
    """The graph with the layers' matrix products and the word embeddings in 8-bit integers.

    The operators after the last layer stay float32: they are a thousandth of the work.

    Args:
        graph: A float32 graph, fused for the CPU or traced.
        samples: Inputs on which activations are measured.
    """
    editor = GraphEditor(graph)
    products = [node for node in editor.nodes if _weight(editor, node) is not None]
    activations = _measure(editor, sorted({node.input[0] for node in products}), samples)
    # In reverse order, since a product's smoothing may change the weights of the attention block before it.
    for node in reversed(products):
        activation, weight = activations.get(node.input[0]), _weight(editor, node)
        if activation is not None and weight is not None:
            _quantise(editor, node, _choose(activation, weight))
    for node in [node for node in editor.nodes if node.op_type == "Gather"]:
        _quantise_table(editor, node)
    return editor.finish()


def _weight(editor: GraphEditor, node: onnx.NodeProto) -> Floats | None:
    """The weight of a matrix product ``[channels, outputs]``; None for other nodes."""
    if node.op_type not in ("MatMul", "Attention"):
        return None
    if node.op_type == "Attention" and any(node.input[4:]):
        # The quantised operator supports a mask, but no term added to the scores.
        return None
    weight = editor.constant(node.input[1])
    return weight if weight is not None and weight.ndim == 2 else None


def _measure(editor: GraphEditor, names: list[str], samples: Sequence[Mapping[str, Array]]) -> dict[str, _Activation]:
    """Measures the activations that have one row for each token; padding is excluded."""
    mask_name = served_models.ENCODER.inputs[1].name
    random = np.random.default_rng(0)
    rows: dict[str, list[Floats]] = {name: [] for name in names}
    low, high = dict[str, Floats](), dict[str, Floats]()
    share = max(1, -(-_SAMPLE_TOKENS // len(samples)))
    for sample, values in zip(samples, editor.run_part(names, samples), strict=True):
        present = sample[mask_name] != 0
        chosen = random.permutation(int(present.sum()))[:share]
        for name, value in zip(names, values, strict=True):
            if value.shape[:-1] != present.shape:
                continue
            tokens = value[present]
            rows[name].append(tokens[chosen])
            low[name] = np.minimum(low.get(name, np.inf), tokens.min(0))
            high[name] = np.maximum(high.get(name, -np.inf), tokens.max(0))
    return {name: _Activation(np.concatenate(rows[name]), low[name], high[name]) for name in low}


def _choose(activation: _Activation, weight: Floats) -> _Scales:
    """The smoothing and the range with the least squared error of the product."""
    inputs = activation.rows[:_CHOICE_TOKENS]
    exact = inputs @ weight
    best: tuple[float, _Scales] | None = None
    for strength in _STRENGTHS:
        smoothing = None if strength is None else _smoothing(activation, weight, strength)
        factor = np.ones(len(weight), np.float32) if smoothing is None else smoothing
        smoothed_weight = weight / factor[:, None]
        integers, weight_scale = _channel_scales(smoothed_weight, _largest_sums(smoothed_weight))
        restored = integers * weight_scale
        low = min(float((activation.low * factor).min()), 0.0)
        high = max(float((activation.high * factor).max()), _SMALLEST)
        smoothed = inputs * factor
        for cut in _CUTS:
            scale = np.float32((high - low) * cut / _STEPS)
            zero = np.uint8(np.clip(round(-low * cut / float(scale)), 0, _STEPS))
            steps = np.clip(np.rint(smoothed / scale) + zero, 0, _STEPS)
            error = float((((steps - zero) * scale @ restored - exact) ** 2).sum())
            if best is None or error < best[0]:
                best = error, _Scales(smoothing, integers, weight_scale, scale, zero)
    assert best is not None  # noqa: S101 - there are candidates
    return best[1]


def _smoothing(activation: _Activation, weight: Floats, strength: float) -> Floats:
    """The factor on each channel of the activation, ``[channels]``; the geometric mean is 1."""
    spread = np.maximum(np.maximum(np.abs(activation.low), np.abs(activation.high)), _SMALLEST)
    size = np.maximum(np.abs(weight).max(1), _SMALLEST)
    factor = size ** (1 - strength) / spread**strength
    factor /= np.exp(np.log(factor).mean())
    result: Floats = factor.astype(np.float32)
    return result


def _largest_sums(weight: Floats) -> Floats:
    """The largest absolute sum of two weights of equal sign in adjacent channels, ``[outputs]``.

    x86 CPUs without VNNI multiply unsigned activations by signed weights with ``vpmaddubsw``: it adds the products of
    channels 2i and 2i + 1 in 16 bits, and saturates. With this sum at 127, two rounded weights sum to at most 128, and
    255 * 128 = 32,640 is below 2^15: the integers are exact, the same as with VNNI.
    """
    even = np.pad(weight, ((0, len(weight) % 2), (0, 0)))
    pairs = even.reshape(-1, 2, weight.shape[1])
    sums: Floats = np.maximum(np.maximum(pairs, 0).sum(1).max(0), np.maximum(-pairs, 0).sum(1).max(0))
    return sums


def _channel_scales(weight: Floats, largest: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    """Symmetric integers ``[channels, outputs]`` and their scales ``[outputs]``, which map ``largest`` to 127."""
    scale = (np.where(largest > 0, largest, 1.0) / _LEVELS).astype(np.float32)
    return np.rint(weight / scale).clip(-_LEVELS, _LEVELS).astype(np.int8), scale


def _quantise(editor: GraphEditor, node: onnx.NodeProto, scales: _Scales) -> None:
    """Replaces a matrix product or an attention block by the integer operator."""
    name = node.output[0]
    source, nodes = node.input[0], list[onnx.NodeProto]()
    if scales.smoothing is not None and not _smooth_values(editor, node, scales.smoothing):
        smoothed = f"{name}.smoothed"
        factor = editor.add_constant(f"{name}.smoothing", scales.smoothing)
        nodes.append(helper.make_node("Mul", [source, factor], [smoothed]))
        source = smoothed
    integers = f"{name}.integers"
    scale = editor.add_constant(f"{name}.scale", np.asarray(scales.scale))
    zero = editor.add_constant(f"{name}.zero", np.asarray(scales.zero))
    weight = editor.add_constant(f"{name}.weight", scales.weight)
    weight_scale = editor.add_constant(f"{name}.weight_scale", scales.weight_scale)
    weight_zero = editor.add_constant(f"{name}.weight_zero", np.zeros(scales.weight_scale.shape, np.int8))
    nodes.append(helper.make_node("QuantizeLinear", [source, scale, zero], [integers]))
    if node.op_type == "MatMul":
        inputs = [integers, weight, scale, weight_scale, zero, weight_zero, *_take_bias(editor, name)]
        nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, [name], domain=CONTRIB))
    else:
        mask = node.input[3] if len(node.input) > 3 else ""
        inputs = [integers, weight, node.input[2], scale, weight_scale, mask, zero, weight_zero]
        nodes.append(helper.make_node("QAttention", inputs, [name], domain=CONTRIB, **attributes(node)))
    editor.replace(node, nodes)


def _smooth_values(editor: GraphEditor, node: onnx.NodeProto, smoothing: Floats) -> bool:
    """Applies smoothing to the weights of the attention block before a product, whose output is linear in its values.

    Returns:
        Whether this was possible; it saves a multiplication.
    """
    attention = editor.producer(node.input[0])
    if attention is None or attention.op_type != "Attention" or len(editor.consumers(node.input[0])) > 1:
        return False
    weight, bias = editor.constant(attention.input[1]), editor.constant(attention.input[2])
    if weight is None or bias is None or weight.shape[1] != 3 * len(smoothing):
        return False
    factor = np.concatenate([np.ones(2 * len(smoothing), np.float32), smoothing])
    name = attention.output[0]
    attention.input[1] = editor.add_constant(f"{name}.smoothed_weight", weight * factor)
    attention.input[2] = editor.add_constant(f"{name}.smoothed_bias", bias * factor)
    return True


def _take_bias(editor: GraphEditor, name: str) -> list[str]:
    """Removes the addition of a bias after a product, and returns the bias for the integer operator to add."""
    consumers = editor.consumers(name)
    if len(consumers) != 1:
        return []
    (consumer,) = consumers
    if consumer.op_type == "BiasGelu":
        bias = consumer.input[1]
        editor.replace(consumer, [helper.make_node("Gelu", [name], consumer.output, domain=CONTRIB)])
        return [bias]
    if consumer.op_type == "Sum":
        for bias in consumer.input:
            value = editor.constant(bias)
            if value is not None and value.ndim == 1:
                kept = [other for other in consumer.input if other != bias]
                editor.replace(consumer, [helper.make_node("Sum", kept, consumer.output)])
                return [bias]
    return []


def _quantise_table(editor: GraphEditor, node: onnx.NodeProto) -> None:
    """Quantises word embeddings with one scale for each row; they are half of a small encoder's size."""
    table = editor.constant(node.input[0])
    if table is None or table.dtype != np.float32 or table.ndim != 2 or len(table) < _MIN_TABLE_ROWS:
        return
    integers, scale = _channel_scales(table.T, np.abs(table).max(1))
    name = node.output[0]
    rows = editor.add_constant(f"{name}.table", integers.T)
    row_scale = editor.add_constant(f"{name}.table_scale", scale[:, None])
    editor.replace(
        node,
        [
            helper.make_node("Gather", [rows, node.input[1]], [f"{name}.integers"]),
            helper.make_node("Cast", [f"{name}.integers"], [f"{name}.floats"], to=TensorProto.FLOAT),
            helper.make_node("Gather", [row_scale, node.input[1]], [f"{name}.row_scale"]),
            helper.make_node("Mul", [f"{name}.floats", f"{name}.row_scale"], [name]),
        ],
    )
