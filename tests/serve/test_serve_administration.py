"""The administration of a server is closed to everybody without its key, over both protocols; docs/security.md."""

from __future__ import annotations

import json
import stat
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from commands import run
from ebbtide.interest import admin_key, triton_texts
from ebbtide.serve import ServerConfig, TritonServer
from servers import serving

KEY = "a-key-of-the-tests_1234"
HEADERS = {admin_key.GRPC_HEADER: KEY}

INTRUDER = """
import pathlib
pathlib.Path({mark!r}).touch()

class TritonPythonModel:
    def execute(self, requests):
        return []
"""
CONFIG = {
    "name": "intruder",
    "backend": "python",
    "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [1]}],
    "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [1]}],
}


@pytest.fixture(scope="module")
def guarded(models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A server that lets models be loaded, with a key; in its environment as for `ebbtide serve`."""
    repository = tmp_path_factory.mktemp("guarded") / "repository"
    models.write_python(repository, "echo")
    config = ServerConfig(repository, admin_key=KEY, model_control="explicit", load_models=("*",))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(admin_key.VARIABLE, KEY)
        with serving(config) as running:
            yield running


@pytest.fixture
def client(guarded: TritonServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(guarded.grpc_url) as made:
        yield made


ADMINISTRATION: dict[str, Callable[..., object]] = {
    "index": lambda client, headers: client.get_model_repository_index(headers=headers),
    "unload": lambda client, headers: client.unload_model("no such model", headers=headers),
    "read logging": lambda client, headers: client.get_log_settings(headers=headers),
    "logging": lambda client, headers: client.update_log_settings({"log_verbose_level": 0}, headers=headers),
    "read tracing": lambda client, headers: client.get_trace_settings(headers=headers),
    "tracing": lambda client, headers: client.update_trace_settings(settings={"trace_rate": "9"}, headers=headers),
    "regions": lambda client, headers: client.get_system_shared_memory_status(headers=headers),
    "forget regions": lambda client, headers: client.unregister_system_shared_memory(headers=headers),
    "register a region": lambda client, headers: client.register_system_shared_memory("a", "/none", 8, headers=headers),
}


@pytest.mark.parametrize("call", ADMINISTRATION)
@pytest.mark.parametrize("headers", [{}, {admin_key.GRPC_HEADER: f"{KEY}x"}], ids=["no key", "another key"])
def test_administration_is_refused_over_grpc_when_the_key_is_missing(client, call, headers):
    with pytest.raises(InferenceServerException, match=triton_texts.PROTOCOL_RESTRICTED) as refused:
        ADMINISTRATION[call](client, headers)
    assert KEY not in str(refused.value)


@pytest.mark.parametrize("call", sorted(ADMINISTRATION.keys() - {"register a region"}))
def test_administration_is_answered_over_grpc_when_the_key_is_sent(client, call):
    ADMINISTRATION[call](client, HEADERS)


def ask(server: TritonServer, path: str, body: object = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.http_url}{path}", data, headers or {})  # noqa: S310 - this server's own
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/repository/index", {}),
        ("/v2/repository/models/echo/unload", {}),
        ("/v2/logging", None),
        ("/v2/logging", {"log_verbose_level": 3}),
        ("/v2/trace/setting", None),
        ("/v2/trace/setting", {"trace_level": ["TIMESTAMPS"]}),
        ("/v2/systemsharedmemory/status", None),
        ("/v2/systemsharedmemory/unregister", {}),
    ],
)
def test_administration_is_refused_over_http_when_the_key_is_missing(guarded, path, body):
    for headers in ({}, {admin_key.HEADER: f"{KEY}x"}):
        status, said = ask(guarded, path, body, headers)
        assert (status, "API is restricted" in said, KEY in said) == (403, True, False)
    if not path.endswith("unload"):
        harmless = {"log_verbose_level": 0} if path == "/v2/logging" and body else body and {}
        assert ask(guarded, path, harmless, {admin_key.HEADER: KEY})[0] == 200


def test_code_of_a_caller_is_not_run_when_the_key_is_missing(guarded, client, tmp_path):
    mark = tmp_path / "the caller was here"
    files = {"file:1/model.py": INTRUDER.format(mark=str(mark)).encode()}
    for headers in ({}, {admin_key.GRPC_HEADER: f"{KEY}x"}):
        with pytest.raises(InferenceServerException, match=triton_texts.PROTOCOL_RESTRICTED):
            client.load_model("intruder", config=json.dumps(CONFIG), files=files, headers=headers)
    load = {"parameters": {"config": json.dumps(CONFIG), "file:1/model.py": "cGFzcw=="}}
    assert ask(guarded, "/v2/repository/models/intruder/load", load)[0] == 403
    assert not mark.exists()
    # With the key it is run: whoever has it may run code.
    client.load_model("intruder", config=json.dumps(CONFIG), files=files, headers=HEADERS)
    assert mark.exists()
    client.unload_model("intruder", headers=HEADERS)


def test_requests_and_questions_need_no_key(guarded, client):
    tensor = triton.InferInput("x", [1], "FP32")
    tensor.set_data_from_numpy(np.array([7], np.float32))
    assert client.infer("echo", [tensor], client_timeout=60).as_numpy("y").tolist() == [7]
    assert client.is_server_live()
    assert client.get_model_metadata("echo").name == "echo"
    assert client.get_model_config("echo").config.name == "echo"
    assert client.get_inference_statistics("echo").model_stats
    assert ask(guarded, "/v2/health/live")[0] == 200


def test_key_is_in_no_log_and_no_environment(guarded):
    processes = [psutil.Process(guarded.pid), *psutil.Process(guarded.pid).children()]
    assert len(processes) > 1
    assert all(KEY not in process.environ().values() for process in processes)
    assert KEY not in guarded.log_path.read_text()
    assert KEY not in repr(guarded.config)


def test_refused_models_are_named_when_the_server_has_a_key(repository):
    (repository / "echo" / "1" / "model.py").write_text("raise ValueError('broken')")
    with pytest.raises(Exception, match="broken"), TritonServer(ServerConfig(repository, admin_key=KEY)):
        pass


def test_key_is_made_once_when_servers_start_together(tmp_path):
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(admin_key.made(tmp_path / "repository.admin-key")))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert set(found) == {path.read_text().strip()}
    assert len(found) == 8
    path.chmod(0o644)
    with pytest.raises(admin_key.AdminKeyError, match="mode 644"):
        admin_key.made(path)


@pytest.mark.parametrize("key", ["short", "with spaces in it, long enough", "a,comma,would,be,two", "é" * 20])
def test_key_is_refused_when_triton_could_not_take_it(repository, key):
    with pytest.raises(ValueError, match="expected 16 to 128 letters") as refused:
        ServerConfig(repository, admin_key=key)
    assert key not in str(refused.value)


def test_serve_says_where_it_listens_and_warns_when_others_can_reach_it(repository, monkeypatch):
    monkeypatch.delenv(admin_key.VARIABLE, raising=False)
    options = ("--state", "none", "--once", "--allow-deploy")
    done = run("serve", repository, "--host", "0.0.0.0", *options)  # noqa: S104 - this is what is tested
    assert done.returncode == 0, done.stderr
    assert "gRPC     0.0.0.0:" in done.stdout
    assert "HTTP     http://0.0.0.0:" in done.stdout
    assert "warning: other machines can reach this server" in done.stdout
    assert "can load models into it, and run code on this machine" in done.stdout
    path = Path(f"{repository}.admin-key")
    assert f"key in {path}" in done.stdout
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() not in done.stdout + done.stderr

    monkeypatch.setenv(admin_key.VARIABLE, KEY)
    done = run("serve", repository, "--state", "none", "--once")
    assert "gRPC     127.0.0.1:" in done.stdout
    assert "warning" not in done.stdout
    assert f"key from {admin_key.VARIABLE}" in done.stdout
    assert KEY not in done.stdout + done.stderr
