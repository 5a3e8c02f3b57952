"""The store in Redis or Valkey, on one server or a cluster.

A user's records are one hash, ``ebbtide:{KEY}`` (the user's key in hexadecimal; the braces keep all that belongs to it
on one node of a cluster): a field for each fingerprint, and the field of the empty name, which holds random bytes that
every write replaces. A write goes through only if the bytes are those that were read (compare and set), or its own,
when a lost connection made it come twice.
"""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from types import TracebackType
from typing import Any

import redis

from ebbtide.store.address import RedisAddress
from ebbtide.store.config import StoreConfig
from ebbtide.store.errors import ConflictError, StoreError
from ebbtide.store.interface import (
    Change,
    Changes,
    Records,
    Snapshot,
    applied,
    computed,
    is_shared,
    require_distinct,
    require_keys,
)
from ebbtide.store.redis_connection import Command, Commands, connected, deadline_in, remaining_s
from ebbtide.store.redis_errors import told

VERSIONS = b"ebbtide:versions"
"""The set of fingerprints in use."""
ATTEMPTS = 64
"""How often a user's update is tried while others change it."""
ATTEMPTS_AT_ONCE = 3
"""How many of them follow at once; before later ones, the writers of the same user make way for each other."""
SCAN_USERS = 1000
"""How many users one call looks at when it goes through all of them."""
_TOKEN = b""
_TOKEN_BYTES = 8
_DAY_MS = 86_400_000
_FIRST_PAUSE_S = 0.001

