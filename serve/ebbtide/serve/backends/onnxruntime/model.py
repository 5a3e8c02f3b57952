"""The backend `onnxruntime` on Python's onnxruntime, a stand-in for NVIDIA's C++ backend of that name.

Triton runs this file in a Python stub for every model whose config says ``backend: "onnxruntime"``. So the same model
repository can be served on a machine without the C++ backend and in NVIDIA's container. The stand-in reads the same
configuration, refuses the same configs with the same messages and the same requests, and batches in the same way; it
refuses at load what it does not support. Of a request that fails in the graph it says which input is wrong. It imports
nothing of Ebbtide, because this folder is copied into the server without it.

It has one additional parameter, ``split_rows_by_length``: the mask by which rows of similar length run together
(`row_lengths`). The C++ backend ignores it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).resolve().parent))

from row_lengths import check_split, run_by_length
from run_faults import fault_of
from text_elements import BadInputError, byte_elements, to_text

_DATA_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32",
    "tensor(uint64)": "TYPE_UINT64",
    "tensor(int8)": "TYPE_INT8",
    "tensor(int16)": "TYPE_INT16",
    "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
    "tensor(double)": "TYPE_FP64",
    "tensor(string)": "TYPE_STRING",
}
_GRAPH_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
}
_SPINNING = ("session.intra_op.allow_spinning", "session.inter_op.allow_spinning")
_ARENA_SHRINKAGE = "memory.enable_memory_arena_shrinkage"
_SPLIT_ROWS = "split_rows_by_length"
_CUDA, _TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
_TENSORRT_PRECISIONS = {"FP32": None, "FP16": "trt_fp16_enable", "BF16": "trt_bf16_enable", "INT8": "trt_int8_enable"}
_TENSORRT_RENAMED = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
_TENSORRT_BOOLEANS = frozenset(
    f"trt_{name}"
    for name in (
        *("dla_enable", "engine_cache_enable", "dump_subgraphs", "force_sequential_engine_build"),
        *("context_memory_sharing_enable", "layer_norm_fp32_fallback", "timing_cache_enable", "force_timing_cache"),
        *("detailed_build_log", "build_heuristics_enable", "sparsity_enable", "cuda_graph_enable"),
        *("dump_ep_context_model", "int8_use_native_calibration_table"),
    )
)
_TENSORRT_OTHERS = frozenset(
    f"trt_{name}"
    for name in (
        *("max_workspace_size", "max_partition_iterations", "min_subgraph_size", "dla_core", "engine_cache_path"),
        *("engine_cache_prefix", "timing_cache_path", "builder_optimization_level", "auxiliary_streams"),
        *("tactic_sources", "extra_plugin_lib_paths", "profile_min_shapes", "profile_max_shapes"),
        *("profile_opt_shapes", "ep_context_file_path", "ep_context_embed_mode", "int8_calibration_table_name"),
    )
)
_NO_TYPE = "TYPE_INVALID"
_AUTOFILL_MAX_BATCH_SIZE = 4
"""Triton's ``default-max-batch-size``, which the Python backend does not pass on to its models."""

Config = Mapping[str, Any]
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Node:
    """An input or output of the graph; a symbolic dimension is -1."""

    data_type: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class _Call:
    """A valid request."""

    index: int
    feeds: dict[str, Array]
    outputs: frozenset[str]

    @property
    def rows(self) -> int:
        return int(next(iter(self.feeds.values())).shape[0])


