"""Prometheus metrics of one gateway.

| metric | kind | labels |
| --- | --- | --- |
| `ebbtide_gateway_call_duration_seconds` | histogram; its count counts the calls | `protocol`, `method`, `status` |
| `ebbtide_gateway_calls_in_flight` | gauge | `protocol` |
| `ebbtide_gateway_triton_ready` | gauge, 1 or 0 | |

With `--shadow`, also:

| metric | kind | labels |
| --- | --- | --- |
| `ebbtide_gateway_shadow_requests_total` | counter | `outcome`: compared, refused, failed, dropped, absent |
| `ebbtide_gateway_shadow_overlap_at_10` | histogram | `live`, `shadow`: the versions |
| `ebbtide_gateway_shadow_duration_seconds` | histogram | `live`, `shadow`; `of`: live, shadow |
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ebbtide.client.errors import EbbtideError, Status

_BUCKETS_S = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_OVERLAPS = tuple(tenths / 10 for tenths in range(11))


class Metrics:
    """The metrics of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._duration = Histogram(
            "ebbtide_gateway_call_duration_seconds",
            "Time of a call in the gateway, Triton's included.",
            ("protocol", "method", "status"),
            buckets=_BUCKETS_S,
            registry=self.registry,
        )
        self._in_flight = Gauge(
            "ebbtide_gateway_calls_in_flight", "Calls in flight.", ("protocol",), registry=self.registry
        )
        self.triton_ready = Gauge(
            "ebbtide_gateway_triton_ready", "Whether Triton serves the model `recommend`.", registry=self.registry
        )

    @contextmanager
    def call(self, method: str, protocol: str) -> Iterator[None]:
        """Counts one call by how it ends, and its time."""
        began, status = time.monotonic(), Status.OK
        self._in_flight.labels(protocol).inc()
        try:
            yield
        except EbbtideError as error:
            status = error.status
            raise
        except asyncio.CancelledError:
            status = Status.CANCELLED
            raise
        finally:
            self._in_flight.labels(protocol).dec()
            self._duration.labels(protocol, method, status.name).observe(time.monotonic() - began)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class ShadowMetrics:
    """The metrics of mirrored requests."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Adds them to a registry."""
        self.requests = Counter(
            "ebbtide_gateway_shadow_requests",
            "Requests chosen for the version in shadow.",
            ("outcome",),
            registry=registry,
        )
        self._overlap = Histogram(
            "ebbtide_gateway_shadow_overlap_at_10",
            "Share of the first ten items that the version in shadow names too.",
            ("live", "shadow"),
            buckets=_OVERLAPS,
            registry=registry,
        )
        self._duration = Histogram(
            "ebbtide_gateway_shadow_duration_seconds",
            "Time of a compared request, of the version in service and of the one in shadow.",
            ("live", "shadow", "of"),
            buckets=_BUCKETS_S,
            registry=registry,
        )

    def compared(self, live: str, shadow: str, overlap: float, live_s: float, shadow_s: float) -> None:
        """Counts a request that both versions answered."""
        self._overlap.labels(live, shadow).observe(overlap)
        self._duration.labels(live, shadow, "live").observe(live_s)
        self._duration.labels(live, shadow, "shadow").observe(shadow_s)
