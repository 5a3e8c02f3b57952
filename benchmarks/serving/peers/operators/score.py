"""Operator 4 of peer 3: interest -> scores of the whole catalog; the items of the request's events are excluded."""

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
        """Computes one matrix product for the whole batch."""
        scores = np.concatenate(ragged.tensors(requests, "interest")) @ self._factors
        for row, items in enumerate(ragged.tensors(requests, "item_index")):
            scores[row, items[0]] = -np.inf
        return list(ragged.responses([{"catalog_score": row} for row in scores]))
