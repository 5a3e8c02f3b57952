"""A version is switched under load with the users' states: no request fails, no event is lost, the users are known."""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import dataclass, field, replace

import numpy as np
import polars as pl
import pytest

from commands import ebbtide, run
from deadlines import PATIENT
from ebbtide.backfill import LogFiles, backfill
from ebbtide.client import InterestClient, StateStatus, event
from ebbtide.deploy import StatesMissingError, deploy, roll_back
from ebbtide.export import versions
from ebbtide.interest import exported
from ebbtide.interest.keys import user_keys
from ebbtide.interest.record import NewEvents, store_keys
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.store import StoreConfig, open_store
from redis_servers import HOW_TO_GET, RedisServer, redis_program
from states import States, random_events

USERS = 30
SERVICES = 3
FEW = 5


@pytest.fixture
def folder(two_versions, tmp_path):
    return shutil.copytree(two_versions, tmp_path / "repository")


@pytest.fixture
def address(request, tmp_path):
    if getattr(request, "param", "embedded") == "embedded":
        yield f"embedded:{tmp_path / 'states'}"
        return
    program = redis_program()
    if program is None:
        pytest.skip(HOW_TO_GET)
    server = RedisServer(program, tmp_path / "redis")
    server.start()
    yield server.address
    server.stop()


@dataclass
class Service:
    """Some of the users, who do one thing after the other and are recommended something after each."""

    url: str
    frame: pl.DataFrame
    """What they will do."""
    observed: int = 0
    """Events that the server has acknowledged."""
    versions: dict[str, int] = field(default_factory=dict)
    """Answers of each version."""
    faults: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with InterestClient(self.url, config=PATIENT) as client:
            for row in self.frame.iter_rows(named=True):
                if self.stop.is_set():
                    return
                try:
                    self._act(client, row)
                except Exception as error:
                    self.faults.append(repr(error))
                    return
                # So that the events last until the end, however fast the server is.
                self.stop.wait(0.02)

    def _act(self, client, row):
        done = client.observe(row["user"], [event(item_id=row["item"], time_ms=row["time"], event_id=row["id"])])
        if (done.added_events, done.late_events) != (1, 0):
            self.faults.append(f"{row['id']}: {done}")
        self.observed += 1
        answer = client.recommend(user_id=row["user"])
        self.versions[answer.model_version] = self.versions.get(answer.model_version, 0) + 1
        if answer.state_status != StateStatus.STATE_STATUS_USED or answer.events_used < 20:
            self.faults.append(f"version {answer.model_version} does not know a user: {answer.state_status}")


class Load:
    """All services."""

    def __init__(self, url, frame):
        self.services = [
            Service(url, frame.filter(pl.col("user").is_in([f"u{n}" for n in range(USERS) if n % SERVICES == rest])))
            for rest in range(SERVICES)
        ]
        self._threads = [threading.Thread(target=service.run) for service in self.services]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        for service in self.services:
            service.stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, version, answers):
        """Returns once every service has so many further answers of a version."""
        goals = [service.versions.get(str(version), 0) + answers for service in self.services]
        for service, goal in zip(self.services, goals, strict=True):
            while service.versions.get(str(version), 0) < goal:
                assert not service.faults, service.faults
                assert service.observed < service.frame.height, "more events are needed"
                time.sleep(0.01)

    @property
    def done(self):
        """The events that were acknowledged."""
        return pl.concat([service.frame.head(service.observed) for service in self.services])


