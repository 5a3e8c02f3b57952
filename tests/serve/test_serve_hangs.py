"""A server that answers nothing is started again; one that is busy, slow or loading is left alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton

from ebbtide.interest import contract, served_models
from ebbtide.serve import ServerConfig, TritonServer, hangs, keep, keeper
from servers import look_for_hangs, mark_complete

PROGRAM = "from ebbtide.cli.main import main; main()"
FOR_EVER_S = 10_000
LONG_S = 6
"""More than all looks of these tests take."""
# What is asked for is in the order of the input: seconds to wait without doing anything, then seconds to work.
MODEL = """
import time
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request.inputs()[0].as_numpy().reshape(-1)) for request in requests]

    def answer(self, asked):
        waits, works = asked.tolist() if len(asked) == 2 else (0, 0)
        time.sleep(waits)
        end = time.monotonic() + works
        while time.monotonic() < end:
            pass
        return pb_utils.InferenceResponse([pb_utils.Tensor("y", asked)])
"""
HANGING_MODEL = MODEL.replace("(0, 0)", f"({FOR_EVER_S} if __import__('os').path.exists('SIGN') else 0, 0)")
CONFIG = """
backend: "python"
max_batch_size: {batch}
input [{{ name: "{name}" data_type: TYPE_INT64 dims: [-1] }}]
output [{{ name: "y" data_type: TYPE_INT64 dims: [-1] }}]
instance_group [{{ kind: KIND_CPU count: {instances} }}]
"""


class _EnoughSeenError(Exception):
    """Ends `keep`, which watches without end."""


@pytest.fixture(autouse=True)
def _short_looks(monkeypatch):
    monkeypatch.setattr(keeper, "_POLL_S", 0.05)
    monkeypatch.setattr(keeper, "_FIRST_PAUSE_S", 0.05)
    monkeypatch.setattr(hangs, "_LOOK_S", 0.5)
    # Linux counts processor time in hundredths of a second, too coarsely for one percent of a short look.
    monkeypatch.setattr(hangs, "_IDLE", 0.05)


def tensor_of(model: str) -> tuple[str, int]:
    """The input of a model, and its largest batch: `recommend` takes what the exported one needs."""
    return (contract.NOW.name, 1) if model == served_models.RECOMMEND.name else ("x", 0)


def add_model(repository: Path, name: str, code: str = MODEL, instances: int = 1) -> None:
    (repository / name / "1").mkdir(parents=True)
    (repository / name / "1" / "model.py").write_text(code)
    tensor, batch = tensor_of(name)
    (repository / name / "config.pbtxt").write_text(CONFIG.format(name=tensor, batch=batch, instances=instances))


@pytest.fixture
def repository(tmp_path) -> Path:
    """A model `work`."""
    folder = tmp_path / "repository"
    add_model(folder, "work")
    mark_complete(folder)
    return folder


def config_of(repository: Path, **settings: object) -> ServerConfig:
    return ServerConfig(repository, stop_timeout_s=2, **settings)


def ask(client: triton.InferenceServerClient, model: str, waits_s: int = 0, works_s: int = 0) -> Callable[[], object]:
    """Sends a request without waiting; calling the result waits for the answer, or for the error."""
    name, batch = tensor_of(model)
    tensor = triton.InferInput(name, [1, 2] if batch else [2], "INT64")
    tensor.set_data_from_numpy(np.array([waits_s, works_s]).reshape(tensor.shape()))
    ended, found = threading.Event(), []

    def end(result: object, error: object) -> None:
        found.append(result or error)
        ended.set()

    client.async_infer(model, [tensor], callback=end)
    return lambda: ended.wait() and found[0]


def stub_of(server: TritonServer, model: str) -> psutil.Process:
    return next(one for one in psutil.Process(server.pid).children() if f"/{model}/" in one.cmdline()[1])


def fault_until_restart(server: TritonServer) -> str:
    faults: list[str] = []

    def restarted(_: float) -> None:
        raise _EnoughSeenError

    with pytest.raises(_EnoughSeenError):
        keep(server, on_fault=lambda fault, _: faults.append(fault), on_restart=restarted)
    (fault,) = faults
    return fault


@contextmanager
def later(act: Callable[[], object]) -> Iterator[None]:
    """Acts when the server is watched."""
    timer = threading.Timer(2, act)
    timer.start()
    try:
        yield
    finally:
        timer.join()


@pytest.mark.parametrize("victim", ["server", "process"])
def test_server_is_started_again_when_it_or_a_process_of_a_model_is_stopped(repository, victim):
    with TritonServer(config_of(repository)) as server:
        address, pid = server.grpc_url, server.pid
        stopped = pid if victim == "server" else stub_of(server, "work").pid
        with later(lambda: os.kill(stopped, signal.SIGSTOP)):
            fault = fault_until_restart(server)
        assert (
            fault
            == {
                "server": "the server hangs: for 3 s it has answered no canary and ended no request",
                "process": "a process of work hangs: it has been stopped for 3 s",
            }[victim]
        )
        assert (server.grpc_url, server.pid != pid) == (address, True)
        with triton.InferenceServerClient(address) as client:
            assert ask(client, "work")().as_numpy("y").tolist() == [0, 0]


def test_server_is_started_again_when_requests_wait_for_a_model_that_does_nothing(repository):
    with TritonServer(config_of(repository)) as server, triton.InferenceServerClient(server.grpc_url) as client:
        for _ in range(2):
            ask(client, "work", waits_s=FOR_EVER_S)
        fault = fault_until_restart(server)
        assert fault == "work hangs: requests have waited for 3 s, none ended, and none is worked on"
        with triton.InferenceServerClient(server.grpc_url) as again:
            assert ask(again, "work")().as_numpy("y").tolist() == [0, 0]


@pytest.mark.slow
def test_server_is_started_again_when_recommend_answers_nobody(tmp_path):
    sign, folder = tmp_path / "sign", tmp_path / "repository"
    # An instance for each canary, so that none waits in a queue.
    code = HANGING_MODEL.replace("SIGN", str(sign))
    add_model(folder, served_models.RECOMMEND.name, code, instances=hangs._LOOKS + 4)
    mark_complete(folder)
    with TritonServer(config_of(folder)) as server:
        with later(sign.touch):
            fault = fault_until_restart(server)
        assert fault == "the server hangs: for 3 s it has answered no canary and ended no request"


def test_server_is_left_alone_when_a_model_takes_long_to_load(repository):
    slow = MODEL.replace(
        "    def execute", f"    def initialize(self, args):\n        time.sleep({LONG_S})\n\n    def execute"
    )
    add_model(repository, "slow", slow)
    mark_complete(repository)
    config = config_of(repository, model_control="explicit", load_models=("work",))
    with TritonServer(config) as server, triton.InferenceServerClient(server.grpc_url) as client:
        look_for_hangs(server, lambda: client.load_model("slow"))
        assert client.is_model_ready("slow")


@pytest.mark.parametrize("time_s", [{"works_s": LONG_S}, {"waits_s": 1}])
def test_server_is_left_alone_when_requests_wait_for_a_model_that_works_or_answers(repository, time_s):
    with TritonServer(config_of(repository)) as server, triton.InferenceServerClient(server.grpc_url) as client:
        answers = [ask(client, "work", **time_s) for _ in range(2 if "works_s" in time_s else LONG_S)]
        look_for_hangs(server, answers[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["foreign", served_models.OBSERVER.name])
def test_server_is_left_alone_when_a_model_may_wait_for_something_else(repository, name):
    add_model(repository, name)
    if name != "foreign":
        mark_complete(repository)
    with TritonServer(config_of(repository)) as server, triton.InferenceServerClient(server.grpc_url) as client:
        answers = [ask(client, name, waits_s=LONG_S) for _ in range(2)]
        look_for_hangs(server, answers[0])


def test_server_is_left_alone_when_its_queue_is_full(tmp_path):
    folder = tmp_path / "repository"
    add_model(folder, served_models.RECOMMEND.name)
    config = folder / served_models.RECOMMEND.name / "config.pbtxt"
    config.write_text(config.read_text() + "dynamic_batching { default_queue_policy { max_queue_size: 1 } }\n")
    mark_complete(folder)
    with TritonServer(config_of(folder)) as server, triton.InferenceServerClient(server.grpc_url) as client:
        answer = ask(client, served_models.RECOMMEND.name, works_s=LONG_S)
        look_for_hangs(server, answer)


@pytest.mark.slow
def test_command_says_what_hangs_and_starts_it_again(repository, tmp_path):
    command: Sequence[object] = ["serve", repository, "--state", "none", "--log-file", tmp_path / "log"]
    with subprocess.Popen(
        [sys.executable, "-u", "-c", PROGRAM, *map(str, command)], stdout=subprocess.PIPE, text=True
    ) as process:
        address, lines = "", []
        for line in process.stdout:
            lines.append(line)
            if "gRPC" in line:
                address = line.split()[-1]
            if line.startswith("Serving"):
                time.sleep(3)
                children = psutil.Process(process.pid).children(recursive=True)
                next(one for one in children if one.name() == "tritonserver").suspend()
            if "ready again" in line:
                with triton.InferenceServerClient(address) as client:
                    assert ask(client, "work")().as_numpy("y").tolist() == [0, 0]
                process.send_signal(signal.SIGTERM)
        assert process.wait(300) == 0
    said = "the server hangs: for 60 s it has answered no canary and ended no request"
    assert f"{said}: the server is started again in 1 s\n" in lines
