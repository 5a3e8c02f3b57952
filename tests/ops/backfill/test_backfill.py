"""States built from a log are those that observing every event gives; whatever ends a run, the next one goes on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import polars as pl
import pytest

from commands import ebbtide, run
from ebbtide.backfill import BackfillError, LogFiles, backfill
from ebbtide.backfill.spill import Spill, UserEvents, event_dtype
from ebbtide.data.errors import DataError
from ebbtide.data.events import EventColumns
from ebbtide.interest.keys import item_keys, user_keys
from ebbtide.interest.observer import Observer
from ebbtide.interest.users import Users
from ebbtide.store import StoreConfig, open_store

PATIENT = StoreConfig(timeout_ms=60_000)
"""A busy machine is no error."""
WEIGHTED = EventColumns(weight="stars")


def write(frame, folder, suffix, name="log"):
    path = folder / f"{name}{suffix}"
    if suffix == ".parquet":
        frame.write_parquet(path, row_group_size=700)
    elif suffix == ".csv":
        frame.write_csv(path)
    else:
        frame.write_ndjson(path)
    return path


def users_of(frame):
    return sorted(frame["user"].unique())


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_states_are_those_of_observed_events_whatever_the_format(
    repository, address, random_log, expected, states_of, tmp_path, suffix
):
    frame = random_log()
    users = users_of(frame)
    log = LogFiles([write(frame, tmp_path, suffix)], WEIGHTED)
    summary = backfill(repository, log, address)
    assert (summary.counts.users, summary.counts.added, summary.log.unknown_items) == (len(users), frame.height, 0)
    assert summary.bytes_per_user <= summary.counts.largest_bytes < 2048
    with open_store(address, PATIENT) as store:
        states_of(store, users).assert_same(expected(frame, users, weight=True))
        assert store.registered() == {summary.fingerprint.encode()}


def test_user_may_be_in_several_files_and_be_written_by_several_processes(
    repository, address, random_log, expected, states_of, tmp_path
):
    frame = random_log(users=300)
    users = users_of(frame)
    paths = [write(frame[start::3], tmp_path, ".parquet", f"log{start}") for start in range(3)]
    seen = []

    class Watcher:
        def reading(self, rows):
            seen.append(rows)

        def writing(self, files, of):
            seen.append((files, of))

    summary = backfill(repository, LogFiles(paths, WEIGHTED), address, processes=2, progress=Watcher())
    assert summary.counts.users == len(users)
    assert seen[2] == frame.height
    assert seen[-1][0] == seen[-1][1] <= 256
    with open_store(address, PATIENT) as store:
        states_of(store, users).assert_same(expected(frame, users, weight=True))


def test_same_log_changes_nothing_when_it_comes_again(repository, address, random_log, tmp_path):
    log = LogFiles([write(random_log(), tmp_path, ".parquet")])
    first = backfill(repository, log, address)
    again = backfill(repository, log, address)
    assert again.log.mark == first.log.mark
    assert (again.counts.users, again.counts.added) == (0, 0)
    assert again.counts.done_before == first.counts.users
    forced = backfill(repository, log, address, replace_folded=True)
    assert forced.counts.users == first.counts.users


def test_longer_log_replaces_the_states_of_a_shorter_one(
    repository, address, random_log, expected, states_of, tmp_path
):
    frame = random_log().sort("time")
    users = users_of(frame)
    backfill(repository, LogFiles([write(frame.head(3000), tmp_path, ".parquet")]), address)
    backfill(repository, LogFiles([write(frame, tmp_path, ".parquet")]), address)
    with open_store(address, PATIENT) as store:
        states_of(store, users).assert_same(expected(frame, users))


class Service:
    """Observes events as a server does."""

    def __init__(self, pipeline, store, fingerprint=None):
        users = Users(store, fingerprint or pipeline.parameters.config.states)
        self._observer = Observer(pipeline, users)

    def observe(self, frame, *, ids=False):
        for user, of_user in frame.group_by("user", maintain_order=True):
            tensors = {
                "user": user_keys([user[0]]),
                "event_item": item_keys(of_user["item"])[None],
                "event_time": of_user["time"].to_numpy()[None],
            }
            if ids:
                tensors["event_id"] = item_keys(of_user["id"])[None]
            (answer,) = self._observer.run_requests([tensors])
            assert isinstance(answer, dict), answer


def test_events_that_another_version_observes_meanwhile_count_once(
    repository, address, random_log, pipeline, expected, states_of, tmp_path
):
    frame = random_log(events=3000).sort("time")
    users = users_of(frame)
    log = frame.head(2500)
    with open_store(address, PATIENT) as store:
        service = Service(pipeline, store, "the version in service")
        rounds = []

        def observe():
            # Events of the log's end again, and later ones, each several times; while the log is put into the store.
            for start in range(2450, 2970, 10):
                service.observe(frame[start : start + 40], ids=True)
                rounds.append(start)

        thread = threading.Thread(target=observe)
        backfilled = LogFiles([write(log, tmp_path, ".parquet")], event_id="id")
        # Registers the new version.
        store.register(pipeline.parameters.config.states.encode())
        thread.start()
        while not rounds:
            time.sleep(0.01)
        backfill(repository, backfilled, address, processes=2)
        thread.join()
        # The new version folds what the other has appended, and knows what it does not have to count again.
        Service(pipeline, store).observe(frame.group_by("user").tail(1), ids=True)
        states_of(store, users).assert_same(expected(frame, users, ids=True))


def test_log_goes_before_what_the_version_has_observed_itself(
    repository, address, random_log, pipeline, expected, states_of, tmp_path
):
    frame = random_log(users=5, events=600).sort("time")
    users = users_of(frame)
    until = frame["time"][300]
    # The next session begins later than the session gap after the log ends.
    frame = frame.with_columns(time=pl.when(pl.col("time") >= until).then(pl.col("time") + 10**10).otherwise("time"))
    with open_store(address, PATIENT) as store:
        Service(pipeline, store).observe(frame.tail(300))
        path = write(frame, tmp_path, ".parquet")
        summary = backfill(repository, LogFiles([path], until_ms=int(until) + 1), address)
        assert summary.log.after == 300
        assert summary.counts.late > 0
        states_of(store, users).assert_same(expected(frame, users))
        other = backfill(repository, LogFiles([path], until_ms=int(frame["time"][290])), address)
        assert other.counts.kept > 0
        states_of(store, users).assert_same(expected(frame, users))


def test_rest_is_written_when_a_killed_run_is_started_again(
    repository, address, random_log, fingerprint, expected, states_of, tmp_path
):
    frame = random_log(users=3000, events=60_000)
    users = users_of(frame)
    path = write(frame, tmp_path, ".parquet")
    command = ["backfill", str(repository), "--events", str(path), "--state", address, "--weight-col", "stars"]
    with open_store(address, PATIENT) as store:
        process = subprocess.Popen(
            [sys.executable, "-c", "from ebbtide.cli.main import main; main()", *command, "--processes", "2"],
            start_new_session=True,
            env=os.environ | {"TMPDIR": str(tmp_path)},
        )
        while not any(True for _ in store.users(fingerprint)):
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        written = sum(1 for _ in store.users(fingerprint))
        output = ebbtide(*command)
        # Only the first process was waited for: one that it had started may have written some users more as it died.
        found = int(re.search(r"has had the events of this log before for ([\d,]+) users", output)[1].replace(",", ""))
        assert 0 < written <= found < len(users)
        states_of(store, users).assert_same(expected(frame, users, weight=True))


def test_command_takes_log_and_columns_from_the_bundle_and_says_what_it_did(
    repository, address, random_log, tiny_bundle, tmp_path
):
    frame = random_log(users=30, events=500).rename({"user": "userId", "item": "movieId", "time": "timestamp"})
    path = write(
        frame.with_columns(pl.when(pl.col("id") == "e7").then(pl.lit("nothing")).otherwise("movieId").alias("movieId")),
        tmp_path,
        ".csv",
    )
    with path.open("a") as file:
        file.write("u1,1,yesterday,1,x\n")
    data = tiny_bundle.config.data.model_copy(update={"events": str(path)})
    config = tiny_bundle.config.model_copy(update={"data": data})
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text(config.model_dump_json(), encoding="utf-8")
    output = ebbtide("backfill", repository, "--bundle", tmp_path / "bundle", "--state", address)
    users = frame["userId"].n_unique()
    assert "1 of 501 rows ignored: 1 with an unreadable time (column timestamp: line 502 'yesterday')" in output
    assert f"states of {users} users from 499 events in {address}" in output
    assert ": 1 of unknown items, 0 late, " in output
    assert "bytes per user" in output


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"item": "i"}, {}, "got 500 events of items that are not in the catalog of the export, such as 'i'"),
        ({"user": ""}, {}, "500 of 500 rows ignored: 500 with no user"),
        ({}, {"until_ms": 1}, "got 500 events, none of them before the given time"),
        ({"time": 7}, {}, "column time: got '7'; expected Unix time"),
    ],
)
def test_log_is_refused_and_nothing_written_when_it_cannot_be_used(
    repository, random_log, fingerprint, tmp_path, changes, options, message
):
    frame = random_log(events=500).with_columns(**{name: pl.lit(value) for name, value in changes.items()})
    address = f"embedded:{tmp_path / 'states'}"
    with pytest.raises((BackfillError, DataError), match=message):
        backfill(repository, LogFiles([write(frame, tmp_path, ".parquet")], **options), address)
    with open_store(address, PATIENT) as store:
        assert list(store.users(fingerprint)) == []


def test_command_says_what_it_needs(repository, tmp_path):
    done = run("backfill", repository)
    assert (done.returncode, "expected the --events of a log, or the --bundle" in done.stderr) == (2, True)
    done = run("backfill", tmp_path / "none", "--events", "x.csv")
    assert (done.returncode, "no such folder; expected a repository" in done.stderr) == (1, True)
    done = run("backfill", tmp_path, "--events", "x.csv")
    assert (done.returncode, "got no model 'observer'" in done.stderr) == (1, True)
    done = run("backfill", repository, "--events", "x.csv", "--version", "7")
    assert (done.returncode, "got no version 7; expected one of [1]" in done.stderr) == (1, True)


def test_spilled_events_of_a_user_are_in_one_batch_whatever_their_number(tmp_path):
    counts = [3, 50, 1, 1, 1, 20]
    events = np.zeros(sum(counts), event_dtype(with_id=False, with_type=False))
    # All in one partition, since the first byte is that of the partition.
    events["user"] = np.repeat(user_keys(map(str, range(6))) & ~0xFF, counts, axis=0)
    events["time_ms"] = np.arange(events.size)[::-1]
    spill = Spill(tmp_path)
    spill.add(events)
    (path,) = spill.files()
    read = UserEvents.read(path, with_id=False, with_type=False)
    assert sorted(read.events.counts.tolist()) == sorted(counts)
    for most_users, most_events in [(2, 10), (100, 10), (100, 1000), (1, 1)]:
        batches = read.batches(most_users, most_events)
        assert [start for start, _ in batches[1:]] == [end for _, end in batches[:-1]]
        assert (batches[0][0], batches[-1][1]) == (0, 6)
        for start, end in batches:
            assert 1 <= end - start <= most_users
            assert end - start == 1 or read.events.counts[start:end].sum() <= most_events
