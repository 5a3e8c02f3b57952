"""Real Tritons that die, restart, freeze or come late, and calls that are cancelled: what the caller sees."""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import grpc
import pytest
from tritonclient.grpc import service_pb2_grpc

from deadlines import PATIENT, until
from ebbtide.client import (
    AsyncInterestClient,
    BearerToken,
    ClientConfig,
    DeadlineExceededError,
    InterestClient,
    InvalidArgumentError,
    ModelNotReadyError,
    OverloadedError,
    ResourceExhaustedError,
    RetryConfig,
    UnauthenticatedError,
)
from ebbtide.serve import ServerConfig, TritonServer
from ports import free_port
from servers import serving

WAITING = ClientConfig(
    timeout_s=60,
    wait_for_ready=True,
    retry=RetryConfig(max_attempts=100, max_backoff_ms=200, budget_tokens=1_000),
    max_reconnect_backoff_ms=100,
)


@pytest.fixture(scope="module")
def small(small_repository):
    with serving(ServerConfig(small_repository)) as running:
        yield running


@pytest.fixture
def marks(small_repository):
    """The files in which the slow model says what happened to it."""
    folder = small_repository / "embed"
    yield folder
    for name in ("started", "cancelled"):
        (folder / name).unlink(missing_ok=True)


async def appears(path):
    while not path.exists():
        await asyncio.sleep(0.01)
    return True


def test_server_stops_working_when_the_callers_task_is_cancelled(small, marks):
    async def run():
        async with AsyncInterestClient(small.grpc_url, config=PATIENT) as client:
            task = asyncio.create_task(client.embed(["slow"], timeout_s=50))
            assert await appears(marks / "started")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await appears(marks / "cancelled")
            assert (await client.embed(["quick"])).tolist() == [[5, 0]]

    asyncio.run(run())


def test_server_stops_working_when_the_deadline_has_passed(connect, small, marks):
    timeout_s = 1
    with connect(small.grpc_url) as client:
        client.embed(["quick"])
        while not (marks / "started").exists():
            # On a busy machine a deadline may pass before the model begins: then a longer one.
            timeout_s *= 2
            with pytest.raises(DeadlineExceededError):
                client.embed(["slow"], timeout_s=timeout_s)
    assert asyncio.run(appears(marks / "cancelled"))


def is_frozen(pid):
    """Whether every thread stands still, which takes a moment after the signal."""
    states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return set(states) == {"T"}


def test_deadline_ends_the_call_when_the_server_is_frozen(connect, small):
    with connect(small.grpc_url) as client:
        client.embed(["quick"])
        os.kill(small.pid, signal.SIGSTOP)
        try:
            until(lambda: is_frozen(small.pid))
            # Nothing but the deadline can end it: a frozen server neither answers nor closes the connection.
            with pytest.raises(DeadlineExceededError):
                client.embed(["quick"], timeout_s=0.1)
            assert not client.is_live(timeout_s=0.1)
        finally:
            os.kill(small.pid, signal.SIGCONT)
        assert client.embed(["quick"]).tolist() == [[5, 0]]


def test_call_raises_resource_exhausted_when_the_answer_is_larger_than_allowed(connect, small):
    config = ClientConfig(max_message_bytes=220, check_contract=False)
    with connect(small.grpc_url, config=config) as client:
        assert len(client.embed(["a"])) == 1
        with pytest.raises(ResourceExhaustedError, match="max_message_bytes"):
            client.embed(["a"] * 28)
    tight = ClientConfig(max_message_bytes=64)
    with connect(small.grpc_url, config=tight) as client, pytest.raises(ResourceExhaustedError, match="embed"):
        client.embed(["a"])


