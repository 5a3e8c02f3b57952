"""The load generator's own HTTP/2 against gRPC's own server: encryption, tokens, flow control, limits, losses."""

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client

import grpc
import numpy as np
import pytest
import trustme

from ebbtide.client import BearerToken, TlsConfig
from ebbtide.loadtest import Generator, LoadTestError, http2
from ebbtide.loadtest.access import Access, read_access, write_access
from ebbtide.loadtest.replay import Workload
from ebbtide.loadtest.workers import Workers
from ports import free_port

TOKEN = "s3cret-token"  # noqa: S105
METHOD = "/inference.GRPCInferenceService/ModelInfer"
OK, DEADLINE_EXCEEDED, UNAVAILABLE, UNAUTHENTICATED = 0, 4, 14, 16
ANSWER = b"a" * 70_000
"""Longer than HTTP/2's window unless the client widens it."""


class Handler(grpc.GenericRpcHandler):
    """Answers `ModelInfer` by bytes, and keeps what it was asked."""

    def __init__(self):
        self.asked, self.metadata = [], []
        self.release = threading.Event()
        self.release.set()
        self.gathering = threading.Barrier(1)
        """So many calls begin together; the first of a test do."""
        self.enough: int | None = None
        """After so many calls, the test is interrupted as by Ctrl-C."""
        self.under_way = self.most_under_way = 0
        self._lock = threading.Lock()

    def service(self, details):
        if details.method != METHOD:
            return None
        self.metadata.append(dict(details.invocation_metadata))
        return grpc.unary_unary_rpc_method_handler(self.answer)

    def answer(self, request, context):
        with self._lock:
            self.asked.append(request)
            first = len(self.asked) <= self.gathering.parties
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            if len(self.asked) == self.enough:
                os.kill(os.getpid(), signal.SIGINT)
        if first:
            self.gathering.wait(300)
        self.release.wait(10)
        with self._lock:
            self.under_way -= 1
        if dict(context.invocation_metadata()).get("authorization", f"Bearer {TOKEN}") != f"Bearer {TOKEN}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")
        return ANSWER


@contextmanager
def serving(credentials=None, options=(), address="127.0.0.1:0"):
    handler = Handler()
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool, handlers=[handler], options=[("grpc.so_reuseport", 0), *options])
        port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        server.start()
        try:
            yield f"127.0.0.1:{port}", handler, server
        finally:
            handler.release.set()
            server.stop(None).wait()


def workload_of(*messages):
    return Workload({"recommend": 1.0}, {"recommend": list(messages)}, [np.zeros(1)], 1)


def codes(phase):
    return dict(zip(*(part.tolist() for part in np.unique(phase.records["code"], return_counts=True)), strict=True))


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def caller(authority):
    return authority.issue_cert("loadtest@ebbtide.example")


@pytest.fixture(scope="module")
def guarded(authority):
    """A server that wants mutual TLS, under another name than its address."""
    own = authority.issue_cert("triton.example")
    key, chain, root = own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes(), authority.cert_pem.bytes()
    with serving(grpc.ssl_server_credentials([(key, chain)], root, require_client_auth=True)) as running:
        yield running


@pytest.fixture
def tls(authority, caller):
    return TlsConfig(
        root_certificates=authority.cert_pem.bytes(),
        client_certificate=caller.cert_chain_pems[0].bytes(),
        client_key=caller.private_key_pem.bytes(),
        server_name="triton.example",
    )


def test_calls_are_answered_when_both_sides_know_each_other(guarded, tls):
    target, handler, _ = guarded
    asked = len(handler.asked)
    with Generator(
        target, workload_of(b"one", b"two"), timeout_s=60, access=Access(tls, BearerToken(TOKEN))
    ) as generator:
        phase = generator.open_model(np.linspace(0, 0.2, 40), 0.2)
    assert codes(phase) == {OK: 40}
    assert sorted(handler.asked[asked:]) == [b"one"] * 20 + [b"two"] * 20
    assert handler.metadata[-1]["authorization"] == f"Bearer {TOKEN}"


def test_calls_are_refused_by_name_when_the_token_is_another(guarded, tls):
    with Generator(
        guarded[0], workload_of(b"one"), timeout_s=60, access=Access(tls, BearerToken("other"))
    ) as generator:
        assert codes(generator.open_model(np.zeros(5), 0.1)) == {UNAUTHENTICATED: 5}


def test_calls_are_unavailable_when_one_side_does_not_know_the_other(guarded, authority):
    stranger = trustme.CA().issue_cert("stranger@ebbtide.example")
    for access in (
        Access(TlsConfig(root_certificates=trustme.CA().cert_pem.bytes(), server_name="triton.example")),
        Access(TlsConfig(root_certificates=authority.cert_pem.bytes(), server_name="other.example")),
        Access(
            TlsConfig(
                root_certificates=authority.cert_pem.bytes(),
                client_certificate=stranger.cert_chain_pems[0].bytes(),
                client_key=stranger.private_key_pem.bytes(),
                server_name="triton.example",
            )
        ),
        None,
    ):
        with Generator(guarded[0], workload_of(b"one"), timeout_s=60, access=access) as generator:
            assert codes(generator.open_model(np.zeros(3), 0.1)) == {UNAVAILABLE: 3}


def test_worker_reads_the_access_that_was_written_for_it_alone(guarded, tls, tmp_path):
    path = write_access(Access(tls, BearerToken(TOKEN)), tmp_path / "access.json")
    assert path.stat().st_mode & 0o077 == 0
    with Generator(guarded[0], workload_of(b"one"), timeout_s=60, access=read_access(str(path))) as generator:
        assert codes(generator.open_model(np.zeros(3), 0.1)) == {OK: 3}


