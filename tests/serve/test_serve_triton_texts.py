"""Each text that Ebbtide reads in Triton's messages and log is what the embedded server writes."""

import re
import socket
import urllib.request
from contextlib import contextmanager

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from deadlines import until
from ebbtide.interest import triton_texts
from ebbtide.serve import ModelLoadError, ServerConfig, ServerStartError, TritonServer
from servers import serving

# Answers once the file `open` lies in its folder; `started` says that it began.
GATED_MODEL = """
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.folder = Path(args["model_repository"])

    def execute(self, requests):
        (self.folder / "started").touch()
        while not (self.folder / "open").exists():
            time.sleep(0.01)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", np.zeros(1, np.float32))]) for _ in requests]
"""
REFUSING_MODEL = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        raise pb_utils.TritonModelException("no such weights")
"""
CONFIG = """
backend: "python"
input [{ name: "x" data_type: TYPE_FP32 dims: [1] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [1] }]
instance_group [{ kind: KIND_CPU }]
"""
QUEUE_OF_ONE = "dynamic_batching { default_queue_policy { max_queue_size: 1 } }"
# A request may ask for a shorter timeout than the default, never for a longer one.
QUEUE_WITH_TIMEOUTS = """
dynamic_batching { default_queue_policy {
  timeout_action: REJECT default_timeout_microseconds: 600000000 allow_timeout_override: true
} }
"""
ENSEMBLE = """
platform: "ensemble"
input [{ name: "x" data_type: TYPE_FP32 dims: [1] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [1] }]
ensemble_scheduling { step [{
  model_name: "refusing" model_version: -1
  input_map [{ key: "x" value: "x" }] output_map [{ key: "y" value: "y" }]
}] }
"""


def write_model(repository, name, config, code=None):
    version = repository / name / "1"
    version.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)
    if code is not None:
        (version / "model.py").write_text(code)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    write_model(folder, "queue_of_one", CONFIG + QUEUE_OF_ONE, GATED_MODEL)
    write_model(folder, "queue_with_timeouts", CONFIG + QUEUE_WITH_TIMEOUTS, GATED_MODEL)
    write_model(folder, "unloaded", CONFIG, GATED_MODEL)
    return folder


@contextmanager
def stub_of(server):
    with grpc.insecure_channel(server.grpc_url) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="module")
def server(repository):
    with serving(ServerConfig(repository, model_control="explicit", load_models=("*",))) as running:
        yield running


@pytest.fixture(scope="module")
def stub(server):
    with stub_of(server) as made:
        yield made


@pytest.fixture(scope="module")
def closed_stub(repository):
    """Of a server with model control "none" that asks for a header."""
    options = ("--grpc-restricted-protocol=inference:key=open",)
    with serving(ServerConfig(repository, extra_args=options)) as running, stub_of(running) as made:
        yield made


def request(model, version="", timeout_us=None):
    message = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    if timeout_us is not None:
        message.parameters["timeout"].int64_param = timeout_us
    message.inputs.add(name="x", datatype="FP32", shape=[1])
    message.raw_input_contents.append(np.zeros(1, np.float32).tobytes())
    return message


def message_of(call):
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().name, caught.value.details()


def pending(server, model):
    """Requests that wait in the model's queue, as the server counts them."""
    with urllib.request.urlopen(server.metrics_url) as answer:  # noqa: S310 - this server's own URL
        text = answer.read().decode()
    return float(re.search(rf'nv_inference_pending_request_count{{model="{model}".*}} (\S+)', text)[1])


def test_version_of_the_server_is_one_that_the_texts_were_seen_with(stub):
    assert stub.ServerMetadata(service_pb2.ServerMetadataRequest()).version in triton_texts.SEEN_WITH


def test_message_has_the_text_when_the_model_is_unknown(stub):
    code, message = message_of(lambda: stub.ModelInfer(request("no_such_model")))
    assert (code, triton_texts.UNKNOWN_MODEL in message) == ("NOT_FOUND", True)


def test_message_and_index_have_the_texts_when_a_model_was_unloaded(stub):
    stub.RepositoryModelUnload(service_pb2.RepositoryModelUnloadRequest(model_name="unloaded"))
    code, message = message_of(lambda: stub.ModelInfer(request("unloaded", "1")))
    assert (code, triton_texts.UNKNOWN_MODEL in message) == ("UNAVAILABLE", True)

    def reason():
        index = stub.RepositoryIndex(service_pb2.RepositoryIndexRequest()).models
        return next(model.reason for model in index if model.name == "unloaded")

    until(lambda: reason() == triton_texts.UNLOADED)


