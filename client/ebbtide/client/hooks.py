"""Hooks: plain callables around each call and each of its attempts, for tracing, metrics and other uses.

`ebbtide.client.otel` and `ebbtide.client.prometheus` are built on them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ebbtide.client.errors import Status


@dataclass
class Call:
    """One call of a client's method, as hooks see it; the later fields are filled when it ends."""

    method: str
    """Name of the client's method: recommend, embed, ...; check_contract for the check at the first call of a model."""
    model_name: str | None
    """Model that is called; None if the call asks the server itself."""
    target: str
    """Address of the server, as given to the client."""
    timeout_s: float
    """Deadline of the whole call, seconds."""
    attempts: int = 0
    """Attempts so far."""
    status: Status | None = None
    """How the call ended; None while it runs."""
    error: BaseException | None = None
    """The error that the call raises; None if it succeeded."""
    model_version: str = ""
    """Version of the model that answered."""
    duration_s: float = 0.0
    """How long the call took, waits between attempts included."""
    state: dict[object, Any] = field(default_factory=dict[object, Any], repr=False)
    """State of the hooks for this call."""


@dataclass
class Attempt:
    """One attempt of a call, as hooks see it; the later fields are filled when it ends."""

    call: Call
    """The call that it belongs to."""
    number: int
    """1 for the first."""
    timeout_s: float
    """Time until the deadline of the call, seconds."""
    metadata: dict[str, str] = field(repr=False)
    """Sent with the attempt; `before_attempt` may add to it (lower-case names). A bearer token is not in it."""
    status: Status | None = None
    """How the attempt ended; None while it runs."""
    error: BaseException | None = None
    """The error of the attempt; None if it succeeded."""
    duration_s: float = 0.0
    """How long the attempt took."""
    retry_in_s: float | None = None
    """Wait before the next attempt; None if there is none."""


@dataclass(frozen=True)
class Hooks:
    """Callables that a client runs, each of them optional.

    They run where the call runs: in its thread, or in the event loop, so they must not block. Their exceptions are
    logged and do not end the call.
    """

    before_call: Callable[[Call], None] | None = None
    """Before the first attempt."""
    before_attempt: Callable[[Attempt], None] | None = None
    """Before each attempt; may add metadata."""
    after_attempt: Callable[[Attempt], None] | None = None
    """After each attempt; `retry_in_s` says whether another one follows."""
    after_call: Callable[[Call], None] | None = None
    """After the last attempt; also of a call that was cancelled."""
