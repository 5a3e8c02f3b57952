"""Operator 4 of peer 3: interest -> the scores of the whole catalog, without the items of the events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ragged  # type: ignore[import-not-found]


class TritonPythonModel:
    """One instance."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads the item factors."""
        self._factors = ragged.tables(args)["factors"]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One matrix product for the whole batch."""
        scores = np.concatenate(ragged.parts(requests, "interest")) @ self._factors
        for row, items in enumerate(ragged.parts(requests, "item_index")):
            scores[row, items[0]] = -np.inf
        return list(ragged.responses([{"catalog_score": row} for row in scores]))
