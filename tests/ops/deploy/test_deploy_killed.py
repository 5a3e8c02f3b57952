"""A deployment that is killed at any moment is finished or undone by the next command, and no request fails."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from commands import ebbtide, run
from ebbtide.deploy import ModelControl, deploy, roll_back
from ebbtide.deploy.transaction import candidate_of
from ebbtide.export import versions
from ebbtide.interest import admin_key, contract
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.train.bundle import InterestBundle
from servers import serving
from steady_load import SteadyLoad, requests_of

KILLER = """
import os, signal, sys
from pathlib import Path
from ebbtide.cli.app import run
from ebbtide.deploy import ModelControl

events, kind, count = sys.argv[1], sys.argv[2], int(sys.argv[3])

def step(name):
    global count
    with open(events, "a") as file:
        file.write(name + "\\n")
    if kind in (name, "any"):
        count -= 1
        if count == 0:
            os.kill(os.getpid(), signal.SIGKILL)

def on_file(event, arguments):
    if event not in ("os.rename", "os.remove"):
        return
    path = Path(os.fsdecode(arguments[1] if event == "os.rename" else arguments[0]))
    if path.name == "deployment.json":
        step("journal" if event == "os.rename" else "end")
    elif path.name == "config.pbtxt":
        step("write " + path.parent.name)

sys.addaudithook(on_file)
for method in ("load", "load_together", "load_ensemble"):
    plain = getattr(ModelControl, method)
    def told(self, what, plain=plain):
        step("load together" if isinstance(what, list) else "load " + getattr(what, "name", str(what)))
        return plain(self, what)
    setattr(ModelControl, method, told)
sys.argv = ["ebbtide", *sys.argv[4:]]
run()
"""
"""Runs ``ebbtide`` and kills it at an event, before that happens: FILE-OF-EVENTS KIND COUNT ARGUMENTS..."""


@pytest.fixture(scope="module")
def folder(two_versions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with versions 1, which answers at the start and the end of each test, and 2."""
    return Path(shutil.copytree(two_versions, tmp_path_factory.mktemp("killed") / "repository"))


def key_of(folder: Path) -> str:
    return admin_key.made(admin_key.key_file(folder))


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[TritonServer]:
    """With a key, which the command finds beside the folder."""
    config = ServerConfig(folder, model_control="explicit", load_models=("*",), admin_key=key_of(folder))
    with serving(config) as running:
        yield running


