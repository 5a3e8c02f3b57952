"""Deadlines, and when to try again: no I/O and no clocks but the monotonic one, so clients and gateway share it."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass

from ebbtide.client.config import RetryConfig
from ebbtide.client.errors import EbbtideError, Status


@dataclass(frozen=True)
class Deadline:
    """The end of one call, which its attempts and waits share."""

    timeout_s: float
    """What the call was given, seconds."""
    ends_at_s: float
    """When it ends, by `time.monotonic`."""

    @classmethod
    def after(cls, timeout_s: float) -> Deadline:
        """The deadline of a call that starts now."""
        return cls(timeout_s, time.monotonic() + timeout_s)

    def left_s(self) -> float:
        """Seconds until the end; 0 when it has passed."""
        return max(0.0, self.ends_at_s - time.monotonic())


class RetryBudget:
    """A bucket of tokens that failures empty and successes refill; no retries while it is half empty or more.

    The rule is that of gRPC's retry throttling (gRFC A6). Threads may share one.
    """

    def __init__(self, tokens: int, refill: float) -> None:
        """Makes a full one.

        Args:
            tokens: Its size.
            refill: What a success gives back.
        """
        self._size = float(tokens)
        self._tokens = float(tokens)
        self._refill = refill
        self._lock = threading.Lock()

    def succeeded(self) -> None:
        """Gives back a part of a token."""
        # A full budget is the usual case and needs no lock: at worst a simultaneous failure removes a bit more.
        if self._tokens < self._size:
            with self._lock:
                self._tokens = min(self._size, self._tokens + self._refill)

    def failed(self) -> bool:
        """Takes a token; whether there are enough left to try again."""
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1)
            return self._tokens > self._size / 2


class RetryPolicy:
    """Decides after each failed attempt whether, and when, there is another."""

    def __init__(self, config: RetryConfig) -> None:
        """Makes the policy of one client, with a full budget."""
        self._config = config
        self.budget = RetryBudget(config.budget_tokens, config.budget_refill)

    def wait_s(
        self, failed_attempts: int, error: EbbtideError, left_s: float, *, other_server: bool = False
    ) -> float | None:
        """How long to wait before the next attempt; None for no further attempt.

        Another server is asked at once, and without the budget: a server that failed is left out for a while, so that
        few calls come back to it.

        Args:
            failed_attempts: Attempts that have failed, this one too.
            error: How this one failed.
            left_s: What is left of the call's deadline, seconds.
            other_server: Whether this one's server failed, and another one will be asked.
        """
        if other_server:
            return 0.0 if failed_attempts < self._config.max_attempts and left_s > 0 else None
        if error.status is not Status.UNAVAILABLE or not self.budget.failed():
            return None
        if failed_attempts >= self._config.max_attempts:
            return None
        longest_ms = self._config.initial_backoff_ms * self._config.multiplier ** (failed_attempts - 1)
        wait_s = random.uniform(0, min(longest_ms, self._config.max_backoff_ms)) / 1_000  # noqa: S311
        return wait_s if wait_s < left_s else None
