"""Addresses of Redis servers and clusters."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ebbtide.store.errors import StoreConfigError

SCHEMES = ("redis", "rediss", "redis+cluster", "rediss+cluster")
_PORT = 6379
_FORM = re.compile(
    r"redis(?P<tls>s)?(?P<cluster>\+cluster)?://(?P<host>\[[0-9a-fA-F:.]+\]|[^\[\]/:?#\s]+)"
    r"(:(?P<port>[0-9]{1,5}))?(/(?P<database>[0-9]{0,9}))?"
)


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
    """Reads an address; its messages repeat nothing of it, since a password may stand anywhere in it.

    Raises:
        StoreConfigError: The address is not valid, or holds a user name or password.
    """
    if "@" in address:
        raise StoreConfigError(
            "address of the state store: got one with a user name or password, which would show in logs and lists of "
            "processes; give them as EBBTIDE_STATE_USERNAME and EBBTIDE_STATE_PASSWORD or EBBTIDE_STATE_PASSWORD_FILE"
        )
    found = _FORM.fullmatch(address)
    if found is None:
        raise StoreConfigError("address of the state store: got one that is not SCHEME://HOST:PORT/NUMBER")
    is_cluster = found["cluster"] is not None
    database = int(found["database"] or 0)
    if is_cluster and database:
        raise StoreConfigError(f"address of the state store: got database {database}; a cluster has only number 0")
    host = found["host"].strip("[]")
    return RedisAddress(host, int(found["port"] or _PORT), database, found["tls"] is not None, is_cluster)
