"""Item keys: the 64-bit integers that stand for item ids on the wire.

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
