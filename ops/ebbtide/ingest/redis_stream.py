"""Messages of a Redis stream, shared by the consumers of a group."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from ebbtide.ingest.errors import IngestError
from ebbtide.ingest.messages import Message
from ebbtide.store.address import RedisAddress, redis_address
from ebbtide.store.errors import StoreConfigError

JSON_FIELD = "event"
"""An entry with this field holds its event there, as JSON; the fields of another entry are the event's own."""
_PAUSE_S = 1.0
_CONNECT_TIMEOUT_S = 10.0
_REFUSALS = (
    redis.AuthenticationError,
    redis.exceptions.NoPermissionError,
    redis.exceptions.AuthorizationError,
    redis.ResponseError,
)
_PASSING = (redis.exceptions.ReadOnlyError, redis.exceptions.MasterDownError, redis.exceptions.OutOfMemoryError)
"""Refusals during a change of servers."""
_LONGEST_BLOCK_S = 5.0
_ANSWER_TIMEOUT_S = 15.0
"""Of a call, above `_LONGEST_BLOCK_S`."""


@dataclass(frozen=True)
class RedisAccess:
    """Who asks, and how the server is known."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    """Certificates (PEM) of the authorities that may sign the server's certificate; None: those of the system."""


class RedisStreamSource:
    """Reads a stream with a consumer group (XREADGROUP), and acknowledges (XACK).

    It first takes the entries that a consumer of its name has read before and not acknowledged, and from time to time
    those that another consumer of the group has left for long (XAUTOCLAIM). So a consumer that crashed goes on where it
    was when it starts again, and another one takes over if it does not.
    """

    def __init__(
        self,
        address: str,
        stream: str,
        group: str,
        consumer: str,
        access: RedisAccess | None = None,
        *,
        claim_after_s: float = 60.0,
        on_wait: Callable[[str], None] = lambda _reason: None,
    ) -> None:
        """Prepares the connection, which the first call opens; the group is made if it does not exist.

        Args:
            address: ``redis://HOST:PORT/NUMBER`` or ``rediss://...`` (TLS).
            stream: Name of the stream.
            group: Of consumers; a new one begins with the oldest entry.
            consumer: Name of this one, unique in the group, and the same after a restart.
            access: None where the server asks for nothing.
            claim_after_s: Entries that another consumer has not acknowledged for this time are taken over, seconds.
            on_wait: Is told why the source waits, once for each attempt that failed.

        Raises:
            IngestError: The address is not valid.
        """
        try:
            parsed = redis_address(address)
        except StoreConfigError as error:
            raise IngestError(str(error).replace("of the state store", "of the stream")) from None
        if parsed.is_cluster:
            raise IngestError("address of the stream: got a cluster; expected the node that has the stream")
        self.name = f"{parsed}, stream {stream}"
        self._stream = stream
        self._group = group
        self._consumer = consumer
        self._claim_after_ms = int(claim_after_s * 1000)
        self._claim_every_s = max(claim_after_s / 2, 0.1)
        self._on_wait = on_wait
        self._redis = _client(parsed, access or RedisAccess())
        self._has_group = False
        # Entries of this consumer's name that are pending, from the first; None when there are no more.
        self._own_from: str | None = "0-0"
        self._claim_from = "0-0"
        self._claim_at = 0.0
        self._found: deque[tuple[bytes, Mapping[bytes, bytes] | None]] = deque()

    def read(self, most: int, wait_s: float) -> Sequence[Message] | None:
        """See `Source.read`; waits for a server that is away."""
        until = time.monotonic() + wait_s
        while not self._found:
            left_s = until - time.monotonic()
            try:
                self._ask(most, max(left_s, 0.001))
            except redis.RedisError as error:
                if "NOGROUP" in str(error):
                    # The stream was deleted, and the group with it.
                    self._has_group = False
                else:
                    self._tell(error)
                    time.sleep(min(_PAUSE_S, max(left_s, 0)))
            if left_s <= 0:
                break
        found = [self._found.popleft() for _ in range(min(most, len(self._found)))]
        return [self._message(entry, fields) for entry, fields in found]

    def done(self, messages: Sequence[Message]) -> None:
        """See `Source.done`."""
        entries = [str(message.message_id).rpartition("/")[2] for message in messages]
        while entries:
            try:
                self._redis.xack(self._stream, self._group, *entries)
                return
            except redis.RedisError as error:
                self._tell(error)
                time.sleep(_PAUSE_S)

    def close(self) -> None:
        """See `Source.close`."""
        self._redis.close()

    def _ask(self, most: int, wait_s: float) -> None:
        if not self._has_group:
            self._make_group()
        if self._own_from is not None:
            self._take(self._read_group(self._own_from, most, None))
            # A list that ends is followed from its last entry, since entries stay pending until they are done with.
            self._own_from = self._found[-1][0].decode() if self._found else None
            if self._found:
                return
        if time.monotonic() >= self._claim_at:
            self._claim(most)
            if self._found:
                return
        self._take(self._read_group(">", most, wait_s))

    def _claim(self, most: int) -> None:
        """Takes over entries that others have left."""
        after: Any = self._redis.xautoclaim(
            self._stream, self._group, self._consumer, self._claim_after_ms, self._claim_from, count=most
        )
        self._claim_from = after[0].decode()
        self._found.extend(after[1])
        # Since Redis 7 those that are no more in the stream come apart.
        self._found.extend((entry, None) for entry in (after[2] if len(after) > 2 else ()))
        if self._claim_from == "0-0":
            self._claim_at = time.monotonic() + self._claim_every_s

    def _read_group(self, start: str, most: int, wait_s: float | None) -> Any:  # noqa: ANN401 - lists of redis-py
        block = None if wait_s is None else max(int(min(wait_s, _LONGEST_BLOCK_S) * 1000), 1)
        return self._redis.xreadgroup(self._group, self._consumer, {self._stream: start}, count=most, block=block)

    def _take(self, answer: Any) -> None:  # noqa: ANN401 - lists of redis-py
        for _, entries in answer or ():
            self._found.extend(entries)

    def _make_group(self) -> None:
        try:
            self._redis.xgroup_create(self._stream, self._group, "0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        self._has_group = True

    def _tell(self, error: redis.RedisError) -> None:
        """Tells why the source waits.

        Raises:
            IngestError: Waiting does not help.
        """
        if isinstance(error, _REFUSALS) and not isinstance(error, _PASSING):
            raise IngestError(f"{self.name}: {error}") from None
        self._on_wait(f"{self.name}: {error}")

    def _message(self, entry: bytes, fields: Mapping[bytes, bytes] | None) -> Message:
        entry_id = entry.decode()
        where, message_id = f"entry {entry_id}", f"{self._stream}/{entry_id}"
        if not fields:
            # An entry has fields, unless it was deleted.
            return Message(None, where, message_id)
        texts = {name.decode(errors="replace"): value for name, value in fields.items()}
        if JSON_FIELD in texts:
            return Message(texts[JSON_FIELD], where, message_id)
        return Message({name: value.decode(errors="replace") for name, value in texts.items()}, where, message_id)


def _client(address: RedisAddress, access: RedisAccess) -> redis.Redis:
    tls: dict[str, Any] = {}
    if address.is_tls:
        tls = {"ssl": True, "ssl_ca_certs": None if access.ca_file is None else str(access.ca_file)}
    return redis.Redis(
        host=address.host,
        port=address.port,
        db=address.database,
        username=access.username,
        password=access.password,
        socket_connect_timeout=_CONNECT_TIMEOUT_S,
        socket_timeout=_ANSWER_TIMEOUT_S,
        socket_keepalive=True,
        health_check_interval=30,
        retry=Retry(ExponentialBackoff(), 1),
        protocol=2,
        **tls,
    )