# Keys: the user. Arguments: token read, token to write, time to live in ms (0: none), number of pairs to write, their
# fingerprints and records, fingerprints to delete. Returns 1, or the present fields if another writer was first. Writes
# before it deletes: a server without memory refuses the first command, and so all of it.
UPDATE = """
local token = redis.call('HGET', KEYS[1], '') or ''
if token == ARGV[2] then return 1 end
if token ~= ARGV[1] then return redis.call('HGETALL', KEYS[1]) end
local last = 4 + 2 * tonumber(ARGV[4])
redis.call('HSET', KEYS[1], '', ARGV[2], unpack(ARGV, 5, last))
if #ARGV > last then
  redis.call('HDEL', KEYS[1], unpack(ARGV, last + 1))
  if redis.call('HLEN', KEYS[1]) == 1 then return redis.call('DEL', KEYS[1]) end
end
if ARGV[3] == '0' then redis.call('PERSIST', KEYS[1])
else redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1
"""
# Keys: the user. Returns the number of its records.
FORGET = """
local fields = redis.call('HLEN', KEYS[1])
redis.call('DEL', KEYS[1])
return math.max(fields - 1, 0)
"""
# Keys: the user. Arguments: fingerprint, token to write. Returns the number of records removed.
RETIRE = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
if redis.call('HLEN', KEYS[1]) == 1 then redis.call('DEL', KEYS[1])
else redis.call('HSET', KEYS[1], '', ARGV[2]) end
return 1
"""


class RedisStore:
    """Records of users in Redis; see `StateStore` for the methods.

    A batch takes one round trip to read, and two to update (read, write); users that another writer changed between the
    two take one more each time.
    """

    def __init__(self, address: RedisAddress, config: StoreConfig) -> None:
        """Prepares the store; the first call connects."""
        self.name = str(address)
        self._address = address
        self._config = config
        self._timeout_s = config.timeout_ms / 1000
        self._ttl_ms = 0 if config.ttl_days is None else max(1, int(config.ttl_days * _DAY_MS))
        self._client: Commands | None = None
        self._is_closed = False

    def read(self, users: Sequence[bytes], fingerprint: bytes) -> list[bytes | None]:
        """See `StateStore.read`."""
        require_keys(users, fingerprint)
        with self._call():
            return self._ask([("HGET", _key(user), fingerprint) for user in users])

    def read_all(self, users: Sequence[bytes]) -> list[Records]:
        """See `StateStore.read_all`."""
        return self.begin_read_all(users)()

    def begin_read_all(self, users: Sequence[bytes]) -> Callable[[], list[Records]]:
        """See `StateStore.begin_read_all`."""
        require_keys(users)
        ends_s = time.monotonic() + self._timeout_s
        with self._call():
            answers = self._connected().begin([("HGETALL", _key(user)) for user in users])

        def records() -> list[Records]:
            with self._call(ends_s - time.monotonic()):
                found = _all_good(answers())
            return [_split(_fields(answer))[1] for answer in found]

        return records

    def update(self, users: Sequence[bytes], change: Change) -> None:
        """See `StateStore.update`."""
        require_distinct(users)
        with self._call():
            # Of the users still to be written: where they are in `users`, and their fields as last seen.
            left, registered = self._seen(users, range(len(users)))
            for attempt in range(ATTEMPTS):
                left = self._write(users, left, change, registered)
                if not left:
                    return
                if attempt >= ATTEMPTS_AT_ONCE:
                    pause_s = random.uniform(0, _FIRST_PAUSE_S * 2 ** min(attempt - ATTEMPTS_AT_ONCE, 6))  # noqa: S311
                    if pause_s >= remaining_s():
                        break
                    time.sleep(pause_s)
                    left, registered = self._seen(users, [index for index, _ in left])
        raise ConflictError(f"{self.name}: other writers changed {len(left)} of {len(users)} users in every attempt")

    def forget(self, users: Sequence[bytes]) -> list[int]:
        """See `StateStore.forget`; files that the server has written before keep the records until it rewrites them."""
        require_keys(users)
        with self._call():
            return self._run(FORGET, [(user, []) for user in users])

    def register(self, fingerprint: bytes) -> None:
        """See `StateStore.register`."""
        require_keys((), fingerprint)
        with self._call():
            self._ask([("SADD", VERSIONS, fingerprint)])

    def retire(self, fingerprint: bytes) -> int:
        """See `StateStore.retire`."""
        require_keys((), fingerprint)
        with self._call():
            self._ask([("SREM", VERSIONS, fingerprint)])
        removed = 0
        for users in self._all_users():
            with self._call():
                removed += sum(self._run(RETIRE, [(user, [fingerprint, os.urandom(_TOKEN_BYTES)]) for user in users]))
        return removed

    def registered(self) -> frozenset[bytes]:
        """See `StateStore.registered`."""
        with self._call():
            return frozenset(self._ask([("SMEMBERS", VERSIONS)])[0])

    def users(self, fingerprint: bytes) -> Iterator[bytes]:
        """See `StateStore.users`."""
        require_keys((), fingerprint)
        for users in self._all_users():
            with self._call():
                has = self._ask([("HEXISTS", _key(user), fingerprint) for user in users])
            yield from (user for user, found in zip(users, has, strict=True) if found and not is_shared(user))

    def close(self) -> None:
        """See `StateStore.close`."""
        self._is_closed = True
        if self._client is not None:
            self._client.close()

    def __enter__(self) -> RedisStore:
        """The store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the store."""
        self.close()

    def __repr__(self) -> str:
        """The class and the store's name."""
        return f"{type(self).__name__}({self.name})"

    def _seen(
        self, users: Sequence[bytes], indices: Sequence[int]
    ) -> tuple[list[tuple[int, dict[bytes, bytes]]], frozenset[bytes]]:
        """The fields of some of the users, with where they are among them; and the fingerprints in use."""
        reads = [("HGETALL", _key(users[index])) for index in indices]
        *found, registered = self._ask([*reads, ("SMEMBERS", VERSIONS)])
        return list(zip(indices, map(_fields, found), strict=True)), frozenset(registered)

    def _write(
        self,
        users: Sequence[bytes],
        present: Sequence[tuple[int, dict[bytes, bytes]]],
        change: Change,
        registered: frozenset[bytes],
    ) -> list[tuple[int, dict[bytes, bytes]]]:
        """Tries to write users as seen; returns those that another writer has changed, as they are now."""
        indices = [index for index, _ in present]
        found = [_split(fields) for _, fields in present]
        changes = computed(change, Snapshot(indices, [records for _, records in found], registered))
        asked = [position for position, wanted in enumerate(changes) if wanted]
        answers = self._run(
            UPDATE,
            [(users[indices[at]], self._arguments(users[indices[at]], found[at][0], changes[at])) for at in asked],
        )
        return [(indices[at], _fields(answer)) for at, answer in zip(asked, answers, strict=True) if answer != 1]

    def _arguments(self, user: bytes, token: bytes, changes: Changes) -> list[bytes | int]:
        written = applied({}, changes)
        return [
            token,
            os.urandom(_TOKEN_BYTES),
            0 if is_shared(user) else self._ttl_ms,
            len(written),
            *(part for pair in written.items() for part in pair),
            *(fingerprint for fingerprint, record in changes.items() if record is None),
        ]

    def _all_users(self) -> Iterator[list[bytes]]:
        """The keys of all users, some at a time; each step is a call with a deadline of its own."""
        with self._call():
            keys = self._connected().keys(b"ebbtide:{*}", SCAN_USERS)
        while True:
            with self._call():
                users = [_user(key) for key in islice(keys, SCAN_USERS)]
            if not users:
                return
            yield users

    def _run(self, script: str, calls: Sequence[tuple[bytes, Sequence[bytes | int]]]) -> list[Any]:
        """Runs a script for each user, in one round trip; two where a server does not know it (yet, or any more)."""
        name = _digest(script)
        answers = self._ask_all([("EVALSHA", name, 1, _key(user), *arguments) for user, arguments in calls])
        unknown = [at for at, answer in enumerate(answers) if isinstance(answer, redis.exceptions.NoScriptError)]
        if unknown:
            again = self._ask_all([("EVAL", script, 1, _key(calls[at][0]), *calls[at][1]) for at in unknown])
            for at, answer in zip(unknown, again, strict=True):
                answers[at] = answer
        return _all_good(answers)

    def _ask(self, commands: Sequence[Command]) -> list[Any]:
        """The answers to commands, in one round trip (in a cluster: one for each node, one after the other)."""
        return _all_good(self._ask_all(commands))

    def _ask_all(self, commands: Sequence[Command]) -> list[Any]:
        return self._connected().ask(commands)

    def _connected(self) -> Commands:
        if self._is_closed:
            raise StoreError(f"{self.name}: it was closed")
        if self._client is None:
            self._client = connected(self._address, self._config)
        return self._client

    @contextmanager
    def _call(self, timeout_s: float | None = None) -> Iterator[None]:
        """One call: its deadline, and the errors of the client as errors of this package."""
        try:
            with deadline_in(self._timeout_s if timeout_s is None else timeout_s):
                yield
        except (redis.RedisError, redis.exceptions.RedisClusterException) as error:
            raise told(error, self.name, self._config) from None


@cache
def _digest(script: str) -> str:
    """The name of a script for `EVALSHA`."""
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _key(user: bytes) -> bytes:
    return b"ebbtide:{%s}" % user.hex().encode()


def _user(key: bytes) -> bytes:
    return bytes.fromhex(key[len(b"ebbtide:{") : -1].decode())


def _split(fields: dict[bytes, bytes]) -> tuple[bytes, Records]:
    """The token and the records among a user's fields."""
    records = dict(fields)
    return records.pop(_TOKEN, b""), records


def _fields(answer: Sequence[bytes] | dict[bytes, bytes]) -> dict[bytes, bytes]:
    """A user's fields; the client of a cluster has paired them."""
    return answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))


def _all_good(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers
