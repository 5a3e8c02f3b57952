"""Settings of one gateway, each checked on construction."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from ebbtide.client.config import ClientConfig
from ebbtide.client.errors import InvalidArgumentError
from ebbtide.client.security import authorization


@dataclass(frozen=True)
class ServerTls:
    """TLS between callers and gateway; PEM files or their bytes."""

    certificate: Path | bytes = field(repr=False)
    """Certificate of the gateway, leaf first."""
    key: Path | bytes = field(repr=False)
    """The private key of `certificate`."""
    client_ca: Path | bytes | None = field(default=None, repr=False)
    """Certificate authorities for callers; if given, callers without a certificate are refused (mutual TLS)."""


@dataclass(frozen=True)
class GatewayConfig:
    """Address of a gateway, address of Triton, and limits."""

    triton: str | tuple[str, ...] = "localhost:8001"
    """gRPC address of Triton: ``host:port``, a DNS name of several (``dns:///triton:8001``), or IP addresses."""
    client: ClientConfig = field(default_factory=ClientConfig)
    """How Triton is called: deadline for callers without one, retries, TLS, token, keep-alive."""
    host: str = "127.0.0.1"
    """Address to bind. Loopback by default: without `tls` and its `client_ca` anyone who reaches it may call it."""
    port: int | None = None
    """Port of gRPC; None uses a free port."""
    http_port: int | None = None
    """Port of HTTP/JSON; 0 uses a free port, None serves no HTTP."""
    tls: ServerTls | None = None
    """TLS between callers and gateway, for both protocols; None uses plaintext."""
    token: str | None = field(default=None, repr=False)
    """The token that callers must send as ``authorization: Bearer ...``; None lets everyone call. Health checks,
    metrics and descriptions of the schema need none."""
    cors_origins: tuple[str, ...] = ()
    """Origins whose web pages may call over HTTP, such as ``https://shop.example``. None by default."""
    max_concurrency: int = 256
    """Largest number of calls in flight; a further call is refused with RESOURCE_EXHAUSTED. Streams are counted apart;
    of their requests, as many may be in flight, and further ones wait."""
    max_streams: int = 64
    """Largest number of open streams; a further one is refused with RESOURCE_EXHAUSTED."""
    max_message_bytes: int = 4 * 1024 * 1024
    """Largest message from a caller; the largest request that an export allows is a tenth of the default."""
    max_timeout_s: float = 30.0
    """The longest deadline that a caller can have."""
    stream_idle_s: float = 60.0
    """A stream over which no request comes for so long is ended with DEADLINE_EXCEEDED, seconds. So is one whose caller
    takes no answer for so long."""
    drain_s: float = 10.0
    """Time for calls in flight to end after a stop, seconds; health reports NOT_SERVING meanwhile."""
    forward_metadata: tuple[str, ...] = ("traceparent", "tracestate")
    """Names of the metadata or headers of a call that are forwarded to Triton, lower case."""
    reflection: bool = True
    """Whether tools such as grpcurl may ask for the schema."""
    shadow_share: float = 0.0
    """Share of the answered requests for recommendations that a version in shadow (`ebbtide deploy --shadow`) gets too,
    0 to 1. Its answers are compared, and not returned."""
    shadow_summary_s: float = 60.0
    """Time between two lines of the log about them, seconds."""

    def __post_init__(self) -> None:
        if self.port is not None:
            _require(1 <= self.port <= 65535, "port", self.port, "1 to 65535, or None for a free one")
        if self.http_port is not None:
            _require(0 <= self.http_port <= 65535, "http_port", self.http_port, "0 to 65535, or None for no HTTP")
        if self.token is not None:
            authorization(self.token)
        for name in ("max_concurrency", "max_streams"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(self.max_message_bytes >= 1024, "max_message_bytes", self.max_message_bytes, "at least 1024")
        _require(0 <= self.shadow_share <= 1, "shadow_share", self.shadow_share, "0 to 1")
        for name in ("max_timeout_s", "stream_idle_s", "drain_s", "shadow_summary_s"):
            value = getattr(self, name)
            _require(math.isfinite(value) and value > 0, name, value, "a finite number of seconds, more than 0")


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise InvalidArgumentError.of_field(name, value, expected)
