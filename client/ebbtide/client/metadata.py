"""Metadata of a server and of its models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ebbtide.client._contract_check import fingerprint_of
from ebbtide.client._served import served
from ebbtide.client._triton import Untyped


@dataclass(frozen=True)
class ServerMetadata:
    """A Triton server."""

    name: str
    """Name of the server: triton by default."""
    version: str
    """Version of the server, as in 2.51.0."""
    extensions: tuple[str, ...]
    """Extensions of the inference protocol that the server supports."""


@dataclass(frozen=True)
class TensorMetadata:
    """One input or output of a model."""

    name: str
    """Name in the contract."""
    dtype: str
    """Element type by its KServe v2 name: INT64, FP32, BYTES, ..."""
    shape: tuple[int, ...]
    """The shape; the batch dimension is first if the model batches, and -1 is a dimension of variable size."""


@dataclass(frozen=True)
class ModelMetadata:
    """A model that a server has ready."""

    name: str
    """Name in the contract: recommend, embed, ..."""
    versions: tuple[str, ...]
    """Versions that are loaded."""
    platform: str
    """What runs the model: ensemble, python, ..."""
    fingerprint: str | None
    """Id of the export; None for a model that Ebbtide did not export."""
    inputs: tuple[TensorMetadata, ...]
    """Input tensors."""
    outputs: tuple[TensorMetadata, ...]
    """Output tensors."""
    limits: Mapping[str, int] = field(default_factory=dict[str, int], hash=False)
    """Limits of one request, by the names of `ebbtide.interest.contract.Limits`: ``max_events``, ..."""


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
        limits=served(config).limits,
    )


def _tensors(messages: Untyped) -> tuple[TensorMetadata, ...]:
    return tuple(TensorMetadata(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in messages)
