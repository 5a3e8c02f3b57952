"""Connections to Redis whose waits end at the deadline of the call, not each after a time of its own."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import hiredis
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


Command: TypeAlias = tuple[Any, ...]
"""A command and its arguments."""


class Wire(Protocol):
    """What is used of a connection of redis-py, which states no types."""

    pid: int
    """Of the process that made it."""

    def send_packed_command(self, command: Sequence[bytes]) -> None:
        """Sends pieces; connects first if it is not connected."""
        ...

    def read_response(self) -> Any:  # noqa: ANN401 - an answer of any type
        """The next answer; raises it if it is an error."""
        ...

    def disconnect(self) -> None:
        """Closes the socket; the connection may be used again."""
        ...


class Commands(Protocol):
    """Sends commands to Redis; safe for threads and after forks. A lost connection is opened again once in a call."""

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """The answers, among them the errors of single commands; in one round trip (a cluster: one for each node).

        Raises:
            redis.RedisError: No server answers.
        """
        ...

    def begin(self, commands: Sequence[Command]) -> Callable[[], list[Any]]:
        """Sends commands; the function that it returns waits for what `ask` returns, and is called once at most.

        Raises:
            redis.RedisError: No server can be reached.
        """
        ...

    def keys(self, pattern: bytes, count: int) -> Iterator[bytes]:
        """All keys that match, about `count` from each call of the server.

        Raises:
            redis.RedisError: No server answers, or it refuses.
        """
        ...

    def close(self) -> None:
        """Closes the connections."""
        ...


class OneServer:
    """Commands to one server, over connections that are kept.

    For one command the pool of `redis.Redis`, its retries and its measuring take longer than the server.
    """

    def __init__(self, make: Callable[[], Wire]) -> None:
        """Takes what makes a connection, which connects when it is used first."""
        self._make = make
        # Adding and taking at an end needs no lock.
        self._free: deque[Wire] = deque()

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """See `Commands.ask`."""
        return self.begin(commands)()

    def begin(self, commands: Sequence[Command]) -> Callable[[], list[Any]]:
        """See `Commands.begin`. A connection whose answers nobody waits for is closed along with the function."""
        connection = self._taken()
        packed = [b"".join([hiredis.pack_command(command) for command in commands])]
        is_sent = True
        try:
            connection.send_packed_command(packed)
        except redis.ConnectionError:
            is_sent = False

        def answers() -> list[Any]:
            try:
                if is_sent:
                    try:
                        return _answers(connection, len(commands))
                    except redis.ConnectionError:
                        connection.disconnect()
                connection.send_packed_command(packed)
                return _answers(connection, len(commands))
            except BaseException:
                # What was asked may still be answered.
                connection.disconnect()
                raise
            finally:
                self._free.append(connection)

        return answers

    def keys(self, pattern: bytes, count: int) -> Iterator[bytes]:
        """See `Commands.keys`."""
        cursor = b"0"
        while True:
            [answer] = self.ask([("SCAN", cursor, "MATCH", pattern, "COUNT", count)])
            if isinstance(answer, Exception):
                raise answer
            cursor, found = answer
            yield from found
            if cursor == b"0":
                return

    def close(self) -> None:
        """See `Commands.close`."""
        while self._free:
            self._free.pop().disconnect()

    def _taken(self) -> Wire:
        """A connection of this process that no other thread uses."""
        while self._free:
            try:
                connection = self._free.pop()
            except IndexError:
                break
            if connection.pid == os.getpid():
                return connection
        return self._make()


class Cluster:
    """Commands to a cluster, by the client that knows its nodes."""

    def __init__(self, client: RedisCluster) -> None:
        """Takes the client."""
        self._client = client

    def ask(self, commands: Sequence[Command]) -> list[Any]:
        """See `Commands.ask`."""
        if len(commands) == 1:
            # A pipeline takes twice as long.
            try:
                return [self._client.execute_command(*commands[0])]  # type: ignore[no-untyped-call]
            except redis.ResponseError as error:
                return [error]
        pipeline = self._client.pipeline(transaction=False)  # type: ignore[no-untyped-call]
        for command in commands:
            pipeline.execute_command(*command)
        answers: list[Any] = pipeline.execute(raise_on_error=False)
        return answers

    def begin(self, commands: Sequence[Command]) -> Callable[[], list[Any]]:
        """See `Commands.begin`: it asks when it is asked for the answers."""
        return partial(self.ask, commands)

    def keys(self, pattern: bytes, count: int) -> Iterator[bytes]:
        """See `Commands.keys`."""
        return self._client.scan_iter(match=pattern, count=count)

    def close(self) -> None:
        """See `Commands.close`."""
        self._client.close()


def connected(address: RedisAddress, config: StoreConfig) -> Commands:
    """What sends commands to the servers of an address.

    Raises:
        redis.RedisError: The nodes of a cluster cannot be asked.
    """
    settings: dict[str, Any] = {
        "username": config.username,
        "password": config.password,
        # Sending has no other limit; connecting and reading end at the deadline.
        "socket_timeout": config.timeout_ms / 1000,
        "socket_keepalive": True,
        "protocol": 2,
    }
    if address.is_tls:
        # Without a command at the start (redis-py sends CLIENT SETINFO), the session tickets of TLS 1.3 would still be
        # unread, and redis-py would take the connection for one with an answer left over.
        settings |= {
            "ssl_ca_certs": None if config.ca_file is None else str(config.ca_file),
            "ssl_certfile": None if config.certificate_file is None else str(config.certificate_file),
            "ssl_keyfile": None if config.key_file is None else str(config.key_file),
        }
    connection_class = _TlsConnection if address.is_tls else _PlainConnection
    retry = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
    if address.is_cluster:
        settings |= {"connection_class": connection_class, "max_connections": _ANY_NUMBER, "retry": retry}
        return Cluster(_connected_cluster(f"redis://{address.host}:{address.port}", settings))

    def make() -> Wire:
        return connection_class(host=address.host, port=address.port, db=address.database, retry=retry, **settings)

    return OneServer(make)


def _answers(connection: Wire, count: int) -> list[Any]:
    """The next answers; those of refused commands are errors."""
    answers: list[Any] = []
    for _ in range(count):
        try:
            answers.append(connection.read_response())
        except redis.ResponseError as error:
            answers.append(error)
    return answers


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
