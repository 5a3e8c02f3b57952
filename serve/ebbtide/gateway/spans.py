"""OpenTelemetry spans of a gateway's calls, between those of the caller and those of the client that asks Triton."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from opentelemetry import propagate
from opentelemetry.trace import SpanKind, StatusCode, TracerProvider, get_tracer

from ebbtide.client.errors import EbbtideError

CallSpan = Callable[[str, str, Mapping[str, Any]], AbstractContextManager[None]]
"""The span of a call of a method, over a protocol, with its metadata."""


def spans_of(tracer_provider: TracerProvider, service: str) -> CallSpan:
    """What makes a server span of each call; it is the current one, so that spans made in the call are its children.

    Args:
        tracer_provider: Where spans go.
        service: Full name of the service.
    """
    tracer = get_tracer("ebbtide.gateway", tracer_provider=tracer_provider)

    @contextmanager
    def span_of(method: str, protocol: str, metadata: Mapping[str, Any]) -> Iterator[None]:
        carrier = {name: value for name, value in metadata.items() if isinstance(value, str)}
        with tracer.start_as_current_span(
            f"{service}/{method}",
            context=propagate.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"rpc.service": service, "rpc.method": method, "network.protocol.name": protocol},
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except EbbtideError as error:
                span.set_attribute("rpc.grpc.status_code", int(error.status))
                span.set_status(StatusCode.ERROR, f"{error.status.name}: {error.message}")
                raise

    return span_of
