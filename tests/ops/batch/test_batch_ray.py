"""Workers of Ray write what one process writes; one that is killed is replaced."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from commands import run
from ebbtide.backfill import LogFiles
from ebbtide.batch import batch_recommend
from ports import free_port
from states import random_events

pytest.importorskip("ray", reason="needs the extra ray")

CLUSTER = """
import sys
from ray.cluster_utils import Cluster

cluster = Cluster()
for _ in range(2):
    cluster.add_node(num_cpus=1, include_dashboard=False, object_store_memory=128 << 20)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
"""Two nodes, of this machine, until its input ends."""
TASKS = """
import os
import signal
import sys
import time
from pathlib import Path

from ebbtide.batch.errors import BatchError
from ebbtide.batch.workers import Workers

folder = Path(sys.argv[2])

def meet(name):
    (folder / name).touch()
    while not (folder / "a").exists() or not (folder / "b").exists():
        time.sleep(0.01)
    return name

def die_once(name):
    if not (folder / name).exists():
        (folder / name).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return name

def look(name):
    return open(folder / name).read()

with Workers(2, sys.argv[1]) as workers:
    assert sorted(workers.results(meet, ["a", "b"], few=True)) == ["a", "b"]
    assert list(workers.results(die_once, ["c"], few=True)) == ["c"]
    try:
        list(workers.results(look, ["nothing"], few=True))
    except BatchError as error:
        assert f"{folder / 'nothing'}: no such file on " in str(error)
    try:
        workers.require_shared(None)
    except BatchError as error:
        assert "got none for 2 machines" in str(error)
        print("done")
"""
KILLED = """
import os
import signal
import sys
from pathlib import Path

from ebbtide.backfill import LogFiles
from ebbtide.batch import batch_recommend
from ebbtide.batch.batch import Silent

class Killer(Silent):
    def ranking(self, parts, of):
        os.kill(os.getpid(), signal.SIGKILL)

repository, log, out, scratch, address = sys.argv[1:]
batch_recommend(Path(repository), LogFiles([log]), Path(out), ray=address, scratch=Path(scratch), progress=Killer())
"""


@pytest.fixture(scope="module")
def repository(tiny_export):
    return tiny_export.folder


@pytest.fixture(scope="module")
def log(tiny_bundle, tmp_path_factory):
    path = tmp_path_factory.mktemp("log") / "log.parquet"
    random_events(tiny_bundle.catalog.item_id[:60], 300, 50_000, seed=1).write_parquet(path)
    return path


@pytest.fixture(scope="module")
def expected(repository, log, tmp_path_factory):
    """What one process writes."""
    folder = tmp_path_factory.mktemp("expected") / "lists"
    batch_recommend(repository, LogFiles([log]), folder, processes=1)
    return files_of(folder)


@pytest.fixture(scope="module")
def address():
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as cluster:
        yield cluster.stdout.readline().strip()
        cluster.stdin.close()


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def script(text, *arguments):
    return subprocess.run(
        [sys.executable, "-c", text, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_ray_of_this_machine_writes_what_one_process_writes(repository, log, expected, tmp_path, monkeypatch):
    # Of another cluster, which is not asked.
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    command = ["batch-recommend", repository, "--events", log, "--out", tmp_path / "lists"]
    done = script("from ebbtide.cli.main import main; main()", *command, "--ray", "local", "--processes", 2)
    assert done.returncode == 0, done.stderr
    assert "lists of 283 users" in done.stdout
    assert files_of(tmp_path / "lists") == expected


@pytest.mark.parametrize(
    ("address", "reason"), [("127.0.0.1:PORT", "Connection refused"), ("nonsense", "Invalid address format: nonsense")]
)
def test_address_without_a_cluster_is_told(repository, log, tmp_path, address, reason):
    address = address.replace("PORT", str(free_port()))
    done = run("batch-recommend", repository, "--events", log, "--out", tmp_path / "lists", "--ray", address)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: --ray {address}: no cluster answers: ")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "lists").exists()


@pytest.mark.slow
def test_workers_of_a_cluster_work_at_once_and_are_replaced_when_killed(address, tmp_path):
    done = script(TASKS, address, tmp_path)
    assert done.stdout.splitlines()[-1:] == ["done"], done.stderr


@pytest.mark.slow
def test_run_on_a_cluster_goes_on_when_its_driver_was_killed(address, repository, log, expected, tmp_path):
    out = tmp_path / "lists"
    done = script(KILLED, repository, log, out, tmp_path, address)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert 1 <= len(list(out.glob("*.parquet"))) < 3
    summary = batch_recommend(repository, LogFiles([log]), out)
    assert summary.kept_parts >= 1
    assert files_of(out) == expected


@pytest.mark.slow
def test_cluster_embeds_what_one_process_embeds(address, movielens, tiny_encoder, tmp_path):
    catalog = ["--catalog", movielens / "movies.parquet", "--item-col", "movieId", "--text-template", "{title}"]
    command = ["embed-catalog", *catalog, "--encoder", tiny_encoder, "--out"]
    done = script(
        "from ebbtide.cli.main import main; main()",
        *command,
        *(tmp_path / "ray", "--ray", address, "--scratch", tmp_path, "--processes", 2),
    )
    assert done.returncode == 0, done.stderr
    assert run(*command, tmp_path / "one", "--processes", 1).returncode == 0
    found, expected = (pl.read_parquet(tmp_path / name / "*.parquet") for name in ("ray", "one"))
    assert found["movieId"].equals(expected["movieId"])
    np.testing.assert_allclose(np.stack(found["vector"]), np.stack(expected["vector"]), atol=1e-6)