class Doorman(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Lets calls through to a Triton whose token is valid now, as a proxy before it would."""

    def __init__(self, triton_url):
        self.valid = "of-today"
        self.channel = grpc.insecure_channel(triton_url)
        self.triton = service_pb2_grpc.GRPCInferenceServiceStub(self.channel)

    def ModelInfer(self, request, context):  # noqa: N802
        self.check(context)
        return self.triton.ModelInfer(request)

    def ModelConfig(self, request, context):  # noqa: N802
        self.check(context)
        return self.triton.ModelConfig(request)

    def check(self, context):
        if dict(context.invocation_metadata()).get("authorization") != f"Bearer {self.valid}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "token expired")


@pytest.fixture
def doorman(small):
    with ThreadPoolExecutor(4) as pool:
        server, servicer = grpc.server(pool), Doorman(small.grpc_url)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        servicer.url = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield servicer
        server.stop(None).wait()
        servicer.channel.close()


def test_call_raises_unauthenticated_until_the_provider_has_a_new_token_when_the_old_one_expires(connect, doorman):
    held = ["of-today"]
    with (
        connect(doorman.url, config=ClientConfig(token=BearerToken("of-today"))) as fixed,
        connect(doorman.url, config=ClientConfig(token=BearerToken(lambda: held[0]))) as provided,
    ):
        assert fixed.embed(["quick"]).tolist() == provided.embed(["quick"]).tolist() == [[5, 0]]
        doorman.valid = "of-tomorrow"
        for client in (fixed, provided):
            with pytest.raises(UnauthenticatedError, match="token expired") as caught:
                client.embed(["quick"])
            assert caught.value.attempts == 1
        held[0] = "of-tomorrow"
        assert provided.embed(["quick"]).tolist() == [[5, 0]]


def queued(server, model):
    """Requests that wait for the model, as the server counts them."""
    with urllib.request.urlopen(server.metrics_url) as answer:  # noqa: S310 - this server's own URL
        metrics = answer.read().decode()
    return float(re.search(rf'nv_inference_pending_request_count{{model="{model}".*}} (\S+)', metrics)[1])


def test_call_raises_overloaded_when_the_models_queue_is_full(small_repository, tmp_path):
    shutil.copytree(small_repository, tmp_path / "full")
    config = tmp_path / "full" / "embed" / "config.pbtxt"
    config.write_text(config.read_text() + "dynamic_batching { default_queue_policy { max_queue_size: 1 } }")
    with (
        serving(ServerConfig(tmp_path / "full")) as server,
        ThreadPoolExecutor(4) as pool,
        InterestClient(server.grpc_url, config=PATIENT) as client,
    ):
        client.embed(["quick"])
        accepted = [pool.submit(client.embed, ["slow"], timeout_s=120)]
        try:
            until((config.parent / "started").exists)
            accepted.append(pool.submit(client.embed, ["slow"], timeout_s=120))
            until(lambda: queued(server, "embed") == 1)
            with pytest.raises(OverloadedError, match="embed"):
                client.embed(["one too many"], timeout_s=120)
        finally:
            (config.parent / "released").touch()
        assert [call.result().tolist() for call in accepted] == [[[4, 0]]] * 2


def load(client, answers, stop, errors):
    """Calls until told to stop; keeps which server answered and what went wrong, an answer to another call too."""
    for length in cycle(range(1, 100)):
        if stop.is_set():
            return
        try:
            ((found, server),) = client.embed(["q" * length]).tolist()
        except Exception as error:
            errors.append(error)
            continue
        answers.append(int(server))
        if found != length:
            errors.append(f"got the answer to a text of {found} letters for one of {length}")


def killed(server):
    os.kill(server.pid, signal.SIGKILL)
    server.wait(30)


def stopped(server):
    os.kill(server.pid, signal.SIGTERM)
    server.wait(60)


def without_its_models_process(server):
    found = subprocess.run(["pgrep", "-P", str(server.pid), "-f", "triton_python_backend_stub"], stdout=subprocess.PIPE)
    for pid in found.stdout.split():
        os.kill(int(pid), signal.SIGKILL)


def test_server_is_back_in_service_when_it_refuses_a_request_after_it_failed(connect, serve, vectors):
    gone = (grpc.StatusCode.UNAVAILABLE, "the model is unloaded")
    bad = (grpc.StatusCode.INVALID_ARGUMENT, "texts: got none")
    (failing, first), (other, second) = serve(gone, bad, vectors), serve(vectors)
    with connect([failing, other]) as client:

        def is_refused():
            try:
                client.embed(["a"])
            except InvalidArgumentError:
                return True
            return False

        # Its first failure is not seen, as the other one answers; then it is left out for a second.
        until(is_refused)
        before = first.calls, second.calls
        for _ in range(8):
            client.embed(["a"])
        assert (first.calls - before[0], second.calls - before[1]) == (4, 4)


@pytest.mark.parametrize("fault", [killed, stopped, without_its_models_process])
def test_no_call_fails_when_one_of_three_servers_is_down_and_another_fails_under_load(
    connect, small, small_repository, free_address, fault
):
    with TritonServer(ServerConfig(small_repository, environment={"SERVER_NUMBER": "2"})) as second:
        answers, errors, stop = [], [], threading.Event()
        addresses = [small.grpc_url, free_address, second.grpc_url]
        with connect(addresses) as client, ThreadPoolExecutor(4) as pool:
            for _ in range(4):
                pool.submit(load, client, answers, stop, errors)
            try:
                until(lambda: {0, 2} <= set(answers))
                # Round robin: once both are connected, they answer about as often.
                both = len(answers)
                until(lambda: len(answers) > both + 200)
                balanced = answers[both:]
                assert 0.5 < balanced.count(0) / balanced.count(2) < 2
                fault(second)
                before = len(answers)
                until(lambda: len(answers) > before + 200)
            finally:
                stop.set()
        assert errors == []
        assert set(answers[-100:]) == {0}


@pytest.mark.parametrize(
    "shared_memory", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["messages", "shared-memory"]
)
def test_all_calls_get_their_own_answer_when_the_server_is_killed_and_restarted_under_load(
    connect, small_repository, shared_memory
):
    port = free_port()
    answers, errors, stop = [], [], threading.Event()
    config = ServerConfig(small_repository, grpc_port=port)
    waiting = replace(WAITING, shared_memory=shared_memory)
    with connect(f"127.0.0.1:{port}", config=waiting) as client, ThreadPoolExecutor(4) as pool:
        with TritonServer(config) as first:
            for _ in range(4):
                pool.submit(load, client, answers, stop, errors)
            until(lambda: len(answers) > 50)
            os.kill(first.pid, signal.SIGKILL)
            first.wait(30)
        before = len(answers)
        try:
            with serving(config):
                until(lambda: len(answers) > before + 50)
                stop.set()
                pool.shutdown()
        finally:
            stop.set()
    assert errors == []


def test_waiting_client_is_served_when_the_server_starts_later(small_repository):
    port = free_port()
    with InterestClient(f"127.0.0.1:{port}", config=WAITING) as client, ThreadPoolExecutor(2) as pool:
        with pytest.raises(ModelNotReadyError):
            client.wait_until_ready(0.1, "embed")
        waited = pool.submit(client.wait_until_ready, 60, "embed")
        called = pool.submit(client.embed, ["quick"])
        with serving(ServerConfig(small_repository, grpc_port=port)):
            waited.result()
            assert called.result().tolist() == [[5, 0]]
