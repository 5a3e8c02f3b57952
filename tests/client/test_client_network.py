"""Faults of the network and of the server, over real gRPC; answers of real models are tested end to end elsewhere."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from ebbtide.client import (
    CallCancelledError,
    ClientClosedError,
    ClientConfig,
    DeadlineExceededError,
    EbbtideError,
    InterestClient,
    InternalError,
    InvalidArgumentError,
    ModelNotReadyError,
    ResourceExhaustedError,
    RetryConfig,
    Status,
    UnavailableError,
    event,
)

ONE_ATTEMPT = ClientConfig(retry=RetryConfig(max_attempts=1))


class FaultyServer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Ends each inference with the next of the given faults: (status, message), or an event to wait for."""

    def __init__(self, *faults):
        self.faults = list(faults)
        self.calls = 0
        self.ready = iter([True])

    def ModelInfer(self, request, context):  # noqa: ARG002, N802
        self.calls += 1
        fault = self.faults.pop(0) if len(self.faults) > 1 else self.faults[0]
        if isinstance(fault, threading.Event):
            fault.wait(30)
        elif isinstance(fault, tuple):
            context.abort(*fault)
        return fault if isinstance(fault, service_pb2.ModelInferResponse) else service_pb2.ModelInferResponse()

    def ModelReady(self, request, context):  # noqa: ARG002, N802
        ready = next(self.ready)
        if isinstance(ready, tuple):
            context.abort(*ready)
        return service_pb2.ModelReadyResponse(ready=ready)


@pytest.fixture
def serve():
    """Starts a server that fails as told; gives its address and the servicer."""
    servers = []

    def start(*faults):
        pool = ThreadPoolExecutor(4)
        server = grpc.server(pool)
        servicer = FaultyServer(*faults)
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append((server, pool))
        return f"127.0.0.1:{port}", servicer

    yield start
    for server, pool in servers:
        server.stop(None).wait()
        pool.shutdown()


@pytest.fixture
def free_address():
    with closing(socket.socket()) as held:
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def test_status_has_grpcs_values_when_compared_by_name():
    assert {status.name: status.value for status in Status} == {code.name: code.value[0] for code in grpc.StatusCode}


OWN_CLASS = {
    Status.INVALID_ARGUMENT: InvalidArgumentError,
    Status.DEADLINE_EXCEEDED: DeadlineExceededError,
    Status.UNAVAILABLE: UnavailableError,
    Status.NOT_FOUND: ModelNotReadyError,
    Status.RESOURCE_EXHAUSTED: ResourceExhaustedError,
    Status.CANCELLED: CallCancelledError,
    Status.INTERNAL: InternalError,
    Status.UNKNOWN: InternalError,
    Status.DATA_LOSS: InternalError,
}


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_call_raises_the_errors_own_class_when_the_server_ends_it_with_a_status(serve, code):
    url, _ = serve((code, "reason of the server"))
    with InterestClient(url, config=ONE_ATTEMPT) as client, pytest.raises(EbbtideError) as caught:
        client.recommend()
    status = Status[code.name]
    assert type(caught.value) is OWN_CLASS.get(status, EbbtideError)
    assert caught.value.status is status
    assert caught.value.__cause__ is not None
    assert status is Status.DEADLINE_EXCEEDED or "reason of the server" in str(caught.value)


def test_call_names_the_callers_field_when_the_server_refuses_a_tensor(serve):
    message = "in ensemble 'recommend', adaptive_weights: event_time[1]: got 9; expected at most `now`"
    url, _ = serve((grpc.StatusCode.INVALID_ARGUMENT, message))
    events = {"history": [event(item_id="a", time_ms=1)], "current": [event(item_id="b", time_ms=9)]}
    with InterestClient(url) as client, pytest.raises(InvalidArgumentError) as caught:
        client.recommend(**events)
    assert str(caught.value) == "current[0].time: got 9; expected at most `now`"
    assert (caught.value.field, caught.value.value) == ("current[0].time", "9")


def test_call_raises_model_not_ready_when_triton_knows_the_model_but_has_not_loaded_it(serve):
    url, _ = serve((grpc.StatusCode.UNAVAILABLE, "Request for unknown model: 'recommend' has no available versions"))
    with InterestClient(url, config=ONE_ATTEMPT) as client, pytest.raises(ModelNotReadyError) as caught:
        client.recommend()
    assert caught.value.status is Status.UNAVAILABLE


def test_call_raises_deadline_exceeded_when_the_server_is_slower(serve):
    released = threading.Event()
    url, servicer = serve(released)
    with InterestClient(url) as client:
        with pytest.raises(DeadlineExceededError, match=r"recommend at .* did not answer within 0\.2 s"):
            client.recommend(timeout_s=0.2)
        with pytest.raises(DeadlineExceededError, match="embed"):
            client.embed(["a"], timeout_s=0.2)
    released.set()
    assert servicer.calls == 2


