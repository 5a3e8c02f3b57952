"""What a state store does: opaque records of users, one for each version (fingerprint) of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, TypeAlias

from ebbtide.store.errors import StoreConfigError

USER_BYTES = 16
"""Length of a user's key: the 128-bit hash of the user id. A store never sees the id."""
MAX_FINGERPRINT_BYTES = 128
"""Longest fingerprint."""

_SHARED_PREFIX = bytes(8)

Records: TypeAlias = dict[bytes, bytes]
"""The records of one user, by fingerprint."""
Changes: TypeAlias = dict[bytes, bytes | None]
"""What to write for one user, by fingerprint; None deletes a record, fingerprints left out keep theirs."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Users as one attempt of `StateStore.update` found them."""

    indices: Sequence[int]
    """Which of update's users these are: positions in its argument. All of them, in order, at the first attempt."""
    records: Sequence[Records]
    """Their present records, in the order of `indices`."""
    registered: frozenset[bytes]
    """Fingerprints of the model versions in use."""


Change: TypeAlias = Callable[[Snapshot], Sequence[Changes]]
"""Computes what to write for the users of a snapshot, in its order.

A store calls it again for those users that another writer changed meanwhile: it must have no effect of its own. What
it returned last for a user is what counts.
"""


class StateStore(Protocol):
    """Records of users in a store that other threads and processes use at the same time.

    Safe to use from several threads. What was open before a fork serves the parent only (Redis: also the child).
    Every method raises `StoreError` or a subclass of it if the store fails.
    """

    @property
    def name(self) -> str:
        """The store's address for messages and logs, without user name and password."""
        ...

    def read(self, users: Sequence[bytes], fingerprint: bytes) -> list[bytes | None]:
        """The records of one fingerprint, in one round trip.

        Args:
            users: Keys of the users, `USER_BYTES` each; the same key may come twice.
            fingerprint: The model version.

        Returns:
            For each user its record, or None.
        """
        ...

    def read_all(self, users: Sequence[bytes]) -> list[Records]:
        """The records of all fingerprints, in one round trip; empty for a user without any."""
        ...

    def begin_read_all(self, users: Sequence[bytes]) -> Callable[[], list[Records]]:
        """Asks for what `read_all` returns; the answer is what the returned function returns, once and to this thread.

        A server looks the records up while the caller does other work. Whoever needs the answer no more need not call
        the function.
        """
        ...

    def update(self, users: Sequence[bytes], change: Change) -> None:
        """Replaces records, atomically for each user over all its fingerprints.

        When the call returns, the records are as durable as the store's setting promises. If it raises, any of the
        users may have been written.

        Args:
            users: Keys of the users, each of them once.
            change: Computes what to write.

        Raises:
            ConflictError: Other writers changed a user in every attempt.
            FullError: The store has no room left.
        """
        ...

    def forget(self, users: Sequence[bytes]) -> list[int]:
        """Erases all records of the users, and every copy of them in the store's files.

        Returns:
            For each user the number of records removed.
        """
        ...

    def register(self, fingerprint: bytes) -> None:
        """Notes that a model version is in use: its records are kept up to date by all versions."""
        ...

    def retire(self, fingerprint: bytes) -> int:
        """Notes that a model version is no longer in use, and erases its records.

        Returns:
            The number of records removed.
        """
        ...

    def registered(self) -> frozenset[bytes]:
        """The fingerprints of the model versions in use."""
        ...

    def users(self, fingerprint: bytes) -> Iterator[bytes]:
        """The keys of the users that have a record of this fingerprint, in no particular order.

        Users that are written during the iteration may be among them or not, and a user may come twice.
        """
        ...

    def close(self) -> None:
        """Closes the connection; the records stay. May be called twice."""
        ...

    def __enter__(self) -> StateStore:
        """The store itself."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the store."""
        ...


def shared_key(name: str, number: int = 0) -> bytes:
    """The key of a record that belongs to all users, such as a part of the catalog's counts.

    Shared records are read and updated as those of users are, but they do not expire, and `StateStore.users` leaves
    them out. The hash of a user id begins with eight zero bytes with a probability of 2^-64.

    Args:
        name: What the record is: 1 to 4 ASCII characters.
        number: Which one of its kind, from 0 to 2^32 - 1.
    """
    return _SHARED_PREFIX + name.encode("ascii").ljust(4, b"\0") + number.to_bytes(4, "big")


def is_shared(key: bytes) -> bool:
    """Whether a key is one of `shared_key`."""
    return key.startswith(_SHARED_PREFIX)


def require_keys(users: Sequence[bytes], *fingerprints: bytes) -> None:
    """Checks keys of users and fingerprints.

    Raises:
        StoreConfigError: A user's key is not of `USER_BYTES`, or a fingerprint is empty or too long.
    """
    for user in users:
        if len(user) != USER_BYTES:
            raise StoreConfigError(f"key of a user: got {len(user)} bytes, expected {USER_BYTES}")
    for fingerprint in fingerprints:
        if not 1 <= len(fingerprint) <= MAX_FINGERPRINT_BYTES:
            raise StoreConfigError(
                f"fingerprint: got {len(fingerprint)} bytes, expected 1 to {MAX_FINGERPRINT_BYTES} bytes"
            )


def require_distinct(users: Sequence[bytes]) -> None:
    """Checks the users of an update.

    Raises:
        StoreConfigError: A key is not of `USER_BYTES`, or comes twice.
    """
    require_keys(users)
    if len(set(users)) != len(users):
        raise StoreConfigError(f"users: got {len(users) - len(set(users))} more than once, expected each once")


def computed(change: Change, snapshot: Snapshot) -> Sequence[Changes]:
    """What `change` wants written, checked.

    Raises:
        StoreConfigError: It does not fit the snapshot, or has a fingerprint that is empty or too long.
    """
    changes = change(snapshot)
    if len(changes) != len(snapshot.indices):
        raise StoreConfigError(f"changes: got {len(changes)} users, expected {len(snapshot.indices)}")
    require_keys((), *{fingerprint for change in changes for fingerprint in change})
    return changes


def applied(records: Records, changes: Changes) -> Records:
    """The records of a user after its changes."""
    merged = {**records, **changes}
    return {fingerprint: record for fingerprint, record in merged.items() if record is not None}
