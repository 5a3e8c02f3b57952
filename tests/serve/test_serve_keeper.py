"""A server that loses a process is started again, at the same ports, and says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton

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


@pytest.mark.parametrize("victim", ["stub", "server"])
def test_server_answers_again_at_its_address_when_a_process_died(repository, victim):
    with TritonServer(ServerConfig(repository)) as server:
        address, pid = server.grpc_url, server.pid
        # While it is watched, so that the model of the process is known.
        kill = threading.Timer(1, os.kill, (stub_of(server).pid if victim == "stub" else pid, signal.SIGKILL))
        kill.start()
        (fault,) = faults_until_restart(server)
        assert fault == {"stub": "a process of echo died", "server": "the server ended with status 137"}[victim]
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
        assert process.wait(60) == 0
    output = "".join(lines)
    assert "the server ended with status 137: the server is started again in 1 s" in output
    assert output.rstrip().endswith("stopping")
    with TritonServer(ServerConfig(repository, grpc_port=int(address.rpartition(":")[2]))) as again:
        assert again.grpc_url == address


def is_server(process: psutil.Process) -> bool:
    return process.name() == "tritonserver"
