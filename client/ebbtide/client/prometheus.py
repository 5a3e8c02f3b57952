"""Prometheus metrics of a client's calls: `pip install "ebbtide[observability]"`.

    hooks = metrics()
    first = InterestClient("triton-a:8001", config=ClientConfig(hooks=(hooks,)))
    second = InterestClient("triton-b:8001", config=ClientConfig(hooks=(hooks,)))

| metric | kind | labels |
| --- | --- | --- |
| `ebbtide_client_call_duration_seconds` | histogram | `method`, `status` |
| `ebbtide_client_attempts_total` | counter | `method`, `status` |
| `ebbtide_client_calls_in_flight` | gauge | `method` |
"""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from ebbtide.client.errors import Status
from ebbtide.client.hooks import Attempt, Call, Hooks

_BUCKETS_S = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def metrics(registry: CollectorRegistry = REGISTRY) -> Hooks:
    """Hooks that count calls and their time. Make them once for a registry, and give them to all clients.

    Args:
        registry: Where the metrics are registered; the one that prometheus_client exposes when not given.

    Raises:
        ValueError: The registry has these metrics already.
    """
    duration = Histogram(
        "ebbtide_client_call_duration_seconds",
        "Time of a call, retries and waits between them included; its count counts the calls.",
        ("method", "status"),
        buckets=_BUCKETS_S,
        registry=registry,
    )
    attempts = Counter(
        "ebbtide_client_attempts",
        "Attempts, by how they ended; more of them than calls means retries.",
        ("method", "status"),
        registry=registry,
    )
    in_flight = Gauge("ebbtide_client_calls_in_flight", "Calls in flight.", ("method",), registry=registry)

    def before_call(call: Call) -> None:
        in_flight.labels(call.method).inc()

    def after_attempt(attempt: Attempt) -> None:
        attempts.labels(attempt.call.method, _name(attempt.status)).inc()

    def after_call(call: Call) -> None:
        in_flight.labels(call.method).dec()
        duration.labels(call.method, _name(call.status)).observe(call.duration_s)

    return Hooks(before_call=before_call, after_attempt=after_attempt, after_call=after_call)


def _name(status: Status | None) -> str:
    return Status.UNKNOWN.name if status is None else status.name
