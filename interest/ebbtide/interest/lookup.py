"""From item keys to catalog indices: one sorted search over a whole batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

UNKNOWN = -1
"""The catalog index of a key that is not in the catalog."""


@dataclass(frozen=True)
class KeyIndex:
    """The catalog's keys in ascending order; 16 bytes an item, and memory-mapped where it was read from a file."""

    sorted_key: npt.NDArray[np.int64]
    """``[items]``, ascending, no key twice."""
    catalog_index: npt.NDArray[np.int64]
    """``[items]``: the catalog index of each sorted key."""

    @classmethod
    def build(cls, keys: npt.NDArray[np.int64]) -> KeyIndex:
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

    def find(self, keys: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Catalog indices of ``keys``, same shape, `UNKNOWN` where a key is not in the catalog."""
        if self.sorted_key.size == 0:
            return np.full(keys.shape, UNKNOWN, dtype=np.int64)
        place = np.minimum(np.searchsorted(self.sorted_key, keys), self.sorted_key.size - 1)
        return np.where(self.sorted_key[place] == keys, self.catalog_index[place], UNKNOWN)
