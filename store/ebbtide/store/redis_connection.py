"""Connections to Redis whose waits end at the deadline of the call, not each after a time of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from ebbtide.store.address import RedisAddress
from ebbtide.store.config import StoreConfig

if TYPE_CHECKING:
    _Connection = redis.Connection
else:
    _Connection = object

_LEAST_WAIT_S = 0.001
_ANY_NUMBER = 2**31 - 1


class _Deadline(threading.local):
    """When the call of this thread must end, on the monotonic clock."""

    at: float = 0


_deadline = _Deadline()


@contextmanager
def deadline_in(timeout_s: float) -> Iterator[None]:
    """All waiting of this thread for Redis in the block ends after this time, in seconds."""
    _deadline.at = time.monotonic() + timeout_s
    yield


def remaining_s() -> float:
    """Time that the call of this thread has left, in seconds."""
    return _deadline.at - time.monotonic()


class _DeadlineMixin(_Connection):
    def _connect(self) -> Any:  # noqa: ANN401 - a socket, plain or TLS
        self.socket_connect_timeout = max(_LEAST_WAIT_S, remaining_s())
        return super()._connect()  # type: ignore[no-untyped-call]

    def read_response(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - as in the class that it extends
        options["timeout"] = max(_LEAST_WAIT_S, remaining_s())
        return super().read_response(*args, **options)


class _PlainConnection(_DeadlineMixin, redis.Connection):
    pass


class _TlsConnection(_DeadlineMixin, redis.SSLConnection):
    pass


def connected(address: RedisAddress, config: StoreConfig) -> redis.Redis | RedisCluster:
    """A client, safe for threads and after forks. A connection that was lost is opened again once in a call.

    Raises:
        redis.RedisError: The nodes of a cluster cannot be asked.
    """
    settings: dict[str, Any] = {
        "username": config.username,
        "password": config.password,
        # Sending has no other limit; connecting and reading end at the deadline.
        "socket_timeout": config.timeout_ms / 1000,
        "socket_keepalive": True,
        "max_connections": _ANY_NUMBER,
        "protocol": 2,
        "driver_info": None,
    }
    if address.is_tls:
        settings |= {
            "ssl_ca_certs": None if config.ca_file is None else str(config.ca_file),
            "ssl_certfile": None if config.certificate_file is None else str(config.certificate_file),
            "ssl_keyfile": None if config.key_file is None else str(config.key_file),
        }
    settings["connection_class"] = _TlsConnection if address.is_tls else _PlainConnection
    retry = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
    if address.is_cluster:
        return _connected_cluster(f"redis://{address.host}:{address.port}", settings | {"retry": retry})
    pool = redis.ConnectionPool(host=address.host, port=address.port, db=address.database, retry=retry, **settings)
    return redis.Redis(connection_pool=pool)


def _connected_cluster(url: str, settings: dict[str, Any]) -> RedisCluster:
    """A cluster's client. It takes a class of connections only with an address, whose scheme counts for nothing."""
    pools: list[redis.ConnectionPool] = []

    def pool(**options: Any) -> redis.ConnectionPool:  # noqa: ANN401 - settings of any kind
        pools.append(redis.ConnectionPool(**options))
        return pools[-1]

    try:
        return RedisCluster(url=url, connection_pool_class=pool, **settings)
    except BaseException:
        # It would leave them open.
        for each in pools:
            each.disconnect()
        raise
