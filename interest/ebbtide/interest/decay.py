"""Decayed sums of events: each event's weight v exp(-lambda_k age) exp(-mu_k rank), and sums of weighted vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ebbtide.interest.events import EventBatch

Floats = npt.NDArray[np.float32]

_ROWS_PER_PRODUCT = 1024
_LONGEST_AGE = 1e30
"""An upper bound on ages in days or hours, longer than every half-life; times any decay rate it is finite in single
precision."""


def event_decays(
    batch: EventBatch, decay_rate_per_day: Floats, rank_decay_rate: Floats, decay_scale: Floats | None = None
) -> Floats:
    """The decay exp(-lambda_k age) exp(-mu_k rank) of every event and dimension, float32 ``[events, d]``.

    Args:
        batch: The events of the requests.
        decay_rate_per_day: lambda, ``[d]``.
        rank_decay_rate: mu, ``[d]``.
        decay_scale: ``[requests]``, each request's factor on lambda; None for 1.
    """
    return _decays(batch, np.negative([decay_rate_per_day, rank_decay_rate]), decay_scale)


def weighted_vectors(
    batch: EventBatch, vectors: Floats, exponents: Floats, decay_scale: Floats | None = None
) -> Floats:
    """Each event's vector times its weight, v exp(-lambda_k age) exp(-mu_k rank) x_k, float32 ``[events, d]``.

    Args:
        batch: The events of the requests.
        vectors: x, ``[events, d]``, in the batch's order.
        exponents: ``[2, d]``, `InterestParameters.decay_exponents`.
        decay_scale: ``[requests]``, each request's factor on lambda; None for 1.
    """
    weighted = _decays(batch, exponents, decay_scale)
    if batch.given_weight is not None:
        weighted *= batch.given_weight[:, None]
    weighted *= vectors
    return weighted


def scaled_ages(age: Floats, decay_scale: Floats) -> Floats:
    """The ages that a request's decay scale stands for: a factor on all decay rates is a factor on all ages.

    Args:
        age: Float32 ``[ages]``, days or hours.
        decay_scale: ``[ages]``, the factor of each age's request.
    """
    # In double precision, and bounded: 0 times an infinite age would be NaN.
    return np.minimum(age.astype(np.float64) * decay_scale, _LONGEST_AGE).astype(np.float32)


def half_lives(decay_rate_per_day: Floats, decay_scale: Floats | None) -> Floats:
    """The half-life of each dimension in days, float32 ``[d]``; infinite without decay.

    Args:
        decay_rate_per_day: lambda, ``[d]``.
        decay_scale: ``[1]``, the factor of the only request; None for 1.
    """
    rate = decay_rate_per_day * (1.0 if decay_scale is None else float(decay_scale[0]))
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(np.log(2) / rate.astype(np.float64), dtype=np.float32)


def half_sums(values: Floats, batch: EventBatch) -> Floats:
    """Sums of the events' values over each half, float32 ``[halves, d]``; zero for a half without events.

    Each request has two halves: its history and its current session.

    Args:
        values: ``[events, d]``, in the batch's order.
        batch: The events of the requests.
    """
    half, counts = batch.half, batch.half_counts
    # Usually each history is older than its session, so the events are already sorted by half.
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


def _decays(batch: EventBatch, exponents: Floats, decay_scale: Floats | None) -> Floats:
    """The same as `event_decays`, from `InterestParameters.decay_exponents`."""
    since = batch.since
    if decay_scale is not None:
        since = since.copy()
        since[:, 0] = scaled_ages(batch.age_days, decay_scale[batch.request])
    decays = np.empty((since.shape[0], exponents.shape[1]), dtype=np.float32)
    # One product of two columns is 5 times as fast as two outer products. It is computed in blocks of rows that fit
    # the processor's cache and are below the size at which BLAS starts threads, which would compete with those of the
    # other model instances.
    for start in range(0, since.shape[0], _ROWS_PER_PRODUCT):
        rows = slice(start, start + _ROWS_PER_PRODUCT)
        np.matmul(since[rows], exponents, out=decays[rows])
    return np.exp(decays, out=decays)
