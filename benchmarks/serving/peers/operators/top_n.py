"""Operator 5 of peer 3: scores -> the best items and their ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ragged  # type: ignore[import-not-found]


class TritonPythonModel:
    """One instance."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads the ids."""
        arrays = ragged.tables(args)
        self._item_id, self._top_n = arrays["item_id"].astype(np.object_), int(arrays["top_n"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Selects the best items once for the whole batch."""
        scores = np.concatenate(ragged.tensors(requests, "catalog_score"))
        best = np.argpartition(scores, -self._top_n, axis=1)[:, -self._top_n :]
        best_scores = np.take_along_axis(scores, best, axis=1)
        order = np.argsort(-best_scores, axis=1, kind="stable")
        best, best_scores = np.take_along_axis(best, order, axis=1), np.take_along_axis(best_scores, order, axis=1)
        return list(
            ragged.responses(
                [{"item_id": ids, "score": score} for ids, score in zip(self._item_id[best], best_scores, strict=True)]
            )
        )
