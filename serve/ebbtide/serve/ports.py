"""Chooses the server's ports and says how to reach them."""

from __future__ import annotations

import contextlib
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebbtide.serve.errors import PortInUseError

_FIRST = 12_000
"""Above the ports that well-known programs are configured with."""
_GIVEN_BY_LINUX = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TRIES = 20


@dataclass(frozen=True)
class Ports:
    """The three ports of one server."""

    grpc: int
    http: int
    metrics: int


def choose_ports(host: str, grpc: int | None, http: int | None, metrics: int | None) -> Ports:
    """The ports asked for, and free ones where None was given.

    Nothing holds a free port between this choice and the server's own bind, so a caller that lets ports be chosen
    tries again with new ones when the server finds one taken.

    Raises:
        PortInUseError: a port asked for is taken.
    """
    with contextlib.ExitStack() as held:
        # All three stay bound until all are chosen, so that they differ.
        chosen = [
            _bind(held, host, name, port) for name, port in (("grpc", grpc), ("http", http), ("metrics", metrics))
        ]
    return Ports(*chosen)


def require_free(host: str, **ports: int | None) -> None:
    """Finds a port that is taken before the work that comes before its use.

    Args:
        host: Address to bind.
        **ports: By name, as in ``grpc``; None for a port that will be chosen.

    Raises:
        PortInUseError: A port is taken, or two of them are one.
    """
    with contextlib.ExitStack() as held:
        for name, port in ports.items():
            if port is not None:
                _bind(held, host, name, port)


def connect_host(host: str) -> str:
    """The address by which this machine reaches a server bound to `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def authority(host: str, port: int) -> str:
    """``host:port`` as it stands in a URL, an IPv6 address in brackets."""
    reached = connect_host(host)
    return f"[{reached}]:{port}" if ":" in reached else f"{reached}:{port}"


def _bind(held: contextlib.ExitStack, host: str, name: str, port: int | None) -> int:
    try:
        found = socket.getaddrinfo(host, port or 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise PortInUseError(
            f"host {host!r} has no address ({error.strerror or error}): give an address of this machine, such as "
            "127.0.0.1, or 0.0.0.0 for all"
        ) from error
    family, kind, protocol, _, address = found[0]
    for candidate in _candidates() if port is None else ():
        with contextlib.suppress(OSError):
            return _listen(held, socket.socket(family, kind, protocol), (address[0], candidate, *address[2:]))
    try:
        return _listen(held, socket.socket(family, kind, protocol), address)
    except OSError as error:
        raise PortInUseError(
            f"{name}_port {port} on {host} can't be bound: {error.strerror or error}; choose another port"
        ) from error


def _candidates() -> list[int]:
    """Some ports that Linux gives no connection by itself: free ones stay free while a server starts again."""
    try:
        first_given = int(_GIVEN_BY_LINUX.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError):
        return []
    return [_FIRST + secrets.randbelow(first_given - _FIRST) for _ in range(_TRIES)] if first_given > _FIRST else []


def _listen(held: contextlib.ExitStack, bound: socket.socket, address: tuple[Any, ...]) -> int:
    held.enter_context(bound)
    # A port whose last connections linger in TIME_WAIT is free for a server.
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(address)
    # With SO_REUSEADDR two sockets can bind one port as long as neither listens.
    bound.listen(1)
    return int(bound.getsockname()[1])
