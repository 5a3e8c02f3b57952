"""The alpha gate: how much of the long-term interest goes into the blend.

As in SLi-Rec (Yu et al., IJCAI 2019, eq. 9), alpha = sigmoid(f(long-term, current, context)); the context here is the
cosine of the two vectors, the numbers of events and the time since the last event.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest.parameters import NORM_FLOOR_SQUARED, GateParameters

Floats = npt.NDArray[np.float32]

SCALAR_FEATURES = 4
"""Scalar features in addition to the two vectors: cosine, log counts of history and session, log hours since the last
event."""


def gate_features(
    long_term: Floats,
    current: Floats,
    history_count: npt.NDArray[np.integer[Any]],
    current_count: npt.NDArray[np.integer[Any]],
    idle_hours: Floats,
) -> Floats:
    """The input features of the gate, float32 ``[requests, 2 d + 4]``.

    Args:
        long_term: w_H, ``[requests, d]``.
        current: w_C, ``[requests, d]``.
        history_count: ``[requests]``, events of the history.
        current_count: ``[requests]``, events of the session.
        idle_hours: ``[requests]``, hours since the last event.
    """
    d = long_term.shape[1]
    features = np.empty((long_term.shape[0], 2 * d + SCALAR_FEATURES), dtype=np.float32)
    features[:, :d] = long_term
    features[:, d : 2 * d] = current
    both = features[:, : 2 * d].reshape(-1, 2, d)
    # All inner products of the two vectors in one call: [requests, 2, 2].
    products = np.matmul(both, both.transpose(0, 2, 1))
    squares = products[:, 0, 0] + NORM_FLOOR_SQUARED
    squares *= products[:, 1, 1] + NORM_FLOOR_SQUARED
    features[:, 2 * d] = products[:, 0, 1] / np.sqrt(squares)
    features[:, 2 * d + 1] = history_count
    features[:, 2 * d + 2] = current_count
    features[:, 2 * d + 3] = idle_hours
    logarithms = features[:, 2 * d + 1 :]
    np.log1p(logarithms, out=logarithms)
    return features


def gate_alpha(
    gate: GateParameters,
    long_term: Floats,
    current: Floats,
    history_count: npt.NDArray[np.integer[Any]],
    current_count: npt.NDArray[np.integer[Any]],
    idle_hours: Floats,
    offset: Floats | None = None,
) -> Floats:
    """The learned alpha: 1 without a current session, 0 without a history.

    Args:
        gate: The learned parameters.
        long_term: As for `gate_features`, as are the others.
        current: w_C.
        history_count: Events of the history.
        current_count: Events of the session.
        idle_hours: Hours since the last event.
        offset: ``[requests]``, added to the logit of alpha; None for 0.

    Returns:
        Float32 ``[requests, 1]`` or ``[requests, d]``.
    """
    features = gate_features(long_term, current, history_count, current_count, idle_hours)
    hidden = np.tanh(features @ gate.hidden_weight + gate.hidden_bias)
    logit = hidden @ gate.output_weight + gate.output_bias
    if offset is not None:
        logit += offset[:, None]
    alpha: Floats = 1 / (1 + np.exp(-logit))
    if np.count_nonzero(current_count) != current_count.shape[0]:
        alpha[current_count == 0] = 1
    if np.count_nonzero(history_count) != history_count.shape[0]:
        alpha[history_count == 0] = 0
    return alpha
