"""Keys: the integers that stand for item ids and user ids on the wire.

The only module of the ground floor that needs more than NumPy (xxhash); the served Python models never import it, since
they see keys only.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import xxhash

_SIGN = 1 << 63
_RANGE = 1 << 64


def item_key(item_id: str) -> int:
    """The key of one item: xxHash64 (seed 0) of the id's UTF-8 bytes, read as a signed 64-bit integer."""
    value = xxhash.xxh64_intdigest(item_id.encode())
    return value - _RANGE if value >= _SIGN else value


def item_keys(item_ids: Iterable[str]) -> npt.NDArray[np.int64]:
    """The keys of many items, shape ``[len(item_ids)]``, int64."""
    hashes = [xxhash.xxh64_intdigest(item_id.encode()) for item_id in item_ids]
    return np.array(hashes, dtype=np.uint64).view(np.int64)


def user_key(user_id: str) -> bytes:
    """The key of one user, 16 bytes: XXH3-128 (seed 0) of the id's UTF-8 bytes, in its canonical (big-endian) form.

    The tensor `user` carries these bytes as two little-endian int64; see `ebbtide.interest.record.store_keys`.
    """
    return xxhash.xxh3_128_digest(user_id.encode())


def user_keys(user_ids: Iterable[str]) -> npt.NDArray[np.int64]:
    """The keys of many users as the tensor `user` carries them, int64 ``[users, 2]``."""
    joined = b"".join([user_key(user_id) for user_id in user_ids])
    return np.frombuffer(joined, dtype="<i8").astype(np.int64).reshape(-1, 2)