class TritonPythonModel:
    """One instance of one ONNX model."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:  # noqa: ANN401 - Triton's own class, which carries no types
        """Adds the tensors to a config that lacks them, as the C++ backend does."""
        written = config.as_dict()
        tensors = [*written.get("input", []), *written.get("output", [])]
        is_complete = all(one["dims"] and one["data_type"] != _NO_TYPE for one in tensors)
        if written.get("input") and written.get("output") and is_complete:
            return config
        path = model_path(written, Path(pb_utils.get_model_dir()))
        session = ort.InferenceSession(str(path), session_options(written), providers=["CPUExecutionProvider"])
        inputs, outputs = nodes(session.get_inputs()), nodes(session.get_outputs())
        # A tensor of rank one has no dimension besides the batch; it would need a reshape, which cannot be filled in.
        batching = all(len(node.shape) > 1 and node.shape[0] == -1 for node in (*inputs.values(), *outputs.values()))
        if not written["max_batch_size"]:
            # Dims with the batch axis say that the model does not batch.
            ranks = {name: len(node.shape) for name, node in (*inputs.items(), *outputs.items())}
            batching = batching and all(len(one["dims"]) < ranks.get(one["name"], 0) for one in tensors if one["dims"])
        if written["max_batch_size"] and not batching:
            raise pb_utils.TritonModelException(
                f"autofill failed for model '{written['name']}': model does not support batching while non-zero "
                "max_batch_size is specified"
            )
        if batching and not written["max_batch_size"]:
            config.set_max_batch_size(_AUTOFILL_MAX_BATCH_SIZE)
        if batching and "sequence_batching" not in written:
            config.set_dynamic_batching()
        for section, found, add in (("input", inputs, config.add_input), ("output", outputs, config.add_output)):
            given = {one["name"]: one for one in written.get(section, [])}
            for name, node in found.items():
                if given and name not in given:
                    continue
                one = given.get(name, {"dims": [], "data_type": _NO_TYPE})
                dims = one["dims"] or list(node.shape[1:] if batching else node.shape) or [1]
                data_type = node.data_type if one["data_type"] == _NO_TYPE else one["data_type"]
                add({"name": name, "data_type": data_type, "dims": dims})
        return config

    def initialize(self, args: Mapping[str, str]) -> None:
        """Loads the session and checks it against the config.

        Raises:
            TritonModelException: The config does not fit the graph, or needs something that this machine lacks.
        """
        # The stub calls this function for each string tensor: its own takes 17 us for 50 ids, this one 8 us.
        pb_utils.serialize_byte_tensor = byte_elements
        config: Config = json.loads(args["model_config"])
        self._name: str = args["model_name"]
        self._max_batch_size: int = config["max_batch_size"]
        try:
            path = model_path(config, Path(args["model_repository"]) / args["model_version"])
            wanted = providers(config, args["model_instance_kind"], args["model_instance_device_id"])
            self._session = ort.InferenceSession(str(path), session_options(config), providers=wanted)
            check_providers(wanted, self._session.get_providers())
            check_config(config, self._session)
            mask = _parameter(config, _SPLIT_ROWS)
            inputs, outputs = nodes(self._session.get_inputs()), nodes(self._session.get_outputs())
            if mask is not None:
                check_split(mask, inputs, outputs, batching=self._max_batch_size > 0)
        except Exception as error:
            message = str(error)
            prefix = "" if f"'{self._name}'" in message else f"unable to load model '{self._name}', "
            raise pb_utils.TritonModelException(f"{prefix}{message}") from None
        self._run_options = run_options(config)
        self._outputs = [entry["name"] for entry in config["output"]]
        # An accelerator computes all rows at once, so padding costs less than another run.
        self._split_mask = mask if args["model_instance_kind"] == "CPU" else None
        self._strings = {name for name, node in inputs.items() if node.data_type == "TYPE_STRING"}
        # The C++ backend gives a scalar the dims of its config.
        self._scalars = {
            entry["name"]: config_dims(entry) for entry in config["output"] if not outputs[entry["name"]].shape
        }

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Answers every request; a model that batches runs once for all valid requests."""
        responses: list[Any] = [None] * len(requests)
        calls: list[_Call] = []
        for index, request in enumerate(requests):
            # is_cancelled() is not called: Triton itself drops requests that are cancelled in the queue, and a run
            # cannot be stopped. Each call would be a round trip to the server (80 us, a third of a small run).
            try:
                calls.append(_Call(index, self._feeds(request), frozenset(request.requested_output_names())))
            except BadInputError as error:
                responses[index] = self._refusal(str(error), pb_utils.TritonError.INVALID_ARG)
        for group in [calls] if self._max_batch_size and calls else [[call] for call in calls]:
            self._answer(group, responses)
        return responses

    def finalize(self) -> None:
        """Releases the session."""
        del self._session

    def _feeds(self, request: Any) -> dict[str, Array]:  # noqa: ANN401 - Triton's own class, which carries no types
        feeds: dict[str, Array] = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        for name in self._strings & feeds.keys():
            feeds[name] = to_text(name, feeds[name])
        return feeds

    def _answer(self, group: Sequence[_Call], responses: list[Any]) -> None:
        """Runs a group of calls together; if that fails, runs each call alone, so that only invalid calls fail."""
        try:
            answers = self._run(group)
        except Exception as error:
            if len(group) > 1:
                for call in group:
                    self._answer([call], responses)
                return
            said, is_callers = fault_of(error, group[0].feeds)
            code = pb_utils.TritonError.INVALID_ARG if is_callers else pb_utils.TritonError.INTERNAL
            responses[group[0].index] = self._refusal(said, code)
            return
        for call, tensors in zip(group, answers, strict=True):
            responses[call.index] = pb_utils.InferenceResponse(tensors)

    def _run(self, group: Sequence[_Call]) -> list[list[Any]]:
        """The output tensors of each call, from one run of the session."""
        wanted = [name for name in self._outputs if any(name in call.outputs for call in group)]
        if not wanted:
            return [[] for _ in group]
        feeds = group[0].feeds
        if len(group) > 1:
            feeds = {name: np.concatenate([call.feeds[name] for call in group]) for name in feeds}

        def run(run_feeds: dict[str, Array]) -> Sequence[Array]:
            outputs: Sequence[Array] = self._session.run(wanted, run_feeds, self._run_options)
            return outputs

        mask = self._split_mask
        results = dict(zip(wanted, run(feeds) if mask is None else run_by_length(run, feeds, mask), strict=True))
        for name, dims in self._scalars.items():
            if name in results:
                results[name] = results[name].reshape(dims)
        if self._max_batch_size:
            rows = sum(call.rows for call in group)
            for name, result in results.items():
                if result.shape[0] != rows:
                    raise ValueError(f"output '{name}' has {result.shape[0]} rows for a batch of {rows}")
        if len(group) == 1:
            return [[pb_utils.Tensor(name, results[name]) for name in wanted]]
        answers: list[list[Any]] = []
        start = 0
        for call in group:
            stop = start + call.rows
            answers.append(
                [pb_utils.Tensor(name, results[name][start:stop]) for name in wanted if name in call.outputs]
            )
            start = stop
        return answers

    def _refusal(self, message: str, code: int) -> Any:  # noqa: ANN401 - Triton's own class, which carries no types
        # An ensemble's error does not say which of its models failed.
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(f"{self._name}: {message}", code))


