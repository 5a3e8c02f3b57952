"""The life of a server: its start, its endpoints, its end, and the end of whoever started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest
import tritonclient.grpc as triton

import ebbtide.serve.server as server_module
from deadlines import GUARD_S
from ebbtide.serve import PortInUseError, ServerConfig, ServerStartError, ServerStateError, TritonServer
from servers import mark_complete


@pytest.fixture
def empty_repository(tmp_path) -> Path:
    """No model, no stub: a server on it starts and stops at once."""
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def family(pid: int) -> list[psutil.Process]:
    """A server, and its stubs."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def wait_until_gone(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [process for process in psutil.wait_procs(processes, timeout=GUARD_S)[1] if process.status() != "zombie"]


def shared_memory(caller_pid: int) -> list[str]:
    return [name for name in os.listdir("/dev/shm") if name.startswith(f"ebbtide_{caller_pid}_")]  # noqa: PTH208, S108


def begin_caller(repository: Path, ending: str) -> subprocess.Popen[str]:
    """A Python that starts a server, tells its pid and log, and then runs `ending`."""
    program = f"""
import os, signal, sys, time
from pathlib import Path
from ebbtide.serve import ServerConfig, TritonServer
# Ctrl-C works here, too, where the tests themselves run in the background of a shell, which ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)
server = TritonServer(ServerConfig(Path(sys.argv[1])))
server.start()
print(server.pid, server.log_path, flush=True)
{ending}
"""
    return subprocess.Popen(
        [sys.executable, "-c", program, str(repository)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def server_of(caller: subprocess.Popen[str]) -> tuple[int, Path]:
    """The pid and the log of a caller's server, once it runs."""
    assert caller.stdout is not None
    pid, log_path = caller.stdout.readline().split()
    return int(pid), Path(log_path)


def wait_until_removed(folder: Path) -> bool:
    deadline = time.monotonic() + GUARD_S
    # By a process that is nobody's child here: nothing can be waited for but the outcome.
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    return not folder.exists()


def test_endpoints_answer_on_loopback_when_the_server_runs(server):
    client = triton.InferenceServerClient(server.grpc_url)
    assert client.is_server_ready()
    client.close()
    for url in (f"{server.http_url}/v2/health/ready", server.metrics_url):
        with urllib.request.urlopen(url) as answer:  # noqa: S310 - this server's own URL
            assert answer.status == 200
    addresses = {entry.laddr.ip for entry in psutil.Process(server.pid).net_connections() if entry.status == "LISTEN"}
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}


def test_log_is_readable_when_the_server_runs(server):
    assert "Started GRPCInferenceService" in server.log_path.read_text()


def test_context_manager_leaves_nothing_when_it_ends(repository):
    seen = []
    # The session's own server, if it runs already, keeps its regions.
    before = set(shared_memory(os.getpid()))
    with TritonServer(ServerConfig(repository), on_progress=seen.append) as server:
        processes = family(server.pid)
        log_path = server.log_path
        assert len(processes) > 1
        regions = set(shared_memory(os.getpid())) - before
        assert regions
    assert wait_until_gone(processes) == []
    assert regions.isdisjoint(shared_memory(os.getpid()))
    assert not log_path.exists()
    assert not server.is_running()
    assert [(entry.loaded, entry.failed, entry.expected) for entry in seen] == [((), (), 1), (("echo",), (), 1)]
    with pytest.raises(ServerStateError, match="not running"):
        _ = server.grpc_url


def test_server_can_start_again_when_it_was_stopped(empty_repository, tmp_path):
    server = TritonServer(ServerConfig(empty_repository, log_file=tmp_path / "logs" / "triton.log"))
    pids = []
    for _ in range(2):
        with server:
            pids.append(server.pid)
            with pytest.raises(ServerStateError, match="started already"):
                server.start()
    assert pids[0] != pids[1]
    assert (tmp_path / "logs" / "triton.log").read_text().count("Started HTTPService") == 2


ENDINGS = {
    "killed": ("time.sleep(600)", signal.SIGKILL),
    "terminated": ("time.sleep(600)", signal.SIGTERM),
    # A forked child that outlives its parent holds the lifeline open.
    "killed_with_a_forked_child": ("if os.fork(): time.sleep(600)\nelse: time.sleep(20)", signal.SIGKILL),
    "ended_without_stopping_it": ("sys.stdin.read()", None),
}
"""What callers do when their server runs, and the signal that ends them; None: they end by themselves."""


@dataclass
class Deserted:
    """A server whose caller is gone."""

    caller_pid: int
    processes: list[psutil.Process]
    log_path: Path


@pytest.fixture(scope="module")
def deserted(tmp_path_factory, models) -> Iterator[dict[str, Deserted]]:
    """Started, and deserted, all at once: starts and stops are mostly waiting."""
    repository = tmp_path_factory.mktemp("deserted")
    models.write_python(repository, "echo")
    mark_complete(repository)
    callers = {name: begin_caller(repository, ending) for name, (ending, _) in ENDINGS.items()}
    found, orphans = {}, []
    for name, caller in callers.items():
        pid, log_path = server_of(caller)
        found[name] = Deserted(caller.pid, family(pid), log_path)
        orphans += psutil.Process(caller.pid).children()
    for name, caller in callers.items():
        signum = ENDINGS[name][1]
        if signum is None:
            caller.communicate(timeout=GUARD_S)
        else:
            os.kill(caller.pid, signum)
            caller.wait(GUARD_S)
            for stream in (caller.stdin, caller.stdout):
                assert stream is not None
                stream.close()
    yield found
    for orphan in orphans:
        if orphan.is_running():
            orphan.kill()


@pytest.mark.parametrize("name", ENDINGS)
def test_server_stops_when_its_caller_dies(deserted, name):
    server = deserted[name]
    assert len(server.processes) > 1
    assert wait_until_gone(server.processes) == []
    # The supervisor removes the folder last.
    assert wait_until_removed(server.log_path.parent)
    assert shared_memory(server.caller_pid) == []


def test_server_stops_when_its_supervisor_is_killed(repository):
    server = TritonServer(ServerConfig(repository))
    server.start()
    processes = family(server.pid)
    psutil.Process(server.pid).parent().kill()
    assert wait_until_gone(processes) == []
    server.stop()


def test_interrupt_from_the_terminal_reaches_only_the_caller_when_it_is_pressed(repository):
    caller = begin_caller(
        repository,
        """
try:
    print("ready", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    time.sleep(0.5)
    print(server.is_running(), flush=True)
    server.stop()
    print(server.is_running(), flush=True)
""",
    )
    processes = family(server_of(caller)[0])
    assert caller.stdout.readline() == "ready\n"
    os.killpg(caller.pid, signal.SIGINT)
    output, _ = caller.communicate(timeout=GUARD_S)
    assert output.split() == ["True", "False"]
    assert wait_until_gone(processes) == []


def test_wait_returns_the_status_when_the_server_is_killed(repository):
    with TritonServer(ServerConfig(repository)) as server:
        assert server.wait(timeout_s=0.01) is None
        processes = family(server.pid)
        os.kill(server.pid, signal.SIGKILL)
        assert server.wait(timeout_s=GUARD_S) == 128 + signal.SIGKILL
        assert not server.is_running()
        assert wait_until_gone(processes) == []


def test_start_names_the_port_when_it_is_taken(empty_repository):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"http_port {port} on 127.0.0.1 can't be bound"):
            TritonServer(ServerConfig(empty_repository, http_port=port)).start()


