"""OpenTelemetry tracing of a client's calls: `pip install "ebbtide[observability]"`.

    ClientConfig(hooks=(tracing(),))

Each call is one client span, a child of the current one, with an event for every attempt. Its context is sent with the
request (``traceparent``), so that a Triton with ``--trace-config mode=opentelemetry`` continues the trace.
"""

from __future__ import annotations

from opentelemetry import propagate
from opentelemetry.trace import Span, SpanKind, StatusCode, TracerProvider, get_tracer, set_span_in_context

from ebbtide.client.errors import Status
from ebbtide.client.hooks import Attempt, Call, Hooks


def tracing(tracer_provider: TracerProvider | None = None) -> Hooks:
    """Hooks that trace calls.

    Args:
        tracer_provider: Where spans go; the global one when not given.
    """
    tracer = get_tracer("ebbtide.client", tracer_provider=tracer_provider)
    key = object()

    def before_call(call: Call) -> None:
        attributes: dict[str, str | float] = {
            "rpc.system": "grpc",
            "rpc.service": "inference.GRPCInferenceService",
            "server.address": call.target,
            "ebbtide.timeout_s": call.timeout_s,
        }
        if call.model_name is not None:
            attributes["ebbtide.model"] = call.model_name
        call.state[key] = tracer.start_span(f"ebbtide.{call.method}", kind=SpanKind.CLIENT, attributes=attributes)

    def before_attempt(attempt: Attempt) -> None:
        propagate.inject(attempt.metadata, set_span_in_context(attempt.call.state[key]))

    def after_attempt(attempt: Attempt) -> None:
        attributes: dict[str, str | int | float] = {
            "number": attempt.number,
            "status": _name(attempt.status),
            "duration_s": attempt.duration_s,
        }
        if attempt.retry_in_s is not None:
            attributes["retry_in_s"] = attempt.retry_in_s
        attempt.call.state[key].add_event("attempt", attributes)

    def after_call(call: Call) -> None:
        span: Span = call.state[key]
        span.set_attribute("rpc.grpc.status_code", int(call.status if call.status is not None else Status.UNKNOWN))
        span.set_attribute("ebbtide.attempts", call.attempts)
        if call.model_version:
            span.set_attribute("ebbtide.model_version", call.model_version)
        if call.error is not None:
            span.set_status(StatusCode.ERROR, f"{_name(call.status)}: {call.error}")
        span.end()

    return Hooks(before_call, before_attempt, after_attempt, after_call)


def _name(status: Status | None) -> str:
    return Status.UNKNOWN.name if status is None else status.name
