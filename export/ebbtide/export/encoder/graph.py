"""Traces the encoder as an ONNX graph from token ids to event and text vectors, pooling and projection included."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from torch import Tensor, nn

from ebbtide.export.onnx_files import OPSET
from ebbtide.interest import served_models
from ebbtide.train.encoder import TextEncoder

# The oldest IR version for the opset, as in the scoring head; torch writes a newer one but uses no feature of it.
_IR_VERSION = 8
_EXAMPLE_TEXTS = 3
_EXAMPLE_TOKENS = 16


class EventEncoder(nn.Module):
    """Computes vectors of texts: the encoder and the projection; a text has no learned residual."""

    event_projection: Tensor

    def __init__(self, encoder: TextEncoder, event_projection: Tensor) -> None:
        """Combines an encoder with a model's projection, ``[text width, d]``."""
        super().__init__()
        self.encoder = encoder
        self.register_buffer("event_projection", event_projection.detach())

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Event vectors ``[texts, d]`` and text vectors ``[texts, text width]``, float32.

        Args:
            input_ids: int64 ``[texts, tokens]``.
            attention_mask: int64 ``[texts, tokens]``.
        """
        vectors: Tensor = self.encoder(input_ids, attention_mask)
        return vectors @ self.event_projection, vectors


def encoder_graph(encoder: nn.Module) -> onnx.ModelProto:
    """Traces an encoder from token ids and mask to event vectors, with any number of texts and tokens."""
    model = served_models.ENCODER
    shape = (_EXAMPLE_TEXTS, _EXAMPLE_TOKENS)
    # Different lengths, so that the trace does not assume a mask of all ones.
    mask = (torch.arange(shape[1])[None] < torch.tensor([[16], [9], [4]])).long()
    axes = {0: torch.export.Dim("texts", min=1), 1: torch.export.Dim("tokens", min=1)}
    with torch.inference_mode(), _quiet():
        program = torch.onnx.export(
            encoder.eval(),
            (torch.ones(shape, dtype=torch.int64), mask),
            input_names=[tensor.name for tensor in model.inputs],
            output_names=[tensor.name for tensor in model.outputs],
            dynamic_shapes=(axes, axes),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # noqa: S101 - the dynamo exporter always returns one
    graph: onnx.ModelProto = program.model_proto
    graph.ir_version = _IR_VERSION
    return graph


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the exporter's log messages and warnings about itself."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec.*")
            warnings.filterwarnings("ignore", category=UserWarning, message=".*axis name.*will not be used.*")
            yield
    finally:
        logger.setLevel(level)
