"""Configuration of a client: deadline, retries, balancing, keep-alive and sizes, each checked on construction."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final, Literal

from ebbtide.client.errors import InvalidArgumentError
from ebbtide.client.hooks import Hooks
from ebbtide.client.security import BearerToken, TlsConfig

_METADATA_KEY = re.compile(r"[0-9a-z_.-]+")

USERS_PER_REQUEST = 16
"""Default number of users in one request."""


class Unset(Enum):
    """The type of `UNSET`."""

    UNSET = "UNSET"


UNSET: Final = Unset.UNSET
"""Not given: the client's configuration decides. Distinct from None."""


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    """Raises the error for a field that is out of bounds.

    Raises:
        InvalidArgumentError: `condition` does not hold.
    """
    if not condition:
        raise InvalidArgumentError.of_field(name, value, expected)


@dataclass(frozen=True)
class RetryConfig:
    """When a call is tried again: only after UNAVAILABLE, inside the call's one deadline and the client's one budget.

    Each wait is drawn evenly between 0 and its longest ("full jitter"), so that clients do not come back all at once. A
    wait that would outlast the deadline is not begun: the call fails at once, with the error that it got.
    """

    max_attempts: int = 3
    """Attempts of one call, including the first: 1 (no retries) to 100."""
    initial_backoff_ms: int = 50
    """Longest wait before the second attempt."""
    multiplier: float = 2.0
    """Factor on the longest wait after each attempt: 1 to 10."""
    max_backoff_ms: int = 1_000
    """Upper bound of every wait."""
    budget_tokens: int = 200
    """Size of the client's budget. Each attempt that ends UNAVAILABLE removes one token, and there are no retries while
    half of the budget or less is left, so that retries do not multiply the load of a server in trouble."""
    budget_refill: float = 0.1
    """Tokens that each success adds: in the long run, at most this share of the calls are retries."""

    def __post_init__(self) -> None:
        _require(1 <= self.max_attempts <= 100, "max_attempts", self.max_attempts, "1 to 100")
        _require(self.initial_backoff_ms >= 1, "initial_backoff_ms", self.initial_backoff_ms, "at least 1")
        _require(1 <= self.multiplier <= 10, "multiplier", self.multiplier, "1 to 10")
        _require(
            self.max_backoff_ms >= self.initial_backoff_ms,
            "max_backoff_ms",
            self.max_backoff_ms,
            f"at least initial_backoff_ms ({self.initial_backoff_ms})",
        )
        _require(self.budget_tokens >= 2, "budget_tokens", self.budget_tokens, "at least 2")
        _require(
            math.isfinite(self.budget_refill) and self.budget_refill > 0,
            "budget_refill",
            self.budget_refill,
            "a finite number above 0",
        )


