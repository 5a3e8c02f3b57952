"""Makes the encoder that an export asks for: trims or distils, traces, fuses, lowers the precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from torch import nn

from ebbtide.export.encoder.fp16 import to_fp16
from ebbtide.export.encoder.fusion import Fused, fuse
from ebbtide.export.encoder.graph import EventEncoder, encoder_graph
from ebbtide.export.encoder.graph_edits import MAX_MESSAGE_BYTES, Array, session_of, weight_bytes
from ebbtide.export.encoder.int8 import to_int8
from ebbtide.export.encoder.layers import keep_layers
from ebbtide.export.encoder.options import EncoderOptions
from ebbtide.export.encoder.static import distil
from ebbtide.export.encoder.texts import EncoderTokens, Floats, TextSplit, embed, fragments, split_texts
from ebbtide.export.errors import EncoderOptionsError
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.encoder import load_encoder

_CALIBRATION_TEXTS = 512
_LONG_TEXTS = 8


@dataclass(frozen=True)
class EncoderSource:
    """The encoder that a bundle was trained with: what every variant is made from and measured against."""

    bundle: InterestBundle
    full: EventEncoder
    """In torch."""
    tokens: EncoderTokens
    texts: TextSplit
    """Which of the catalog's texts a fit may see, and which not."""
    plain: onnx.ModelProto
    """As traced."""
    fused: Fused
    """For the CPU, float32."""

    @classmethod
    def read(cls, bundle: InterestBundle, folder: Path) -> EncoderSource:
        """Loads, traces and fuses the encoder in a folder, with the bundle's projection behind it."""
        encoder = load_encoder(folder)
        full = EventEncoder(encoder, bundle.model.event_projection)
        tokens = EncoderTokens(folder, encoder.settings.max_tokens)
        plain = encoder_graph(full)
        return cls(bundle, full, tokens, split_texts(bundle.catalog.text), plain, fuse(plain))

    @property
    def layers(self) -> tuple[int, ...]:
        """Of the language model, from 0."""
        return tuple(range(self.full.encoder.transformer.config.num_hidden_layers))  # type: ignore[union-attr, arg-type]


@dataclass(frozen=True)
class BuiltEncoder:
    """An encoder's graph, and what it was made from."""

    source: EncoderSource
    options: EncoderOptions
    graph: onnx.ModelProto
    module: nn.Module
    """In torch what the graph computes, but for its precision."""
    operators: dict[str, int] = field(default_factory=dict)
    """ONNX Runtime's fused operators in the graph, before its products became integers."""
    kept_plain: str | None = None
    """Why nothing was fused; None for a fused graph, or one with nothing to fuse."""
    layers: tuple[int, ...] = ()
    """The layers that were kept, counted from 0; empty for a static encoder."""

    @property
    def max_tokens(self) -> int:
        """Longer texts are cut."""
        return self.source.full.encoder.settings.max_tokens


def build_encoder(
    source: EncoderSource,
    options: EncoderOptions = EncoderOptions(),  # noqa: B008 - frozen
    report: Callable[[str], None] = lambda _part: None,
) -> BuiltEncoder:
    """Makes the encoder's graph.

    Args:
        source: What it is made from; left as it is.
        options: What is asked for.
        report: Called with what is done next, where that takes a while.

    Raises:
        EncoderOptionsError: This encoder has not what the options ask for.
    """
    if options.layers is not None and options.layers >= len(source.layers):
        raise EncoderOptionsError(
            f"layers: got {options.layers}; expected fewer than the {len(source.layers)} of this encoder"
        )
    if options.precision == "fp16" and weight_bytes(source.plain) >= MAX_MESSAGE_BYTES:
        raise EncoderOptionsError("precision: got fp16 for an encoder above 2 GiB; expected fp32 or int8")
    module: nn.Module = source.full
    plain, fused, layers = source.plain, source.fused, source.layers
    if options.kind == "static":
        module = distil(source.full, source.tokens, *_fitting_pairs(source, report), report)
        layers, fused = (), Fused(encoder_graph(module))
    elif options.layers is not None:
        pairs = _fitting_pairs(source, report)
        module, layers = keep_layers(source.full, options.layers, source.tokens, *pairs, report)
        plain = encoder_graph(module)
        fused = fuse(plain)
    graph = fused.graph
    if options.precision == "fp16":
        fused = fuse(plain, "gpu")
        graph = to_fp16(fused.graph)
    elif options.precision == "int8":
        report("calibration of the encoder")
        graph = to_int8(graph, _calibration_feeds(source.tokens, source.texts))
    return BuiltEncoder(source, options, graph, module, fused.operators, fused.kept_plain, layers)


def _fitting_pairs(source: EncoderSource, report: Callable[[str], None]) -> tuple[list[str], Floats]:
    """Texts to fit on, each followed by a fragment of it, and their event vectors from the full encoder."""
    report("event vectors to fit on")
    texts, bundle, tokens = source.texts.fitted, source.bundle, source.tokens
    pieces = fragments(texts)
    session = session_of(source.fused.graph)
    vectors = (bundle.model.text_vectors @ bundle.model.event_projection.detach()).numpy()
    # Training has embedded the catalog's texts already.
    position = {text: index for index, text in enumerate(bundle.catalog.text)}
    of_texts = vectors[[position[text] for text in texts]]
    of_pieces = embed(tokens.batches(pieces), lambda feeds: session.run(None, feeds)[0])
    return (
        [part for pair in zip(texts, pieces, strict=True) for part in pair],
        np.stack([of_texts, of_pieces], axis=1).reshape(-1, vectors.shape[1]),
    )


def _calibration_feeds(tokens: EncoderTokens, texts: TextSplit) -> list[dict[str, Array]]:
    """Catalog texts, fragments of them, and a few that are as long as the encoder takes."""
    some = texts.fitted[:_CALIBRATION_TEXTS]
    long = [" ".join(some[start::_LONG_TEXTS]) for start in range(_LONG_TEXTS)]
    return [
        batch.feeds
        for group in (some, fragments(some), [text for text in long if text])
        for batch in tokens.batches(group)
    ]
