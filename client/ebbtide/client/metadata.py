"""What a server says about itself and its models."""

from __future__ import annotations

from dataclasses import dataclass

from ebbtide.client._contract_check import fingerprint_of
from ebbtide.client._triton import Untyped


@dataclass(frozen=True)
class ServerMetadata:
    """A Triton server."""

    name: str
    """Its name: triton, unless its operator chose another."""
    version: str
    """Version of the server, as in 2.51.0."""
    extensions: tuple[str, ...]
    """What it offers beside inference."""


@dataclass(frozen=True)
class TensorMetadata:
    """One input or output of a model."""

    name: str
    """As in the contract."""
    dtype: str
    """KServe v2's name of the element type: INT64, FP32, BYTES, ..."""
    shape: tuple[int, ...]
    """The batch dimension first, where the model batches; -1 where it varies."""


@dataclass(frozen=True)
class ModelMetadata:
    """A model that a server has ready."""

    name: str
    """As in the contract: recommend, embed, ..."""
    versions: tuple[str, ...]
    """Versions that are loaded."""
    platform: str
    """What runs it: ensemble, python, ..."""
    fingerprint: str | None
    """Id of the export that it is part of; None for a model that Ebbtide did not export."""
    inputs: tuple[TensorMetadata, ...]
    """What it takes."""
    outputs: tuple[TensorMetadata, ...]
    """What it gives."""


def server_metadata(message: Untyped) -> ServerMetadata:
    """From a ``ServerMetadataResponse``."""
    return ServerMetadata(message.name, message.version, tuple(message.extensions))


def model_metadata(message: Untyped, config: Untyped) -> ModelMetadata:
    """From a ``ModelMetadataResponse`` and the model's ``ModelConfig``."""
    return ModelMetadata(
        name=message.name,
        versions=tuple(message.versions),
        platform=message.platform,
        fingerprint=fingerprint_of(config),
        inputs=_tensors(message.inputs),
        outputs=_tensors(message.outputs),
    )


def _tensors(messages: Untyped) -> tuple[TensorMetadata, ...]:
    return tuple(TensorMetadata(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in messages)
