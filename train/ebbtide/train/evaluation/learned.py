"""What a model learned about decay: its half-lives, and how alpha moves with the gap and the length of the history."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.train.model import InterestModel

_GROUPS = 14
_FEWEST = 10
"""Baskets of a group; smaller ones say little and are left out."""
_SECOND_DAYS = 1 / 86400


@dataclass(frozen=True)
class Curve:
    """Alpha over groups of baskets, evenly spaced on a log scale along one quantity; lists of equal length."""

    value: list[float]
    """Median of the quantity in each group."""
    alpha: list[float]
    """Median of alpha."""
    low: list[float]
    """First quartile of alpha."""
    high: list[float]
    """Third quartile of alpha."""


@dataclass(frozen=True)
class Learned:
    """Empty lists and None where nothing was learned."""

    half_life_days: list[float]
    """Of the interest dimensions, ascending."""
    half_life_later_events: list[float]
    """Of the interest dimensions, by rank, ascending."""
    alpha_by_gap_days: Curve | None
    alpha_by_history_events: Curve | None


def learned(
    model: InterestModel,
    alpha: npt.NDArray[np.float32],
    gap_days: npt.NDArray[np.float64],
    history_events: npt.NDArray[np.int64],
) -> Learned:
    """Reads a model and the alphas it used.

    Args:
        model: Trained.
        alpha: ``[baskets]``, for each basket predicted.
        gap_days: ``[baskets]``.
        history_events: ``[baskets]``.
    """
    decays = model.config.decay == "learned"
    gates = model.config.fixed_alpha is None
    return Learned(
        half_life_days=_half_lives(model.decay_rate_per_day.detach().numpy()) if decays else [],
        half_life_later_events=_half_lives(model.rank_decay_rate.detach().numpy()) if decays else [],
        alpha_by_gap_days=_curve(gap_days, alpha, _SECOND_DAYS) if gates else None,
        alpha_by_history_events=_curve(history_events.astype(np.float64), alpha, 1.0) if gates else None,
    )


def _half_lives(rates: npt.NDArray[np.float32]) -> list[float]:
    return sorted((np.log(2) / rates.astype(np.float64)).ravel().tolist())


def _curve(value: npt.NDArray[np.float64], alpha: npt.NDArray[np.float32], smallest: float) -> Curve | None:
    value = np.maximum(value, smallest)
    edges = np.geomspace(smallest, max(value.max(), smallest * 2), _GROUPS + 1)[1:-1]
    index = np.searchsorted(edges, value, side="left")
    groups = [index == which for which in range(_GROUPS)]
    groups = [inside for inside in groups if inside.sum() >= _FEWEST]
    quartiles = [np.quantile(alpha[inside], [0.25, 0.5, 0.75]).tolist() for inside in groups]
    if not groups:
        return None
    return Curve(
        value=[float(np.median(value[inside])) for inside in groups],
        alpha=[middle for _, middle, _ in quartiles],
        low=[low for low, _, _ in quartiles],
        high=[high for _, _, high in quartiles],
    )
