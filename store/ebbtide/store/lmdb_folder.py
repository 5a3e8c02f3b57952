"""The folder of an embedded store, opened once in a process: LMDB's files, the file of keys, transactions over both."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import lmdb

from ebbtide.store.bucket_keys import (
    BucketCipher,
    DamagedError,
    KeyFile,
    bucket_of,
    bucket_prefix,
    check_at,
    prefixed_bucket,
    with_new_keys,
)
from ebbtide.store.config import StoreConfig
from ebbtide.store.errors import FullError, StoreConfigError, StoreError, UnavailableError
from ebbtide.store.packing import records_of, user_of

T = TypeVar("T")

_FORM = b"1"
_REGISTERED = b"registered:"
_READ_ATTEMPTS = 20
_WRITES_PER_CHECK = 100
# LMDB reports a write that the disk took only in part, as the last one before it is full, as EIO.
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
_NO_ACCESS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_DAMAGED = (lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.CorruptedError, lmdb.PageNotFoundError)
_FAILURES = (lmdb.Error, DamagedError, OSError)


class _KeysChangedError(Exception):
    """The keys of this transaction's snapshot are gone: another process has erased them since."""


class _Keys:
    """The ciphers of all buckets as one version of the database has them, made when they are needed."""

    def __init__(self, version: bytes, checks: bytes, file: KeyFile, earlier: _Keys | None) -> None:
        self.version = version
        self.checks = checks
        self._file = file
        self._ciphers: dict[int, BucketCipher] = {}
        if earlier:
            made = earlier._ciphers.copy()
            self._ciphers = {b: cipher for b, cipher in made.items() if cipher.check == check_at(checks, b)}

    def cipher(self, bucket: int) -> BucketCipher:
        cipher = self._ciphers.get(bucket)
        if cipher is None:
            key = self._file.find(bucket, check_at(self.checks, bucket))
            if key is None:
                raise _KeysChangedError
            cipher = self._ciphers[bucket] = BucketCipher(bucket, key)
        return cipher


class View:
    """The records as one transaction sees them, by user, in clear."""

    def __init__(
        self,
        transaction: lmdb.Transaction[bytes],
        records: lmdb._Database,
        meta: lmdb._Database,
        keys: _Keys,
    ) -> None:
        self._transaction = transaction
        self._records = records
        self._meta = meta
        self._keys = keys
        self._names: dict[bytes, tuple[BucketCipher, bytes]] = {}

    def stored(self, user: bytes) -> bytes | None:
        """The encrypted records of a user, other bytes after every write; None without any."""
        return self._transaction.get(self._named(user)[1], db=self._records)

    def find(self, user: bytes) -> tuple[bytes | None, bytes | None]:
        """What `stored` returns, and in clear: in the form of `packing`."""
        cipher, name = self._named(user)
        stored = self._transaction.get(name, db=self._records)
        return stored, None if stored is None else cipher.decrypt(name, stored)

    def put(self, user: bytes, packed: bytes) -> None:
        """Replaces the records of a user."""
        cipher, name = self._named(user)
        self._transaction.put(name, cipher.encrypt(name, packed), db=self._records)

    def delete(self, user: bytes) -> None:
        """Removes the records of a user."""
        self._transaction.delete(self._named(user)[1], db=self._records)

    def bucket(self, bucket: int) -> list[bytes]:
        """The packed records of every user of a bucket."""
        cipher = self._keys.cipher(bucket)
        end = bucket_prefix(bucket + 1)
        found = []
        with self._transaction.cursor(db=self._records) as cursor:
            more = cursor.set_range(bucket_prefix(bucket))
            while more and cursor.key() < end:
                found.append(cipher.decrypt(cursor.key(), cursor.value()))
                more = cursor.next()
        return found

    def filled_bucket(self, first: int) -> int | None:
        """The first bucket with a user, from `first` on."""
        with self._transaction.cursor(db=self._records) as cursor:
            return prefixed_bucket(cursor.key()) if cursor.set_range(bucket_prefix(first)) else None

    def rekey(
        self, file: KeyFile, buckets: Collection[int], forgotten: Collection[bytes]
    ) -> tuple[dict[bytes, int], bytes]:
        """Encrypts buckets again under new keys, without the users to forget.

        Returns:
            For each user that was there and is forgotten, the number of its records; the checks of all new keys.
        """
        removed = {}
        present = [packed for bucket in buckets for packed in self.bucket(bucket)]
        new_keys = file.stage(self._keys.checks, buckets)
        checks = with_new_keys(self._keys.checks, new_keys)
        version = (int.from_bytes(self._keys.version, "big") + 1).to_bytes(8, "big")
        after = _Keys(version, checks, file, self._keys)
        for packed in present:
            self.delete(user_of(packed))
        self._keys = after
        self._names.clear()
        for packed in present:
            user = user_of(packed)
            if user in forgotten:
                removed[user] = len(records_of(packed))
            else:
                self.put(user, packed)
        self._transaction.put(b"version", version, db=self._meta)
        self._transaction.put(b"checks", checks, db=self._meta)
        return removed, checks

    def _named(self, user: bytes) -> tuple[BucketCipher, bytes]:
        named = self._names.get(user)
        if named is None:
            cipher = self._keys.cipher(bucket_of(user))
            named = self._names[user] = (cipher, cipher.name(user))
        return named

    def registered(self) -> frozenset[bytes]:
        """The fingerprints in use."""
        found = set()
        with self._transaction.cursor(db=self._meta) as cursor:
            more = cursor.set_range(_REGISTERED)
            while more and cursor.key().startswith(_REGISTERED):
                found.add(cursor.key()[len(_REGISTERED) :])
                more = cursor.next()
        return frozenset(found)

    def register(self, fingerprint: bytes) -> None:
        """Adds a fingerprint to those in use."""
        self._transaction.put(_REGISTERED + fingerprint, b"", db=self._meta)

    def unregister(self, fingerprint: bytes) -> None:
        """Takes a fingerprint from those in use."""
        self._transaction.delete(_REGISTERED + fingerprint, db=self._meta)


