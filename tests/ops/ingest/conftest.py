"""A server with an embedded store, and the ingest command as a process that can be killed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ebbtide.interest import exported
from ebbtide.serve import ServerConfig
from ebbtide.store import StoreConfig, open_store
from redis_servers import HOW_TO_GET, RedisServer, redis_program
from servers import only, serving


@pytest.fixture(scope="session")
def repository(tiny_export):
    return tiny_export.folder


@pytest.fixture(scope="session")
def pipeline(repository):
    return exported.read_plain_pipeline(repository / "observer" / "1")


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """The store of the server."""
    address = f"embedded:{tmp_path_factory.mktemp('states') / 'store'}"
    with open_store(address, StoreConfig(timeout_ms=60_000)) as opened:
        yield opened


@pytest.fixture(scope="session")
def server(repository, store):
    with serving(ServerConfig(repository, state=store.name, **only("observe"))) as running:
        yield running


@pytest.fixture(scope="session")
def make_redis(tmp_path_factory):
    """Makes servers; they are not started."""
    program = redis_program()
    if program is None:
        pytest.skip(HOW_TO_GET)
    made = []

    def make(*settings):
        made.append(RedisServer(program, tmp_path_factory.mktemp("redis"), *settings))
        return made[-1]

    yield make
    for redis in made:
        redis.stop()


@pytest.fixture(scope="session")
def shared_redis(make_redis):
    redis = make_redis()
    redis.start()
    return redis


@pytest.fixture
def start_ingest():
    """Starts ``ebbtide ingest`` with arguments; what still runs at the end of the test is killed."""
    started = []

    def start(*arguments, **options):
        command = [sys.executable, "-c", "from ebbtide.cli.main import main; main()", "ingest", *map(str, arguments)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
