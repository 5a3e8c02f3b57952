"""Renders every ``config.pbtxt`` from the contract, through Triton's own `ModelConfig` message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ebbtide.export.versions import pin
from ebbtide.interest import contract
from ebbtide.interest.contract import Dtype, Kind, Model, Size, Tensor

MAX_BATCH_SIZE = 64
"""Requests that a batching model takes together."""
_HEAD_THREADS = 1
"""One matrix product and a top-N: p99 was 1.5 ms with one thread, 3 to 4 ms with two."""


@dataclass(frozen=True)
class ConfigSettings:
    """What the configs of one export state beside the contract."""

    fingerprint: str
    version: int
    """The version that is loaded, and that the ensembles answer with."""
    sizes: Mapping[Size, int]
    max_texts: int
    """Texts of one request: the batch that reaches the encoder."""
    encoder_threads: int
    """ONNX Runtime threads within one run of the encoder."""


def render_config(model: Model, settings: ConfigSettings) -> str:
    """The text of a model's ``config.pbtxt``."""
    return text_format.MessageToString(model_config(model, settings))


def model_config(model: Model, settings: ConfigSettings) -> Any:  # noqa: ANN401 - tritonclient carries no types
    """A model's configuration as Triton's message; a field that Triton does not know fails here."""
    config = model_config_pb2.ModelConfig(
        name=model.name,
        max_batch_size=_max_batch_size(model, settings),
        version_policy=model_config_pb2.ModelVersionPolicy(
            specific=model_config_pb2.ModelVersionPolicy.Specific(versions=[settings.version])
        ),
        input=[_input(tensor, model, settings) for tensor in model.inputs],
        output=[
            model_config_pb2.ModelOutput(
                name=tensor.name, data_type=_data_type(tensor), dims=_dims(tensor, model, settings)
            )
            for tensor in model.outputs
        ],
    )
    if model.kind is Kind.ENSEMBLE:
        config.platform = model.kind.value
        config.ensemble_scheduling.step.extend(_step(contract.MODELS[name]) for name in model.steps)
        pin(config, settings.version, settings.fingerprint)
        return config
    config.backend = model.kind.value
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=1)
    if model.batching:
        # No queue delay: while the one instance works, the next batch gathers; a delay would only slow an idle server.
        config.dynamic_batching.SetInParent()
    if model.kind is Kind.ONNX:
        threads = settings.encoder_threads if model is contract.ENCODER else _HEAD_THREADS
        _set_parameter(config, "intra_op_thread_count", str(threads))
        _set_parameter(config, "inter_op_thread_count", "1")
    return config


def _max_batch_size(model: Model, settings: ConfigSettings) -> int:
    if not model.batching:
        return 0
    return settings.max_texts if model is contract.ENCODER else MAX_BATCH_SIZE


def _input(tensor: Tensor, model: Model, settings: ConfigSettings) -> Any:  # noqa: ANN401 - no types
    return model_config_pb2.ModelInput(
        name=tensor.name,
        data_type=_data_type(tensor),
        dims=_dims(tensor, model, settings),
        # The batcher of the model that runs asks for it; an ensemble has none, and batches all the same without it.
        allow_ragged_batch=tensor.ragged and model.batching and model.kind is Kind.PYTHON,
        # An ensemble without it refuses requests that leave the tensor out.
        optional=tensor.optional,
    )


def _dims(tensor: Tensor, model: Model, settings: ConfigSettings) -> tuple[int, ...]:
    return tensor.config_dims(settings.sizes, batching=model.batching)


def _data_type(tensor: Tensor) -> int:
    name = "STRING" if tensor.dtype is Dtype.BYTES else tensor.dtype.value
    return int(model_config_pb2.DataType.Value(f"TYPE_{name}"))


def _step(model: Model) -> Any:  # noqa: ANN401 - tritonclient carries no types
    """A step that reads and writes the ensemble's tensors by its own names for them."""
    return model_config_pb2.ModelEnsembling.Step(
        model_name=model.name,
        input_map={tensor.name: tensor.name for tensor in model.inputs},
        output_map={tensor.name: tensor.name for tensor in model.outputs},
    )


def _set_parameter(config: Any, key: str, value: str) -> None:  # noqa: ANN401 - tritonclient carries no types
    config.parameters[key].string_value = value
