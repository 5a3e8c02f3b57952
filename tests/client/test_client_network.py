"""Faults of the network and of the server, over real gRPC; answers of real models are tested end to end elsewhere."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from ebbtide.client import (
    AsyncInterestClient,
    CallCancelledError,
    ClientClosedError,
    ClientConfig,
    DeadlineExceededError,
    EbbtideError,
    Hooks,
    InternalError,
    InvalidArgumentError,
    ModelNotReadyError,
    OverloadedError,
    PermissionDeniedError,
    ResourceExhaustedError,
    RetryConfig,
    Status,
    UnauthenticatedError,
    UnavailableError,
    event,
)

ONE_ATTEMPT = ClientConfig(retry=RetryConfig(max_attempts=1))


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
    Status.UNAUTHENTICATED: UnauthenticatedError,
    Status.PERMISSION_DENIED: PermissionDeniedError,
}


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_call_raises_the_errors_own_class_when_the_server_ends_it_with_a_status(connect, serve, code):
    url, _ = serve((code, "reason of the server"))
    with connect(url, config=ONE_ATTEMPT) as client, pytest.raises(EbbtideError) as caught:
        client.recommend()
    status = Status[code.name]
    assert type(caught.value) is OWN_CLASS.get(status, EbbtideError)
    assert caught.value.status is status
    assert caught.value.__cause__ is not None
    assert status is Status.DEADLINE_EXCEEDED or "reason of the server" in str(caught.value)


def test_call_names_the_callers_field_when_the_server_refuses_a_tensor(connect, serve):
    message = "in ensemble 'recommend', adaptive_weights: event_time[1]: got 9; expected at most `now`"
    url, _ = serve((grpc.StatusCode.INVALID_ARGUMENT, message))
    events = {"history": [event(item_id="a", time_ms=1)], "current": [event(item_id="b", time_ms=9)]}
    with connect(url) as client, pytest.raises(InvalidArgumentError) as caught:
        client.recommend(**events)
    assert str(caught.value) == "current[0].time: got 9; expected at most `now`"
    assert (caught.value.field, caught.value.value) == ("current[0].time", "9")


def test_call_raises_model_not_ready_when_triton_knows_the_model_but_has_not_loaded_it(connect, serve):
    url, _ = serve((grpc.StatusCode.UNAVAILABLE, "Request for unknown model: 'recommend' has no available versions"))
    with connect(url, config=ONE_ATTEMPT) as client, pytest.raises(ModelNotReadyError) as caught:
        client.recommend()
    assert caught.value.status is Status.UNAVAILABLE


def test_call_raises_deadline_exceeded_when_the_server_is_slower(connect, serve):
    released = threading.Event()
    url, _ = serve(released)
    with connect(url) as client:
        with pytest.raises(DeadlineExceededError, match=r"recommend at .* did not answer within 0\.2 s") as caught:
            client.recommend(timeout_s=0.2)
        assert caught.value.attempts == 1
        with pytest.raises(DeadlineExceededError, match="embed"):
            client.embed(["a"], timeout_s=0.2)
    released.set()


def test_call_fails_at_once_with_what_it_got_when_a_retry_would_outlast_the_deadline(connect, serve):
    url, servicer = serve((grpc.StatusCode.UNAVAILABLE, "busy"))
    retry = RetryConfig(max_attempts=5, initial_backoff_ms=10**10, max_backoff_ms=10**10)
    config = ClientConfig(timeout_s=20, retry=retry)
    with connect(url, config=config) as client, pytest.raises(UnavailableError, match="busy") as caught:
        client.recommend()
    assert (servicer.calls, caught.value.attempts) == (1, 1)


def test_attempts_share_one_deadline_when_some_fail(connect, serve, vectors, monkeypatch):
    # The longest pauses that the jitter allows: the time left shrinks by more than gRPC rounds it up, a second at most.
    monkeypatch.setattr("random.uniform", lambda _shortest, longest: longest)
    url, servicer = serve((grpc.StatusCode.UNAVAILABLE, "busy"), (grpc.StatusCode.UNAVAILABLE, "busy"), vectors)
    config = ClientConfig(retry=RetryConfig(initial_backoff_ms=1_100, max_backoff_ms=1_100, multiplier=1))
    with connect(url, config=config) as client:
        client.embed(["a"], timeout_s=20)
    first, second, third = servicer.timeouts_s
    assert 21 >= first > second > third > 0


@pytest.mark.parametrize(
    "said",
    [
        "[request id: 7] Exceeds maximum queue size",
        "in ensemble 'recommend', Request timeout expired",
    ],
)
def test_call_raises_overloaded_when_the_server_has_too_much_to_do(connect, serve, said):
    url, servicer = serve((grpc.StatusCode.UNAVAILABLE, said))
    config = ClientConfig(retry=RetryConfig(initial_backoff_ms=1))
    with connect(url, config=config) as client, pytest.raises(OverloadedError, match="is overloaded") as caught:
        client.recommend()
    assert (servicer.calls, caught.value.status) == (3, Status.UNAVAILABLE)


def test_retries_stop_when_the_clients_budget_is_half_spent(connect, serve):
    url, servicer = serve((grpc.StatusCode.UNAVAILABLE, "busy"))
    config = ClientConfig(retry=RetryConfig(max_attempts=2, initial_backoff_ms=1, budget_tokens=10))
    with connect(url, config=config) as client:
        calls = []
        for _ in range(5):
            with pytest.raises(UnavailableError) as caught:
                client.recommend()
            calls.append(caught.value.attempts)
    assert calls == [2, 2, 1, 1, 1]
    assert servicer.calls == sum(calls)


def test_call_raises_unavailable_when_nothing_listens(connect, free_address):
    with connect(free_address) as client, pytest.raises(UnavailableError, match="Check the address") as caught:
        client.recommend()
    assert free_address in str(caught.value)


@pytest.mark.parametrize("max_attempts", [1, 3, 6])
def test_call_is_tried_as_often_as_configured_when_the_server_stays_unavailable(connect, serve, max_attempts):
    url, servicer = serve((grpc.StatusCode.UNAVAILABLE, "busy"))
    config = ClientConfig(retry=RetryConfig(max_attempts=max_attempts, initial_backoff_ms=10))
    with connect(url, config=config) as client, pytest.raises(UnavailableError, match="busy"):
        client.recommend()
    assert servicer.calls == max_attempts


def test_call_answers_when_the_server_is_unavailable_only_at_first(connect, serve, vectors):
    url, servicer = serve((grpc.StatusCode.UNAVAILABLE, "busy"), vectors)
    with connect(url) as client:
        assert client.embed(["a"]).tolist() == [[1.0, 2.0]]
    assert servicer.calls == 2


def test_call_is_not_tried_again_when_the_server_fails_otherwise(connect, serve):
    url, servicer = serve((grpc.StatusCode.INTERNAL, "broken"))
    with connect(url) as client, pytest.raises(InternalError):
        client.recommend()
    assert servicer.calls == 1


def test_call_raises_resource_exhausted_when_the_request_is_larger_than_allowed(connect, serve):
    url, servicer = serve((grpc.StatusCode.INTERNAL, "not reached"))
    config = ClientConfig(max_message_bytes=1000)
    with connect(url, config=config) as client, pytest.raises(ResourceExhaustedError, match="max_message_bytes"):
        client.embed(["a" * 2000])
    assert servicer.calls == 0


def test_call_raises_internal_error_when_the_answer_is_no_ebbtide_models(connect, serve):
    url, _ = serve(None)
    with connect(url) as client, pytest.raises(InternalError, match="item_id: missing"):
        client.recommend()


def test_call_is_cancelled_when_another_thread_closes_the_client(connect, serve):
    released = threading.Event()
    url, servicer = serve(released)
    with connect(url, config=ClientConfig(timeout_s=30)) as client, ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.recommend)
        while servicer.calls == 0:
            released.wait(0.01)
        client.close()
        with pytest.raises(CallCancelledError):
            running.result()
    released.set()


def test_call_is_cancelled_when_the_client_is_closed_between_two_attempts(connect, serve):
    url, servicer = serve((grpc.StatusCode.UNAVAILABLE, "busy"))
    failed = threading.Event()
    config = ClientConfig(
        timeout_s=600,
        retry=RetryConfig(max_attempts=100, initial_backoff_ms=1_000, multiplier=1, budget_tokens=1000),
        hooks=(Hooks(after_attempt=lambda attempt: failed.set() if attempt.number == 3 else None),),
    )
    with connect(url, config=config) as client, ThreadPoolExecutor(1) as pool:
        running = pool.submit(client.recommend)
        assert failed.wait(300)
        client.close()
        with pytest.raises(CallCancelledError):
            running.result()
    assert servicer.calls < 100


def test_call_raises_client_closed_when_the_client_was_closed(connect, free_address):
    with connect(free_address) as client:
        client.close()
        client.close()
        assert repr(client).endswith(f"InterestClient('{free_address}', closed)")
        calls = (client.recommend, lambda: client.embed(["a"]), client.is_ready, lambda: client.recommend_many([]))
        for call in calls:
            with pytest.raises(ClientClosedError):
                call()


def test_async_client_refuses_a_second_event_loop_when_it_is_used_in_another(free_address):
    client = AsyncInterestClient(free_address)

    async def call():
        return await client.is_live()

    async def end():
        with pytest.raises(EbbtideError, match="event loop"):
            await client.is_live()
        await client.close()

    assert asyncio.run(call()) is False
    asyncio.run(end())


def test_client_is_not_ready_when_nothing_listens(connect, free_address):
    with connect(free_address) as client:
        assert client.is_ready(timeout_s=1) is False
        with pytest.raises(ModelNotReadyError, match=r"not ready after 0\.2 s"):
            client.wait_until_ready(0.2)


def test_wait_until_ready_returns_when_the_model_becomes_ready(connect, serve):
    url, servicer = serve(None)
    servicer.ready = iter([(grpc.StatusCode.NOT_FOUND, "unknown model"), False, True])
    with connect(url) as client:
        client.wait_until_ready(30)
    assert next(servicer.ready, None) is None


def test_is_ready_raises_when_the_server_refuses_to_say(connect, serve):
    url, servicer = serve(None)
    servicer.ready = iter([(grpc.StatusCode.PERMISSION_DENIED, "who are you")])
    with connect(url) as client, pytest.raises(EbbtideError, match="who are you") as caught:
        client.is_ready()
    assert caught.value.status is Status.PERMISSION_DENIED


def test_client_refuses_the_url_when_it_has_a_scheme(connect):
    with pytest.raises(InvalidArgumentError, match="without a scheme"):
        connect("http://localhost:8001")
