"""Operator 1 of peer 3: item keys -> catalog indices and event vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ragged  # type: ignore[import-not-found]


class TritonPythonModel:
    """One instance."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads the tables."""
        arrays = ragged.tables(args)
        self._sorted_key, self._catalog_index = arrays["sorted_key"], arrays["catalog_index"]
        self._vectors = arrays["event_vectors"]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Searches and gathers once for the whole batch."""
        keys = ragged.tensors(requests, "event_item")
        key = ragged.joined(keys)
        position = np.minimum(np.searchsorted(self._sorted_key, key), len(self._sorted_key) - 1)
        if (self._sorted_key[position] != key).any():
            raise ValueError("event_item: got a key that is not in the catalog")
        item = self._catalog_index[position]
        vector = self._vectors[item]
        ends = np.cumsum(ragged.lengths(keys))[:-1]
        return list(
            ragged.responses(
                [
                    {"item_index": index, "event_vector": vectors}
                    for index, vectors in zip(np.split(item, ends), np.split(vector, ends), strict=True)
                ]
            )
        )
