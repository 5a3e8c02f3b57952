"""The results of an epoch, for watchers and for checkpoints. Plain data: the command line reads it without torch."""

from __future__ import annotations

from dataclasses import dataclass

from ebbtide.train.choices import Start

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of the half-lives, from the shortest to the longest."""


@dataclass(frozen=True)
class Metrics:
    """Means over users; the items of one basket are one set of relevant items."""

    users: int
    baskets: int
    events: int
    """Relevant items in all."""
    ndcg_at_10: float
    """Gain 1 / log2(rank + 2) summed over the relevant items, over the largest possible sum."""
    hit_rate_at_10: float
    """Share of baskets with a relevant item in the first ten."""
    mrr: float
    """1 / (rank + 1) of the first relevant item."""


@dataclass(frozen=True)
class Tried:
    """A start of the training that validation has judged."""

    start: Start
    epochs: list[Epoch]
    best_epoch: int
    best_ndcg_at_10: float
    interest_scale: float
    """Of the best epoch."""
    repeat_offset: float
    """Of the best epoch."""
    linear_ratio: float
    """Of the best epoch."""
    interest_share: float
    """Of the best epoch."""
    related_weight: float
    """Of the best epoch."""
    text_weights: tuple[float, ...]
    """Of the texts' groups of dimensions, as fitted before the first epoch; empty where they were not."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the training events."""

    number: int
    """From 1; 0 for the model before its first step, which has no loss."""
    loss: float
    """Mean over the baskets, in the units of the loss: nats for a softmax."""
    alpha: float
    """Mean share of history in the blend, over the training baskets."""
    learning_rate: float
    """At the end of the epoch, of the parameters whose rate is not scaled."""
    half_life_days: tuple[float, ...]
    """`QUANTILES` over the interest dimensions; empty without decay."""
    validation: Metrics | None
    """None in the final fit on all events."""
    seconds: float
    """Of training. After a resume only the time since then."""
    validation_seconds: float
    """Of the validation after it."""
