"""Operator 2 of peer 3: event vectors and times -> decayed event vectors, oldest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ragged  # type: ignore[import-not-found]

_MS_PER_DAY = 86_400_000
_MS_PER_HOUR = 3_600_000


class TritonPythonModel:
    """One instance."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads the rates."""
        arrays = ragged.tables(args)
        self._rates = np.stack([arrays["decay_rate_per_day"], arrays["rank_decay_rate"]])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Computes the decay once for the whole batch."""
        vectors = ragged.tensors(requests, "event_vector")
        counts = ragged.lengths(vectors)
        row = np.repeat(np.arange(len(counts)), counts)
        time_ms = ragged.joined(ragged.tensors(requests, "event_time"))
        now_ms = np.concatenate(ragged.tensors(requests, "now"))[:, 0]
        order = np.lexsort((time_ms, row))
        first = np.cumsum(counts) - counts
        rank = counts[row] - 1 - (np.arange(len(row)) - first[row])
        age_ms = now_ms[row] - time_ms[order]
        exponent = np.stack([age_ms / _MS_PER_DAY, rank], axis=1).astype(np.float32) @ self._rates
        weighted = np.exp(-exponent) * ragged.joined(vectors)[order]
        current = ragged.joined(ragged.tensors(requests, "event_is_current"))[order]
        idle_ms = np.zeros(len(counts))
        idle_ms[counts > 0] = age_ms[(first + counts - 1)[counts > 0]]
        idle_hours = (idle_ms / _MS_PER_HOUR).astype(np.float32)[:, None]
        ends = np.cumsum(counts)[:-1]
        return list(
            ragged.responses(
                [
                    {"weighted_vector": vector, "ordered_is_current": flags, "idle_hours": idle}
                    for vector, flags, idle in zip(
                        np.split(weighted, ends), np.split(current, ends), idle_hours, strict=True
                    )
                ]
            )
        )
