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

_ROWS_PER_PRODUCT = 1024
_LONGEST_AGE_DAYS = 1e30
"""Beyond every half-life; times any decay rate it is still a number in single precision."""


@dataclass(frozen=True)
class Blend:
    """The interest of B users in d dimensions."""

    interest: Floats
    """w, ``[B, d]``."""
    long_term: Floats
    """w_H, ``[B, d]``."""
    current: Floats
    """w_C, ``[B, d]``."""
    alpha: Floats
    """``[B, 1]``, or ``[B, d]`` where the gate gives one per dimension."""


def event_decays(
    batch: EventBatch, decay_rate_per_day: Floats, rank_decay_rate: Floats, decay_scale: Floats | None = None
) -> Floats:
    """Exp(-lambda_k age) exp(-mu_k rank) of every event and dimension, float32 ``[E, d]``.

    Args:
        batch: E events of B requests.
        decay_rate_per_day: lambda, ``[d]``.
        rank_decay_rate: mu, ``[d]``.
        decay_scale: ``[B]``, each request's factor on lambda; None for 1.
    """
    return _decays(batch, np.negative([decay_rate_per_day, rank_decay_rate]), decay_scale)


def _decays(batch: EventBatch, exponents: Floats, decay_scale: Floats | None) -> Floats:
    """`event_decays` from `InterestParameters.decay_exponents`."""
    since = batch.since
    if decay_scale is not None:
        since = since.copy()
        # In double precision, and bounded: 0 times an infinite age would be no number.
        scaled = batch.age_days.astype(np.float64) * decay_scale[batch.request]
        np.minimum(scaled, _LONGEST_AGE_DAYS, out=since[:, 0], casting="same_kind")
    decays = np.empty((since.shape[0], exponents.shape[1]), dtype=np.float32)
    # One product of two columns is 5 times as fast as two outer products; in pieces, which stay in the processor's
    # cache and below the size at which BLAS wakes its threads, to fight with those of the other instances.
    for start in range(0, since.shape[0], _ROWS_PER_PRODUCT):
        rows = slice(start, start + _ROWS_PER_PRODUCT)
        np.matmul(since[rows], exponents, out=decays[rows])
    return np.exp(decays, out=decays)


def blend_interest(
    batch: EventBatch,
    vectors: Floats,
    parameters: InterestParameters,
    alpha_override: Floats | None = None,
    decay_scale: Floats | None = None,
) -> Blend:
    """The interest vectors of a batch.

    Args:
        batch: E events of B requests.
        vectors: ``[E, d]``, event vectors in the batch's order.
        parameters: Learned decay, gate or fixed alpha.
        alpha_override: ``[B]``, alpha given with a request, NaN where none was.
        decay_scale: ``[B]``, factor on every decay rate by age; None for 1.

    Returns:
        w_H, w_C, alpha and w. A fixed or given alpha is used as it is; the gate gives 1 to a user without a current
        session and 0 to one without history, so that new users get w_C.
    """
    weighted = _decays(batch, parameters.decay_exponents, decay_scale)
    if batch.given_weight is not None:
        weighted *= batch.given_weight[:, None]
    weighted *= vectors
    squares = np.bincount(
        batch.half, weights=np.einsum("ek,ek->e", weighted, weighted), minlength=batch.half_counts.shape[0]
    ).astype(np.float32)
    sums = _half_sums(weighted, batch)
    sums /= np.sqrt(squares + NORM_FLOOR_SQUARED)[:, None]
    long_term, current = sums[0::2], sums[1::2]

    alpha: Floats
    if parameters.gate is None:
        alpha = np.full((batch.requests, 1), parameters.config.fixed_alpha, dtype=np.float32)
    else:
        counts = batch.half_counts
        alpha = gate_alpha(parameters.gate, long_term, current, counts[0::2], counts[1::2], batch.idle_hours)
    if alpha_override is not None:
        given = alpha_override[:, None]
        alpha = np.where(np.isnan(given), alpha, given)
    interest = np.asarray(alpha * long_term + (1 - alpha) * current, dtype=np.float32)
    return Blend(interest, long_term, current, alpha)


def _half_sums(values: Floats, batch: EventBatch) -> Floats:
    """Sums of the events' values of each half, float32 ``[2 B, d]``; zero for a half without an event."""
    half, counts = batch.half, batch.half_counts
    # A history that comes before its session, as nearly always, stands in order of halves already.
    if np.count_nonzero(half[1:] < half[:-1]):
        values = values[half.argsort(kind="stable")]
    starts = counts.cumsum() - counts
    if np.count_nonzero(counts) == counts.shape[0]:
        return np.add.reduceat(values, starts, axis=0)
    sums = np.zeros((counts.shape[0], values.shape[1]), dtype=np.float32)
    if half.size:
        filled = np.flatnonzero(counts)
        sums[filled] = np.add.reduceat(values, starts[filled], axis=0)
    return sums
