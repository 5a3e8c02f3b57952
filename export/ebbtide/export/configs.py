"""Renders every ``config.pbtxt`` from the contract, through Triton's own `ModelConfig` message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ebbtide.export.choices import Accelerator
from ebbtide.export.facts import VersionFacts, tell_limits
from ebbtide.export.machines import Machine, Placement
from ebbtide.export.serving import ServingOptions
from ebbtide.export.versions import pin
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Dtype, Size, Tensor
from ebbtide.interest.served_models import Kind, Model

MAX_BATCH_SIZE = 64
"""Largest batch of a batching model."""
CORES_RESOURCE = "cores"
"""The rate limiter's resource: CPU cores. `ebbtide serve --rate-limiter` sets it to the number of cores."""
_TENSORRT_WORKSPACE_BYTES = 1 << 30


@dataclass(frozen=True)
class ConfigSettings:
    """Settings of the configs of one export, in addition to the contract."""

    fingerprint: str
    """The export's id."""
    version: int
    """The version that Triton loads and that the ensembles answer with."""
    sizes: Mapping[Size, int]
    """Dimensions that are fixed at export."""
    facts: VersionFacts
    """Facts for clients. The limit on texts of a request is also the encoder's largest batch."""
    serving: ServingOptions
    models: Mapping[str, Model] = field(default_factory=lambda: served_models.MODELS)
    """All models of the export."""


def render_config(model: Model, settings: ConfigSettings, machine: Machine) -> str:
    """The text of a model's ``config.pbtxt`` for one machine."""
    return text_format.MessageToString(model_config(model, settings, machine))


def model_config(model: Model, settings: ConfigSettings, machine: Machine) -> Any:  # noqa: ANN401 - no types
    """A model's config as Triton's message, so that an unknown field fails here."""
    serving = settings.serving
    config = model_config_pb2.ModelConfig(
        name=model.name,
        max_batch_size=_max_batch_size(model, settings),
        version_policy=model_config_pb2.ModelVersionPolicy(
            specific=model_config_pb2.ModelVersionPolicy.Specific(versions=[settings.version])
        ),
        input=[_input(tensor, model, settings) for tensor in model.inputs],
        output=[
            model_config_pb2.ModelOutput(
                name=tensor.name, data_type=data_type(tensor), dims=_dims(tensor, model, settings)
            )
            for tensor in model.outputs
        ],
    )
    if serving.response_cache and _is_cacheable(model, settings.models):
        config.response_cache.enable = True
    if model.kind is Kind.PYTHON:
        tell_limits(config, settings.facts.limits)
    if model.kind is Kind.ENSEMBLE:
        settings.facts.tell(config)
        config.platform = model.kind.value
        config.ensemble_scheduling.step.extend(_steps(model, settings.models))
        pin(config, settings.version, settings.fingerprint)
        return config
    config.backend = model.kind.value
    placement = machine.placement(model)
    config.instance_group.append(_instance_group(placement, limited=serving.rate_limiter and machine.device == "cpu"))
    if model.batching:
        # No queue delay: the next batch forms while the instances are busy; a delay would only slow an idle server.
        config.dynamic_batching.SetInParent()
        _set_queue_policy(config.dynamic_batching, serving)
    if model.kind is Kind.ONNX:
        _set_parameter(config, "intra_op_thread_count", str(placement.threads))
        _set_parameter(config, "inter_op_thread_count", "1")
        if model.batches_texts and placement.device == "cpu":
            # A parameter of Ebbtide's own ONNX backend; NVIDIA's backend ignores it.
            _set_parameter(config, "split_rows_by_length", contract.ATTENTION_MASK.name)
        if placement.device == "gpu" and serving.accelerator is not None:
            _set_accelerator(config, model, serving.accelerator)
    if machine == serving.machines[0]:
        for tuned in serving.tuned:
            if tuned.model == model.name:
                tuned.apply(config)
    return config


def _max_batch_size(model: Model, settings: ConfigSettings) -> int:
    if not model.batching:
        return 0
    return settings.facts.limits.max_texts if model.batches_texts else MAX_BATCH_SIZE


def _input(tensor: Tensor, model: Model, settings: ConfigSettings) -> Any:  # noqa: ANN401 - no types
    return model_config_pb2.ModelInput(
        name=tensor.name,
        data_type=data_type(tensor),
        dims=_dims(tensor, model, settings),
        # Triton's batcher needs this for a Python model. An ensemble has no batcher.
        allow_ragged_batch=tensor.ragged and model.batching and model.kind is Kind.PYTHON,
        optional=tensor.optional or _is_checked(tensor, model, settings.models),
    )


