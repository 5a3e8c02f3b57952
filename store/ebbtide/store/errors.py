"""Errors of the state stores, named for what happened.

StoreError                     the root; the message names the store, never a password
├── StoreConfigError           the address, a setting, a file or a permission is not usable (also a ValueError)
├── UnavailableError           the store does not answer, is too slow or refuses work for now
├── RefusedError               the store answers, but refuses this user name or password
├── FullError                  the store has no room left
└── ConflictError              other writers changed a user in every attempt; nothing of that user was written
"""

from __future__ import annotations


class StoreError(Exception):
    """A call of a state store that failed; the root of every error that this package raises on purpose."""


class StoreConfigError(StoreError, ValueError):
    """An address, a setting, a file or a permission is not usable; the same call will fail again."""


class UnavailableError(StoreError):
    """The store does not answer, does not answer in time, or refuses work for now."""


class RefusedError(StoreError):
    """The store refuses the user name, the password or the command."""


class FullError(StoreError):
    """The store has no room left for a record."""


class ConflictError(StoreError):
    """Other writers changed a user in every attempt; nothing of that user was written."""
