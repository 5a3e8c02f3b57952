"""Learning online: each user's alpha offset, moved by bounded gradient steps on what the user does (docs/method.md).

The offset is added to the logit of the alpha gate. Interest is linear in alpha, and scores are linear in interest, so
the gradient of a loss on scores needs only one direction in the space of interest and one product with w_H - w_C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

LARGEST_OFFSET = 2.0
"""Offsets stay within plus and minus this, so the odds of alpha change by at most exp(2) = 7.4."""
LARGEST_STEP = 0.25
"""The most that one step moves an offset."""


@dataclass(frozen=True)
class OnlineLearning:
    """How fast offsets move."""

    learning_rate: float
    """Factor on the gradient; 0 learns nothing."""

    def __post_init__(self) -> None:
        """Refuses a rate that is negative or not finite.

        Raises:
            ValueError: The rate is.
        """
        if not (math.isfinite(self.learning_rate) and self.learning_rate >= 0):
            raise ValueError(f"learning_rate: got {self.learning_rate}; expected a number from 0 on")

    def step(self, offset: Floats, alpha: Floats, difference: Floats, direction: Floats) -> Floats:
        """The offsets after one step each, float32 ``[users]``.

        Args:
            offset: ``[users]``, with which the alphas were computed.
            alpha: ``[users, 1]``, or ``[users, d]`` where each dimension has its own.
            difference: w_H - w_C, ``[users, d]``.
            direction: ``[users, d]``, from `feedback_direction`: minus the gradient of the loss by the interest.
        """
        gradient = -np.einsum("uk,uk->u", difference * alpha * (1 - alpha), direction)
        moved = offset - np.clip(self.learning_rate * gradient, -LARGEST_STEP, LARGEST_STEP)
        return np.asarray(np.clip(moved, -LARGEST_OFFSET, LARGEST_OFFSET), dtype=np.float32)


def shifted_alpha(alpha: Floats, offset: Floats) -> Floats:
    """The alphas of a gate with offsets added to their logits; 0 and 1 stay as they are.

    Args:
        alpha: ``[users, 1]`` or ``[users, d]``, without offsets.
        offset: ``[users]``.
    """
    odds = alpha * np.exp(offset)[:, None]
    return np.asarray(odds / (odds + (1 - alpha)), dtype=np.float32)


def feedback_direction(factors: Floats, scores: Floats, taken: Bools, share: Floats | None = None) -> Floats:
    """Where the interest should have been for the items that were taken, float32 ``[d]``.

    It is minus the gradient, by the interest w, of the mean cross-entropy of the taken items against the softmax over
    all candidates: the mean of the factors of the taken items, less the mean of all factors weighted by the softmax.

    Args:
        factors: ``[candidates, d]``: of the items that were shown, or of the whole catalog.
        scores: ``[candidates]``, as the items were ranked by; minus infinity for those that could not be shown.
        taken: ``[candidates]``. Taken items that could not be shown are no feedback.
        share: ``[candidates]``: how much of the score by factors is in each score: the interest share of a repeat
            score, 1 of all others; None for 1.
    """
    best = scores.max(initial=-np.inf)
    taken = taken & np.isfinite(scores)
    if not np.isfinite(best) or not taken.any():
        return np.zeros(factors.shape[1], dtype=np.float32)
    probability = np.exp(scores - best)
    pull = taken / taken.sum() - probability / probability.sum()
    if share is not None:
        pull *= share
    return np.asarray(pull @ factors, dtype=np.float32)