def model_path(config: Config, version_folder: Path) -> Path:
    """The ONNX file: ``default_model_filename`` or ``model.onnx``; if that is a folder, ``model.onnx`` in it."""
    path = version_folder / (config.get("default_model_filename") or "model.onnx")
    if path.is_dir():
        path = path / "model.onnx"
    if not path.is_file():
        raise ValueError(f"unable to find '{path}' for model '{config['name']}'")
    return path


def providers(config: Config, kind: str, device_id: str) -> list[Any]:
    """The execution providers for an instance kind (``CPU`` or ``GPU``), with the options of the accelerators.

    Raises:
        ValueError: The C++ backend does not know an accelerator or a parameter, or a provider is not installed.
    """
    accelerators = config.get("optimization", {}).get("execution_accelerators", {})
    if kind != "GPU":
        if named := accelerators.get("cpu_execution_accelerator"):
            # NVIDIA's images have no OpenVINO and give the same message.
            raise ValueError(f"unknown Execution Accelerator '{named[0]['name']}' is requested")
        return ["CPUExecutionProvider"]
    chosen: list[Any] = []
    cuda: dict[str, str] = {}
    for entry in accelerators.get("gpu_execution_accelerator", ()):
        if entry["name"] == "tensorrt":
            _require_provider(_TENSORRT, "names the accelerator tensorrt")
            chosen.append((_TENSORRT, {**tensorrt_options(entry.get("parameters", {})), "device_id": device_id}))
        elif entry["name"] == "cuda":
            cuda |= {key: value for key, value in entry.get("parameters", {}).items() if value}
        else:
            raise ValueError(f"unknown Execution Accelerator '{entry['name']}' is requested")
    _require_provider(_CUDA, "has an instance group of KIND_GPU")
    return [*chosen, (_CUDA, {**cuda, "device_id": device_id}), "CPUExecutionProvider"]


