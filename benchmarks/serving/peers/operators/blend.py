"""Operator 3 of peer 3: decayed event vectors -> long-term and current interest, the gate, and their blend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import ragged  # type: ignore[import-not-found]

_FLOOR = np.float32(1e-12)


class TritonPythonModel:
    """One instance."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Reads the gate."""
        self._arrays = ragged.tables(args)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Runs the gate once for the whole batch."""
        vectors = ragged.tensors(requests, "weighted_vector")
        flags = ragged.tensors(requests, "ordered_is_current")
        idle_hours = np.concatenate(ragged.tensors(requests, "idle_hours"))
        # Row 2b is the history of request b; row 2b + 1 is its current session.
        sets = np.concatenate(
            [np.stack([~flag[0], flag[0]]) @ vector[0] for flag, vector in zip(flags, vectors, strict=True)]
        )
        squares = np.concatenate(
            [
                np.stack([~flag[0], flag[0]]) @ np.einsum("ek,ek->e", vector[0], vector[0])
                for flag, vector in zip(flags, vectors, strict=True)
            ]
        )
        unit = sets / np.sqrt(squares + _FLOOR)[:, None]
        long_term, current = unit[0::2], unit[1::2]
        currents = np.array([int(flag.sum()) for flag in flags])
        histories = ragged.lengths(flags) - currents
        alpha = self._alpha(long_term, current, histories, currents, idle_hours)
        interest = alpha * long_term + (1 - alpha) * current
        prior = self._arrays["prior_weight"]
        return list(
            ragged.responses(
                [
                    {
                        "interest": np.concatenate([interest[row], prior]).astype(np.float32),
                        "alpha_used": alpha[row].mean(keepdims=True).astype(np.float32),
                        "event_counts": np.array([histories[row], currents[row], 0], dtype=np.int32),
                    }
                    for row in range(len(requests))
                ]
            )
        )

    def _alpha(self, long_term: Any, current: Any, histories: Any, currents: Any, idle_hours: Any) -> Any:  # noqa: ANN401
        if "fixed_alpha" in self._arrays:
            return np.full((len(long_term), 1), self._arrays["fixed_alpha"], dtype=np.float32)
        squares = [np.einsum("bk,bk->b", vectors, vectors) + _FLOOR for vectors in (long_term, current)]
        cosine = np.einsum("bk,bk->b", long_term, current) / np.sqrt(squares[0] * squares[1])
        scalars = [cosine, np.log1p(histories), np.log1p(currents), np.log1p(idle_hours[:, 0])]
        features = np.concatenate([long_term, current, np.stack(scalars, axis=1).astype(np.float32)], axis=1)
        hidden = np.tanh(features @ self._arrays["hidden_weight"] + self._arrays["hidden_bias"])
        alpha = 1 / (1 + np.exp(-(hidden @ self._arrays["output_weight"] + self._arrays["output_bias"])))
        alpha[currents == 0] = 1
        alpha[histories == 0] = 0
        return alpha
