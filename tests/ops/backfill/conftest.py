"""An export, logs over its catalog, and a store of each kind."""

from __future__ import annotations

from functools import partial

import pytest

from ebbtide.interest import exported
from redis_servers import HOW_TO_GET, RedisServer, redis_program
from states import States, random_events


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
    return pipeline.parameters.config.states.encode()


@pytest.fixture
def random_log(tiny_bundle):
    """Makes logs: some users with long histories, some with short ones; in no order."""

    def make(users=40, events=4_000, seed=0):
        return random_events(tiny_bundle.catalog.item_id[:60], users, events, seed)

    return make


@pytest.fixture(scope="session")
def states_of(pipeline):
    """Reads the states of users from an open store."""
    return partial(States.stored, pipeline)


@pytest.fixture(scope="session")
def expected(pipeline):
    """The states after all events of a frame, each user's observed at once."""
    return partial(States.expected, pipeline)
