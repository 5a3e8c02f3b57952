"""Real Tritons that die, restart, freeze or come late, and calls that are cancelled: what the caller sees."""

import asyncio
import os
import shutil
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from ebbtide.client import (
    AsyncInterestClient,
    ClientConfig,
    DeadlineExceededError,
    InterestClient,
    ModelNotReadyError,
    OverloadedError,
    RetryConfig,
)
from ebbtide.serve import ServerConfig, TritonServer

PATIENT = ClientConfig(
    timeout_s=60,
    wait_for_ready=True,
    retry=RetryConfig(max_attempts=100, max_backoff_ms=200, budget_tokens=1_000),
    max_reconnect_backoff_ms=100,
)


@pytest.fixture(scope="module")
def small(small_repository):
    with TritonServer(ServerConfig(small_repository)) as running:
        yield running


@pytest.fixture
def marks(small_repository):
    """The files in which the slow model says what happened to it."""
    folder = small_repository / "embed"
    yield folder
    for name in ("started", "cancelled"):
        (folder / name).unlink(missing_ok=True)


async def appears(path):
    for _ in range(3_000):
        if path.exists():
            return True
        await asyncio.sleep(0.01)
    return False


def test_server_stops_working_when_the_callers_task_is_cancelled(small, marks):
    async def run():
        async with AsyncInterestClient(small.grpc_url) as client:
            task = asyncio.create_task(client.embed(["slow"], timeout_s=50))
            assert await appears(marks / "started")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await appears(marks / "cancelled")
            assert (await client.embed(["quick"])).tolist() == [[5, 0]]

    asyncio.run(run())


def test_server_stops_working_when_the_deadline_has_passed(connect, small, marks):
    with connect(small.grpc_url) as client:
        client.embed(["quick"])
        with pytest.raises(DeadlineExceededError):
            client.embed(["slow"], timeout_s=1)
    assert asyncio.run(appears(marks / "cancelled"))


def test_deadline_holds_when_the_server_is_frozen(connect, small):
    with connect(small.grpc_url) as client:
        client.embed(["quick"])
        os.kill(small.pid, signal.SIGSTOP)
        try:
            with pytest.raises(DeadlineExceededError):
                client.embed(["quick"], timeout_s=0.3)
            assert not client.is_live(timeout_s=0.3)
        finally:
            os.kill(small.pid, signal.SIGCONT)
        assert client.embed(["quick"]).tolist() == [[5, 0]]


def test_call_raises_overloaded_when_the_models_queue_is_full(small_repository, tmp_path):
    shutil.copytree(small_repository, tmp_path / "full")
    config = tmp_path / "full" / "embed" / "config.pbtxt"
    config.write_text(config.read_text() + "dynamic_batching { default_queue_policy { max_queue_size: 1 } }")
    with (
        TritonServer(ServerConfig(tmp_path / "full")) as server,
        ThreadPoolExecutor(4) as pool,
        InterestClient(server.grpc_url) as client,
    ):
        client.embed(["quick"])
        # One runs, one waits in the queue, and the others find it full.
        running = [pool.submit(client.embed, ["slow"], timeout_s=2) for _ in range(4)]
        errors = [call.exception() for call in running]
    kinds = [type(error) for error in errors]
    assert kinds.count(OverloadedError) == 2, errors
    assert kinds.count(DeadlineExceededError) == 2, errors


def load(client, texts_done, stop, errors):
    """Calls until told to stop; keeps which server answered and what went wrong."""
    while not stop.is_set():
        try:
            texts_done.append(int(client.embed(["quick"])[0, 1]))
        except Exception as error:
            errors.append(error)


def wait_for(condition):
    tick = threading.Event()
    for _ in range(6_000):
        if condition():
            return
        tick.wait(0.01)
    pytest.fail("it did not come to pass")


def test_no_call_fails_when_one_of_two_servers_dies_under_load(connect, small, small_repository):
    with TritonServer(ServerConfig(small_repository, environment={"SERVER_NUMBER": "2"})) as second:
        answers, errors, stop = [], [], threading.Event()
        with connect([small.grpc_url, second.grpc_url]) as client, ThreadPoolExecutor(4) as pool:
            for _ in range(4):
                pool.submit(load, client, answers, stop, errors)
            try:
                wait_for(lambda: answers.count(0) > 50 and answers.count(2) > 50)
                # Round robin: both work, and about the same.
                assert 0.5 < answers.count(0) / answers.count(2) < 2
                os.kill(second.pid, signal.SIGKILL)
                second.wait(30)
                before = len(answers)
                wait_for(lambda: len(answers) > before + 200)
            finally:
                stop.set()
        assert errors == []
        assert set(answers[-100:]) == {0}


def test_all_calls_succeed_when_the_server_is_killed_and_restarted_under_load(connect, small_repository):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    answers, errors, stop = [], [], threading.Event()
    config = ServerConfig(small_repository, grpc_port=port)
    with connect(f"127.0.0.1:{port}", config=PATIENT) as client, ThreadPoolExecutor(4) as pool:
        with TritonServer(config) as first:
            for _ in range(4):
                pool.submit(load, client, answers, stop, errors)
            wait_for(lambda: len(answers) > 50)
            os.kill(first.pid, signal.SIGKILL)
            first.wait(30)
        before = len(answers)
        try:
            with TritonServer(config):
                wait_for(lambda: len(answers) > before + 50)
                stop.set()
                pool.shutdown()
        finally:
            stop.set()
    assert errors == []


def test_waiting_client_is_served_when_the_server_starts_later(small_repository):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with InterestClient(f"127.0.0.1:{port}", config=PATIENT) as client, ThreadPoolExecutor(2) as pool:
        with pytest.raises(ModelNotReadyError):
            client.wait_until_ready(0.1, "embed")
        waited = pool.submit(client.wait_until_ready, 60, "embed")
        called = pool.submit(client.embed, ["quick"])
        with TritonServer(ServerConfig(small_repository, grpc_port=port)):
            waited.result()
            assert called.result().tolist() == [[5, 0]]
