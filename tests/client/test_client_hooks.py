"""Hooks, and what is built on them: traces and metrics."""

import asyncio
import logging
import threading

import grpc
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry

from ebbtide.client import AsyncInterestClient, ClientConfig, Hooks, InternalError, RetryConfig, Status
from ebbtide.client.otel import tracing
from ebbtide.client.prometheus import metrics

BUSY = (grpc.StatusCode.UNAVAILABLE, "busy")
BROKEN = (grpc.StatusCode.INTERNAL, "broken")
QUICK = RetryConfig(initial_backoff_ms=1)


def configured(*hooks):
    return ClientConfig(hooks=hooks, retry=QUICK, check_contract=False)


def test_hooks_see_each_attempt_and_the_call_when_there_are_retries(connect, serve, vectors):
    url, servicer = serve(BUSY, BUSY, vectors)
    seen = []
    hooks = Hooks(
        before_call=lambda call: seen.append(("call", call.method, call.model_name, call.target, call.timeout_s)),
        before_attempt=lambda attempt: attempt.metadata.update({"x-attempt": str(attempt.number)}),
        after_attempt=lambda attempt: seen.append(
            (attempt.number, attempt.status, attempt.retry_in_s is not None, type(attempt.error).__name__)
        ),
        after_call=lambda call: seen.append((call.status, call.attempts, call.model_version, call.error)),
    )
    with connect(url, config=configured(hooks)) as client:
        client.embed(["a"], timeout_s=7)
    assert seen == [
        ("call", "embed", "embed", url, 7),
        (1, Status.UNAVAILABLE, True, "UnavailableError"),
        (2, Status.UNAVAILABLE, True, "UnavailableError"),
        (3, Status.OK, False, "NoneType"),
        (Status.OK, 3, "1", None),
    ]
    assert [metadata["x-attempt"] for metadata in servicer.metadata] == ["1", "2", "3"]


def test_call_goes_on_when_a_hook_fails(connect, serve, vectors, caplog):
    url, _ = serve(vectors)

    def fail(_):
        raise RuntimeError("my own mistake")

    with connect(url, config=configured(Hooks(fail, fail, fail, fail))) as client:
        assert client.embed(["a"]).tolist() == [[1, 2]]
    failures = [record for record in caplog.records if record.name == "ebbtide.client"]
    assert len(failures) == 4
    assert all("my own mistake" in record.exc_text for record in failures if record.exc_text)


def test_client_logs_each_retry_when_asked_to(connect, serve, vectors, caplog):
    caplog.set_level(logging.DEBUG, "ebbtide.client")
    url, _ = serve(BUSY, vectors)
    with connect(url, config=configured()) as client:
        client.embed(["a"])
    (line,) = [record.getMessage() for record in caplog.records if record.name == "ebbtide.client"]
    assert "embed, attempt 1" in line
    assert "busy" in line


def test_call_is_a_span_with_an_event_for_each_attempt_when_traced(connect, serve, vectors):
    url, servicer = serve(BUSY, vectors, BROKEN)
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with connect(url, config=configured(tracing(provider))) as client:
        client.embed(["a"])
        with pytest.raises(InternalError):
            client.recommend()
    good, bad = exporter.get_finished_spans()
    assert (good.name, good.kind, good.status.status_code) == ("ebbtide.embed", SpanKind.CLIENT, StatusCode.UNSET)
    assert [event.attributes["status"] for event in good.events] == ["UNAVAILABLE", "OK"]
    assert good.events[0].attributes["retry_in_s"] >= 0
    assert good.attributes["ebbtide.model_version"] == "1"
    assert good.attributes["rpc.grpc.status_code"] == 0
    assert (bad.name, bad.status.status_code) == ("ebbtide.recommend", StatusCode.ERROR)
    assert "broken" in bad.status.description
    # Both attempts belong to the same span.
    expected = f"00-{good.context.trace_id:032x}-{good.context.span_id:016x}"
    assert [metadata["traceparent"][:-3] for metadata in servicer.metadata[:2]] == [expected, expected]


def test_calls_are_children_of_the_current_span_when_they_run_together(serve, vectors):
    url, _ = serve(vectors)
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))

    async def run():
        async with AsyncInterestClient(url, config=configured(tracing(provider))) as client:
            with provider.get_tracer("mine").start_as_current_span("mine"):
                await asyncio.gather(*(client.embed(["a"]) for _ in range(5)))

    asyncio.run(run())
    *calls, mine = exporter.get_finished_spans()
    assert [call.parent.span_id for call in calls] == [mine.context.span_id] * 5


def test_calls_and_attempts_are_counted_by_status_when_metrics_are_configured(connect, serve, vectors):
    url, _ = serve(BUSY, vectors, BROKEN)
    registry = CollectorRegistry()
    with connect(url, config=configured(metrics(registry))) as client:
        client.embed(["a"])
        with pytest.raises(InternalError):
            client.embed(["a"])

    def count(name, **labels):
        return registry.get_sample_value(f"ebbtide_client_{name}", {"method": "embed", **labels})

    assert count("call_duration_seconds_count", status="OK") == 1
    assert count("call_duration_seconds_count", status="INTERNAL") == 1
    assert count("call_duration_seconds_sum", status="OK") > 0
    assert count("attempts_total", status="UNAVAILABLE") == 1
    assert count("attempts_total", status="OK") == 1
    assert count("attempts_total", status="INTERNAL") == 1
    assert count("calls_in_flight") == 0


def test_cancelled_call_ends_for_its_hooks_when_its_task_is_cancelled(serve):
    released = threading.Event()
    url, servicer = serve(released)
    ended = []

    async def run():
        async with AsyncInterestClient(url, config=configured(Hooks(after_call=ended.append))) as client:
            task = asyncio.create_task(client.embed(["a"], timeout_s=30))
            while not servicer.calls:
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    released.set()
    assert [(call.status, call.attempts) for call in ended] == [(Status.CANCELLED, 1)]
