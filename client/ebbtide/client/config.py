"""Configuration of a client: deadline, retries, keep-alive and sizes, each checked on construction."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from ebbtide.client.errors import InvalidArgumentError

ChannelArgs = list[tuple[str, int | str]]
"""Arguments of a gRPC channel, by gRPC's names for them."""

MAX_RETRY_ATTEMPTS = 5
"""gRPC itself makes no more attempts than this."""

MIN_BACKOFF_MS = 10
"""gRPC never wakes from a wait that its jitter rounds down to 0 ms (seen with 1 ms: the call ran into its deadline)."""


class Unset(Enum):
    """The type of `UNSET`."""

    UNSET = "UNSET"


UNSET: Final = Unset.UNSET
"""Not given: the client's configuration decides. Distinct from None."""


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise InvalidArgumentError.of_field(name, value, expected)


@dataclass(frozen=True)
class RetryConfig:
    """When a call is tried again: only after UNAVAILABLE, and inside the call's one deadline.

    gRPC does the retrying, and spreads each wait by 20 % either way so that clients do not come back all at once.
    """

    max_attempts: int = 3
    """Attempts of one call, the first one too: 1 (no retries) to 5."""
    initial_backoff_ms: int = 50
    """Wait before the second attempt, at least 10."""
    multiplier: float = 2.0
    """Each further wait is the last one times this."""
    max_backoff_ms: int = 1_000
    """No wait is longer than this."""

    def __post_init__(self) -> None:
        _require(
            1 <= self.max_attempts <= MAX_RETRY_ATTEMPTS,
            "max_attempts",
            self.max_attempts,
            f"1 to {MAX_RETRY_ATTEMPTS}",
        )
        _require(
            self.initial_backoff_ms >= MIN_BACKOFF_MS,
            "initial_backoff_ms",
            self.initial_backoff_ms,
            f"at least {MIN_BACKOFF_MS}",
        )
        _require(
            math.isfinite(self.multiplier) and self.multiplier >= 1,
            "multiplier",
            self.multiplier,
            "a finite number of at least 1",
        )
        _require(
            self.max_backoff_ms >= self.initial_backoff_ms,
            "max_backoff_ms",
            self.max_backoff_ms,
            f"at least initial_backoff_ms ({self.initial_backoff_ms})",
        )

    def _channel_args(self) -> ChannelArgs:
        if self.max_attempts == 1:
            return [("grpc.enable_retries", 0)]
        policy = {
            "maxAttempts": self.max_attempts,
            "initialBackoff": f"{self.initial_backoff_ms / 1_000:.3f}s",
            "maxBackoff": f"{self.max_backoff_ms / 1_000:.3f}s",
            "backoffMultiplier": self.multiplier,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        service_config = {"methodConfig": [{"name": [{}], "retryPolicy": policy}]}
        return [("grpc.enable_retries", 1), ("grpc.service_config", json.dumps(service_config))]


@dataclass(frozen=True)
class KeepAliveConfig:
    """Pings that find a dead connection, for networks that drop idle ones silently.

    Triton closes connections that ping more often than its ``--grpc-http2-min-recv-ping-interval-without-data``
    (5 minutes, unless set) allows.
    """

    time_ms: int = 300_000
    """Time without traffic before a ping."""
    timeout_ms: int = 20_000
    """Time to wait for the ping's answer before the connection counts as dead."""
    permit_without_calls: bool = False
    """Whether to ping while no call is running."""

    def __post_init__(self) -> None:
        _require(self.time_ms > 0, "time_ms", self.time_ms, "more than 0")
        _require(self.timeout_ms > 0, "timeout_ms", self.timeout_ms, "more than 0")

    def _channel_args(self) -> ChannelArgs:
        return [
            ("grpc.keepalive_time_ms", self.time_ms),
            ("grpc.keepalive_timeout_ms", self.timeout_ms),
            ("grpc.keepalive_permit_without_calls", int(self.permit_without_calls)),
        ]


@dataclass(frozen=True)
class ClientConfig:
    """How a client calls its server."""

    timeout_s: float = 5.0
    """Deadline of a call, end to end: connecting, retries and waits between them included. Finite."""
    retry: RetryConfig = field(default_factory=RetryConfig)
    """When a call is tried again."""
    keepalive: KeepAliveConfig | None = None
    """Pings on the connection; None sends none."""
    max_message_bytes: int = 64 * 1024 * 1024
    """Largest message sent or received."""
    max_reconnect_backoff_ms: int = 2_000
    """Longest wait between attempts to connect: how soon a server that came back is found again."""

    def __post_init__(self) -> None:
        _require_timeout(self.timeout_s)
        _require(self.max_message_bytes > 0, "max_message_bytes", self.max_message_bytes, "more than 0")
        _require(
            self.max_reconnect_backoff_ms >= 100,
            "max_reconnect_backoff_ms",
            self.max_reconnect_backoff_ms,
            "at least 100",
        )

    def deadline_s(self, timeout_s: float | Unset) -> float:
        """The deadline of one call, in seconds: the call's own, or else the client's.

        Raises:
            InvalidArgumentError: The call's own is not finite or not more than 0.
        """
        if isinstance(timeout_s, Unset):
            return self.timeout_s
        _require_timeout(timeout_s)
        return timeout_s

    def _channel_args(self) -> ChannelArgs:
        return [
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.initial_reconnect_backoff_ms", min(1_000, self.max_reconnect_backoff_ms)),
            ("grpc.max_reconnect_backoff_ms", self.max_reconnect_backoff_ms),
            *self.retry._channel_args(),
            *(self.keepalive._channel_args() if self.keepalive else []),
        ]


def _require_timeout(timeout_s: float) -> None:
    _require(
        isinstance(timeout_s, (int, float)) and math.isfinite(timeout_s) and timeout_s > 0,
        "timeout_s",
        timeout_s,
        "a finite number of seconds, more than 0",
    )