class LmdbFolder:
    """An embedded store's folder, open in this process."""

    def __init__(self, name: str, path: Path, config: StoreConfig) -> None:
        """Opens the folder, and makes it if it does not exist.

        Raises:
            StoreError: The folder cannot be used.
        """
        self.name = name
        # As it was given: Python may be unable to spell what a link leads to, as in Triton's stub with its ASCII paths.
        self.path = path.absolute()
        self.resolved = path.resolve()
        self.opened = 0
        """How many stores of this process use it."""
        self.durability = config.durability
        self.max_gib = config.max_gib
        self._process = os.getpid()
        self._writes = 0
        self._turn = threading.Lock()
        self._keys: _Keys | None = None
        with self._errors():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            data = path / "data.mdb"
            size = data.stat().st_size if data.exists() else 0
            is_synced = config.durability == "power-loss"
            self._environment = lmdb.Environment(
                str(self.path),
                map_size=max(int(config.max_gib * 2**30), size),
                mode=0o600,
                max_dbs=2,
                max_readers=1024,
                readahead=False,
                sync=is_synced,
                metasync=is_synced,
            )
        try:
            with self._errors(), self.alone():
                self._environment.reader_check()
                self._records = self._environment.open_db(b"records")
                self._meta = self._environment.open_db(b"meta")
                self._key_file = self._opened_keys()
        except BaseException:
            self._environment.close()
            raise

    def read(self, compute: Callable[[View], T]) -> T:
        """What `compute` finds in one consistent view; called again if keys changed meanwhile.

        Raises:
            StoreError: The store failed.
        """
        self.require_own_process()
        for _ in range(_READ_ATTEMPTS):
            try:
                with self._environment.begin() as transaction:
                    return compute(self._view(transaction))
            except _KeysChangedError:
                continue
            except _FAILURES as error:
                raise self._told(error) from None
        raise StoreConfigError(self._wrong_keys())

    def write(self, compute: Callable[[View], T], timeout_s: float = -1) -> T:
        """Runs `compute` as one transaction, which is committed if it returns.

        Args:
            compute: Reads and writes.
            timeout_s: How long to wait for other threads of this process that write, in seconds; -1: without end.

        Raises:
            UnavailableError: The other threads wrote for longer.
            StoreError: The store failed.
        """
        self.require_own_process()
        if not self._turn.acquire(timeout=timeout_s):
            raise UnavailableError(f"{self.name}: earlier writes took longer than {timeout_s * 1000:g} ms")
        try:
            with self._errors():
                self._writes += 1
                if self._writes % _WRITES_PER_CHECK == 0:
                    # Killed readers would keep old pages from being used again.
                    self._environment.reader_check()
                with self._environment.begin(write=True) as transaction:
                    return compute(self._view(transaction))
        finally:
            self._turn.release()

    def rekey(self, buckets: Collection[int], forgotten: Collection[bytes]) -> dict[bytes, int]:
        """Encrypts buckets under new keys, and erases the old keys from the disk; see `View.rekey`."""
        with self._errors(), self.alone():
            removed, checks = self.write(lambda view: view.rekey(self._key_file, buckets, forgotten))
            self._erase(self._key_file, checks, buckets)
        return removed

    def require_own_process(self) -> None:
        """LMDB's environments cannot be used, opened again or closed after a fork.

        Raises:
            StoreError: This is the child of a fork.
        """
        if self._process != os.getpid():
            raise StoreError(
                f"{self.name}: it was open before a fork; open it only in the child, or start processes by spawn"
            )

    def close(self) -> None:
        """Closes the folder's files, with everything on the disk."""
        with self._errors():
            self._environment.sync(True)
            self._environment.close()
            self._key_file.close()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other threads and processes from changing keys."""
        folder = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            try:
                yield
            finally:
                # Explicit: a process forked meanwhile has a copy of the descriptor, which would keep the lock.
                fcntl.flock(folder, fcntl.LOCK_UN)
        finally:
            os.close(folder)

    def _view(self, transaction: lmdb.Transaction[bytes]) -> View:
        version = transaction.get(b"version", b"", db=self._meta)
        keys = self._keys
        if keys is None or keys.version != version:
            checks = transaction.get(b"checks", b"", db=self._meta)
            keys = self._keys = _Keys(version, checks, self._key_file, keys)
        return View(transaction, self._records, self._meta, keys)

    def _opened_keys(self) -> KeyFile:
        """The file of keys; made for a new store, and cleaned of old keys after a crash."""
        path = self.path / "keys"
        with self._environment.begin(write=True) as transaction:
            form = transaction.get(b"form", db=self._meta)
            if form is None:
                file = KeyFile(path, create=True)
                transaction.put(b"checks", file.fill(), db=self._meta)
                transaction.put(b"version", bytes(8), db=self._meta)
                transaction.put(b"form", _FORM, db=self._meta)
                return file
            checks = transaction.get(b"checks", b"", db=self._meta)
        if form != _FORM:
            raise StoreConfigError(
                f"{self.name}: got form {form.decode(errors='replace')} of the store, expected {_FORM.decode()}; "
                "another version of Ebbtide wrote it"
            )
        try:
            file = KeyFile(path, create=False)
        except FileNotFoundError:
            raise StoreConfigError(self._wrong_keys()) from None
        old = file.old_keys(checks)
        if old is None:
            file.close()
            raise StoreConfigError(self._wrong_keys())
        if old:
            self._erase(file, checks, old)
        return file

    def _erase(self, file: KeyFile, checks: bytes, buckets: Collection[int]) -> None:
        # The transaction that brought the new keys must be on the disk before the old ones go.
        self._environment.sync(True)
        file.erase_old(checks, buckets)

    def _wrong_keys(self) -> str:
        return (
            f"{self.name}: the keys in {self.path / 'keys'} are not those of data.mdb beside it; restore both from one "
            "backup, or remove the folder"
        )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns the errors of LMDB and of the files into `StoreError`."""
        try:
            yield
        except _FAILURES as error:
            raise self._told(error) from None

    def _told(self, error: Exception) -> StoreError:
        """An error of LMDB or of the files, with a message of one line."""
        if isinstance(error, lmdb.MapFullError):
            return FullError(f"{self.name}: full at {self.max_gib:g} GiB; raise EBBTIDE_STATE_MAX_GIB in all processes")
        if isinstance(error, lmdb.MapResizedError):
            return StoreConfigError(
                f"{self.name}: another process let it grow beyond {self.max_gib:g} GiB; give all processes the same "
                "EBBTIDE_STATE_MAX_GIB and start them again"
            )
        if isinstance(error, lmdb.ReadersFullError):
            return UnavailableError(f"{self.name}: too many processes and threads read at once")
        if isinstance(error, (*_DAMAGED, DamagedError)):
            return StoreConfigError(
                f"{self.name}: the files in {self.path} are damaged or of another program ({error}); restore a backup, "
                "or remove the folder"
            )
        if isinstance(error, OSError):
            return self._of_system(error.errno, error.strerror or str(error), error.filename)
        return self._of_system(getattr(error, "code", None), str(error))

    def _of_system(self, code: int | None, reason: str, path: object = None) -> StoreError:
        if code in _NO_SPACE:
            return FullError(f"{self.name}: no space left on the disk of {self.path}, or it fails ({reason})")
        if code in _NO_ACCESS:
            return StoreConfigError(f"{self.name}: no permission to write {path or self.path}: {reason}")
        return StoreError(f"{self.name}: {reason}")