@pytest.mark.parametrize("endpoint", ["grpc", "http", "metrics"])
def test_start_takes_other_ports_when_a_free_one_is_taken_meanwhile(empty_repository, monkeypatch, endpoint):
    choices = []

    def choose(*arguments):
        ports = choose_ports(*arguments)
        choices.append(ports if choices else replace(ports, **{endpoint: taken_port}))
        return choices[-1]

    choose_ports = server_module.choose_ports
    monkeypatch.setattr(server_module, "choose_ports", choose)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        taken_port = taken.getsockname()[1]
        with TritonServer(ServerConfig(empty_repository)) as server:
            assert server.metrics_url == f"http://127.0.0.1:{choices[1].metrics}/metrics"
    assert len(choices) == 2


def test_start_shows_the_log_when_an_option_is_unknown(empty_repository, tmp_path):
    config = ServerConfig(empty_repository, extra_args=("--no-such-option",), log_file=tmp_path / "triton.log")
    server = TritonServer(config)
    with pytest.raises(ServerStartError, match=r"ended with status 1 while starting(.|\n)*no-such-option"):
        server.start()
    assert not server.is_running()


def test_start_gives_up_when_the_server_is_not_ready_in_time(repository, tmp_path):
    never_ready = """
import time


class TritonPythonModel:
    def initialize(self, args):
        time.sleep(600)
"""
    (repository / "echo" / "1" / "model.py").write_text(never_ready)
    config = ServerConfig(repository, startup_timeout_s=0.01, stop_timeout_s=0.1, log_file=tmp_path / "triton.log")
    with pytest.raises(
        ServerStartError, match=r"not ready after startup_timeout_s=0.01: loaded 0 of 1 models \(none\)"
    ):
        TritonServer(config).start()


