"""What a pass over the training events gave, for whoever watches and for checkpoints."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ebbtide.train.evaluation.ranks import Metrics
from ebbtide.train.model import InterestModel

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the half-lives, from the shortest to the longest."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the training events."""

    number: int
    loss: float
    """Mean over the baskets, in the units of the loss: nats for a softmax."""
    alpha: float
    """Mean share of history in the blend, over the training baskets."""
    learning_rate: float
    """At the end of the epoch, of the parameters that learn at the plain rate."""
    half_life_days: tuple[float, ...]
    """`QUANTILES` over the interest dimensions; empty without decay."""
    validation: Metrics | None
    """None in the final fit on all events."""
    seconds: float
    """Of training; of a resumed epoch the part since."""
    validation_seconds: float
    """And of validation after it."""


def half_life_quantiles(model: InterestModel) -> tuple[float, ...]:
    """`QUANTILES` of the half-lives by age, in days; empty without decay."""
    if model.config.decay == "none":
        return ()
    half_lives = math.log(2) / model.decay_rate_per_day.detach()
    return tuple(torch.quantile(half_lives.cpu(), torch.tensor(QUANTILES)).tolist())
