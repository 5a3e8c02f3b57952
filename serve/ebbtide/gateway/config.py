"""Settings of one gateway, each checked on construction."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from ebbtide.client.config import ClientConfig
from ebbtide.client.errors import InvalidArgumentError


@dataclass(frozen=True)
class ServerTls:
    """Encryption towards the callers, and who they are; PEM files or their bytes."""

    certificate: Path | bytes = field(repr=False)
    """Who the gateway is, leaf first."""
    key: Path | bytes = field(repr=False)
    """The private key of `certificate`."""
    client_ca: Path | bytes | None = field(default=None, repr=False)
    """Who may vouch for callers: with it, callers without a certificate are refused (mutual TLS)."""


@dataclass(frozen=True)
class GatewayConfig:
    """Where a gateway listens, what it stands in front of, and what it lets through."""

    triton: str | tuple[str, ...] = "localhost:8001"
    """gRPC address of Triton: ``host:port``, a DNS name of several (``dns:///triton:8001``), or IP addresses."""
    client: ClientConfig = field(default_factory=ClientConfig)
    """How Triton is called: deadline for callers without one, retries, TLS, token, keep-alive."""
    host: str = "127.0.0.1"
    """Address to bind. Loopback by default: without `tls` and its `client_ca` whoever reaches it may call."""
    port: int | None = None
    """None takes a free port."""
    tls: ServerTls | None = None
    """Encryption towards the callers; None talks plaintext."""
    max_concurrency: int = 256
    """Calls under way at once; one more is refused at once with RESOURCE_EXHAUSTED. Streams count as one call."""
    max_message_bytes: int = 4 * 1024 * 1024
    """Largest message taken from a caller; the largest request that an export allows is a tenth of that."""
    max_timeout_s: float = 30.0
    """The longest deadline that a caller can have."""
    drain_s: float = 10.0
    """Grace for calls under way at the stop; health answers NOT_SERVING from its start on."""
    forward_metadata: tuple[str, ...] = ("traceparent", "tracestate")
    """Metadata of a call that goes on to Triton, by lower-case name."""
    reflection: bool = True
    """Whether tools such as grpcurl may ask for the schema."""

    def __post_init__(self) -> None:
        if self.port is not None:
            _require(1 <= self.port <= 65535, "port", self.port, "1 to 65535, or None for a free one")
        _require(self.max_concurrency >= 1, "max_concurrency", self.max_concurrency, "at least 1")
        _require(self.max_message_bytes >= 1024, "max_message_bytes", self.max_message_bytes, "at least 1024")
        for name in ("max_timeout_s", "drain_s"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value > 0, name, value, "a finite number of seconds, more than 0")


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise InvalidArgumentError.of_field(name, value, expected)