_LOCK = threading.Lock()
_FOLDERS: dict[Path, LmdbFolder] = {}


def opened_folder(name: str, path: Path, config: StoreConfig) -> LmdbFolder:
    """The folder, opened by this call or by an earlier one of this process; `closed_folder` gives it back.

    Raises:
        StoreConfigError: The folder cannot be used, or this process uses it with other settings.
        StoreError: The store failed, or was open before a fork.
    """
    with _LOCK:
        folder = _FOLDERS.get(path.resolve())
        if folder is None:
            folder = LmdbFolder(name, path, config)
            _FOLDERS[folder.resolved] = folder
        folder.require_own_process()
        if (folder.durability, folder.max_gib) != (config.durability, config.max_gib):
            raise StoreConfigError(
                f"{name}: this process has it open with durability {folder.durability} and at most {folder.max_gib:g} "
                f"GiB; got {config.durability} and {config.max_gib:g}"
            )
        folder.opened += 1
        return folder


def closed_folder(folder: LmdbFolder) -> None:
    """Gives a folder back; the last one closes its files.

    Raises:
        StoreError: The files could not be written to the end, or were open before a fork.
    """
    folder.require_own_process()
    with _LOCK:
        folder.opened -= 1
        if not folder.opened and _FOLDERS.get(folder.resolved) is folder:
            del _FOLDERS[folder.resolved]
            folder.close()


def _renew_lock() -> None:
    global _LOCK
    _LOCK = threading.Lock()


# In a forked child no thread is left that could release the parent's lock.
os.register_at_fork(after_in_child=_renew_lock)
