"""Addresses of servers: what a caller writes, and the target that gRPC resolves."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ebbtide.client.errors import InvalidArgumentError

_RESOLVED_BY_GRPC = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "xds:")
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\[\]]+\]|[^\[\]:/,\s]+):(?P<port>\d{1,5})")
_EXPECTED = (
    "host:port as in 'localhost:8001', without a scheme; or a gRPC target as in 'dns:///triton:8001'; or several IP "
    "addresses with ports"
)


@dataclass(frozen=True)
class Endpoint:
    """Where a client's calls go."""

    target: str
    """What gRPC resolves."""
    shown: str
    """How errors and `repr` name it."""
    servers: tuple[str, ...]
    """A target for each server, if it lists several addresses itself; otherwise empty."""
    loopback: bool
    """Whether nothing that is sent leaves this machine."""


def parse_endpoint(url: str | Sequence[str]) -> Endpoint:
    """The endpoint that a caller wrote.

    Args:
        url: One address, as ``host:port`` or as a gRPC target; or several, each an IP address with a port.

    Raises:
        InvalidArgumentError: It is none of these.
    """
    if isinstance(url, str):
        return _one(url)
    if not isinstance(url, Iterable) or isinstance(url, bytes):
        raise InvalidArgumentError.of_field("url", repr(url), _EXPECTED)
    addresses = list(url)
    if not addresses:
        raise InvalidArgumentError.of_field("url", "no addresses", _EXPECTED)
    if len(addresses) == 1:
        return _one(addresses[0])
    parsed = [_ip_address(index, address) for index, address in enumerate(addresses)]
    versions = {ip.version for ip in parsed}
    if len(versions) > 1:
        raise InvalidArgumentError.of_field("url", repr(addresses), "either IPv4 or IPv6 addresses, not both")
    target = f"ipv{versions.pop()}:{','.join(addresses)}"
    return Endpoint(target, ", ".join(addresses), tuple(addresses), loopback=all(ip.is_loopback for ip in parsed))


def _one(url: str) -> Endpoint:
    if url.startswith(_RESOLVED_BY_GRPC):
        scheme, _, rest = url.partition(":")
        local = scheme.startswith("unix") or all(_is_loopback(address) for address in rest.lstrip("/").split(","))
        servers = tuple(f"{scheme}:{address}" for address in rest.split(",")) if "," in rest else ()
        return Endpoint(url, url, servers, loopback=local)
    if not _HOST_AND_PORT.fullmatch(url):
        raise InvalidArgumentError.of_field("url", repr(url), _EXPECTED)
    return Endpoint(url, url, (), loopback=_is_loopback(url))


def _host(address: str) -> str | None:
    match = _HOST_AND_PORT.fullmatch(address)
    return match["host"].strip("[]") if match else None


def _is_loopback(address: str) -> bool:
    host = _host(address)
    if host is None:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _ip_address(index: int, address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    host = _host(address)
    try:
        return ipaddress.ip_address(host or "")
    except ValueError as error:
        raise InvalidArgumentError.of_field(
            f"url[{index}]",
            repr(address),
            "an IP address with a port; for several servers behind one name write that name: 'dns:///triton:8001'",
        ) from error
