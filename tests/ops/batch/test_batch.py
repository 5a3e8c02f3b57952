"""Lists of all users are those of a server; whatever ends a run, the next one goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from commands import ebbtide
from deadlines import PATIENT
from ebbtide.backfill import LogFiles
from ebbtide.batch import BatchError, batch_recommend
from ebbtide.batch.parts import MANIFEST_FILE, require_same_run, run_of_parts, write_part
from ebbtide.client import InterestClient, event
from ebbtide.data.events import EventColumns
from ebbtide.serve import ServerConfig
from servers import only, serving
from states import random_events

KILLED = """
import os, signal, sys
from pathlib import Path
from ebbtide.cli.main import main

def on_rename(event, arguments):
    if event == "os.rename" and str(arguments[1]).endswith(".parquet"):
        if any(Path(arguments[1]).parent.glob("*.parquet")):
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(on_rename)
main()
"""
"""Runs ``ebbtide``, and kills it before the second part gets its name."""
WEIGHTED = EventColumns(weight="stars")


@pytest.fixture(scope="session")
def repository(tiny_export):
    return tiny_export.folder


@pytest.fixture
def random_log(tiny_bundle, tmp_path):
    """A log of random events in a file, and its events."""

    def make(users=40, events=2_000):
        frame = random_events(tiny_bundle.catalog.item_id[:60], users, events, seed=1)
        frame.write_parquet(tmp_path / "log.parquet", row_group_size=700)
        return tmp_path / "log.parquet", frame

    return make


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def lists_of(folder):
    return pl.read_parquet(folder / "*.parquet").sort("user", "rank")


def test_lists_are_those_of_a_server(repository, random_log, tmp_path):
    path, frame = random_log()
    summary = batch_recommend(repository, LogFiles([path], WEIGHTED), tmp_path / "lists", top_n=7)
    found = lists_of(tmp_path / "lists")
    assert (summary.counts.users, summary.counts.items, summary.counts.cut) == (
        frame["user"].n_unique(),
        found.height,
        0,
    )
    assert found["time"].unique().dt.epoch("ms").to_list() == [int(frame["time"].max()) + 1]
    with (
        serving(ServerConfig(repository, **only("recommend"))) as server,
        InterestClient(server.grpc_url, config=PATIENT) as client,
    ):
        for (user,), of_user in frame.sort("time", maintain_order=True).group_by("user"):
            events = [
                event(item_id=item, time=moment, weight=weight)
                for item, moment, weight in of_user.select(
                    "item", pl.from_epoch("time", "ms").dt.replace_time_zone("UTC"), "stars"
                ).iter_rows()
            ]
            answer = client.recommend(events=events, now=found["time"][0], top_n=7)
            mine = found.filter(pl.col("user") == user)
            assert mine["item"].to_list() == [one.item_id for one in answer.items]
            np.testing.assert_allclose(mine["score"], [one.score for one in answer.items], atol=1e-4)


def test_processes_write_what_one_writes_when_there_are_several(repository, random_log, tmp_path):
    path, _ = random_log(users=300, events=50_000)
    seen = []

    class Watcher:
        def reading(self, rows):
            pass

        def ranking(self, parts, of):
            seen.append((parts, of))

    one = batch_recommend(repository, LogFiles([path]), tmp_path / "one", processes=1, progress=Watcher())
    assert seen == [(1, 3), (2, 3), (3, 3)]
    several = batch_recommend(repository, LogFiles([path]), tmp_path / "several", processes=2)
    assert one.counts == several.counts
    assert files_of(tmp_path / "one") == files_of(tmp_path / "several")


def test_newest_events_count_when_a_user_has_more_than_a_request_takes(repository, tiny_bundle, tmp_path):
    times = [f"2026-01-01T00:{index // 60:02}:{index % 60:02}" for index in range(600)]
    frame = pl.DataFrame({"user": "u", "item": np.resize(tiny_bundle.catalog.item_id[:150], 600), "time": times})
    frame.write_csv(tmp_path / "all.csv")
    frame.tail(512).write_csv(tmp_path / "newest.csv")
    summary = batch_recommend(repository, LogFiles([tmp_path / "all.csv"]), tmp_path / "all")
    newest = batch_recommend(repository, LogFiles([tmp_path / "newest.csv"]), tmp_path / "newest")
    assert (summary.counts.cut, newest.counts.cut) == (1, 0)
    found = lists_of(tmp_path / "all")
    assert found.height == 20
    assert found.equals(lists_of(tmp_path / "newest"))


def test_events_from_the_time_of_the_lists_on_are_left_out(repository, random_log, tmp_path):
    path, frame = random_log()
    now = int(frame["time"].sort()[1000])
    summary = batch_recommend(repository, LogFiles([path]), tmp_path / "lists", now_ms=now)
    assert (summary.log.events, summary.log.after) == (1000, 1000)
    before = frame.filter(pl.col("time") < now)
    assert set(lists_of(tmp_path / "lists")["user"]) == set(before["user"])


def test_run_goes_on_when_it_was_killed(repository, random_log, tmp_path):
    path, _ = random_log(users=300, events=50_000)
    expected = batch_recommend(repository, LogFiles([path]), tmp_path / "expected")
    out = tmp_path / "lists"
    command = [sys.executable, "-c", KILLED, "batch-recommend", repository, "--events", path, "--out", out]
    done = subprocess.run([*map(str, command), "--processes", "1"], check=False)
    assert done.returncode == -signal.SIGKILL
    next(out.glob("*.parquet")).with_suffix(".partial").write_bytes(b"cut")
    assert not json.loads((out / MANIFEST_FILE).read_text())["complete"]
    summary = batch_recommend(repository, LogFiles([path]), out)
    assert (summary.kept_parts, summary.parts, expected.parts) == (1, 3, 3)
    assert files_of(out) == files_of(tmp_path / "expected")
    assert json.loads((out / MANIFEST_FILE).read_text())["complete"]


@pytest.mark.parametrize(
    ("changed", "differs"),
    [
        ({"top_n": 3}, "top N 20 there and 3 now;"),
        ({"now_ms": 1_800_000_000_000}, r"time of the lists \S+ there and 2027-01-15T08:00:00.000Z now;"),
        ({"exclude_seen": False}, "seen items left out default there and False now;"),
    ],
    ids=["top N", "now", "seen"],
)
def test_folder_with_other_lists_is_refused(repository, random_log, tmp_path, changed, differs):
    path, _ = random_log()
    batch_recommend(repository, LogFiles([path]), tmp_path / "lists")
    before = files_of(tmp_path / "lists")
    with pytest.raises(BatchError, match=f"got a folder of another run: {differs} expected a new folder"):
        batch_recommend(repository, LogFiles([path]), tmp_path / "lists", **changed)
    assert files_of(tmp_path / "lists") == before


def test_folder_with_lists_of_another_log_or_export_is_refused(two_versions, random_log, tmp_path):
    path, frame = random_log()
    batch_recommend(two_versions, LogFiles([path]), tmp_path / "lists")
    with pytest.raises(BatchError, match=r"another run: export \w+ there and \w+ now, version 1 there and 2 now;"):
        batch_recommend(two_versions, LogFiles([path]), tmp_path / "lists", version=2)
    frame[:-1].write_parquet(path)
    with pytest.raises(BatchError, match=r"events 2,000 \(\w+\) there and 1,999 \(\w+\) now;"):
        batch_recommend(two_versions, LogFiles([path]), tmp_path / "lists")


@pytest.mark.parametrize("name", ["notes.txt", "part-00000.parquet"])
def test_folder_with_other_files_is_refused(repository, random_log, tmp_path, name):
    path, _ = random_log()
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / name).write_text("x")
    with pytest.raises(BatchError, match=f"got a folder with other files, such as {name}; expected a new folder"):
        batch_recommend(repository, LogFiles([path]), tmp_path / "lists")
    assert [one.name for one in (tmp_path / "lists").iterdir()] == [name]


def write_parts(folder, parts, made_by="a command"):
    with run_of_parts(folder, made_by, {}, parts) as missing:
        for number in missing:
            write_part(folder, number, pl.DataFrame({"number": number}))


def test_folder_that_another_run_is_writing_to_is_refused(tmp_path):
    def write():
        with run_of_parts(tmp_path, "a command", {}, 1):
            with pytest.raises(BatchError, match="another process is writing to"):
                write_parts(tmp_path, 1)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    write_parts(tmp_path, 1)


def test_part_that_is_not_there_in_the_end_is_told(tmp_path):
    with pytest.raises(BatchError, match=r"got 0 of 1 parts, .*expected a folder that all machines share"):  # noqa: SIM117
        with run_of_parts(tmp_path, "a command", {}, 1):
            pass
    assert not json.loads((tmp_path / MANIFEST_FILE).read_text())["complete"]


def test_parts_of_a_longer_run_are_refused(tmp_path):
    write_parts(tmp_path, 2)
    with pytest.raises(BatchError, match=r"got part-00001\.parquet, which is no part of the run"):
        write_parts(tmp_path, 1)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"made_by": "x", "inputs": 3}'])
def test_damaged_manifest_is_told(tmp_path, content):
    (tmp_path / MANIFEST_FILE).write_text(content)
    with pytest.raises(BatchError, match=rf"{MANIFEST_FILE}: got a damaged file"):
        require_same_run(tmp_path, "a command", {})


def test_folder_of_another_command_is_refused(tmp_path):
    write_parts(tmp_path, 1)
    with pytest.raises(BatchError, match="got a folder that a command has written"):
        write_parts(tmp_path, 1, "another one")


def test_list_longer_than_that_of_the_export_is_refused(repository, random_log, tmp_path):
    path, _ = random_log()
    with pytest.raises(BatchError, match="got 21; expected at most 20, the top N of the export"):
        batch_recommend(repository, LogFiles([path]), tmp_path / "lists", top_n=21)


def test_log_of_other_items_is_refused(repository, tmp_path):
    pl.DataFrame({"user": ["u"], "item": ["nothing"], "time": ["2026-01-01"]}).write_csv(tmp_path / "log.csv")
    with pytest.raises(BatchError, match="such as 'nothing', and none of its items"):
        batch_recommend(repository, LogFiles([tmp_path / "log.csv"]), tmp_path / "lists")


def test_command_says_what_it_wrote_and_goes_on(repository, random_log, tmp_path):
    path, frame = random_log()
    command = [
        "batch-recommend",
        str(repository),
        "--events",
        str(path),
        "--out",
        str(tmp_path / "lists"),
        "--top",
        "5",
    ]
    said = ebbtide(*command)
    users = frame["user"].n_unique()
    assert f"lists of {users} users as of 20" in said
    assert f"{5 * users} rows" in said
    again = ebbtide(*command)
    assert "all lists as of 20" in again
