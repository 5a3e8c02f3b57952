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
    """The key of one item: xxHash64 (seed 0) of the id's UTF-8 bytes, read as a signed 64-bit integer.

    Raises:
        TypeError: The id is no text; this holds for all keys here.
    """
    value = xxhash.xxh64_intdigest(_encoded(item_id))
    return value - _RANGE if value >= _SIGN else value


def item_keys(item_ids: Iterable[str]) -> npt.NDArray[np.int64]:
    """The keys of many items, shape ``[len(item_ids)]``, int64.

    Raises:
        TypeError: An id is no text, or all ids are one text, which would be read as its letters.
    """
    hashes = [xxhash.xxh64_intdigest(_encoded(item_id)) for item_id in _several(item_ids)]
    return np.array(hashes, dtype=np.uint64).view(np.int64)


def user_key(user_id: str) -> bytes:
    """The key of one user, 16 bytes: XXH3-128 (seed 0) of the id's UTF-8 bytes, in its canonical (big-endian) form.

    The tensor `user` carries these bytes as two little-endian int64; see `ebbtide.interest.record.store_keys`.
    """
    return xxhash.xxh3_128_digest(_encoded(user_id))


def user_keys(user_ids: Iterable[str]) -> npt.NDArray[np.int64]:
    """The keys of many users as the tensor `user` carries them, int64 ``[users, 2]``.

    Raises:
        TypeError: As for `item_keys`.
    """
    joined = b"".join([user_key(user_id) for user_id in _several(user_ids)])
    return np.frombuffer(joined, dtype="<i8").astype(np.int64).reshape(-1, 2)


def _encoded(one: str) -> bytes:
    try:
        return one.encode()
    except AttributeError:
        raise TypeError(f"id: got {one!r}; expected text, as in {str(one)!r}") from None


def _several(ids: Iterable[str]) -> Iterable[str]:
    if isinstance(ids, (str, bytes)):
        raise TypeError(f"ids: got {ids!r}; expected a list of ids, as in {[ids]!r}")
    return ids
