"""Keys that encrypt the embedded store, so that erasing a key erases what it encrypted.

LMDB never overwrites a page in place: earlier versions of a record stay in free pages and in the gaps of used ones
until the space is needed again, and the gaps even in compacted copies. So each record is encrypted before LMDB sees it,
and the name under which it is found is a keyed hash. Users are spread over `BUCKETS` buckets, and each bucket has a
random key. The bucket keys lie in a small file beside the database, which, unlike LMDB's, is overwritten in place.

To forget a user, the other users of the bucket are encrypted again under a new bucket key, and the old key is
overwritten: whatever LMDB's file still holds of the old records cannot be decrypted any more (cryptographic erasure;
NIST SP 800-88, revision 1, section 2.6).

The file has two slots for each bucket. The database names the key in use by its check value: the change to a new key
happens at the commit of a transaction, and a crash at any time leaves one valid key.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

BUCKETS = 4096
BUCKET_BITS = 12
KEY_BYTES = 32
CHECK_BYTES = 8
_MAGIC = b"ebbtide bucket keys, form 1\n"
_START = 64
_FILE_BYTES = _START + BUCKETS * 2 * KEY_BYTES
_NONCE_BYTES = 12
_NO_KEY = bytes(KEY_BYTES)
PREFIX_BYTES = 2


def bucket_of(user: bytes) -> int:
    """The bucket of a user: the first `BUCKET_BITS` bits of its key, which is a hash."""
    return int.from_bytes(user[:2], "big") >> (16 - BUCKET_BITS)


def bucket_prefix(bucket: int) -> bytes:
    """What the names of a bucket's records start with in the database; `BUCKETS` gives the end of the last one."""
    return bucket.to_bytes(PREFIX_BYTES, "big")


def prefixed_bucket(name: bytes) -> int:
    """The bucket of a record's name."""
    return int.from_bytes(name[:PREFIX_BYTES], "big")


def check_of(key: bytes) -> bytes:
    """The value that tells a bucket's key from others, without giving it away."""
    return hashlib.blake2b(key, digest_size=CHECK_BYTES, person=b"ebbtide check").digest()


class DamagedError(Exception):
    """Bytes that were not written by this module, or were changed since."""


class BucketCipher:
    """Encrypts and names the records of one bucket."""

    def __init__(self, bucket: int, key: bytes) -> None:
        self.check = check_of(key)
        self._prefix = bucket_prefix(bucket)
        self._names = hashlib.blake2b(key=_derived(key, b"ebbtide names"), digest_size=16)
        self._cipher = AESGCM(_derived(key, b"ebbtide cipher"))

    def name(self, user: bytes) -> bytes:
        """The name of a user's records in the database: the bucket and a keyed hash (18 bytes)."""
        names = self._names.copy()
        names.update(user)
        return self._prefix + names.digest()

    def encrypt(self, name: bytes, packed: bytes) -> bytes:
        """The encrypted form of what stands under a name; different on every call."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, packed, name)

    def decrypt(self, name: bytes, stored: bytes) -> bytes:
        """The inverse of `encrypt`.

        Raises:
            DamagedError: The bytes were changed, or encrypted with another key.
        """
        try:
            return self._cipher.decrypt(stored[:_NONCE_BYTES], stored[_NONCE_BYTES:], name)
        except (InvalidTag, ValueError):
            raise DamagedError("a record is not what was written") from None


class KeyFile:
    """The file of the bucket keys, open for reading and writing.

    `find` checks what it reads, and so needs no lock. All that writes does: one thread of one process at a time.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        self._file = os.open(path, flags, 0o600)
        try:
            if not create and not os.pread(self._file, len(_MAGIC), 0) == _MAGIC:
                raise DamagedError(f"{path.name} holds no keys")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        os.close(self._file)

    def fill(self) -> bytes:
        """Writes a new key for each bucket, and returns their checks, one after the other."""
        keys = [os.urandom(KEY_BYTES) for _ in range(BUCKETS)]
        content = _MAGIC.ljust(_START, b"\0") + b"".join(key + _NO_KEY for key in keys)
        os.pwrite(self._file, content, 0)
        os.ftruncate(self._file, _FILE_BYTES)
        os.fsync(self._file)
        return b"".join(map(check_of, keys))

    def find(self, bucket: int, check: bytes) -> bytes | None:
        """The key of a bucket that has this check; None if the file has it no more, or never had it."""
        keys = (os.pread(self._file, KEY_BYTES, _offset(bucket, slot)) for slot in range(2))
        return next((key for key in keys if check_of(key) == check), None)

    def stage(self, checks: bytes, buckets: Iterable[int]) -> dict[int, bytes]:
        """Writes a new key beside the present one of each bucket, on the disk when it returns.

        Args:
            checks: Checks of the present keys of all buckets.
            buckets: The buckets to give a new key.
        """
        new = {}
        for bucket in buckets:
            new[bucket] = os.urandom(KEY_BYTES)
            present = next(slot for slot in range(2) if self._holds(bucket, slot, checks))
            os.pwrite(self._file, new[bucket], _offset(bucket, 1 - present))
        os.fsync(self._file)
        return new

    def old_keys(self, checks: bytes) -> list[int] | None:
        """The buckets that still have an old key; None if a present key is missing."""
        content = os.pread(self._file, _FILE_BYTES, 0)
        old = []
        for bucket in range(BUCKETS):
            keys = [content[(at := _offset(bucket, slot)) : at + KEY_BYTES] for slot in range(2)]
            others = [key for key in keys if check_of(key) != check_at(checks, bucket)]
            if len(others) != 1:
                return None
            if others != [_NO_KEY]:
                old.append(bucket)
        return old

    def erase_old(self, checks: bytes, buckets: Iterable[int]) -> None:
        """Overwrites the keys of buckets that are not their present ones; on the disk when it returns."""
        for bucket in buckets:
            for slot in range(2):
                if not self._holds(bucket, slot, checks):
                    os.pwrite(self._file, _NO_KEY, _offset(bucket, slot))
        os.fsync(self._file)

    def _holds(self, bucket: int, slot: int, checks: bytes) -> bool:
        return check_of(os.pread(self._file, KEY_BYTES, _offset(bucket, slot))) == check_at(checks, bucket)


def check_at(checks: bytes, bucket: int) -> bytes:
    """The check of a bucket's key."""
    return checks[bucket * CHECK_BYTES : (bucket + 1) * CHECK_BYTES]


def with_new_keys(checks: bytes, keys: Mapping[int, bytes]) -> bytes:
    """Checks of all buckets, with those of new keys in their places."""
    changed = bytearray(checks)
    for bucket, key in keys.items():
        changed[bucket * CHECK_BYTES : (bucket + 1) * CHECK_BYTES] = check_of(key)
    return bytes(changed)


def _derived(key: bytes, purpose: bytes) -> bytes:
    return hashlib.blake2b(key=key, digest_size=32, person=purpose).digest()


def _offset(bucket: int, slot: int) -> int:
    return _START + (bucket * 2 + slot) * KEY_BYTES
