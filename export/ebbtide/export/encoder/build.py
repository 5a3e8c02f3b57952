"""Builds the encoder's graph for an export: traces it, fuses it and lowers its precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import onnx

from ebbtide.export.encoder.fp16 import to_fp16
from ebbtide.export.encoder.fusion import Fused, fuse
from ebbtide.export.encoder.graph import EventEncoder, encoder_graph
from ebbtide.export.encoder.graph_edits import MAX_MESSAGE_BYTES, Array, weight_bytes
from ebbtide.export.encoder.int8 import to_int8
from ebbtide.export.encoder.options import EncoderOptions
from ebbtide.export.encoder.texts import EncoderTokens, TextSplit, fragments, split_texts
from ebbtide.export.errors import EncoderOptionsError
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.encoder import load_encoder

_LONG_TEXTS = 8


@dataclass(frozen=True)
class EncoderSource:
    """The encoder that a bundle was trained with: source of every variant and reference for its fidelity."""

    bundle: InterestBundle
    full: EventEncoder
    """The full encoder in torch."""
    tokens: EncoderTokens
    texts: TextSplit
    """The catalog's texts, split for calibration and for measuring."""
    plain: onnx.ModelProto
    """The traced graph."""
    fused: Fused
    """The fused graph for the CPU, float32."""

    @classmethod
    def read(cls, bundle: InterestBundle, folder: Path) -> EncoderSource:
        """Loads, traces and fuses the encoder in a folder, followed by the bundle's projection."""
        encoder = load_encoder(folder)
        full = EventEncoder(encoder, bundle.model.event_projection)
        tokens = EncoderTokens(folder, encoder.settings.max_tokens)
        plain = encoder_graph(full)
        return cls(bundle, full, tokens, split_texts(bundle.catalog.text), plain, fuse(plain))


@dataclass(frozen=True)
class BuiltEncoder:
    """An encoder's graph and its source."""

    source: EncoderSource
    options: EncoderOptions
    graph: onnx.ModelProto
    operators: dict[str, int] = field(default_factory=dict)
    """Count of each fused operator of ONNX Runtime in the graph, before quantisation."""
    kept_plain: str | None = None
    """Why the graph was not fused; None for a fused graph."""

    @property
    def max_tokens(self) -> int:
        """Texts are truncated to this many tokens."""
        return self.source.full.encoder.settings.max_tokens


def build_encoder(
    source: EncoderSource,
    options: EncoderOptions = EncoderOptions(),  # noqa: B008 - frozen
    report: Callable[[str], None] = lambda _part: None,
) -> BuiltEncoder:
    """Builds the encoder's graph.

    Args:
        source: The source; it is not changed.
        options: Options of the export.
        report: Called with the name of each long stage when it begins.

    Raises:
        EncoderOptionsError: This encoder does not support the options.
    """
    if options.precision == "fp16" and weight_bytes(source.plain) >= MAX_MESSAGE_BYTES:
        raise EncoderOptionsError("precision: got fp16 for an encoder above 2 GiB; expected fp32 or int8")
    fused = source.fused
    graph = fused.graph
    if options.precision == "fp16":
        fused = fuse(source.plain, "gpu")
        graph = to_fp16(fused.graph)
    elif options.precision == "int8":
        report("calibration of the encoder")
        graph = to_int8(graph, _calibration_feeds(source.tokens, source.texts.calibration))
    return BuiltEncoder(source, options, graph, fused.operators, fused.kept_plain)


def _calibration_feeds(tokens: EncoderTokens, texts: list[str]) -> list[dict[str, Array]]:
    """Encoder inputs for calibration: catalog texts, fragments of them, and a few texts of the largest length."""
    long = [" ".join(texts[start::_LONG_TEXTS]) for start in range(_LONG_TEXTS)]
    return [
        batch.feeds
        for group in (texts, fragments(texts), [text for text in long if text])
        for batch in tokens.batches(group)
    ]
