"""The interest maths: decayed event weights, long-term and current interest, and their blend.

Source of the formulas: w_H = (1 / ||H||_2) sum x_i, w_C = (1 / ||C||_2) sum c_j, w = alpha w_H + (1 - alpha) w_C
(docs/method.md, step 3), generalised by the event weight v exp(-lambda_k age) exp(-mu_k rank) for each dimension k.
With lambda = mu = 0 and v = 1 the formulas above come out exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.interest.events import EventBatch
from ebbtide.interest.gate import gate_alpha
from ebbtide.interest.parameters import NORM_FLOOR_SQUARED, InterestParameters

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Blend:
    """The interest of B people in d dimensions."""

    interest: Floats
    """w, ``[B, d]``."""
    long_term: Floats
    """w_H, ``[B, d]``."""
    current: Floats
    """w_C, ``[B, d]``."""
    alpha: Floats
    """``[B, 1]``, or ``[B, d]`` where the gate gives one per dimension."""


def event_multipliers(batch: EventBatch, decay_rate_per_day: Floats, rank_decay_rate: Floats) -> Floats:
    """V exp(-lambda_k age) exp(-mu_k rank) of every event and dimension, float32 ``[E, d]``."""
    exponent = np.multiply.outer(-batch.age_days, decay_rate_per_day)
    exponent -= np.multiply.outer(batch.rank, rank_decay_rate)
    np.exp(exponent, out=exponent)
    exponent *= batch.weight[:, None]
    return exponent


def blend_interest(
    batch: EventBatch, vectors: Floats, parameters: InterestParameters, alpha_override: Floats | None = None
) -> Blend:
    """The interest vectors of a batch.

    Args:
        batch: E events of B requests.
        vectors: ``[E, d]``, event vectors in the batch's order.
        parameters: Learned decay, gate or fixed alpha.
        alpha_override: ``[B]``, alpha given with a request, NaN where none was.

    Returns:
        w_H, w_C, alpha and w. A fixed or given alpha is used as it is; the gate gives 1 to a person without a current
        session and 0 to one without history, so that new people get w_C.
    """
    weighted = event_multipliers(batch, parameters.decay_rate_per_day, parameters.rank_decay_rate)
    weighted *= vectors
    # Row 2b holds the history of request b, row 2b + 1 its current session.
    row = 2 * batch.request + batch.is_current
    rows = 2 * batch.requests
    sums = _sum_by_row(weighted, row, rows)
    squares = np.bincount(row, weights=np.einsum("ek,ek->e", weighted, weighted), minlength=rows).astype(np.float32)
    sums /= np.sqrt(squares + NORM_FLOOR_SQUARED)[:, None]
    long_term, current = sums[0::2], sums[1::2]

    counts = np.bincount(row, minlength=rows)
    alpha: Floats
    if parameters.gate is None:
        alpha = np.full((batch.requests, 1), parameters.config.fixed_alpha, dtype=np.float32)
    else:
        alpha = gate_alpha(parameters.gate, long_term, current, counts[0::2], counts[1::2], batch.idle_hours)
    if alpha_override is not None:
        given = alpha_override[:, None]
        alpha = np.where(np.isnan(given), alpha, given)
    interest = np.asarray(alpha * long_term + (1 - alpha) * current, dtype=np.float32)
    return Blend(interest, long_term, current, alpha)


def _sum_by_row(values: Floats, row: npt.NDArray[np.int64], rows: int) -> Floats:
    """Sums of the values of each row, float32 ``[rows, d]``; zero for rows without a value."""
    order = np.argsort(row, kind="stable")
    ordered = row[order]
    sums = np.zeros((rows, values.shape[1]), dtype=np.float32)
    if row.size:
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        sums[ordered[starts]] = np.add.reduceat(values[order], starts, axis=0)
    return sums
