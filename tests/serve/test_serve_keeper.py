"""A server that loses a process is started again, at the same ports, and says so."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ebbtide.serve import ServerConfig, ServerStartError, TritonServer, keep, keeper
from ebbtide.serve.model_processes import ModelProcesses

PROGRAM = "from ebbtide.cli.main import main; main()"


class _EnoughSeenError(Exception):
    """Ends `keep`, which watches without end."""


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(keeper, "_POLL_S", 0.05)
    monkeypatch.setattr(keeper, "_FIRST_PAUSE_S", 0.05)


def stub_of(server: TritonServer) -> psutil.Process:
    (stub,) = psutil.Process(server.pid).children()
    return stub


def echo(address: str) -> list[float]:
    tensor = triton.InferInput("x", [1], "FP32")
    tensor.set_data_from_numpy(np.array([7], np.float32))
    with triton.InferenceServerClient(address) as client:
        return client.infer("echo", [tensor], client_timeout=60).as_numpy("y").tolist()


def faults_until_restart(server: TritonServer) -> list[str]:
    faults = []

    def restarted(startup_s: float) -> None:
        assert startup_s > 0
        raise _EnoughSeenError

    with pytest.raises(_EnoughSeenError):
        keep(server, on_fault=lambda fault, _: faults.append(fault), on_restart=restarted)
    return faults


def kill_stub(server: TritonServer) -> None:
    os.kill(stub_of(server).pid, signal.SIGKILL)


def kill_server(server: TritonServer) -> None:
    os.kill(server.pid, signal.SIGKILL)


def send_shape_that_overflows(server: TritonServer) -> None:
    request = service_pb2.ModelInferRequest(model_name="echo", raw_input_contents=[bytes(4)])
    request.inputs.add(name="x", datatype="FP32", shape=[2**62 + 1])
    with grpc.insecure_channel(server.grpc_url) as channel, pytest.raises(grpc.RpcError):
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=300)


def send_json_of_a_huge_shape(server: TritonServer) -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2**60], "data": [1]}]}
    with suppress(http.client.HTTPException, OSError), closing(http_connection(server)) as connection:
        connection.request("POST", "/v2/models/echo/infer", json.dumps(body))
        connection.getresponse()


def send_many_chunks(server: TritonServer) -> None:
    with suppress(http.client.HTTPException, OSError), closing(http_connection(server)) as connection:
        connection.putrequest("POST", "/v2/models/echo/infer")
        connection.putheader("transfer-encoding", "chunked")
        connection.endheaders(b"1\r\n{\r\n" * 600_000)
        connection.send(b"0\r\n\r\n")
        connection.getresponse()


def http_connection(server: TritonServer) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(server.http_url.removeprefix("http://"), timeout=300)


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (kill_stub, "a process of echo died"),
        (kill_server, "the server ended with status 137"),
        # Triton 2.51 does not survive these; docs/security.md names them.
        (send_shape_that_overflows, "a process of echo died"),
        (send_json_of_a_huge_shape, "the server ended with status 134"),
        (send_many_chunks, "the server ended with status 139"),
    ],
)
def test_server_answers_again_at_its_address_when_a_process_died(repository, harm, fault):
    with TritonServer(ServerConfig(repository)) as server:
        address, pid = server.grpc_url, server.pid
        # While it is watched, so that the model of the process is known.
        timer = threading.Timer(1, harm, [server])
        timer.start()
        assert faults_until_restart(server) == [fault]
        timer.join()
        assert (server.grpc_url, server.pid != pid) == (address, True)
        assert echo(address) == [7]


def test_keeping_ends_when_starts_are_in_vain(repository, monkeypatch):
    monkeypatch.setattr(keeper, "_MOST_FAULTS", 2)
    faults = []
    with TritonServer(ServerConfig(repository)) as server:
        (repository / "echo" / "1" / "model.py").write_text("broken (")
        os.kill(server.pid, signal.SIGKILL)
        with pytest.raises(ServerStartError, match="started 2 times in vain"):
            keep(server, on_fault=lambda fault, pause_s: faults.append((fault, pause_s)), on_restart=print)
    assert [pause_s for _, pause_s in faults] == [0.05, 0.1]
    assert "refused 1 of 1 models" in faults[1][0]


def test_a_process_that_ends_with_its_model_is_no_fault(repository):
    config = ServerConfig(repository, model_control="explicit", load_models=("echo",))
    with TritonServer(config) as server, triton.InferenceServerClient(server.grpc_url) as client:
        models = ModelProcesses(server.pid)
        stub = stub_of(server)
        client.unload_model("echo")
        while stub.is_running():
            assert models.dead() == []
        assert models.dead() == []


def test_command_says_what_died_and_frees_its_ports_when_terminated(repository: Path, tmp_path):
    command = ["serve", repository, "--state", "none", "--log-file", tmp_path / "log"]
    with subprocess.Popen(
        [sys.executable, "-u", "-c", PROGRAM, *map(str, command)], stdout=subprocess.PIPE, text=True
    ) as process:
        address, lines = "", []
        for line in process.stdout:
            lines.append(line)
            if "gRPC" in line:
                address = line.split()[-1]
            if line.startswith("Serving"):
                (server,) = (one for one in psutil.Process(process.pid).children(recursive=True) if is_server(one))
                server.kill()
            if "ready again" in line:
                assert echo(address) == [7]
                process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0
    output = "".join(lines)
    assert "the server ended with status 137: the server is started again in 1 s" in output
    assert output.rstrip().endswith("stopping")
    with TritonServer(ServerConfig(repository, grpc_port=int(address.rpartition(":")[2]))) as again:
        assert again.grpc_url == address


def is_server(process: psutil.Process) -> bool:
    return process.name() == "tritonserver"