def test_message_has_the_text_when_the_queue_is_full(server, stub, repository):
    calls = [stub.ModelInfer.future(request("queue_of_one"))]
    try:
        until((repository / "queue_of_one" / "started").exists)
        calls.append(stub.ModelInfer.future(request("queue_of_one")))
        until(lambda: pending(server, "queue_of_one") == 1)
        code, message = message_of(lambda: stub.ModelInfer(request("queue_of_one")))
    finally:
        (repository / "queue_of_one" / "open").touch()
    assert (code, triton_texts.QUEUE_FULL in message) == ("UNAVAILABLE", True)
    assert [len(call.result().raw_output_contents) for call in calls] == [1, 1]


def test_message_has_the_text_when_a_request_waited_for_too_long(server, stub, repository):
    running = stub.ModelInfer.future(request("queue_with_timeouts"))
    try:
        until((repository / "queue_with_timeouts" / "started").exists)
        waiting = stub.ModelInfer.future(request("queue_with_timeouts", timeout_us=1))
        until(lambda: waiting.done() or pending(server, "queue_with_timeouts") == 1)
    finally:
        (repository / "queue_with_timeouts" / "open").touch()
    code, message = message_of(waiting.result)
    assert (code, triton_texts.QUEUE_TIMEOUT in message) == ("UNAVAILABLE", True)
    assert len(running.result().raw_output_contents) == 1


def test_message_has_the_text_when_a_shared_memory_region_is_unknown(stub):
    message = service_pb2.ModelInferRequest(model_name="queue_of_one")
    tensor = message.inputs.add(name="x", datatype="FP32", shape=[1])
    tensor.parameters["shared_memory_region"].string_param = "no-such-region"
    tensor.parameters["shared_memory_byte_size"].int64_param = 4
    code, said = message_of(lambda: stub.ModelInfer(message))
    assert (code, triton_texts.REGION_UNKNOWN in said) == ("NOT_FOUND", True)


def test_message_has_the_text_when_the_protocol_is_restricted(closed_stub):
    code, message = message_of(lambda: closed_stub.ModelInfer(request("queue_of_one")))
    assert (code, triton_texts.PROTOCOL_RESTRICTED in message) == ("UNAVAILABLE", True)


def test_message_has_the_text_when_models_may_not_be_loaded(closed_stub):
    load = service_pb2.RepositoryModelLoadRequest(model_name="queue_of_one")
    code, message = message_of(lambda: closed_stub.RepositoryModelLoad(load))
    assert (code, triton_texts.MODEL_CONTROL_OFF in message) == ("UNAVAILABLE", True)


def test_message_has_the_text_when_no_server_listens():
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        with grpc.insecure_channel(f"127.0.0.1:{held.getsockname()[1]}") as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            code, message = message_of(lambda: stub.ModelInfer(request("queue_of_one")))
    assert (code, triton_texts.NOT_CONNECTED in message) == ("UNAVAILABLE", True)


@pytest.fixture(scope="module")
def log_of_refusals(tmp_path_factory):
    """The log of a server that loads one model and refuses the others."""
    folder = tmp_path_factory.mktemp("refusals")
    write_model(folder, "good", CONFIG, GATED_MODEL)
    write_model(folder, "refusing", CONFIG, REFUSING_MODEL)
    write_model(folder, "ensemble", ENSEMBLE)
    write_model(folder, "misspelt", CONFIG.replace("instance_group", "instance_groups"), GATED_MODEL)
    path = folder.parent / f"{folder.name}.log"
    with pytest.raises(ModelLoadError):
        TritonServer(ServerConfig(folder, log_file=path)).start()
    return path.read_text().splitlines()


def found(pattern, lines):
    return {next(filter(None, match.groups())) for line in lines if (match := pattern.search(line))}


def test_log_has_the_texts_when_models_are_loaded_and_refused(log_of_refusals):
    assert found(triton_texts.LOG_LOADED, log_of_refusals) == {"good"}
    assert {"refusing", "ensemble"} <= found(triton_texts.LOG_LOAD_FAILED, log_of_refusals)
    (parser_message,) = found(triton_texts.LOG_CONFIG_NOT_PARSED, log_of_refusals)
    assert "instance_groups" in parser_message
    assert sum(map(bool, map(triton_texts.LOG_TABLE.match, log_of_refusals))) > 10


def test_errors_in_the_log_have_the_texts_when_models_are_refused(log_of_refusals):
    errors = [
        match[1].replace("\\n", "\n") for line in log_of_refusals if (match := triton_texts.LOG_ERROR.match(line))
    ]
    assert any(triton_texts.CONFIG_NOT_READ in error and "misspelt" in error for error in errors)
    refusals = [error for error in errors if triton_texts.PYTHON_EXCEPTION in error]
    assert any(triton_texts.PYTHON_STACK.search(refusal) for refusal in refusals)
    assert any(triton_texts.NESTED_REFUSAL.search(error) for error in errors)


def test_log_has_the_text_when_an_option_is_unknown(repository, tmp_path):
    log = tmp_path / "triton.log"
    with pytest.raises(ServerStartError):
        TritonServer(ServerConfig(repository, extra_args=("--no-such-option",), log_file=log)).start()
    assert triton_texts.LOG_USAGE in log.read_text()