def test_call_raises_deadline_exceeded_when_retries_would_outlast_it(serve):
    url, servicer = serve((grpc.StatusCode.UNAVAILABLE, "busy"))
    retry = RetryConfig(max_attempts=5, initial_backoff_ms=60_000, max_backoff_ms=60_000)
    config = ClientConfig(timeout_s=0.3, retry=retry)
    with InterestClient(url, config=config) as client, pytest.raises((DeadlineExceededError, UnavailableError)):
        client.recommend()
    assert servicer.calls == 1


def test_call_raises_unavailable_when_nothing_listens(free_address):
    with InterestClient(free_address) as client, pytest.raises(UnavailableError, match="Check the address") as caught:
        client.recommend()
    assert free_address in str(caught.value)


@pytest.mark.parametrize(("max_attempts", "calls"), [(1, 1), (3, 3), (5, 5)])
def test_call_is_tried_as_often_as_configured_when_the_server_stays_unavailable(serve, max_attempts, calls):
    url, servicer = serve((grpc.StatusCode.UNAVAILABLE, "busy"))
    config = ClientConfig(retry=RetryConfig(max_attempts=max_attempts, initial_backoff_ms=10))
    with InterestClient(url, config=config) as client, pytest.raises(UnavailableError, match="busy"):
        client.recommend()
    assert servicer.calls == calls


def test_call_answers_when_the_server_is_unavailable_only_at_first(serve):
    vectors = service_pb2.ModelInferResponse(model_name="embed", model_version="1")
    vectors.outputs.add(name="text_vector", datatype="FP32", shape=[1, 2])
    vectors.raw_output_contents.append(b"\0\0\x80?\0\0\0@")
    url, servicer = serve((grpc.StatusCode.UNAVAILABLE, "busy"), vectors)
    with InterestClient(url) as client:
        assert client.embed(["a"]).tolist() == [[1.0, 2.0]]
    assert servicer.calls == 2


def test_call_is_not_tried_again_when_the_server_fails_otherwise(serve):
    url, servicer = serve((grpc.StatusCode.INTERNAL, "broken"))
    with InterestClient(url) as client, pytest.raises(InternalError):
        client.recommend()
    assert servicer.calls == 1


def test_call_raises_resource_exhausted_when_the_request_is_larger_than_allowed(serve):
    url, servicer = serve((grpc.StatusCode.INTERNAL, "not reached"))
    config = ClientConfig(max_message_bytes=1000)
    with InterestClient(url, config=config) as client, pytest.raises(ResourceExhaustedError, match="max_message_bytes"):
        client.embed(["a" * 2000])
    assert servicer.calls == 0


def test_call_raises_internal_error_when_the_answer_is_no_ebbtide_models(serve):
    url, _ = serve(None)
    with InterestClient(url) as client, pytest.raises(InternalError, match="item_id: missing"):
        client.recommend()


def test_call_is_cancelled_when_another_thread_closes_the_client(serve):
    released = threading.Event()
    url, servicer = serve(released)
    client = InterestClient(url, config=ClientConfig(timeout_s=30))
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.recommend)
        while servicer.calls == 0:
            released.wait(0.01)
        client.close()
        with pytest.raises(CallCancelledError):
            running.result()
    released.set()


def test_call_raises_client_closed_when_the_client_was_closed(free_address):
    client = InterestClient(free_address)
    client.close()
    client.close()
    assert repr(client) == f"InterestClient('{free_address}', closed)"
    for call in (client.recommend, lambda: client.embed(["a"]), client.is_ready):
        with pytest.raises(ClientClosedError):
            call()


def test_client_is_not_ready_when_nothing_listens(free_address):
    with InterestClient(free_address) as client:
        assert client.is_ready(timeout_s=1) is False
        with pytest.raises(ModelNotReadyError, match=r"not ready after 0\.2 s"):
            client.wait_until_ready(0.2)


def test_wait_until_ready_returns_when_the_model_becomes_ready(serve):
    url, servicer = serve(None)
    servicer.ready = iter([(grpc.StatusCode.NOT_FOUND, "unknown model"), False, True])
    with InterestClient(url) as client:
        client.wait_until_ready(30)
    assert next(servicer.ready, None) is None


def test_is_ready_raises_when_the_server_refuses_to_say(serve):
    url, servicer = serve(None)
    servicer.ready = iter([(grpc.StatusCode.PERMISSION_DENIED, "who are you")])
    with InterestClient(url) as client, pytest.raises(EbbtideError, match="who are you") as caught:
        client.is_ready()
    assert caught.value.status is Status.PERMISSION_DENIED


def test_client_refuses_the_url_when_it_has_a_scheme():
    with pytest.raises(InvalidArgumentError, match="without a scheme"):
        InterestClient("http://localhost:8001")