@pytest.mark.parametrize(("crashes", "starts"), [(2, 3), (9, 3)])
def test_server_is_started_again_when_a_signal_ends_it_while_it_starts(crashes, starts, repository, tmp_path, caplog):
    began = tmp_path / "began"
    ends_the_server = f"""
import os
import signal
import time


class TritonPythonModel:
    def initialize(self, args):
        with open({str(began)!r}, "a+") as file:
            file.write("x")
            file.seek(0)
            if len(file.read()) <= {crashes}:
                os.kill(os.getppid(), signal.SIGABRT)
                time.sleep(600)

    def execute(self, requests):
        return []
"""
    (repository / "echo" / "1" / "model.py").write_text(ends_the_server)
    server = TritonServer(ServerConfig(repository))
    if crashes < starts:
        with server:
            assert server.is_running()
    else:
        with pytest.raises(ServerStartError, match=r"^the server ended with status 134 while starting"):
            server.start()
    assert began.read_text() == "x" * starts
    assert caplog.messages == ["the server ended with status 134 while starting; it is started again"] * (starts - 1)


def test_refused_model_is_named_when_the_server_dies_after_it(repository, models, tmp_path):
    log = tmp_path / "server.log"
    ends_the_server = f"""
import os, pathlib, signal, time


class TritonPythonModel:
    def initialize(self, args):
        while "failed to load 'other'" not in pathlib.Path({str(log)!r}).read_text():
            time.sleep(0.05)
        os.kill(os.getppid(), signal.SIGABRT)
        time.sleep(600)

    def execute(self, requests):
        return []
"""
    models.write_python(repository, "other")
    (repository / "other" / "1" / "model.py").write_text("no Python")
    (repository / "echo" / "1" / "model.py").write_text(ends_the_server)
    with pytest.raises(ServerStartError) as refused:
        TritonServer(ServerConfig(repository, log_file=log)).start()
    first, second, *_ = str(refused.value).splitlines()
    assert first == "the server ended with status 134 while starting, after it had refused:"
    assert second.startswith("  other: failed to load 'other' version 1: ")


def test_explicit_control_loads_only_what_is_named_when_it_starts(repository, models):
    models.write_python(repository, "other")
    with TritonServer(ServerConfig(repository, model_control="explicit", load_models=("other",))) as server:
        client = triton.InferenceServerClient(server.grpc_url)
        assert not client.is_model_ready("echo")
        assert client.is_model_ready("other")
        client.load_model("echo")
        assert client.is_model_ready("echo")
        client.close()


@pytest.mark.parametrize("name", ["my models", "dépôt", "模型", 'a\'b "c" $d', "(1) [x];y", "tab\there"])
def test_server_takes_a_repository_whatever_its_path(name, tmp_path, models):
    models.write_python(tmp_path / name, "echo")
    with TritonServer(ServerConfig(tmp_path / name, log_file=tmp_path / "lög x" / "server.log")) as server:
        assert triton.InferenceServerClient(server.grpc_url).is_model_ready("echo")
        scratch = server._scratch
        assert scratch is not None
    assert not scratch.exists()
    assert (tmp_path / name / "echo").is_dir()


def test_server_takes_a_cache_and_a_temporary_folder_whatever_their_path(repository, tmp_path, monkeypatch):
    for variable, name in (("XDG_CACHE_HOME", "cache é b"), ("TMPDIR", "tmp é b")):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setattr("tempfile.tempdir", None)
    with TritonServer(ServerConfig(repository)) as server:
        assert triton.InferenceServerClient(server.grpc_url).is_model_ready("echo")
    assert list((tmp_path / "tmp é b").iterdir()) == []