def check_providers(wanted: Sequence[Any], used: Sequence[str]) -> None:
    """Refuses a session that lacks a requested provider: onnxruntime ignores a provider whose libraries do not load."""
    for provider in wanted:
        if isinstance(provider, tuple) and provider[0] not in used:
            raise ValueError(f"onnxruntime could not start {provider[0]}: the log above names the missing library")


def tensorrt_options(parameters: Mapping[str, str]) -> dict[str, str]:
    """ONNX Runtime's options for the parameters of the accelerator ``tensorrt``, as the C++ backend maps them.

    Raises:
        ValueError: The C++ backend does not know a parameter.
    """
    options: dict[str, str] = {}
    for key, value in parameters.items():
        if key == "precision_mode":
            if value not in _TENSORRT_PRECISIONS:
                raise ValueError(f"unsupported precision mode '{value}' is requested")
            if option := _TENSORRT_PRECISIONS[value]:
                options[option] = "True"
            continue
        option = _TENSORRT_RENAMED.get(key, key)
        if option in _TENSORRT_BOOLEANS:
            # Python's onnxruntime accepts only "True" and "False".
            options[option] = str(_boolean(key, value))
        elif option in _TENSORRT_OTHERS and key not in _TENSORRT_RENAMED.values():
            options[option] = value
        else:
            raise ValueError(f"unknown parameter '{key}' is provided for TensorRT Execution Accelerator")
    return options


def _require_provider(name: str, reason: str) -> None:
    available = ort.get_available_providers()
    if name not in available:
        raise ValueError(
            f"its config {reason}, but onnxruntime here has no {name} (it has {', '.join(available)}): install "
            "onnxruntime-gpu with its libraries, or serve a config for this machine (KIND_CPU)"
        )