def _is_checked(tensor: Tensor, model: Model, models: Mapping[str, Model]) -> bool:
    """Whether Python models refuse requests without the tensor, in words.

    Where some inputs are optional, Triton counts those of a request and does not look at their names: an ensemble
    without one that it needs then fails with "unexpected deadlock" and INTERNAL. A single input it counts right.
    """
    callers = [one for one in models.values() if model.name in one.steps and tensor in one.inputs]
    if len(model.inputs) == 1 and all(len(one.inputs) == 1 for one in callers):
        return False
    if model.kind is not Kind.ENSEMBLE:
        return model.kind is Kind.PYTHON
    readers = [models[name] for name in model.steps if tensor.name in {one.name for one in models[name].inputs}]
    return all(step.kind is Kind.PYTHON and tensor.name in _needed(step, model, models) for step in readers)


def _needed(step: Model, ensemble: Model, models: Mapping[str, Model]) -> set[str]:
    """The inputs without which a step refuses requests of an ensemble."""
    outputs = frozenset(tensor.name for tensor in served_models.read_outputs(ensemble, step, models))
    return {tensor.name for tensor in served_models.needed_inputs(step, models)[outputs]}


def _dims(tensor: Tensor, model: Model, settings: ConfigSettings) -> tuple[int, ...]:
    return tensor.config_dims(settings.sizes, batching=model.batching)


def data_type(tensor: Tensor) -> int:
    """Triton's number of a tensor's data type."""
    name = "STRING" if tensor.dtype is Dtype.BYTES else tensor.dtype.value
    return int(model_config_pb2.DataType.Value(f"TYPE_{name}"))


def _is_cacheable(model: Model, models: Mapping[str, Model]) -> bool:
    """Whether the model is cacheable and all ensembles ask for the same outputs, which the cache key lacks."""
    ensembles = [one for one in models.values() if model.name in one.steps and not one.has_own_requests]
    return model.cacheable and len({served_models.read_outputs(ensemble, model, models) for ensemble in ensembles}) <= 1


def _steps(ensemble: Model, models: Mapping[str, Model]) -> Iterator[Any]:
    """The steps of an ensemble; tensors keep their names.

    The maps omit optional inputs that no step and no request gives, and outputs that no step reads.
    """
    given = {tensor.name for tensor in ensemble.inputs}
    for model in (models[name] for name in ensemble.steps):
        outputs = [tensor.name for tensor in served_models.read_outputs(ensemble, model, models)]
        yield model_config_pb2.ModelEnsembling.Step(
            model_name=model.name,
            input_map={
                tensor.name: tensor.name for tensor in model.inputs if tensor.name in given or not tensor.optional
            },
            output_map={name: name for name in outputs},
        )
        given.update(outputs)


def _instance_group(placement: Placement, *, limited: bool) -> Any:  # noqa: ANN401 - tritonclient carries no types
    kinds = model_config_pb2.ModelInstanceGroup
    group = kinds(
        kind=kinds.KIND_GPU if placement.device == "gpu" else kinds.KIND_CPU,
        count=placement.instances,
        gpus=placement.gpus,
    )
    if limited:
        # `global` is a Python keyword.
        resource = {"name": CORES_RESOURCE, "count": placement.threads, "global": True}
        group.rate_limiter.resources.add(**resource)
    return group


def _set_queue_policy(batching: Any, serving: ServingOptions) -> None:  # noqa: ANN401 - tritonclient carries no types
    """Limits the queue if the options ask for it.

    It is off by default: with any queue policy, Triton prepares no batch while all instances are busy, and a request
    that arrives then may wait until the next one arrives, or half a second (docs/configs.md has the figures).
    """
    if not serving.max_queue_size and not serving.queue_timeout_ms:
        return
    policy = batching.default_queue_policy
    policy.max_queue_size = serving.max_queue_size
    policy.default_timeout_microseconds = serving.queue_timeout_ms * 1_000
    policy.timeout_action = model_config_pb2.ModelQueuePolicy.REJECT


def _set_accelerator(config: Any, model: Model, name: Accelerator) -> None:  # noqa: ANN401 - tritonclient carries no types
    """Sets the accelerator and its parameters, as NVIDIA's backend documents them.

    TensorRT runs only the encoder: the scoring head is one matrix product, and TensorRT does not support its string
    ids. The engine cache is off: ONNX Runtime finds a cached engine by the graph and not by the weights, so a new
    version would answer with the weights of an older one.
    """
    if name == "tensorrt" and not model.batches_texts:
        name = "cuda"
    accelerator = config.optimization.execution_accelerators.gpu_execution_accelerator.add(name=name)
    if name == "tensorrt":
        accelerator.parameters["precision_mode"] = "FP32"
        accelerator.parameters["max_workspace_size_bytes"] = str(_TENSORRT_WORKSPACE_BYTES)


def _set_parameter(config: Any, key: str, value: str) -> None:  # noqa: ANN401 - tritonclient carries no types
    config.parameters[key].string_value = value