@dataclass(frozen=True)
class KeepAliveConfig:
    """Pings that detect a dead connection, for networks that drop idle connections silently.

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


@dataclass(frozen=True)
class ClientConfig:
    """How a client calls its server."""

    timeout_s: float = 5.0
    """Deadline of a call, end to end: connecting, retries and waits between them included. Finite."""
    retry: RetryConfig = field(default_factory=RetryConfig)
    """When a call is tried again."""
    tls: TlsConfig | None = None
    """Encryption and certificates of client and server; None sends plaintext."""
    token: BearerToken | None = None
    """Token of the caller; None sends none."""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str], repr=False, hash=False)
    """gRPC metadata of every call: lower-case names and printable ASCII. Never shown, since it may hold keys."""
    hooks: tuple[Hooks, ...] = ()
    """Hooks to run around calls and attempts, in this order."""
    check_contract: bool = True
    """Whether the client compares the tensors of each model with its contract: at the first call of the model, and at
    the first call after another version answered."""
    expected_fingerprint: str | None = None
    """Fingerprint of the only export that this client accepts; None accepts any."""
    model_suffix: str = ""
    """Follows the name of every model that requests go to: `_candidate` asks the version that `ebbtide deploy --shadow`
    has loaded beside the one in service."""
    balancing: Literal["round_robin", "pick_first"] = "round_robin"
    """Which addresses of the endpoint get calls: all that answer in turn, or the first that answers."""
    wait_for_ready: bool = False
    """Whether a call waits, until its deadline, for a server that cannot be reached. If not, the attempt fails as soon
    as the connection fails, and `retry` applies."""
    keepalive: KeepAliveConfig | None = None
    """Pings on the connection; None sends none."""
    compression: Literal["none", "gzip", "deflate"] = "none"
    """Compression of requests. Useful only on slow networks: a request is a few kilobytes."""
    users_per_request: int | None = None
    """How many calls of `AsyncInterestClient.recommend` that start in one turn of the event loop may be sent as one
    request for several users; the same holds for `observe`. No call waits for others. Calls of one request share one
    deadline and one attempt, and are one call to hooks; a call with its own metadata is sent alone. None means 16, or 1
    if there are hooks."""
    shared_memory: bool = False
    """Whether to exchange tensors through shared memory instead of messages; only with one Triton on this machine, over
    loopback or a unix socket. For large requests: the reference page says what it gains."""
    max_message_bytes: int = 64 * 1024 * 1024
    """Largest message sent or received."""
    max_reconnect_backoff_ms: int = 2_000
    """Longest wait between attempts to connect: how soon a restarted server is found."""

    def __post_init__(self) -> None:
        _require_timeout(self.timeout_s)
        # A copy, so that the configuration stays what was checked here.
        object.__setattr__(self, "metadata", checked_metadata(self.metadata))
        _require(
            self.check_contract or self.expected_fingerprint is None,
            "expected_fingerprint",
            self.expected_fingerprint,
            "None where check_contract is False",
        )
        _require(
            self.balancing in ("round_robin", "pick_first"), "balancing", self.balancing, "round_robin or pick_first"
        )
        _require(
            self.compression in ("none", "gzip", "deflate"), "compression", self.compression, "none, gzip or deflate"
        )
        _require(
            self.users_per_request is None or self.users_per_request >= 1,
            "users_per_request",
            self.users_per_request,
            "at least 1, or None",
        )
        _require(self.max_message_bytes > 0, "max_message_bytes", self.max_message_bytes, "more than 0")
        _require(
            self.max_reconnect_backoff_ms >= 100,
            "max_reconnect_backoff_ms",
            self.max_reconnect_backoff_ms,
            "at least 100",
        )

    @property
    def effective_users_per_request(self) -> int:
        """`users_per_request`, or the default that None means."""
        if self.users_per_request is not None:
            return self.users_per_request
        return 1 if self.hooks else USERS_PER_REQUEST

    def deadline_s(self, timeout_s: float | Unset) -> float:
        """The deadline of one call, seconds: that of the call if given, otherwise that of the client.

        Raises:
            InvalidArgumentError: The call's own is not finite or not more than 0.
        """
        if isinstance(timeout_s, Unset):
            return self.timeout_s
        _require_timeout(timeout_s)
        return timeout_s


def checked_metadata(metadata: Mapping[Any, object]) -> dict[str, str]:
    """A copy of the metadata, after a check that gRPC accepts it.

    Raises:
        InvalidArgumentError: A name or value that gRPC refuses; the error names it and keeps the value to itself.
    """
    checked: dict[str, str] = {}
    for key, value in metadata.items():
        if not _METADATA_KEY.fullmatch(str(key)) or key.startswith("grpc-") or key.endswith("-bin"):
            raise InvalidArgumentError.of_field(
                "metadata",
                repr(key),
                "lower-case letters, digits, -, _ and . as a name, without grpc- in front or -bin behind",
            )
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise InvalidArgumentError.of_field(f"metadata[{key!r}]", "something else", "printable ASCII")
        checked[key] = value
    return checked


def _require_timeout(timeout_s: object) -> None:
    _require(
        isinstance(timeout_s, (int, float)) and math.isfinite(timeout_s) and timeout_s > 0,
        "timeout_s",
        timeout_s,
        "a finite number of seconds, more than 0",
    )
