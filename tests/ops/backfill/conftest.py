"""An export, logs over its catalog, and a store of each kind."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from ebbtide.interest import exported
from ebbtide.interest.keys import item_keys, user_keys
from ebbtide.interest.record import NewEvents, store_keys
from redis_servers import HOW_TO_GET, RedisServer, redis_program

START_MS = 1_600_000_000_000


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory):
    program = redis_program()
    if program is None:
        pytest.skip(HOW_TO_GET)
    server = RedisServer(program, tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["embedded", "redis"])
def address(request, tmp_path):
    """The address of an empty store, of each kind."""
    if request.param == "embedded":
        return f"embedded:{tmp_path / 'states'}"
    server = request.getfixturevalue("shared_redis")
    with server.client() as client:
        client.flushall()
    return server.address


@pytest.fixture(scope="session")
def repository(tiny_export):
    return tiny_export.folder


@pytest.fixture(scope="session")
def pipeline(repository):
    return exported.read_plain_pipeline(repository / "observer" / "1")


@pytest.fixture(scope="session")
def fingerprint(pipeline):
    return pipeline.parameters.config.fingerprint.encode()


@pytest.fixture
def random_log(tiny_bundle):
    """Makes logs: some users with long histories, some with short ones; in no order."""

    def make(users=40, events=4_000, seed=0):
        random = np.random.default_rng(seed)
        share = random.dirichlet(np.full(users, 0.5))
        return pl.DataFrame(
            {
                "user": [f"u{number}" for number in random.choice(users, events, p=share)],
                "item": random.choice(tiny_bundle.catalog.item_id[:60], events),
                "time": START_MS + np.cumsum(random.integers(1, 3_000_000, events))[random.permutation(events)],
                "stars": (random.random(events) * 4 + 1).astype(np.float32),
                "id": [f"e{number}" for number in range(events)],
            }
        )

    return make


class States:
    """What records say, to the digits of single precision."""

    def __init__(self, pipeline, records):
        self.read = pipeline.recorder().read(records)

    def assert_same(self, other):
        found, right = self.read, other.read
        assert found.known.tolist() == right.known.tolist()
        for name in ("user", "key", "time_ms", "weight", "event_id"):
            assert getattr(found.tail, name).tolist() == getattr(right.tail, name).tolist(), name
        assert found.folded.counts.tolist() == right.folded.counts.tolist()
        for name in ("sums", "squares"):
            of_right = getattr(right.folded, name)
            atol = 2e-5 * np.abs(of_right).max(initial=0)
            np.testing.assert_allclose(getattr(found.folded, name), of_right, rtol=0, atol=atol)
        assert found.items.item.tolist() == right.items.item.tolist()


@pytest.fixture(scope="session")
def states_of(pipeline, fingerprint):
    """Reads the states of users from an open store."""

    def read(store, users):
        return States(pipeline, store.read(store_keys(user_keys(users)), fingerprint))

    return read


@pytest.fixture(scope="session")
def expected(pipeline):
    """The states after all events of a frame, each user's observed at once."""

    def build(frame, users, *, weight=False, ids=False):
        ordered = (
            frame.filter(pl.col("user").is_in(users))
            .sort("time", maintain_order=True)
            .with_columns(pl.col("user").replace_strict(users, range(len(users))).alias("number"))
            .sort("number", maintain_order=True)
        )
        counts = np.bincount(ordered["number"].to_numpy(), minlength=len(users))
        events = NewEvents(
            counts,
            item_keys(ordered["item"]),
            ordered["time"].to_numpy(),
            ordered["stars"].to_numpy() if weight else None,
            item_keys(ordered["id"]) if ids else None,
        )
        return States(pipeline, pipeline.recorder().observe([None] * len(users), events).records)

    return build
