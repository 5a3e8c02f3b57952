"""The interest maths: decayed event weights, long-term and current interest, and their blend.

Source of the formulas: w_H = (1 / ||H||_2) sum x_i, w_C = (1 / ||C||_2) sum c_j, w = alpha w_H + (1 - alpha) w_C
(docs/method.md, step 3), generalised by the event weight v exp(-lambda_k age) exp(-mu_k rank) for each dimension k.
With lambda = mu = 0 and v = 1 these are exactly the formulas above.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.interest.decay import half_sums, weighted_vectors
from ebbtide.interest.events import COUNTED_EVENTS, EventBatch
from ebbtide.interest.gate import gate_alpha
from ebbtide.interest.parameters import NORM_FLOOR_SQUARED, InterestParameters
from ebbtide.interest.state import FoldedSums

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Blend:
    """The interest vectors of a batch; d is the number of interest dimensions."""

    interest: Floats
    """w, ``[requests, d]``."""
    long_term: Floats
    """w_H, ``[requests, d]``."""
    current: Floats
    """w_C, ``[requests, d]``."""
    alpha: Floats
    """``[requests, 1]``, or ``[requests, d]`` where each dimension has its own alpha."""
    model_alpha: Floats
    """The same as the model has it, where a request sets another one."""
    norm: Floats
    """``[halves]``: the norms of the weighted event vectors of each request's history and session."""
    idle_hours: Floats
    """``[requests]``: from the newest event, folded ones included, to `now`; 0 without events."""


def blend_interest(
    batch: EventBatch,
    vectors: Floats,
    parameters: InterestParameters,
    alpha_override: Floats | None = None,
    decay_scale: Floats | None = None,
    base: FoldedSums | None = None,
    alpha_offset: Floats | None = None,
) -> Blend:
    """The interest vectors of a batch.

    With a base, the batch holds only the events that are not folded yet, and their sums are added to the folded sums.

    Args:
        batch: The events of the requests.
        vectors: ``[events, d]``, event vectors in the batch's order.
        parameters: Learned decay, gate or fixed alpha.
        alpha_override: ``[requests]``, the alpha that a request sets, or NaN.
        decay_scale: ``[requests]``, factor on every decay rate by age; None for 1. It does not change folded sums.
        base: Sums of each user's earlier events, from `ebbtide.interest.state.read`; None for none.
        alpha_offset: ``[requests]``, added to the logit of the gate; None for 0.

    Returns:
        w_H, w_C, alpha and w. A fixed alpha or one in the request is used unchanged. The gate gives alpha 1 without a
        current session, and 0 without a history, so that new users get w_C.
    """
    weighted = weighted_vectors(batch, vectors, parameters.decay_exponents, decay_scale)
    squares = np.bincount(
        batch.half, weights=np.einsum("ek,ek->e", weighted, weighted), minlength=batch.half_counts.shape[0]
    ).astype(np.float32)
    sums = half_sums(weighted, batch)
    history, session, idle_hours = batch.half_counts[0::2], batch.half_counts[1::2], batch.idle_hours
    if base is not None:
        by_half = sums.reshape(base.sums.shape)
        by_half += base.sums
        squares += base.squares.sum(axis=2).reshape(squares.shape)
        idle_hours = base.idle_hours(batch)
        # The gate counts the newest events of a user.
        session = np.minimum(session + base.counts[:, 1], COUNTED_EVENTS)
        history = np.minimum(history + base.counts[:, 0], COUNTED_EVENTS - session)
    norm = np.sqrt(squares + NORM_FLOOR_SQUARED)
    sums /= norm[:, None]
    long_term, current = sums[0::2], sums[1::2]

    alpha: Floats
    if parameters.gate is None:
        alpha = np.full((batch.requests, 1), parameters.config.fixed_alpha, dtype=np.float32)
    else:
        alpha = gate_alpha(parameters.gate, long_term, current, history, session, idle_hours, alpha_offset)
    model_alpha = alpha
    if alpha_override is not None:
        given = alpha_override[:, None]
        alpha = np.where(np.isnan(given), alpha, given)
    interest = np.asarray(alpha * long_term + (1 - alpha) * current, dtype=np.float32)
    return Blend(interest, long_term, current, alpha, model_alpha, norm, idle_hours)
