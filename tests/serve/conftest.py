"""Tiny ONNX models, repositories of them, and one running server for this folder."""

from __future__ import annotations

import queue
import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc as triton
from onnx import TensorProto as T
from onnx import helper

from deadlines import until
from ebbtide.serve import ServerConfig, TritonServer
from servers import mark_complete, serving


def _graph(nodes, inputs, outputs, initializers=()) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*info) for info in inputs],
        [helper.make_tensor_value_info(*info) for info in outputs],
        list(initializers),
    )
    # The oldest versions that have all that is used here, so that any onnxruntime reads them.
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def add_model(batch: str | int = "n") -> onnx.ModelProto:
    """sum = a + b and product = a * b, over three numbers for each row."""
    return _graph(
        [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Mul", ["a", "b"], ["product"])],
        [("a", T.FLOAT, [batch, 3]), ("b", T.FLOAT, [batch, 3])],
        [("sum", T.FLOAT, [batch, 3]), ("product", T.FLOAT, [batch, 3])],
    )


def gather_model() -> onnx.ModelProto:
    """name = names[index]: an index of 3 or more is an error when it runs."""
    names = helper.make_tensor("names", T.STRING, [3], [text.encode() for text in ("zero", "één", "")])
    return _graph(
        [helper.make_node("Gather", ["names", "index"], ["name"])],
        [("index", T.INT64, ["n", 2])],
        [("name", T.STRING, ["n", 2])],
        [names],
    )


def echo_model() -> onnx.ModelProto:
    """text_out = text_in."""
    return _graph(
        [helper.make_node("Identity", ["text_in"], ["text_out"])],
        [("text_in", T.STRING, ["n", "m"])],
        [("text_out", T.STRING, ["n", "m"])],
    )


def total_model() -> onnx.ModelProto:
    """total = the sum of a vector, a scalar."""
    return _graph(
        [helper.make_node("ReduceSum", ["values"], ["total"], keepdims=0)],
        [("values", T.FLOAT, ["m"])],
        [("total", T.FLOAT, [])],
    )


def masked_model(tokens: str | int = "m") -> onnx.ModelProto:
    """total = the sum of each row's values that its mask leaves; seen = the columns that the row was run with."""
    return _graph(
        [
            helper.make_node("Cast", ["mask"], ["factor"], to=T.FLOAT),
            helper.make_node("Mul", ["values", "factor"], ["left"]),
            helper.make_node("ReduceSum", ["left", "columns"], ["total"]),
            helper.make_node("Equal", ["mask", "mask"], ["same"]),
            helper.make_node("Cast", ["same"], ["one"], to=T.INT64),
            helper.make_node("ReduceSum", ["one", "columns"], ["seen"]),
        ],
        [("values", T.FLOAT, ["n", tokens]), ("mask", T.INT64, ["n", tokens])],
        [("total", T.FLOAT, ["n", 1]), ("seen", T.INT64, ["n", 1])],
        [helper.make_tensor("columns", T.INT64, [1], [1])],
    )


ADD_CONFIG = """
backend: "onnxruntime"
max_batch_size: 16
input [{ name: "a" data_type: TYPE_FP32 dims: [3] }, { name: "b" data_type: TYPE_FP32 dims: [3] }]
output [{ name: "sum" data_type: TYPE_FP32 dims: [3] }, { name: "product" data_type: TYPE_FP32 dims: [3] }]
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching { max_queue_delay_microseconds: 1000000 }
parameters [{ key: "intra_op_thread_count" value: { string_value: "1" } }]
"""
ADD_SINGLE_CONFIG = ADD_CONFIG.replace("dynamic_batching { max_queue_delay_microseconds: 1000000 }", "")
ADD_FIXED_CONFIG = ADD_SINGLE_CONFIG.replace("max_batch_size: 16", "max_batch_size: 0").replace("[3]", "[2, 3]")
GATHER_CONFIG = """
backend: "onnxruntime"
max_batch_size: 16
input [{ name: "index" data_type: TYPE_INT64 dims: [2] }]
output [{ name: "name" data_type: TYPE_STRING dims: [2] }]
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching { max_queue_delay_microseconds: 1000000 preferred_batch_size: [8] }
"""
ECHO_CONFIG = """
backend: "onnxruntime"
max_batch_size: 16
input [{ name: "text_in" data_type: TYPE_STRING dims: [-1] }]
output [{ name: "text_out" data_type: TYPE_STRING dims: [-1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching { max_queue_delay_microseconds: 1000000 preferred_batch_size: [4] }
"""
TOTAL_CONFIG = """
backend: "onnxruntime"
input [{ name: "values" data_type: TYPE_FP32 dims: [-1] }]
output [{ name: "total" data_type: TYPE_FP32 dims: [1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
"""

MASKED_CONFIG = """
backend: "onnxruntime"
max_batch_size: 64
input [{ name: "values" data_type: TYPE_FP32 dims: [-1] }, { name: "mask" data_type: TYPE_INT64 dims: [-1] }]
output [{ name: "total" data_type: TYPE_FP32 dims: [1] }, { name: "seen" data_type: TYPE_INT64 dims: [1] }]
instance_group [{ kind: KIND_CPU count: 1 }]
dynamic_batching { max_queue_delay_microseconds: 1000000 }
parameters [{ key: "split_rows_by_length" value: { string_value: "mask" } }]
"""


def add_to_repository(repository: Path, name: str, model: onnx.ModelProto, config: str) -> None:
    """Writes one model as version 1."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    onnx.save(model, version / "model.onnx")
    (repository / name / "config.pbtxt").write_text(config)


# A stub that imports no onnxruntime: for tests that are about processes.
ECHO_PYTHON = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        tensors = [pb_utils.get_input_tensor_by_name(request, "x") for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", tensor.as_numpy())]) for tensor in tensors]
"""
ECHO_PYTHON_CONFIG = """
backend: "python"
input [{ name: "x" data_type: TYPE_FP32 dims: [-1] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [-1] }]
instance_group [{ kind: KIND_CPU }]
"""


def add_python_model(repository: Path, name: str) -> None:
    """Writes a Python model that gives its input back."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(ECHO_PYTHON)
    (repository / name / "config.pbtxt").write_text(ECHO_PYTHON_CONFIG)


@dataclass
class Models:
    """What the tests need to write repositories of their own."""

    add: Callable[..., onnx.ModelProto] = add_model
    gather: Callable[..., onnx.ModelProto] = gather_model
    add_config: str = ADD_CONFIG
    write: Callable[[Path, str, onnx.ModelProto, str], None] = field(default=add_to_repository)
    write_python: Callable[[Path, str], None] = field(default=add_python_model)


@pytest.fixture(scope="session")
def models() -> Models:
    return Models()


@pytest.fixture(scope="session")
def good_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("repository")
    add_to_repository(repository, "add", add_model(), ADD_CONFIG)
    add_to_repository(repository, "add_single", add_model(), ADD_SINGLE_CONFIG)
    add_to_repository(repository, "add_fixed", add_model(2), ADD_FIXED_CONFIG)
    add_to_repository(
        repository, "add_bare", add_model(), 'backend: "onnxruntime"\ninstance_group [{ kind: KIND_CPU }]\n'
    )
    add_to_repository(repository, "gather", gather_model(), GATHER_CONFIG)
    patient = GATHER_CONFIG.replace("max_queue_delay_microseconds: 1000000", "max_queue_delay_microseconds: 5000000")
    add_to_repository(repository, "gather_patient", gather_model(), patient)
    add_to_repository(repository, "echo", echo_model(), ECHO_CONFIG)
    add_to_repository(repository, "total", total_model(), TOTAL_CONFIG)
    add_to_repository(repository, "masked", masked_model(), MASKED_CONFIG)
    add_python_model(repository, "python")
    return repository


@pytest.fixture(scope="session")
def server(good_repository: Path) -> Iterator[TritonServer]:
    with serving(ServerConfig(good_repository)) as running:
        yield running


_DTYPES = {"f": "FP32", "i": "INT64", "O": "BYTES"}


@dataclass
class Pending:
    """A request under way; calling it waits, and returns the outputs or the error."""

    answers: queue.Queue[Any]
    cancel: Callable[[], None]

    def __call__(self) -> Any:
        answer = self.answers.get(timeout=300)
        if isinstance(answer, Exception):
            return answer
        return {entry.name: answer.as_numpy(entry.name) for entry in answer.get_response().outputs}


class Client:
    """Sends NumPy arrays and gives NumPy arrays back."""

    def __init__(self, url: str, metrics_url: str) -> None:
        self.stub = triton.InferenceServerClient(url)
        self._metrics_url = metrics_url

    def infer(
        self, model: str, inputs: dict[str, np.ndarray], outputs: list[str] | None = None
    ) -> dict[str, np.ndarray]:
        answer = self.stub.infer(model, self._tensors(inputs), outputs=self._requested(outputs), client_timeout=300)
        return {entry.name: answer.as_numpy(entry.name) for entry in answer.get_response().outputs}

    def start(self, model: str, inputs: dict[str, np.ndarray], outputs: list[str] | None = None) -> Pending:
        """Sends without waiting."""
        answers: queue.Queue[Any] = queue.Queue()
        call = self.stub.async_infer(
            model,
            self._tensors(inputs),
            callback=lambda result, error: answers.put(error or result),
            outputs=self._requested(outputs),
            client_timeout=300,
        )
        return Pending(answers, call.cancel)

    def counts(self, model: str) -> tuple[int, int]:
        """Inferences and executions so far, once they stand still: Triton answers a little before it counts."""
        earlier = None
        while True:
            statistics = self.stub.get_inference_statistics(model).model_stats[0]
            found = statistics.inference_count, statistics.execution_count
            if found == earlier:
                return found
            earlier = found
            time.sleep(0.05)

    def wait_until_queued(self, model: str, requests: int) -> None:
        """Returns once so many requests wait in the model's queue, as the server counts them."""
        pattern = re.compile(rf'nv_inference_pending_request_count{{model="{model}".*}} (\S+)')

        def are_queued() -> bool:
            with urllib.request.urlopen(self._metrics_url) as answer:  # noqa: S310 - this server's own URL
                return float(pattern.search(answer.read().decode())[1]) == requests

        until(are_queued)

    @staticmethod
    def _tensors(inputs: dict[str, np.ndarray]) -> list[triton.InferInput]:
        tensors = []
        for name, array in inputs.items():
            tensor = triton.InferInput(name, list(array.shape), _DTYPES[array.dtype.kind])
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        return tensors

    @staticmethod
    def _requested(outputs: list[str] | None) -> list[triton.InferRequestedOutput] | None:
        return None if outputs is None else [triton.InferRequestedOutput(name) for name in outputs]


@pytest.fixture(scope="session")
def client(server: TritonServer) -> Iterator[Client]:
    client = Client(server.grpc_url, server.metrics_url)
    yield client
    client.stub.close()


@pytest.fixture
def repository(tmp_path, models) -> Path:
    """One Python model, `echo`."""
    models.write_python(tmp_path / "repository", "echo")
    mark_complete(tmp_path / "repository")
    return tmp_path / "repository"
