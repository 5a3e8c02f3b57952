"""Leaves out layers of the language model, and heals the loss with one linear map that costs nothing when served.

The map goes from the shorter encoder's text vectors to the full one's event vectors. The projection P follows
normalising, so a map after normalising folds into it: ``normalise(pool(h)) W P + b``. Ridge regression is linear in its
targets: fitting W towards text vectors and multiplying with P equals fitting W P towards event vectors, which is what
is done. A map before normalising (pooling is linear, so it could act on tokens or texts) would fold into nothing: the
last layer ends in a normalisation of its own, and P stands behind another.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from ebbtide.export.encoder.graph import EventEncoder
from ebbtide.export.encoder.graph_edits import Array
from ebbtide.export.encoder.ridge import cosines, fit_ridge
from ebbtide.export.encoder.texts import EncoderTokens, Floats, TokenBatch, embed
from ebbtide.export.errors import EncoderOptionsError
from ebbtide.train.encoder import TextEncoder

_SEARCH_TEXTS = 512


def keep_layers(
    full: EventEncoder,
    layers: int,
    tokens: EncoderTokens,
    texts: Sequence[str],
    targets: Floats,
    report: Callable[[str], None],
) -> tuple[EventEncoder, tuple[int, ...]]:
    """An encoder with some of the layers, and which those are.

    Args:
        full: Left as it is.
        layers: How many are kept, fewer than there are.
        tokens: The encoder's tokenizer.
        texts: To fit on.
        targets: Their event vectors from the full encoder, ``[texts, d]``.
        report: Called with what is done next.

    Raises:
        EncoderOptionsError: The layers are not found.
    """
    encoder = copy.deepcopy(full.encoder)
    parent, name, modules = _layers(encoder)

    def use(kept: Sequence[int]) -> None:
        setattr(parent, name, nn.ModuleList([modules[index] for index in kept]))

    def run(feeds: dict[str, Array]) -> Array:
        with torch.inference_mode():
            vectors: Array = encoder(**{name: torch.from_numpy(feed) for name, feed in feeds.items()}).numpy()
        return vectors

    report("choice of layers")
    sample = tokens.batches(texts[:_SEARCH_TEXTS])
    kept = _choose(len(modules), layers, sample, targets[:_SEARCH_TEXTS], use, run)
    use(kept)
    encoder.transformer.config.num_hidden_layers = layers  # type: ignore[union-attr]
    report("fit of the shorter encoder")
    healed, _ = fit_ridge(embed(tokens.batches(texts), run), targets)
    return EventEncoder(encoder, torch.from_numpy(healed.weight), torch.from_numpy(healed.bias)), kept


def _choose(
    total: int,
    layers: int,
    sample: list[TokenBatch],
    targets: Floats,
    use: Callable[[Sequence[int]], None],
    run: Callable[[dict[str, Array]], Array],
) -> tuple[int, ...]:
    """Takes out, one after the other, the layer whose loss heals best on texts that the healing did not see.

    Of a six-layer MiniLM all combinations were tried: this finds the best three of the 20 and four of the 15. The first
    and the last layer were in all of the best ones, and so stay.
    """
    kept = tuple(range(total))
    while len(kept) > layers:
        inner = kept[1:-1] if len(kept) > 2 else kept
        shorter = [tuple(index for index in kept if index != left_out) for left_out in inner]
        scores = []
        for candidate in shorter:
            use(candidate)
            _, unseen = fit_ridge(embed(sample, run), targets)
            scores.append(float(cosines(unseen, targets).mean()))
        kept = shorter[int(np.argmax(scores))]
    return kept


def _layers(encoder: TextEncoder) -> tuple[nn.Module, str, list[nn.Module]]:
    """The module that holds the list of layers, the list's name in it, and the layers."""
    config = encoder.transformer.config
    for module in encoder.transformer.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == config.num_hidden_layers:  # type: ignore[union-attr]
                return module, name, list(child)
    raise EncoderOptionsError(
        f"layers: got an encoder of type {config.model_type!r}, whose layers are in no list of their own; "  # type: ignore[union-attr]
        "expected one like BERT, RoBERTa, MPNet or DistilBERT"
    )
