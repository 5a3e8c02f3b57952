"""The registry of rules. Every finding has the id of one rule, and the severity of that rule."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """How serious a finding is."""

    ERROR = "error"
    """Triton refuses the model, or a request fails."""
    WARNING = "warning"
    """The model loads, but does something that its author may not expect."""


@dataclass(frozen=True)
class Rule:
    """One kind of problem that the checker looks for."""

    id: str
    severity: Severity
    summary: str
    """What the rule finds, as the documentation's table shows it."""


def _rules(severity: Severity, summaries: dict[str, str]) -> dict[str, Rule]:
    return {identity: Rule(identity, severity, summary) for identity, summary in summaries.items()}


_ERRORS = _rules(
    Severity.ERROR,
    {
        # The text of the config, and the model as a whole.
        "config-syntax": "a text that Triton cannot parse: braces, quotes, escapes, numbers, a field written twice",
        "config-unknown-field": "a field that `ModelConfig` does not have",
        "config-unknown-value": "an enum value that does not exist, such as `TYPE_FLOAT32`",
        "scheduling-choice": "more than one of `dynamic_batching`, `sequence_batching`, `ensemble_scheduling`",
        "model-name": "`name` differs from the name of the folder",
        "backend-missing": "no `backend`, no `platform` and no model file that tells Triton the backend",
        "backend-unknown": "a `backend` name that no server has, such as `onnx` or `Python`",
        "backend-platform": "a `platform` that does not exist or does not belong to the `backend`",
        "max-batch-size": "`max_batch_size` is negative",
        "batch-io": "a `batch_input` or `batch_output` that does not fit the inputs and outputs",
        "label-file": "`label_filename` is not a file inside the model's folder",
        # Tensors.
        "tensor-name-missing": "an input or output without `name`",
        "tensor-data-type-missing": "an input or output without `data_type`",
        "tensor-dims-missing": "an input or output without `dims`",
        "tensor-dims": "a dimension that is neither -1 nor at least 1",
        "tensor-reshape": "`reshape` has a different number of elements than `dims`",
        "tensor-format": "`FORMAT_NHWC` or `FORMAT_NCHW` on a tensor that does not have 3 dims",
        "tensor-tensorrt-only": "a shape tensor or a non-linear format on a backend other than TensorRT",
        "input-name-duplicate": "two inputs with the same name: no request can send both, so every request fails",
        "tensors-missing": "neither inputs nor outputs, and nothing that fills them in",
        # Folders and files.
        "repository-agents-empty": "`model_repository_agents` without an agent, which stops the server",
        "version-missing": "no version folder that the version policy loads",
        "version-misread": "a folder that Triton reads as another version (`2.old` as 2), or that stops the server",
        "model-file-missing": "a version without the model file that its backend opens",
        "file-changed": "a file of an export that is missing, or is not the one that was exported",
        "export-code-missing": "a Python model of an export without all of its copied packages (`ebbtide/`)",
        "stray-folder": "a folder that is not a model, but that Triton tries to load as one",
        # Scheduling.
        "preferred-batch-size": "a preferred batch size below 1 or above `max_batch_size`",
        "queue-priority": "a priority level outside 1 to `priority_levels`",
        "preserve-ordering": "`preserve_ordering` with priority levels or with timeouts that delay requests",
        "instance-group-gpus": "`gpus` on an instance group that is not KIND_GPU, or a negative GPU id",
        "instance-group-profile": "`profile` on a backend other than TensorRT",
        "instance-group-passive": "only passive instances: the first request stops the server",
        "sequence-control": "a control input with a wrong name, type or set of values",
        "sequence-state": "a state without a type or with wrong dims, or an initial state that does not fit it",
        "sequence-state-name": "a state without `input_name`: the first request stops the server",
        "sequence-slots": "`minimum_slot_utilization` outside 0 to 1",
        "response-cache": "a response cache on a sequence model or a decoupled model",
        # ONNX.
        "onnx-unreadable": "a file that is not an ONNX graph",
        "onnx-input-unknown": "an input that the graph does not have",
        "onnx-input-missing": "an input of the graph that the config does not have",
        "onnx-output-unknown": "an output that the graph does not have",
        "onnx-data-type": "a data type that differs from the graph's",
        "onnx-dims": "dims that differ from the graph's",
        "onnx-batch-dimension": "`max_batch_size` on a graph whose first axis has a fixed size",
        "onnx-optional-input": "an optional input of an ONNX model that batches",
        "onnx-external-data": "weights in a file that does not exist",
        "onnx-parameter": "a parameter value that the ONNX Runtime backend cannot read",
        "onnx-accelerator": "an execution accelerator that the ONNX Runtime backend does not have",
        "ragged-graph": "`allow_ragged_batch` for a graph input with more than one axis",
        # Ensembles.
        "ensemble-scheduling": "`ensemble_scheduling` without the platform `ensemble`, or the platform without it",
        "ensemble-field": "`instance_group`, `optimization` or `model_warmup` on an ensemble",
        "ensemble-no-steps": "an ensemble without steps",
        "ensemble-step-model": "a step that names no model, or a model that is not in the repository",
        "ensemble-step-version": "a step that asks for a version that its model does not load",
        "ensemble-step-maps": "a step without an `input_map` or `output_map`",
        "ensemble-map-key": "a map key that is not a tensor of the step's model",
        "ensemble-input-unmapped": "a required input of a step's model that is not mapped",
        "ensemble-input-unused": "an input of the ensemble that no step reads",
        "ensemble-output-unwritten": "an output of the ensemble that no step writes",
        "ensemble-tensor-unwritten": "a step reads a tensor that nothing writes",
        "ensemble-tensor-written-twice": "a tensor that two steps write",
        "ensemble-tensor-unused": "a tensor that is written and never read",
        "ensemble-step-cycle": "steps that wait for each other and never start",
        "ensemble-tensor-dtype": "a tensor that two models declare with different data types",
        "ensemble-tensor-dims": "a tensor that two models declare with dims that do not match",
        "ensemble-batch-size": "a step whose `max_batch_size` is smaller than the ensemble's",
        "ensemble-batch-lost": "a step without batching that reads a batched tensor: batches larger than 1 fail",
        "ensemble-cycle": "an ensemble that contains itself",
        "ensemble-decoupled": "a step that reads from two decoupled models",
        "ensemble-optional-input": "an optional input that a step requires: a request without it fails",
        # Warm-up.
        "warmup-dims": "a warm-up input whose dims are variable or do not fit the model's input",
        "warmup-data-type": "a warm-up input whose data type differs from the model's input",
        "warmup-input-missing": "a warm-up request without a required input",
        "warmup-data": "a warm-up input without data or with too few bytes",
        "warmup-batch-size": "a warm-up batch size above `max_batch_size`",
        # Python models.
        "python-syntax": "model.py is not valid Python",
        "python-class": "model.py has no class TritonPythonModel",
        "python-execute": "TritonPythonModel has no `execute`",
        "python-arguments": "a method of TritonPythonModel that cannot take the arguments Triton passes",
        "python-return": "`execute` or `auto_complete_config` does not return what Triton needs",
        "python-completion": "`auto_complete_config` contradicts the config, or adds an incomplete tensor",
        "python-environment": "EXECUTION_ENV_PATH is relative, or does not exist in the model's folder",
        "python-parameter": "a parameter value that the Python backend refuses",
        "python-input-missing": "model.py uses an input that the config does not have, so every request fails",
        "python-output-missing": "an output of the config that model.py never names",
    },
)
_WARNINGS = _rules(
    Severity.WARNING,
    {
        "repository-empty": "a repository without models",
        "deployment-unfinished": "a deployment that is under way, was cut off, or left a version in shadow",
        "export-manifest": "an export's manifest that is damaged, or that names a model without a folder",
        "stray-file": "a config or model file outside the models' folders",
        "config-not-read": "a config file with a wrong name or in a version folder: Triton does not read it",
        "config-newer-field": "a field that newer servers have, and that Triton 24.10 refuses",
        "version-ignored": "a folder whose name is not a version: Triton ignores it",
        "version-zero": "version 0, which an ensemble step asks for when it names no version",
        "version-policy-absent": "the version policy names a version that does not exist",
        "tensor-name-duplicate": "two outputs with the same name: Triton uses the last one",
        "batcher-without-batching": "`dynamic_batching` on a model with `max_batch_size: 0`",
        "map-key-duplicate": "a map key that is written twice: Triton uses the last entry",
        "queue-policy-ignored": "`priority_queue_policy` without `priority_levels`",
        "instance-group-count": "a `count` below 1: Triton uses its default",
        "rate-limiter-resource": "a resource that is both global and per device: refused under `--rate-limit`",
        "ragged-without-batcher": "`allow_ragged_batch` on a model without a batcher",
        "response-cache-shape": "a cached answer may belong to a request with other shapes",
        "response-cache-outputs": "a cached answer may lack outputs that an earlier request did not ask for",
        "response-cache-parameters": "model.py reads request parameters, which are not part of the cache key",
        "repository-agent": "a repository agent is a file of the server, which the checker cannot see",
        "runtime-field": "`runtime` names a file of the server, which the checker cannot see",
        "parameter-unknown": "a parameter name that is close to one that the backend reads",
        "onnx-opset": "an opset or IR version that ONNX Runtime may not support",
        "onnx-accelerator-gpu": "an unknown GPU accelerator on a model that is refused only where there is a GPU",
        "stand-in-backend": "a field that NVIDIA's ONNX Runtime backend accepts and that `ebbtide serve` refuses",
        "warmup-input-unknown": "a warm-up input that the model does not have",
        "warmup-skipped": "a warm-up sample with batch size 0: Triton skips it",
        "python-finalize": "a `finalize` that Triton cannot call when it unloads the model: it logs an error",
        "python-output-unknown": "model.py sends an output that the config does not have",
        "python-input-unknown": "model.py reads an input that the config does not have",
    },
)
RULES: dict[str, Rule] = dict(sorted({**_ERRORS, **_WARNINGS}.items()))
"""Rules by id."""
