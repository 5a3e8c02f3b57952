"""Errors of the Redis client as errors of this package."""

from __future__ import annotations

import re

import redis
from redis import exceptions

from ebbtide.store.config import StoreConfig
from ebbtide.store.errors import FullError, RefusedError, StoreConfigError, StoreError, UnavailableError

PERMISSIONS = "~ebbtide:* +@hash +@scripting +@set +@connection +scan +del +pexpire +persist"
"""What a user of Redis must be allowed, as an access control list writes it."""
_CODES = re.compile(r"(?:^|[ -])(OOM|WRONGTYPE|MISCONF|READONLY) ")
_FOR_NOW = (
    exceptions.BusyLoadingError,
    exceptions.ReadOnlyError,
    exceptions.ClusterDownError,
    exceptions.TryAgainError,
    exceptions.ConnectionError,
)


def told(error: redis.RedisError | exceptions.RedisClusterException, name: str, config: StoreConfig) -> StoreError:
    """The error that says what happened, in one line."""
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, exceptions.TimeoutError):
        return UnavailableError(f"{name}: no answer within {config.timeout_ms:g} ms")
    if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError):
        given = "a password" if config.password else "no password"
        return RefusedError(
            f"{name}: it refuses {given}{' for this user name' if config.username else ''}; see EBBTIDE_STATE_USERNAME "
            "and EBBTIDE_STATE_PASSWORD or EBBTIDE_STATE_PASSWORD_FILE"
        )
    if isinstance(error, exceptions.NoPermissionError):
        return RefusedError(f"{name}: the user lacks a permission; it needs {PERMISSIONS}")
    # Servers before 7.0 put the error of a command in a script into one of the script.
    codes = set(_CODES.findall(reason))
    if isinstance(error, exceptions.OutOfMemoryError) or "OOM" in codes:
        return FullError(f"{name}: it has reached its maxmemory and refuses to write; give it more, or a shorter TTL")
    if isinstance(error, exceptions.MovedError):
        return StoreConfigError(f"{name}: it is a node of a cluster; expected redis+cluster:// or rediss+cluster://")
    if isinstance(error, exceptions.RedisClusterException):
        if "Cluster mode is not enabled" in reason:
            return StoreConfigError(f"{name}: it is no cluster; expected redis:// or rediss://")
        return UnavailableError(f"{name}: {reason}")
    if isinstance(error, exceptions.InvalidResponse):
        return StoreConfigError(f"{name}: what answers there is not Redis")
    if "WRONGTYPE" in codes:
        return StoreConfigError(f"{name}: another program uses keys that start with ebbtide: in this database")
    if codes & {"MISCONF", "READONLY"} or isinstance(error, _FOR_NOW):
        return UnavailableError(f"{name}: {reason}")
    return StoreError(f"{name}: {reason}")
