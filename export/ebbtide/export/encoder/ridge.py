"""Ridge regression in closed form, its strength chosen by the exact leave-one-out error; and how near rows come."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_STRENGTHS = tuple(10.0**exponent for exponent in np.arange(-6, 2.5, 0.5))
"""Tried, in units of the mean eigenvalue of the inputs' covariance."""


@dataclass(frozen=True)
class LinearMap:
    """``x @ weight + bias``."""

    weight: Floats
    """``[p, d]``."""
    bias: Floats
    """``[d]``."""

    def __call__(self, inputs: Floats) -> Floats:
        """Float32 ``[n, d]`` from ``[n, p]``."""
        result: Floats = inputs @ self.weight + self.bias
        return result


def fit_ridge(inputs: Floats, targets: Floats) -> tuple[LinearMap, Floats]:
    """The linear map with an intercept that predicts rows it has not seen best.

    The leave-one-out residual is the residual over ``1 - h``, with h the diagonal of the hat matrix (Hastie et al., The
    Elements of Statistical Learning, 2nd ed., eq. 7.64), so every strength is judged on unseen rows without a refit.

    Args:
        inputs: ``[n, p]``.
        targets: ``[n, d]``.

    Returns:
        The map, and its prediction of each row from a fit without that row, ``[n, d]``.
    """
    x, y = inputs.astype(np.float64), targets.astype(np.float64)
    x_mean, y_mean = x.mean(0), y.mean(0)
    x, y = x - x_mean, y - y_mean
    eigenvalues, basis = np.linalg.eigh(x.T @ x)
    eigenvalues = np.maximum(eigenvalues, 0)
    rotated, timestamps = x @ basis, basis.T @ (x.T @ y)
    best: tuple[float, npt.NDArray[np.float64], npt.NDArray[np.float64]] | None = None
    for strength in np.array(_STRENGTHS) * max(float(eigenvalues.mean()), np.finfo(np.float32).tiny):
        weight = timestamps / (eigenvalues + strength)[:, None]
        # The intercept sees each row once: 1 / n of the hat matrix.
        leverage = (rotated**2) @ (1 / (eigenvalues + strength)) + 1 / len(x)
        residual = (y - rotated @ weight) / np.maximum(1 - leverage, 1e-9)[:, None]
        error = float((residual**2).sum())
        if best is None or error < best[0]:
            best = error, weight, residual
    assert best is not None  # noqa: S101 - there are strengths to try
    weight = basis @ best[1]
    left_out = y + y_mean - best[2]
    return LinearMap(weight.astype(np.float32), (y_mean - x_mean @ weight).astype(np.float32)), left_out.astype(
        np.float32
    )


def cosines(got: Floats, expected: Floats) -> Floats:
    """Cosine of each row with its counterpart, ``[n]``."""
    lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(expected, axis=1)
    result: Floats = (got * expected).sum(1) / np.maximum(lengths, np.finfo(np.float32).tiny)
    return result