def test_token_stays_here_when_it_would_travel_in_plain_text():
    with pytest.raises(LoadTestError, match=r"token: got one for triton\.example:8001, without encryption"):
        Generator("triton.example:8001", workload_of(b"one"), timeout_s=1, access=Access(token=BearerToken(TOKEN)))


def test_certificate_is_named_when_it_is_none():
    with pytest.raises(LoadTestError, match=r"root_certificates: .*expected a readable PEM file"):
        Generator("localhost:1", workload_of(b"one"), timeout_s=1, access=Access(TlsConfig(root_certificates=b"none")))


def test_long_messages_arrive_whole_when_windows_are_short():
    messages = [bytes([number]) * 300_000 for number in (1, 2, 3)]
    with serving() as (target, handler, _), Generator(target, workload_of(*messages), timeout_s=60) as generator:
        assert codes(generator.open_model(np.zeros(12), 0.1)) == {OK: 12}
        assert sorted(handler.asked) == sorted(messages * 4)


def test_calls_wait_their_turn_when_the_server_allows_one_at_a_time():
    limit = [("grpc.max_concurrent_streams", 1)]
    with serving(options=limit) as (target, _, _), Generator(target, workload_of(b"one"), timeout_s=60) as generator:
        assert codes(generator.open_model(np.zeros(60), 0.3)) == {OK: 60}


def test_refused_call_is_sent_again_until_the_server_refuses_everything():
    ended = []
    connection = http2.Connection([(":method", "POST")], lambda ticket, code: ended.append((ticket, code)))
    connection.receive(http2.settings({3: 1}))
    for ticket in "ab":
        connection.start(http2.prefixed(b"one"), ticket)
    refused = 0
    while not ended:
        (stream,) = connection.under_way
        assert connection.under_way[stream] == "a"
        connection.receive(http2.frame(http2.RST_STREAM, 0, stream, (7).to_bytes(4, "big")))
        refused += 1
    assert ended == [("a", UNAVAILABLE)]
    assert refused == 17
    assert list(connection.under_way.values()) == ["b"]


def test_calls_end_with_the_deadline_when_the_server_says_nothing():
    with serving() as (target, handler, _), Generator(target, workload_of(b"one"), timeout_s=0.2) as generator:
        handler.release.clear()
        phase = generator.open_model(np.zeros(5), 0.1)
    assert codes(phase) == {DEADLINE_EXCEEDED: 5}


def test_calls_end_with_the_deadline_when_the_server_never_tells_its_limits():
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        Generator(f"127.0.0.1:{silent.getsockname()[1]}", workload_of(b"one"), timeout_s=0.2) as generator,
    ):
        phase = generator.open_model(np.zeros(5), 0.1)
    assert codes(phase) == {DEADLINE_EXCEEDED: 5}


def test_next_calls_are_answered_when_the_server_was_restarted():
    address = f"127.0.0.1:{free_port()}"
    with (
        serving(address=address) as (target, _, server),
        Generator(target, workload_of(b"one"), timeout_s=60) as generator,
    ):
        assert codes(generator.open_model(np.zeros(8), 0.1)) == {OK: 8}
        server.stop(None).wait()
        gone = generator.open_model(np.zeros(8), 0.1)
        assert codes(gone) == {UNAVAILABLE: 8}
        with serving(address=address):
            # The time of the next attempt to connect is unknown, so calls go on until one is answered.
            phases = (codes(generator.open_model(np.zeros(4), 0.1)) for _ in range(10_000))
            assert next(phase for phase in phases if phase != {UNAVAILABLE: 4}).get(OK, 0) > 0


@pytest.mark.parametrize("count", [1, 3])
def test_workers_send_the_requests_of_one_process_when_there_are_several(count, guarded, tls):
    messages = [b"%d" % number for number in range(7)]
    target, handler, _ = guarded
    asked = len(handler.asked)
    access = Access(tls, BearerToken(TOKEN))
    with Workers(target, workload_of(*messages), timeout_s=60, workers=count, access=access) as generator:
        phases = [generator.open_model(np.zeros(sent), 0.1) for sent in (9, 12)]
    assert [codes(phase) for phase in phases] == [{OK: 9}, {OK: 12}]
    assert sorted(handler.asked[asked:]) == sorted(messages * 3)


@pytest.mark.parametrize("count", [1, 2])
def test_closed_model_keeps_its_number_of_calls_under_way_when_answers_come(count):
    with (
        serving() as (target, handler, _),
        Workers(target, workload_of(b"one"), timeout_s=60, workers=count) as several,
    ):
        handler.gathering = threading.Barrier(6)
        handler.enough = 40
        phase = several.closed_model(6, 3600.0)
    assert handler.most_under_way == 6
    assert phase.sent == phase.counts.answered + phase.counts.cancelled >= 40
    assert phase.counts.cancelled <= 6


def test_worker_is_turned_away_when_it_does_not_know_the_key():
    said = queue.Queue()
    with serving() as (target, _, _), ThreadPoolExecutor(1) as pool:
        generator = Workers(target, workload_of(b"one"), timeout_s=60, workers=1, remote=True, say=said.put)
        entered = pool.submit(generator.__enter__)
        command = said.get(timeout=300).partition("with: ")[2]
        host, port = command.split()[-2:]
        with pytest.raises(AuthenticationError):
            Client((host, int(port)), authkey=b"another")
        variable, program = command.split(" ", 1)
        name, _, key = variable.partition("=")
        arguments = [sys.executable, *program.split()[1:]]
        with subprocess.Popen(arguments, env={**os.environ, name: key}) as worker:
            try:
                assert codes(entered.result(300).open_model(np.zeros(3), 0.1)) == {OK: 3}
            finally:
                generator.__exit__()
            assert worker.wait(300) == 0