@pytest.mark.parametrize(
    ("address", "answers"),
    [
        ("embedded", FEW),
        pytest.param("embedded", 60, marks=pytest.mark.slow),
        pytest.param("redis", 60, marks=pytest.mark.slow),
    ],
    indirect=["address"],
)
def test_users_are_known_and_no_event_is_lost_when_a_version_is_switched_under_load(
    folder, address, answers, tiny_bundle, tmp_path
):
    frame = random_events(tiny_bundle.catalog.item_id[:60], USERS, 60_000).sort("time")
    # Every user has a past, and less to come than a record keeps raw.
    past = frame.head(20_000)
    users = sorted(past.filter(pl.len().over("user") >= 20)["user"].unique())
    past = past.filter(pl.col("user").is_in(users))
    future = frame.tail(40_000).filter(pl.col("user").is_in(users)).group_by("user", maintain_order=True).head(400)
    past.write_parquet(tmp_path / "log.parquet")
    log = LogFiles([tmp_path / "log.parquet"], event_id="id")
    config = StoreConfig(timeout_ms=60_000)
    backfill(folder, log, address, config, version=1)
    server = TritonServer(ServerConfig(folder, model_control="explicit", load_models=("*",), state=address))
    with server, open_store(address, config) as store, Load(server.grpc_url, future.sort("time")) as load:
        load.wait_for(1, answers)
        with pytest.raises(StatesMissingError, match=r"states of 0 of \d+ users .*`ebbtide backfill .*--version 2"):
            deploy(folder, [server.grpc_url], store=store)
        # The log reaches to the start of the backfill: version 1 has folded all but the newest events since its own.
        pl.concat([past, load.done]).write_parquet(tmp_path / "grown.parquet")
        backfill(folder, replace(log, paths=[tmp_path / "grown.parquet"]), address, config, version=2)
        load.wait_for(1, answers)
        result = deploy(folder, [server.grpc_url], store=store)
        assert result.states.known == result.states.users == len(users)
        load.wait_for(2, answers)
        roll_back(folder, [server.grpc_url])
        load.wait_for(1, answers)
        if answers > FEW:
            deploy(folder, [server.grpc_url], 2, store=store)
            load.wait_for(2, answers)
        for service in load.services:
            service.stop.set()
    assert [service.faults for service in load.services] == [[]] * SERVICES
    every = pl.concat([past, load.done])
    with open_store(address, config) as store:
        for version in (1, 2):
            pipeline = exported.read_plain_pipeline(folder / "observer" / str(version))
            assert_same_after_folding(pipeline, store, every, users)


def assert_same_after_folding(pipeline, store, frame, users):
    """The store has every event of each user once; what another version has left raw is folded first."""
    fingerprint = pipeline.parameters.config.states.encode()
    stored = store.read(store_keys(user_keys(users)), fingerprint)
    nothing = NewEvents(np.zeros(len(users), np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64))
    found = States(pipeline, pipeline.recorder().observe(stored, nothing).records)
    found.assert_same(States.expected(pipeline, frame, users, ids=True))


def test_states_of_a_version_are_listed_and_retired(folder, address, tiny_bundle, tmp_path):
    random_events(tiny_bundle.catalog.item_id[:60], USERS, 2000).write_parquet(tmp_path / "log.parquet")
    for version in (1, 2):
        ebbtide("backfill", folder, "--events", tmp_path / "log.parquet", "--state", address, "--version", version)
    old, new = (versions.version_states(folder, version) for version in (1, 2))
    given = ("--repository", folder, "--state", address)
    listed = ebbtide("states", *given)
    for fingerprint, name in ((old, "1 (in service)"), (new, "2 (not loaded)")):
        row, *said = [row for row in listed.splitlines() if fingerprint in row]
        assert name in row
        assert bool(said) == (fingerprint == new)
    assert f"unused: no loaded version uses {new}" in listed
    done = run("retire", old, *given)
    assert (done.returncode, "got the states of the version in service, or the only ones" in done.stderr) == (1, True)
    done = run("retire", "0" * 16, *given)
    assert (done.returncode, f"got no states {'0' * 16}; expected one of" in done.stderr) == (1, True)
    assert f"records of states {new}" in ebbtide("retire", new, *given)
    with open_store(address, StoreConfig(timeout_ms=60_000)) as store:
        assert store.registered() == {old.encode()}
        assert list(store.users(new.encode())) == []
        assert len(list(store.users(old.encode()))) > 20
    done = run("retire", old, "--state", address)
    assert (done.returncode, "or the only ones" in done.stderr) == (1, True)
    assert f"records of states {old}" in ebbtide("retire", old, "--state", address, "--force")


def test_store_that_is_not_there_is_not_made(tmp_path):
    done = run("states", "--state", f"embedded:{tmp_path / 'none'}")
    assert (done.returncode, "no such folder; expected an embedded store" in done.stderr) == (1, True)
    assert not (tmp_path / "none").exists()
    done = run("states")
    assert (done.returncode, "expected the --state of a store" in done.stderr) == (2, True)
