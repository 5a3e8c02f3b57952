"""Types for the fields of Triton's `ModelConfig` that the rules read; tritonclient's own messages have no types.

Enums are numbers; `configs.data_type_name` gives the name of a data type. Triton's model_config.proto describes the
fields.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

# ruff: noqa: D101, D102, N802 - the schema is Triton's


class Message(Protocol):
    def HasField(self, field_name: str) -> bool: ...
    def WhichOneof(self, oneof_group: str) -> str | None: ...


class Reshape(Message, Protocol):
    shape: Sequence[int]


class Tensor(Message, Protocol):
    """Fields that inputs and outputs share."""

    name: str
    data_type: int
    dims: Sequence[int]
    reshape: Reshape
    is_shape_tensor: bool
    is_non_linear_format_io: bool


class ModelInput(Tensor, Protocol):
    format: int
    allow_ragged_batch: bool
    optional: bool


class ModelOutput(Tensor, Protocol):
    label_filename: str


class BatchInput(Message, Protocol):
    kind: int
    target_name: Sequence[str]
    data_type: int
    source_input: Sequence[str]


class BatchOutput(Message, Protocol):
    kind: int
    target_name: Sequence[str]
    source_input: Sequence[str]


class Latest(Message, Protocol):
    num_versions: int


class Specific(Message, Protocol):
    versions: Sequence[int]


class VersionPolicy(Message, Protocol):
    latest: Latest
    specific: Specific


class QueuePolicy(Message, Protocol):
    timeout_action: int
    default_timeout_microseconds: int


class DynamicBatching(Message, Protocol):
    preferred_batch_size: Sequence[int]
    preserve_ordering: bool
    priority_levels: int
    default_priority_level: int
    default_queue_policy: QueuePolicy
    priority_queue_policy: Mapping[int, QueuePolicy]


class Control(Message, Protocol):
    kind: int
    int32_false_true: Sequence[int]
    fp32_false_true: Sequence[float]
    bool_false_true: Sequence[bool]
    data_type: int


class ControlInput(Message, Protocol):
    name: str
    control: Sequence[Control]


class InitialState(Message, Protocol):
    name: str
    data_type: int
    dims: Sequence[int]
    data_file: str


class State(Message, Protocol):
    input_name: str
    output_name: str
    data_type: int
    dims: Sequence[int]
    initial_state: Sequence[InitialState]


class Oldest(Message, Protocol):
    preferred_batch_size: Sequence[int]


class Direct(Message, Protocol):
    minimum_slot_utilization: float


class SequenceBatching(Message, Protocol):
    control_input: Sequence[ControlInput]
    state: Sequence[State]
    oldest: Oldest
    direct: Direct


class EnsembleStep(Message, Protocol):
    model_name: str
    model_version: int
    input_map: Mapping[str, str]
    output_map: Mapping[str, str]


class EnsembleScheduling(Message, Protocol):
    step: Sequence[EnsembleStep]


# "global" is a Python keyword: the rule reads it with getattr.
class Resource(Message, Protocol):
    name: str
    count: int


class RateLimiter(Message, Protocol):
    resources: Sequence[Resource]


class InstanceGroup(Message, Protocol):
    name: str
    kind: int
    count: int
    gpus: Sequence[int]
    profile: Sequence[str]
    passive: bool
    rate_limiter: RateLimiter


class WarmupInput(Message, Protocol):
    data_type: int
    dims: Sequence[int]
    input_data_file: str


class Warmup(Message, Protocol):
    name: str
    batch_size: int
    inputs: Mapping[str, WarmupInput]


class Parameter(Message, Protocol):
    string_value: str


class Accelerator(Message, Protocol):
    name: str
    parameters: Mapping[str, str]


class Accelerators(Message, Protocol):
    gpu_execution_accelerator: Sequence[Accelerator]
    cpu_execution_accelerator: Sequence[Accelerator]


class Agent(Message, Protocol):
    name: str


class Agents(Message, Protocol):
    agents: Sequence[Agent]


class Optimization(Message, Protocol):
    execution_accelerators: Accelerators


class TransactionPolicy(Message, Protocol):
    decoupled: bool


class ResponseCache(Message, Protocol):
    enable: bool


class ModelConfig(Message, Protocol):
    name: str
    platform: str
    backend: str
    runtime: str
    version_policy: VersionPolicy
    max_batch_size: int
    input: Sequence[ModelInput]
    output: Sequence[ModelOutput]
    batch_input: Sequence[BatchInput]
    batch_output: Sequence[BatchOutput]
    dynamic_batching: DynamicBatching
    sequence_batching: SequenceBatching
    ensemble_scheduling: EnsembleScheduling
    instance_group: Sequence[InstanceGroup]
    optimization: Optimization
    model_repository_agents: Agents
    default_model_filename: str
    cc_model_filenames: Mapping[str, str]
    parameters: Mapping[str, Parameter]
    model_warmup: Sequence[Warmup]
    model_transaction_policy: TransactionPolicy
    response_cache: ResponseCache
