"""Turns among several servers: which one a call goes to, and which ones are left out for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Sequence

from ebbtide.client.errors import (
    CallCancelledError,
    EbbtideError,
    ModelNotReadyError,
    OverloadedError,
    StateUnavailableError,
    UnavailableError,
)

_FIRST_PAUSE_S = 1.0


def is_the_servers(error: EbbtideError) -> bool:
    """Whether another server may well answer what this one failed: it stops, or its model or connection is gone."""
    if isinstance(error, (OverloadedError, StateUnavailableError)):
        return False
    return isinstance(error, (UnavailableError, ModelNotReadyError, CallCancelledError))


class Rotation:
    """Chooses a server for each attempt. Threads may share one.

    gRPC's own balancing leaves a server out when its connection fails. A server that stops, or whose model has died,
    keeps its connection and refuses calls; this leaves it out for a second, then for twice as long each time it fails
    again.
    """

    def __init__(self, servers: Sequence[str], *, in_turn: bool, longest_pause_s: float) -> None:
        """Makes the one of a client.

        Args:
            servers: gRPC's target of each; at least two.
            in_turn: Whether all get calls in turn; otherwise the first in service gets them.
            longest_pause_s: Longest time to leave a server out, seconds.
        """
        self.is_connected: Callable[[int], bool] = lambda _: False
        """Whether the connection to a server stands; set by whoever opens it."""
        self.servers = tuple(servers)
        """gRPC's target of each server."""
        self._in_turn = in_turn
        self._longest_pause_s = longest_pause_s
        self._next = 0
        self._back_at_s = [0.0] * len(servers)
        self._pause_s = [0.0] * len(servers)
        self._tried_again: set[int] = set()
        self._lock = threading.Lock()

    def choose(self, tried: Collection[int] = ()) -> int | None:
        """The server for the next attempt; None if none is in service, which leaves the choice to gRPC.

        Args:
            tried: Servers that failed this call.
        """
        now_s = time.monotonic()
        with self._lock:
            for turn in range(len(self.servers)):
                server = (self._next + turn) % len(self.servers) if self._in_turn else turn
                if server in tried or self._back_at_s[server] > now_s or not self.is_connected(server):
                    continue
                if self._pause_s[server]:
                    # One call tries a server that was left out; the others wait for what comes of it.
                    self._back_at_s[server] = now_s + self._pause_s[server]
                    self._tried_again.add(server)
                self._next = server + 1
                return server
        return None

    def has_other(self, tried: Collection[int]) -> bool:
        """Whether a server is in service that has not failed this call."""
        now_s = time.monotonic()
        return any(
            server not in tried and self._back_at_s[server] <= now_s and self.is_connected(server)
            for server in range(len(self.servers))
        )

    def failed(self, server: int) -> None:
        """Leaves a server out for a while."""
        now_s = time.monotonic()
        with self._lock:
            # Calls that fail together are one failure.
            if server in self._tried_again or not self._pause_s[server]:
                self._tried_again.discard(server)
                self._pause_s[server] = min(self._longest_pause_s, 2 * self._pause_s[server] or _FIRST_PAUSE_S)
            self._back_at_s[server] = now_s + self._pause_s[server]

    def answered(self, server: int) -> None:
        """Takes a server back into service."""
        # In service is the usual case and needs no lock.
        if self._pause_s[server]:
            with self._lock:
                self._tried_again.discard(server)
                self._back_at_s[server] = self._pause_s[server] = 0.0
