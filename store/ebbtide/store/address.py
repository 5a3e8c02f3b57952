"""Addresses of Redis servers and clusters."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from ebbtide.store.errors import StoreConfigError

SCHEMES = ("redis", "rediss", "redis+cluster", "rediss+cluster")
_PORT = 6379


@dataclass(frozen=True)
class RedisAddress:
    """Where Redis answers."""

    host: str
    port: int
    database: int
    is_tls: bool
    is_cluster: bool

    def __str__(self) -> str:
        """The address as the user writes it, with nothing left out."""
        scheme = f"redis{'s' * self.is_tls}{'+cluster' * self.is_cluster}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}" + ("" if self.is_cluster else f"/{self.database}")


def redis_address(address: str) -> RedisAddress:
    """Reads an address; its messages never repeat what stands before an ``@``.

    Raises:
        StoreConfigError: The address is not valid, or holds a user name or password.
    """
    if "@" in address:
        raise StoreConfigError(
            "address of the state store: got one with a user name or password, which would show in logs and lists of "
            "processes; give them as EBBTIDE_STATE_USERNAME and EBBTIDE_STATE_PASSWORD or EBBTIDE_STATE_PASSWORD_FILE"
        )
    try:
        parts = urlsplit(address)
        port = _PORT if parts.port is None else parts.port
    except ValueError as error:
        raise StoreConfigError(f"address of the state store: got {address!r}: {error}") from None
    is_cluster = parts.scheme.endswith("+cluster")
    database = parts.path.strip("/") or "0"
    if not parts.hostname or parts.query or parts.fragment:
        raise StoreConfigError(f"address of the state store: got {address!r}, expected SCHEME://HOST:PORT/NUMBER")
    if not (database.isascii() and database.isdigit()) or (is_cluster and database != "0"):
        raise StoreConfigError(
            f"address of the state store: got database {database!r}, expected "
            f"{'none: a cluster has only number 0' if is_cluster else 'a number'}"
        )
    return RedisAddress(parts.hostname, port, int(database), parts.scheme.startswith("rediss"), is_cluster)