def session_options(config: Config) -> Any:  # noqa: ANN401 - onnxruntime carries no types
    """The session options of a model's ``optimization`` and ``parameters``."""
    options = ort.SessionOptions()
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    options.graph_optimization_level = _GRAPH_LEVELS.get(level, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    mode = _integer(config, "execution_mode")
    if mode not in (0, 1):
        raise ValueError(
            f"Invalid configuration value provided. Expected values for execution_mode are 0 or 1 but got {mode}"
        )
    options.execution_mode = ort.ExecutionMode.ORT_PARALLEL if mode else ort.ExecutionMode.ORT_SEQUENTIAL
    # With zero or less ONNX Runtime chooses the number.
    if (count := _integer(config, "intra_op_thread_count")) > 0:
        options.intra_op_num_threads = count
    if (count := _integer(config, "inter_op_thread_count")) > 0:
        options.inter_op_num_threads = count
    if (value := _parameter(config, "enable_mem_arena")) is not None:
        options.enable_cpu_mem_arena = _boolean("enable_mem_arena", value)
    if (value := _parameter(config, "enable_mem_pattern")) is not None:
        options.enable_mem_pattern = _boolean("enable_mem_pattern", value)
    # Every instance is a process with its own session: idle threads that spin use cores that other instances need.
    entries = dict.fromkeys(_SPINNING, "0")
    entries |= {
        key: _parameter(config, key) or "" for key in config.get("parameters", {}) if key.startswith("session.")
    }
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    return options


def run_options(config: Config) -> Any:  # noqa: ANN401 - onnxruntime carries no types
    """The run options of a model's ``parameters``, or None."""
    value = _parameter(config, _ARENA_SHRINKAGE)
    if value is None:
        return None
    options = ort.RunOptions()
    options.add_run_config_entry(_ARENA_SHRINKAGE, value)
    return options


def nodes(arguments: Iterable[Any]) -> dict[str, _Node]:
    """The session's inputs or outputs by name."""
    return {
        argument.name: _Node(
            _DATA_TYPES.get(argument.type, argument.type),
            tuple(size if isinstance(size, int) and size >= 0 else -1 for size in argument.shape),
        )
        for argument in arguments
    }


def check_config(config: Config, session: Any) -> None:  # noqa: ANN401 - onnxruntime carries no types
    """Refuses a config that does not fit the graph, in the order and with the messages of the C++ backend.

    Raises:
        ValueError: The config does not fit the graph.
    """
    name, max_batch_size = config["name"], config["max_batch_size"]
    for feature in ("sequence_batching", "batch_input", "batch_output"):
        if config.get(feature):
            raise ValueError(
                f"unable to load model '{name}', {feature} is not supported by Ebbtide's stand-in ONNX Runtime "
                "backend: serve this model with NVIDIA's own"
            )
    required = nodes(session.get_inputs())
    inputs = {**required, **nodes(session.get_overridable_initializers())}
    for entry in config["input"]:
        if entry.get("optional") and max_batch_size:
            raise ValueError(
                f"unable to load model '{name}', optional input '{entry['name']}' is not supported for models that "
                "support batching"
            )
        if entry.get("allow_ragged_batch"):
            raise ValueError(
                f"unable to load model '{name}', input '{entry['name']}' says allow_ragged_batch, which needs a graph "
                "that takes one flat tensor for the whole batch: Ebbtide's stand-in ONNX Runtime backend has none"
            )
        _check_tensor(config, "input", entry, inputs)
    written = {entry["name"] for entry in config["input"] if not entry.get("optional")}
    if missing := sorted(required.keys() - {entry["name"] for entry in config["input"]}):
        raise ValueError(
            f"unable to load model '{name}', configuration expects {len(written)} inputs, model provides "
            f"{len(required)}: the configuration lacks '{', '.join(missing)}'"
        )
    outputs = nodes(session.get_outputs())
    for entry in config["output"]:
        _check_tensor(config, "output", entry, outputs)


def _check_tensor(config: Config, section: str, entry: Config, found: Mapping[str, _Node]) -> None:
    name, tensor = config["name"], entry["name"]
    if tensor not in found:
        raise ValueError(
            f"unable to load model '{name}', unexpected inference {section} '{tensor}', allowed {section}s are: "
            f"{', '.join(sorted(found))}"
        )
    node = found[tensor]
    if entry["data_type"] != node.data_type:
        raise ValueError(
            f"unable to load model '{name}', configuration expects datatype {entry['data_type']} for {section} "
            f"'{tensor}', model provides {node.data_type}"
        )
    dims = config_dims(entry)
    if not node.shape and not config["max_batch_size"]:
        if any(dim != 1 for dim in dims):
            raise ValueError(
                f"unable to load model '{name}', scalar tensor '{tensor}', should only provide 1 in the model "
                f"configuration when the model doesn't support batching. Model configuration provided: {_shown(dims)}."
            )
        return
    if config["max_batch_size"] and (not node.shape or node.shape[0] != -1):
        raise ValueError(
            f"model '{name}', tensor '{tensor}': for the model to support batching the shape should have at least 1 "
            "dimension and the first dimension must be -1; but shape expected by the model is "
            f"{_shown(node.shape)}"
        )
    full = (-1, *dims) if config["max_batch_size"] else dims
    # An input may have narrower dims than the graph; an output must have the dims of the graph.
    fits = len(full) == len(node.shape) and all(
        dim == size or (section == "input" and size == -1) for dim, size in zip(full, node.shape, strict=True)
    )
    if not fits:
        batch = (
            f"(an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, making "
            f"complete shape {_shown(full)})"
            if config["max_batch_size"]
            else f"(shape {_shown(full)})"
        )
        raise ValueError(
            f"model '{name}', tensor '{tensor}': the model expects {len(node.shape)} dimensions (shape "
            f"{_shown(node.shape)}) but the model configuration specifies {len(full)} dimensions {batch}"
        )


def config_dims(entry: Config) -> tuple[int, ...]:
    """The dims of a tensor in the graph: those of ``reshape`` if the config has it."""
    return tuple(int(dim) for dim in (entry["reshape"]["shape"] if "reshape" in entry else entry["dims"]))


def _parameter(config: Config, key: str) -> str | None:
    entry = config.get("parameters", {}).get(key)
    return None if entry is None else str(entry["string_value"])


def _integer(config: Config, key: str) -> int:
    value = _parameter(config, key) or "0"
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"parameter {key} is '{value}', expected an integer") from None


def _boolean(key: str, value: str) -> bool:
    if value.lower() not in ("0", "1", "false", "true"):
        raise ValueError(f"parameter {key} is '{value}', expected 0, 1, false or true")
    return value.lower() in ("1", "true")


def _shown(shape: Sequence[int]) -> str:
    return f"[{','.join(str(size) for size in shape)}]"
