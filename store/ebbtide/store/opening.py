"""Opens the store that an address names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ebbtide.store.address import SCHEMES, redis_address
from ebbtide.store.config import ADDRESS_VARIABLE, StoreConfig, config_from_environment
from ebbtide.store.errors import StoreConfigError
from ebbtide.store.interface import StateStore

FORMS = "embedded:FOLDER, redis://HOST:PORT/NUMBER, rediss://... (TLS), redis+cluster://HOST:PORT, rediss+cluster://..."
"""Addresses that `open_store` takes."""


def open_store(address: str, config: StoreConfig | None = None) -> StateStore:
    """Opens a store; the store itself need not answer yet, if it is a server.

    Args:
        address: ``embedded:FOLDER`` (made if it does not exist), or ``redis://``, ``rediss://`` (TLS),
            ``redis+cluster://`` or ``rediss+cluster://`` with host, port and number of the database. User name and
            password belong in `config`.
        config: Settings; None takes the defaults.

    Raises:
        StoreConfigError: The address or a setting is not valid, or the folder cannot be used.
    """
    config = config or StoreConfig()
    scheme, separator, rest = address.partition(":")
    if scheme == "embedded" and rest:
        from ebbtide.store.embedded import EmbeddedStore

        return EmbeddedStore(Path(rest), config)
    if scheme in SCHEMES:
        from ebbtide.store.redis_store import RedisStore

        return RedisStore(redis_address(address), config)
    # What stands after the scheme may hold a password.
    raise StoreConfigError(f"address of the state store: got {scheme}{separator}..., expected {FORMS}")


def store_from_environment(environ: Mapping[str, str] | None = None) -> StateStore | None:
    """Opens the store that ``EBBTIDE_STATE`` names, with the settings of `config_from_environment`; None without it.

    Raises:
        StoreConfigError: A variable is not valid, or the folder cannot be used.
    """
    environ = os.environ if environ is None else environ
    address = environ.get(ADDRESS_VARIABLE, "")
    return open_store(address, config_from_environment(environ)) if address else None
