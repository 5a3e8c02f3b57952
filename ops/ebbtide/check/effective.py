"""The effective config of a model: its config file, and what the backend fills in from the model file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ebbtide.check import backends
from ebbtide.check.configs import data_type_name
from ebbtide.check.messages import ModelConfig, Tensor
from ebbtide.check.onnx_graph import GraphTensor, OnnxGraph
from ebbtide.check.view import View

_NO_TYPE = "TYPE_INVALID"
_FILLED_BATCH_SIZE = 4
"""The `max_batch_size` that Triton's backends fill in (``default-max-batch-size``)."""


@dataclass(frozen=True)
class TensorSpec:
    """Data type and dims of one tensor, without the batch axis."""

    data_type: str
    dims: tuple[int, ...]
    optional: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether data type and dims are written."""
        return bool(self.dims) and self.data_type != _NO_TYPE

    def or_else(self, other: TensorSpec | None) -> TensorSpec:
        """With what it lacks from another spec."""
        if other is None or self.is_whole:
            return self
        data_type = other.data_type if self.data_type == _NO_TYPE else self.data_type
        return replace(self, data_type=data_type, dims=self.dims or other.dims)

    @classmethod
    def of(cls, tensor: Tensor, *, served: bool = False) -> TensorSpec:
        """The spec of a config's tensor; `served` takes the shape after `reshape`, as for an ensemble's own tensors."""
        dims = tensor.reshape.shape if served and tensor.HasField("reshape") else tensor.dims
        return cls(data_type_name(tensor.data_type), tuple(dims), bool(getattr(tensor, "optional", False)))


@dataclass(frozen=True)
class Effective:
    """The parts of a model that an ensemble's steps depend on."""

    versions: tuple[int, ...]
    max_batch_size: int
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    decoupled: bool
    steps: tuple[str, ...]
    """Names of the models of an ensemble's steps."""
    is_readable: bool
    """False if the config cannot be parsed; then all other fields are unknown."""

    @property
    def knows_tensors(self) -> bool:
        """False if the tensors are filled in by something that the checker does not read."""
        return bool(self.inputs) and bool(self.outputs)


def effective(view: View) -> Effective:
    """The effective config of a model."""
    config = view.config
    written = Effective(
        view.versions,
        config.max_batch_size,
        {tensor.name: TensorSpec.of(tensor) for tensor in config.input},
        {tensor.name: TensorSpec.of(tensor) for tensor in config.output},
        config.model_transaction_policy.decoupled,
        tuple(step.model_name for step in config.ensemble_scheduling.step),
        view.source.problem is None,
    )
    graph = view.newest_graph
    whole = written.knows_tensors and all(one.is_whole for one in (*written.inputs.values(), *written.outputs.values()))
    if view.serving.backend == backends.ONNX and graph is not None and not whole:
        return _filled(written, config, graph)
    return written


def _filled(written: Effective, config: ModelConfig, graph: OnnxGraph) -> Effective:
    batching = graph.batches
    return replace(
        written,
        max_batch_size=config.max_batch_size or (_FILLED_BATCH_SIZE if batching else 0),
        inputs=_specs(written.inputs, graph.inputs, batching),
        outputs=_specs(written.outputs, graph.outputs, batching),
    )


def _specs(
    written: Mapping[str, TensorSpec], graph: Mapping[str, GraphTensor], batching: bool
) -> dict[str, TensorSpec]:
    """The specs as they are written, or else as the graph has them."""
    found = {name: _spec(tensor, batching) for name, tensor in graph.items()}
    return {name: written[name].or_else(found.get(name)) for name in written} if written else found


def _spec(tensor: GraphTensor, batching: bool) -> TensorSpec:
    shape = tensor.shape or ()
    return TensorSpec(tensor.data_type, (shape[1:] if batching else shape) or (1,))
