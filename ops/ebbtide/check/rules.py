"""The registry of rules: every finding carries the id of one of them, and its severity is the rule's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """How bad a finding is."""

    ERROR = "error"
    """Triton refuses the model, or a request fails."""
    WARNING = "warning"
    """It loads, and does what its author will not expect."""


@dataclass(frozen=True)
class Rule:
    """One thing that the checker looks for."""

    id: str
    severity: Severity
    summary: str
    """What is found, in a line of the documentation's table."""


def _rules(severity: Severity, summaries: dict[str, str]) -> dict[str, Rule]:
    return {identity: Rule(identity, severity, summary) for identity, summary in summaries.items()}


_ERRORS = _rules(
    Severity.ERROR,
    {
        # The config as a text, and what it says of the model.
        "config-syntax": "the text is no ModelConfig: braces, quotes, a field written twice",
        "config-unknown-field": "a field that ModelConfig does not have",
        "config-unknown-value": "a value that an enum does not have: `TYPE_FLOAT32`",
        "scheduling-choice": "more than one of `dynamic_batching`, `sequence_batching`, `ensemble_scheduling`",
        "model-name": "`name` differs from the folder's",
        "backend-missing": "no `backend`, no `platform`, and no model file that names one",
        "backend-platform": "a `platform` that does not exist, or is not that of the `backend`",
        "max-batch-size": "`max_batch_size` is negative",
        "batch-io": "a `batch_input` or `batch_output` that does not fit the tensors",
        "label-file": "`label_filename` names no file inside the model's folder",
        # Tensors.
        "tensor-name-missing": "an input or output without `name`",
        "tensor-data-type-missing": "an input or output without `data_type`",
        "tensor-dims-missing": "an input or output without `dims`",
        "tensor-dims": "a dimension that is neither -1 nor at least 1",
        "tensor-reshape": "`reshape` holds another number of elements than `dims`",
        "tensor-format": "`FORMAT_NHWC` or `FORMAT_NCHW` on other than 3 dims",
        "tensor-tensorrt-only": "a shape tensor or non-linear format outside TensorRT",
        "input-name-duplicate": "two inputs of one name: no request has the number of inputs that is asked for",
        "tensors-missing": "neither inputs nor outputs, on a backend that fills in none",
        # Folders and files.
        "version-missing": "no version that the version policy loads",
        "version-misread": "a folder that Triton takes for a version of another name (`2.old` is 2), or ends on",
        "model-file-missing": "a version without the file that its backend opens",
        "stray-folder": "a folder in the repository that Triton takes for a model",
        # Scheduling.
        "preferred-batch-size": "a preferred batch size below 1 or beyond `max_batch_size`",
        "queue-priority": "a priority level outside of 1 to `priority_levels`",
        "preserve-ordering": "`preserve_ordering` with priorities or delaying timeouts",
        "instance-group-gpus": "`gpus` on a group that is not KIND_GPU",
        "instance-group-profile": "`profile` outside TensorRT",
        "instance-group-passive": "passive instances only: the first request ends the server",
        "sequence-control": "a control input that is named, typed or chosen wrongly",
        "sequence-state": "an initial state that does not fit its state",
        "sequence-slots": "`minimum_slot_utilization` outside of 0 to 1",
        "response-cache": "a response cache on a sequence or decoupled model",
        # ONNX.
        "onnx-unreadable": "the file is no ONNX graph",
        "onnx-input-unknown": "an input that the graph does not have",
        "onnx-input-missing": "the graph needs an input that the config lacks",
        "onnx-output-unknown": "an output that the graph does not have",
        "onnx-data-type": "another data type than the graph's",
        "onnx-dims": "other dims than the graph's",
        "onnx-batch-dimension": "`max_batch_size` on a graph whose first axis is fixed",
        "onnx-optional-input": "an optional input of a batching ONNX model",
        "onnx-external-data": "weights in a file that is not there",
        "onnx-parameter": "a parameter whose value the backend cannot read",
        "ragged-graph": "`allow_ragged_batch` on a graph that does not take one flat tensor",
        # Ensembles.
        "ensemble-scheduling": "`ensemble_scheduling` without the platform `ensemble`, or the other way round",
        "ensemble-field": "instances, optimization or warm-up of an ensemble",
        "ensemble-no-steps": "an ensemble without steps",
        "ensemble-step-model": "a step whose model is not named, or not in the repository",
        "ensemble-step-version": "a step whose model does not load that version",
        "ensemble-step-maps": "a step without an `input_map` or `output_map`",
        "ensemble-map-key": "a map names a tensor that the step's model does not have",
        "ensemble-input-unmapped": "an input of a step's model that is not optional and not mapped",
        "ensemble-input-unused": "an input of the ensemble that no step reads",
        "ensemble-output-unwritten": "an output of the ensemble that no step writes",
        "ensemble-tensor-unwritten": "a step reads a tensor that nothing writes",
        "ensemble-tensor-written-twice": "a tensor that two steps write",
        "ensemble-tensor-unused": "a tensor that is written and never read",
        "ensemble-step-cycle": "steps that wait for each other",
        "ensemble-tensor-dtype": "one tensor, two data types",
        "ensemble-tensor-dims": "one tensor, dims that do not fit each other",
        "ensemble-batch-size": "a step that takes smaller batches than the ensemble",
        "ensemble-batch-lost": "a step without batches that gets the tensor of a batching one: batches beyond 1 fail",
        "ensemble-cycle": "an ensemble that contains itself",
        "ensemble-decoupled": "a step fed by two decoupled models",
        "ensemble-optional-input": "an optional input that a step needs: a request without it fails",
        # Warm-up.
        "warmup-dims": "a warm-up input whose dims are variable or do not fit",
        "warmup-data-type": "a warm-up input of another data type",
        "warmup-input-missing": "a warm-up request without a required input",
        "warmup-data": "a warm-up input without data, or with too few bytes of it",
        "warmup-batch-size": "more warm-up requests at once than the model takes",
        # Python models.
        "python-syntax": "model.py does not parse",
        "python-class": "model.py has no class TritonPythonModel",
        "python-execute": "TritonPythonModel has no `execute`",
        "python-environment": "EXECUTION_ENV_PATH names no file",
        "python-parameter": "a parameter whose value the Python backend refuses",
        "python-output-missing": "model.py never names an output of the config",
        "python-output-unknown": "model.py answers with an output that the config does not have",
    },
)
_WARNINGS = _rules(
    Severity.WARNING,
    {
        "repository-empty": "a repository without models",
        "stray-file": "a config or model file outside of any model's folder",
        "version-ignored": "a folder that is no version: Triton ignores it",
        "version-zero": "version 0, which a step of an ensemble gets when it names none",
        "version-policy-absent": "the policy names a version that is not there",
        "tensor-name-duplicate": "two outputs of one name: the last one counts",
        "batcher-without-batching": "`dynamic_batching` on a model with `max_batch_size: 0`",
        "map-key-duplicate": "a key that is written twice in a map: the last entry counts",
        "queue-policy-ignored": "queue policies by priority without `priority_levels`",
        "instance-group-count": "a count below 1: Triton takes its default",
        "rate-limiter-resource": "one resource, both global and not: refused under `--rate-limit`",
        "ragged-without-batcher": "`allow_ragged_batch` where nothing batches",
        "response-cache-shape": "cached answers of two shapes that share their bytes",
        "response-cache-outputs": "cached answers lack the outputs that an earlier request did not ask for",
        "response-cache-parameters": "cached, and model.py reads request parameters, which are not in the key",
        "runtime-field": "`runtime` names a library of the server that cannot be seen from here",
        "parameter-unknown": "a parameter that is nearly one the backend reads",
        "onnx-opset": "an opset or IR version that an ONNX Runtime may not read",
        "stand-in-backend": "what NVIDIA's ONNX Runtime backend serves and Ebbtide's stand-in refuses",
        "warmup-input-unknown": "a warm-up input that the model does not have",
        "warmup-skipped": "a warm-up sample of batch size 0: it is skipped",
        "python-input-unknown": "model.py reads an input that the config does not have",
    },
)
RULES: dict[str, Rule] = dict(sorted({**_ERRORS, **_WARNINGS}.items()))
"""Every rule by its id."""
