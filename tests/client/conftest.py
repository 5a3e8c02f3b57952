"""Servers for the client's tests: real Tritons, and plain gRPC servers that fail as told."""

import asyncio
import inspect
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import grpc
import numpy as np
import polars as pl
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from deadlines import PATIENT
from ebbtide.client import AsyncInterestClient, InterestClient
from ebbtide.interest.contract import FINGERPRINT_PARAMETER
from ebbtide.serve import ServerConfig
from servers import mark_complete, serving

_USED_PORTS = set()


class Awaited:
    """An `AsyncInterestClient` whose methods are run to their end, so that one test reads the same for both clients."""

    def __init__(self, *arguments, **keywords):
        self._client = AsyncInterestClient(*arguments, **keywords)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def __getattr__(self, name):
        attribute = getattr(self._client, name)
        if not inspect.iscoroutinefunction(attribute):
            return attribute

        def run(*arguments, **keywords):
            return asyncio.run_coroutine_threadsafe(attribute(*arguments, **keywords), self._loop).result()

        return run

    def __repr__(self):
        return repr(self._client)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(params=[InterestClient, Awaited], ids=["sync", "async"])
def connect(request):
    """Makes a client of either kind, a context manager with blocking methods; patient if nothing else is said."""

    def make(server, *, config=PATIENT):
        return request.param(server, config=config)

    make.kind = request.param
    return make


class FaultyServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Ends each inference with the next of the given faults: (status, message), an event to wait for, or an answer."""

    def __init__(self, *faults):
        self.faults = list(faults)
        self.calls = 0
        self.ready = iter([True])
        self.metadata = []
        self.timeouts_s = []
        self.config = None
        self.config_calls = 0

    def ModelInfer(self, request, context):  # noqa: ARG002, N802
        self.calls += 1
        self.metadata.append(dict(context.invocation_metadata()))
        self.timeouts_s.append(context.time_remaining())
        fault = self.faults.pop(0) if len(self.faults) > 1 else self.faults[0]
        if isinstance(fault, threading.Event):
            fault.wait(30)
        elif isinstance(fault, tuple):
            context.abort(*fault)
        return fault if isinstance(fault, service_pb2.ModelInferResponse) else service_pb2.ModelInferResponse()

    def ModelConfig(self, request, context):  # noqa: ARG002, N802
        self.config_calls += 1
        if self.config is None:
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such method")
        return service_pb2.ModelConfigResponse(config=self.config)

    def ModelReady(self, request, context):  # noqa: ARG002, N802
        ready = next(self.ready)
        if isinstance(ready, tuple):
            context.abort(*ready)
        return service_pb2.ModelReadyResponse(ready=ready)


@pytest.fixture
def serve():
    """Starts a gRPC server that fails as told; gives its address and the servicer."""
    servers = []

    def start(*faults):
        pool = ThreadPoolExecutor(4)
        server = grpc.server(pool)
        servicer = FaultyServer(*faults)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        # Channels to one address share gRPC's connections and the pause after a failed one: no port comes twice.
        while port in _USED_PORTS:
            port = server.add_insecure_port("127.0.0.1:0")
        _USED_PORTS.add(port)
        server.start()
        servers.append((server, pool))
        return f"127.0.0.1:{port}", servicer

    yield start
    for server, pool in servers:
        server.stop(None).wait()
        pool.shutdown()


@pytest.fixture
def vectors():
    """An answer of ``embed``: the vector [1, 2]."""
    answer = service_pb2.ModelInferResponse(model_name="embed", model_version="1")
    answer.outputs.add(name="text_vector", datatype="FP32", shape=[1, 2])
    answer.raw_output_contents.append(np.array([1, 2], np.float32).tobytes())
    return answer


@pytest.fixture
def answer():
    """Makes an answer of ``recommend`` with a row for each user, told apart by their alphas."""

    def make(*alphas):
        users = len(alphas)
        message = service_pb2.ModelInferResponse(model_name="recommend", model_version="1")
        for name, datatype, array in (
            ("score", "FP32", np.ones((users, 1), np.float32)),
            ("alpha_used", "FP32", np.array(alphas, np.float32)[:, np.newaxis]),
            ("event_counts", "INT32", np.ones((users, 3), np.int32)),
        ):
            message.outputs.add(name=name, datatype=datatype, shape=array.shape)
            message.raw_output_contents.append(array.tobytes())
        message.outputs.add(name="item_id", datatype="BYTES", shape=[users, 1])
        message.raw_output_contents.append(b"\x01\x00\x00\x00a" * users)
        return message

    return make


@pytest.fixture
def free_address():
    with closing(socket.socket()) as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture(scope="session")
def repository(tiny_export):
    """A whole export, with an untrained model and a tiny encoder."""
    return tiny_export.folder


@pytest.fixture(scope="session")
def genres(movielens):
    """The genres of each item, by its id."""
    movies = pl.read_parquet(movielens / "movies.parquet")
    item_ids = movies["movieId"].cast(pl.String)
    return {item_id: set(names.split("|")) for item_id, names in zip(item_ids, movies["genres"], strict=True)}


@pytest.fixture(scope="session")
def states(tmp_path_factory):
    """Address of the embedded store of `triton`."""
    return f"embedded:{tmp_path_factory.mktemp('states')}"


@pytest.fixture(scope="session")
def triton(repository, states):
    """A real Triton with a whole export that keeps states of users; its models may be unloaded and loaded."""
    config = ServerConfig(repository, state=states, model_control="explicit", load_models=("*",))
    with serving(config) as running:
        yield running


@pytest.fixture(scope="session")
def triton_of_items(repository, tmp_path_factory):
    """Another one, to which tests add items: those of `triton` compare its lists with those of the export."""
    state = f"embedded:{tmp_path_factory.mktemp('items')}"
    with serving(ServerConfig(repository, state=state)) as running:
        yield running


# Stands in for a busy encoder: the text `slow` keeps it at work until the request is cancelled or the file `released`
# lies beside it. The files `started` and `cancelled` say what happened; the vectors say which server answered.
SLOW_EMBED = """
import os
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.folder = Path(args["model_repository"])

    def execute(self, requests):
        responses = []
        for request in requests:
            texts = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
            if texts[0] == b"slow":
                (self.folder / "started").touch()
                while not request.is_cancelled() and not (self.folder / "released").exists():
                    time.sleep(0.005)
                if request.is_cancelled():
                    (self.folder / "cancelled").touch()
            vectors = np.array([[len(text), float(os.environ.get("SERVER_NUMBER", "0"))] for text in texts], np.float32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("text_vector", vectors)]))
        return responses
"""
SLOW_CONFIG = f"""
backend: "python"
input [{{ name: "text" data_type: TYPE_STRING dims: [-1] }}]
output [{{ name: "text_vector" data_type: TYPE_FP32 dims: [-1, 2] }}]
instance_group [{{ kind: KIND_CPU }}]
parameters [{{ key: "{FINGERPRINT_PARAMETER}" value: {{ string_value: "cafe" }} }}]
"""


@pytest.fixture(scope="module")
def small_repository(tmp_path_factory):
    """Only ``embed``, as a Python model that starts at once and takes its time for the text ``slow``."""
    folder = tmp_path_factory.mktemp("small")
    version = folder / "embed" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(SLOW_EMBED)
    (version.parent / "config.pbtxt").write_text(SLOW_CONFIG)
    mark_complete(folder)
    return folder
