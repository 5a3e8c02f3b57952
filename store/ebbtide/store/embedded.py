"""The embedded store: LMDB in a folder of this machine, shared by threads and processes; no server."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType

from ebbtide.store.bucket_keys import BUCKETS, bucket_of
from ebbtide.store.config import StoreConfig
from ebbtide.store.errors import StoreError
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
from ebbtide.store.lmdb_folder import LmdbFolder, View, closed_folder, opened_folder
from ebbtide.store.packing import pack, record_of, records_of, user_of, written_ms_of

BUCKETS_PER_TRANSACTION = 64
"""How much `forget` and `retire` rewrite before other writers have their turn: at most one 64th of the store."""
_DAY_MS = 86_400_000


class EmbeddedStore:
    """Records of users in an LMDB database; see `StateStore` for the methods.

    Reads never wait. The writers of all threads and processes take turns, with one transaction for a batch. What a
    writer writes is computed before its turn, and again for the users that another writer changed meanwhile.
    """

    def __init__(self, folder: Path, config: StoreConfig) -> None:
        """Opens the store, and makes the folder if it does not exist.

        Raises:
            StoreConfigError: The folder cannot be used, or holds something else.
        """
        self.name = f"embedded:{folder}"
        self._config = config
        self._ttl_ms = None if config.ttl_days is None else int(config.ttl_days * _DAY_MS)
        self._is_closed = False
        self._folder = opened_folder(self.name, folder, config)
        self._next_bucket = int.from_bytes(os.urandom(2), "big") % BUCKETS
        """Where the search for expired records goes on; it starts anywhere, since most processes end before the end."""
        self._writes_until_look = 0

    def read(self, users: Sequence[bytes], fingerprint: bytes) -> list[bytes | None]:
        """See `StateStore.read`."""
        require_keys(users, fingerprint)
        found = self._opened().read(lambda view: [self._find(view, user)[1] for user in users])
        return [None if packed is None else record_of(packed, fingerprint) for packed in found]

    def read_all(self, users: Sequence[bytes]) -> list[Records]:
        """See `StateStore.read_all`."""
        require_keys(users)
        found = self._opened().read(lambda view: [self._find(view, user)[1] for user in users])
        return [{} if packed is None else records_of(packed) for packed in found]

    def begin_read_all(self, users: Sequence[bytes]) -> Callable[[], list[Records]]:
        """See `StateStore.begin_read_all`: it reads when it is asked for the answer, since nobody else would."""
        return partial(self.read_all, users)

    def update(self, users: Sequence[bytes], change: Change) -> None:
        """See `StateStore.update`."""
        require_distinct(users)
        folder = self._opened()
        found, registered = folder.read(lambda view: ([self._find(view, u) for u in users], view.registered()))
        stored = [as_stored for as_stored, _ in found]
        records = [{} if packed is None else records_of(packed) for _, packed in found]
        changes = list(computed(change, Snapshot(range(len(users)), records, registered)))

        def write(view: View) -> None:
            changed = [index for index, user in enumerate(users) if view.stored(user) != stored[index]]
            if changed:
                for index in changed:
                    packed = self._find(view, users[index])[1]
                    records[index] = {} if packed is None else records_of(packed)
                present = Snapshot(changed, [records[index] for index in changed], view.registered())
                for index, wanted in zip(changed, computed(change, present), strict=True):
                    changes[index] = wanted
            for user, before, wanted in zip(users, records, changes, strict=True):
                self._apply(view, user, before, wanted)
            self._drop_expired(view, len(users))

        if any(changes):
            folder.write(write, self._config.timeout_ms / 1000)

    def forget(self, users: Sequence[bytes]) -> list[int]:
        """See `StateStore.forget`: the users' buckets get new keys, and the old keys are erased."""
        require_keys(users)
        removed: dict[bytes, int] = {}
        buckets = sorted({bucket_of(user) for user in users})
        for first in range(0, len(buckets), BUCKETS_PER_TRANSACTION):
            some = buckets[first : first + BUCKETS_PER_TRANSACTION]
            removed.update(self._opened().rekey(some, frozenset(users)))
        return [removed.get(user, 0) for user in users]

    def register(self, fingerprint: bytes) -> None:
        """See `StateStore.register`."""
        require_keys((), fingerprint)
        self._opened().write(lambda view: view.register(fingerprint))

    def retire(self, fingerprint: bytes) -> int:
        """See `StateStore.retire`."""
        require_keys((), fingerprint)
        self._opened().write(lambda view: view.unregister(fingerprint))
        folder = self._opened()
        removed, first = 0, 0
        while first < BUCKETS:
            buckets, first = folder.read(partial(_buckets_with, fingerprint=fingerprint, first=first))
            removed += folder.write(partial(_retire, fingerprint=fingerprint, buckets=buckets))
        return removed

    def registered(self) -> frozenset[bytes]:
        """See `StateStore.registered`."""
        return self._opened().read(View.registered)

    def users(self, fingerprint: bytes) -> Iterator[bytes]:
        """See `StateStore.users`."""
        require_keys((), fingerprint)
        bucket = 0
        while bucket < BUCKETS:
            # A view for each bucket: one for all would keep every page that others replace meanwhile.
            found, bucket = self._opened().read(partial(_next_filled, first=bucket))
            for packed in found:
                if is_shared(user_of(packed)) or self._is_expired(packed):
                    continue
                if record_of(packed, fingerprint) is not None:
                    yield user_of(packed)

    def close(self) -> None:
        """See `StateStore.close`. No other thread may be in a call of this object."""
        if not self._is_closed:
            self._is_closed = True
            closed_folder(self._folder)

    def __enter__(self) -> EmbeddedStore:
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

    def _opened(self) -> LmdbFolder:
        if self._is_closed:
            raise StoreError(f"{self.name}: it was closed")
        return self._folder

    def _find(self, view: View, user: bytes) -> tuple[bytes | None, bytes | None]:
        """What the database holds of a user, encrypted; and what of it counts, in clear."""
        stored, packed = view.find(user)
        return stored, None if packed is None or self._is_expired(packed) else packed

    def _is_expired(self, packed: bytes) -> bool:
        if self._ttl_ms is None or is_shared(user_of(packed)):
            return False
        return written_ms_of(packed) + self._ttl_ms < _now_ms()

    def _apply(self, view: View, user: bytes, records: Records, changes: Changes) -> None:
        if changes:
            after = applied(records, changes)
            if after:
                view.put(user, pack(user, _now_ms(), after))
            else:
                view.delete(user)

    def _drop_expired(self, view: View, writes: int) -> None:
        """Removes what is expired in one bucket, once for twice as many writes as it has users."""
        self._writes_until_look -= writes
        if self._ttl_ms is None or self._writes_until_look > 0:
            return
        found, self._next_bucket = _next_filled(view, self._next_bucket)
        for packed in found:
            if self._is_expired(packed):
                view.delete(user_of(packed))
        self._writes_until_look = 2 * len(found)
        self._next_bucket %= BUCKETS


