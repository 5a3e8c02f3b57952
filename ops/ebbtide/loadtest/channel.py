"""Connections to the server: opened in threads, written and read without waiting, and opened again when lost."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from ebbtide.loadtest.access import Access, host_and_port, tls_context
from ebbtide.loadtest.http2 import Connection, timeout_text

T = TypeVar("T")

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_READ_BYTES = 256 * 1024
_CONNECT_S = 10.0
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.1, 2.0
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


@dataclass(frozen=True)
class Route:
    """What it takes to open a connection, and what every call over it carries."""

    host: str
    port: int
    headers: list[tuple[str, str]]
    context: ssl.SSLContext | None
    server_name: str

    @classmethod
    def to(cls, target: str, access: Access, timeout_s: float) -> Route:
        """The route to an address.

        Args:
            target: ``host:port``.
            access: Encryption and token.
            timeout_s: Deadline of each call, which the server also gets.

        Raises:
            LoadTestError: The address is none, or `access` does not fit it.
        """
        host, port = host_and_port(target)
        tls = access.tls
        headers = [
            (":method", "POST"),
            (":scheme", "http" if tls is None else "https"),
            (":path", _METHOD),
            (":authority", target.removeprefix("dns:///") if tls is None else (tls.server_name or host)),
            ("te", "trailers"),
            ("grpc-timeout", timeout_text(timeout_s)),
            ("content-type", "application/grpc"),
            ("user-agent", "ebbtide-loadtest"),
            *access.metadata(target),
        ]
        context = None if tls is None else tls_context(tls)
        return cls(host, port, headers, context, host if tls is None else (tls.server_name or host))

    def open(self) -> socket.socket:
        """A connected socket that never waits.

        Raises:
            OSError: No server answers, or not as expected.
        """
        connected = socket.create_connection((self.host, self.port), _CONNECT_S)
        try:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.context is not None:
                encrypted = self.context.wrap_socket(connected, server_hostname=self.server_name)
                connected = encrypted
                if encrypted.selected_alpn_protocol() != "h2":
                    raise ConnectionError("the server does not speak HTTP/2 over TLS")
            connected.setblocking(False)
        except BaseException:
            connected.close()
            raise
        return connected


class Link(Generic[T]):
    """One connection and the calls over it. Calls may start before it is open: they leave when it is."""

    def __init__(self, route: Route, ended: Callable[[T, int], None]) -> None:
        """Begins to connect."""
        self.calls: Connection[T] = Connection(route.headers, ended)
        self.socket: socket.socket | None = None
        self.error: OSError | None = None
        self._unsent = b""
        self._closed = False
        # Resolving a name, connecting and TLS wait, which would hold all other connections up.
        self._opening = threading.Thread(target=self._open, args=(route,), daemon=True)
        self._opening.start()

    def _open(self, route: Route) -> None:
        try:
            opened = route.open()
        except OSError as error:
            self.error = error
        else:
            self.socket = opened
            if self._closed:
                opened.close()

    def wait_open(self) -> None:
        """Waits until it is open or has failed."""
        self._opening.join()

    @property
    def wants_to_write(self) -> bool:
        """Whether the network did not take all yet."""
        return bool(self._unsent)

    def write(self) -> None:
        """Writes what the network takes.

        Raises:
            OSError: The connection is lost.
        """
        if self.socket is None:
            return
        data = self._unsent + self.calls.take() if self._unsent else self.calls.take()
        try:
            sent = self.socket.send(data) if data else 0
        except _NOT_NOW:
            sent = 0
        self._unsent = data[sent:]

    def read(self) -> None:
        """Reads what has arrived, and reports calls that ended.

        Raises:
            OSError: The connection is lost.
            ProtocolError: The server does not speak HTTP/2.
        """
        assert self.socket is not None  # noqa: S101 - only an open link has a socket to wait for
        while True:
            try:
                data = self.socket.recv(_READ_BYTES)
            except _NOT_NOW:
                return
            if not data:
                raise ConnectionError("the server closed the connection")
            self.calls.receive(data)
            # A poll of the socket does not show data that TLS has decrypted already.
            if not isinstance(self.socket, ssl.SSLSocket) or not self.socket.pending():
                return

    def close(self) -> None:
        """Closes it, whatever is under way."""
        self._closed = True
        if self.socket is not None:
            with suppress(OSError):
                self.socket.close()


class Channel(Generic[T]):
    """One connection after the other: a new one where the last was lost, or no longer takes calls."""

    def __init__(self, route: Route, ended: Callable[[T, int], None]) -> None:
        """Begins to connect."""
        self._route, self._ended = route, ended
        self._retry_at, self._backoff_s = 0.0, _FIRST_BACKOFF_S
        self.links: list[Link[T]] = [Link(route, ended)]
        """The current one last; before it those that only wait for their last answers."""

    def usable(self, now: float) -> Link[T] | None:
        """The connection for a call that starts now; None while the server cannot be reached.

        Args:
            now: Any steady clock, in seconds.
        """
        if self.links and not self.links[-1].calls.retired:
            return self.links[-1]
        if now < self._retry_at:
            return None
        self.links.append(Link(self._route, self._ended))
        return self.links[-1]

    def lose(self, link: Link[T], now: float) -> list[T]:
        """Gives a connection up, and the tickets of its calls back."""
        self.links.remove(link)
        if link.socket is None:
            self._retry_at = now + self._backoff_s
            self._backoff_s = min(2 * self._backoff_s, _LAST_BACKOFF_S)
        else:
            self._backoff_s = _FIRST_BACKOFF_S
        tickets = link.calls.abandon()
        link.close()
        return tickets

    def sweep(self) -> None:
        """Closes connections that took their last answer."""
        for link in self.links[:-1]:
            if not link.calls.under_way:
                self.links.remove(link)
                link.close()

    def close(self) -> None:
        """Closes all connections."""
        for link in self.links:
            link.close()
        self.links.clear()
