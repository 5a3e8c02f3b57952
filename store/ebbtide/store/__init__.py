"""State stores: the records of users, kept on this machine or in Redis, behind one interface.

::

    from ebbtide.store import open_store

    with open_store("embedded:states") as store:
        [record] = store.read([user], fingerprint)
"""

from ebbtide.store.config import ADDRESS_VARIABLE, Durability, StoreConfig, config_from_environment
from ebbtide.store.errors import (
    ConflictError,
    FullError,
    RefusedError,
    StoreConfigError,
    StoreError,
    UnavailableError,
)
from ebbtide.store.interface import Change, Changes, Records, Snapshot, StateStore, is_shared, shared_key
from ebbtide.store.opening import open_store, store_from_environment

__all__ = [
    "ADDRESS_VARIABLE",
    "Change",
    "Changes",
    "ConflictError",
    "Durability",
    "FullError",
    "Records",
    "RefusedError",
    "Snapshot",
    "StateStore",
    "StoreConfig",
    "StoreConfigError",
    "StoreError",
    "UnavailableError",
    "config_from_environment",
    "is_shared",
    "open_store",
    "shared_key",
    "store_from_environment",
]