def _next_filled(view: View, first: int) -> tuple[list[bytes], int]:
    """The packed records of the first bucket with users, from `first` on; and where to go on: `BUCKETS` at the end."""
    bucket = view.filled_bucket(first)
    return ([], BUCKETS) if bucket is None else (view.bucket(bucket), bucket + 1)


def _buckets_with(view: View, fingerprint: bytes, first: int) -> tuple[list[int], int]:
    """The first buckets from `first` on that have a record of a fingerprint; and where to go on."""
    buckets: list[int] = []
    while first < BUCKETS and len(buckets) < BUCKETS_PER_TRANSACTION:
        found, first = _next_filled(view, first)
        if any(record_of(packed, fingerprint) is not None for packed in found):
            buckets.append(first - 1)
    return buckets, first


def _retire(view: View, fingerprint: bytes, buckets: Sequence[int]) -> int:
    """Removes the records of a fingerprint from buckets; returns their number."""
    removed = 0
    for packed in (packed for bucket in buckets for packed in view.bucket(bucket)):
        records = records_of(packed)
        if records.pop(fingerprint, None) is not None:
            removed += 1
            user = user_of(packed)
            if records:
                view.put(user, pack(user, written_ms_of(packed), records))
            else:
                view.delete(user)
    return removed


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