@pytest.fixture
def kill(folder: Path, server: TritonServer, tmp_path: Path) -> Callable[..., list[str]]:
    """Deploys version 2 and kills the command at an event; the events until then."""

    def run_and_kill(kind: str, count: int, *arguments: str) -> list[str]:
        events = tmp_path / "events"
        events.write_text("")
        command = [sys.executable, "-c", KILLER, str(events), kind, str(count), "deploy", str(folder)]
        command += ["--server", server.grpc_url, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == (-signal.SIGKILL if count else 0), done.stderr
        return events.read_text().splitlines()

    return run_and_kill


def assert_served(folder: Path, server: TritonServer, version: int) -> None:
    """Every ensemble answers with the version, on the server and in the files, and nothing is left of a deployment."""
    assert set(versions.ensemble_versions(folder).values()) == {version}
    with ModelControl(server.grpc_url, key=key_of(folder)) as control:
        assert {control.served(model.name).version for model in versions.ensembles(folder)} == {version}
        candidates = filter(control.is_ready, [candidate_of(model.name) for model in versions.ensembles(folder)])
        assert {control.served(name).version for name in candidates} <= {version}
    assert not (folder / contract.JOURNAL_FILE).exists()


def put_back(folder: Path, server: TritonServer) -> None:
    if versions.served_version(folder) == 2:
        roll_back(folder, [server.grpc_url], key=key_of(folder))
    assert_served(folder, server, 1)


KILLED_IN = {
    "load": ("load together", 1, False),
    "check": ("load recommend_candidate", 1, False),
    "switch of the files": ("write explain", 1, True),
    "switch of the server": ("load together", 2, True),
    "end": ("end", 1, True),
}
"""Event, which one of its kind, and whether the new version had passed its checks."""


@pytest.mark.parametrize(
    "moment",
    [
        "switch of the files",
        pytest.param("check", marks=pytest.mark.slow),
        pytest.param("load", marks=pytest.mark.slow),
        pytest.param("switch of the server", marks=pytest.mark.slow),
        pytest.param("end", marks=pytest.mark.slow),
    ],
)
def test_next_command_works_when_a_deployment_was_killed(
    folder: Path, server: TritonServer, tiny_bundle: InterestBundle, kill: Callable[..., list[str]], moment: str
) -> None:
    kind, count, is_decided = KILLED_IN[moment]
    with SteadyLoad(server.grpc_url, folder, requests_of(tiny_bundle)) as load:
        kill(kind, count)
        again = deploy(folder, [server.grpc_url], key=key_of(folder))
        assert (again.version, again.previous, again.is_recovery) == (2, 1, is_decided)
        assert_served(folder, server, 2)
        back = roll_back(folder, [server.grpc_url], key=key_of(folder))
        assert (back.version, back.previous, back.is_recovery) == (1, 2, False)

        kill(kind, count)
        back = roll_back(folder, [server.grpc_url], key=key_of(folder))
        assert (back.version, back.previous, back.is_recovery) == (1, 2, True)
        assert_served(folder, server, 1)
    assert load.failed == []


def test_roll_back_is_finished_when_it_was_killed(
    folder: Path, server: TritonServer, kill: Callable[..., list[str]]
) -> None:
    deploy(folder, [server.grpc_url], key=key_of(folder))
    kill("write explain", 1, "--roll-back")
    back = roll_back(folder, [server.grpc_url], key=key_of(folder))
    assert (back.version, back.previous, back.is_recovery) == (1, 2, True)
    put_back(folder, server)


@pytest.mark.slow
def test_server_starts_with_one_version_when_a_deployment_was_killed(
    folder: Path, server: TritonServer, kill: Callable[..., list[str]], tmp_path: Path
) -> None:
    kill("write explain", 1)
    assert set(versions.ensemble_versions(folder).values()) == {1, 2}
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    checked = ebbtide("check", copy)
    assert "deployment-unfinished" in checked
    said = ebbtide("serve", copy, "--state", "none", "--once")
    assert "An earlier deployment was cut off: version 2 is served" in said
    assert set(versions.ensemble_versions(copy).values()) == {2}
    ebbtide("deploy", folder, "--server", server.grpc_url, "--roll-back")
    assert_served(folder, server, 1)


@pytest.mark.slow
def test_next_command_works_when_a_deployment_was_killed_at_a_random_moment(
    folder: Path, server: TritonServer, kill: Callable[..., list[str]]
) -> None:
    events = kill("none", 0)
    put_back(folder, server)
    random = np.random.default_rng(0)
    for number, moment in enumerate(random.integers(1, len(events) + 1, 10)):
        until = kill("any", int(moment))
        # Killed before it noted anything, it leaves nothing to undo.
        deploys = bool(number % 2) or not (folder / contract.JOURNAL_FILE).exists()
        done = (deploy if deploys else roll_back)(folder, [server.grpc_url], key=key_of(folder))
        assert done.version == (2 if deploys else 1), until[-1]
        assert_served(folder, server, done.version)
        put_back(folder, server)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["load together", "load recommend_candidate", "load explain_candidate"])
def test_next_command_works_when_a_shadow_was_killed(
    folder: Path, server: TritonServer, tiny_bundle: InterestBundle, kill: Callable[..., list[str]], kind: str
) -> None:
    with SteadyLoad(server.grpc_url, folder, requests_of(tiny_bundle)) as load:
        assert kind in kill(kind, 1, "--shadow")
        again = deploy(folder, [server.grpc_url], key=key_of(folder), shadow=True)
        assert (again.version, again.shadow) == (1, 2)
        roll_back(folder, [server.grpc_url], key=key_of(folder))
        assert_served(folder, server, 1)

        kill(kind, 1, "--shadow")
        roll_back(folder, [server.grpc_url], key=key_of(folder))
        assert_served(folder, server, 1)

        kill(kind, 1, "--shadow")
        done = deploy(folder, [server.grpc_url], key=key_of(folder))
        assert (done.version, done.previous) == (2, 1)
        assert_served(folder, server, 2)
        put_back(folder, server)
    assert load.failed == []


def test_deployment_is_refused_when_the_key_is_missing_or_another(
    folder: Path, server: TritonServer, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("another-key-of-somebody\n")
    for done in (
        run("deploy", folder, "--server", server.grpc_url, "--admin-key-file", tmp_path / "key"),
        run("deploy", shutil.copytree(folder, tmp_path / "copy"), "--server", server.grpc_url),
    ):
        assert done.returncode == 1
        assert "got a server that wants the key to its administration" in done.stderr
        assert "--admin-key-file or EBBTIDE_ADMIN_KEY" in done.stderr
        assert "another-key" not in done.stdout + done.stderr
    assert_served(folder, server, 1)
