"""The stores under test: one suite runs against the embedded store and against a real Redis."""

from __future__ import annotations

import pytest

from ebbtide.store import open_store
from redis_servers import HOW_TO_GET, RedisServer, redis_program
from stores import PATIENT


@pytest.fixture(scope="session")
def program():
    found = redis_program()
    if found is None:
        pytest.skip(HOW_TO_GET)
    return found


@pytest.fixture(scope="session")
def shared_redis(program, tmp_path_factory):
    """A server that a whole run shares."""
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


@pytest.fixture
def store(address):
    """An empty store."""
    with open_store(address, PATIENT) as opened:
        yield opened


@pytest.fixture
def make_redis(program, tmp_path):
    """Makes servers that a test has for itself; they are not started."""
    servers = []

    def make(*settings, name="redis"):
        server = RedisServer(program, tmp_path / name, *settings)
        servers.append(server)
        return server

    yield make
    for server in servers:
        server.stop()
