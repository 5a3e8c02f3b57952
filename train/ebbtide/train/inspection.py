"""What a bundle has learned, in numbers that people can read: half-lives, alpha, popularity, what items rest on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ebbtide.train.blocks import RESIDUAL
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.refresh import prior_scores

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class HalfLife:
    """One half-life of the popularity prior."""

    days: float
    """Infinite for a count without decay."""
    smoothing_events: float
    """The weight, in events, of the next longer half-life; infinite where this one has no effect."""
    share: float | None
    """Share of an item's popularity that is taken from the counts at this half-life, as of the last count; None for a
    bundle without counts."""


@dataclass(frozen=True)
class Block:
    """One feature block of the items."""

    name: str
    items: int
    """Items that have it."""
    share: float
    """Of the item factors, 0 to 1: the norm of the block's term over the sum of all these norms, mean over items."""


@dataclass(frozen=True)
class Inspection:
    """What a bundle has learned."""

    items: int
    dimensions: int
    half_life_days: tuple[float, ...]
    """Half-lives by age of the interest dimensions at `QUANTILES`; empty without decay."""
    half_life_events: tuple[float, ...]
    """Half-lives by rank, in later events, at `QUANTILES`; empty without decay."""
    alpha: str
    """How the share of history is found: ``learned``, ``per-dimension`` or ``fixed:0.5``."""
    prior_weights: tuple[float, ...]
    """Of the prior's columns in a score; empty without a prior."""
    prior: tuple[HalfLife, ...]
    counted_at_ms: int
    """Unix milliseconds up to which popularity is counted."""
    popular: npt.NDArray[np.int64]
    """``[items]``: catalog indices by the prior's score, the most popular first; empty without a prior of effect."""
    related_gain: float
    """What an event adds to the score of the item with the nearest text, median over items; 0 without related items."""
    event_types: dict[str, float]
    """The learned weight of each event type; empty for a bundle of events of one type."""
    target_types: tuple[str, ...]
    """Those that are predicted."""
    residual_share: npt.NDArray[np.float32]
    """``[items]``, 0 to 1: how much of an item's factor is learned from its events; the rest is from its text and the
    other blocks."""
    blocks: tuple[Block, ...]
    """Text, residual, and those of vectors."""


def inspect_bundle(bundle: InterestBundle) -> Inspection:
    """Reads what a bundle has learned; nothing is computed from a log."""
    model = bundle.model
    has_prior = bool(bundle.config.model.prior_starts)
    rank_rate = model.rank_decay_rate.detach()
    ranks: tuple[float, ...] = ()
    if bundle.config.model.decay != "none":
        ranks = tuple(torch.quantile(np.log(2) / rank_rate, torch.tensor(QUANTILES), interpolation="nearest").tolist())
    return Inspection(
        items=len(bundle.catalog),
        dimensions=bundle.config.model.dimensions,
        half_life_days=model.half_life_quantiles(QUANTILES),
        half_life_events=ranks,
        alpha=bundle.config.model.alpha,
        prior_weights=tuple(model.prior_weight.detach().tolist()) if has_prior else (),
        prior=_half_lives(bundle) if has_prior else (),
        counted_at_ms=bundle.config.prior_counted_at_ms,
        popular=_by_popularity(bundle) if has_prior else np.empty(0, dtype=np.int64),
        related_gain=0.0 if model.related is None else float(model.related.score[:, 0].median()),
        event_types=dict(zip(model.config.event_types, model.event_type_weight.tolist(), strict=True)),
        target_types=bundle.config.data.target_types,
        residual_share=_residual_share(bundle),
        blocks=_blocks(bundle),
    )


def _by_popularity(bundle: InterestBundle) -> npt.NDArray[np.int64]:
    scores = prior_scores(bundle)
    return np.argsort(-scores, kind="stable") if np.ptp(scores) else np.empty(0, dtype=np.int64)


def _half_lives(bundle: InterestBundle) -> tuple[HalfLife, ...]:
    """Of the first column of the prior, which uses all half-lives."""
    smoothing = bundle.model.smoothing
    totals = None if bundle.prior_counts is None else bundle.prior_counts.sum(axis=1)
    found: list[HalfLife] = []
    left = 1.0
    for index, (days, events) in enumerate(zip(smoothing.half_life_days, smoothing.events, strict=True)):
        share = None
        if totals is not None:
            own = float(totals[index] / (totals[index] + events)) if np.isfinite(events) else 0.0
            share, left = left * own, left * (1 - own)
        found.append(HalfLife(float(days), float(events), share))
    return tuple(found)


@torch.no_grad()
def _blocks(bundle: InterestBundle) -> tuple[Block, ...]:
    model = bundle.model
    norms = torch.stack([(block.term * model.gamma).norm(dim=1) for block in model.blocks.values()], dim=1)
    shares = (norms / norms.sum(dim=1, keepdim=True).clamp(min=1e-12)).mean(dim=0).tolist()
    return tuple(
        Block(name, len(bundle.catalog) if block.features is None else int(block.features.any(dim=1).sum()), share)
        for (name, block), share in zip(model.blocks.items(), shares, strict=True)
    )


@torch.no_grad()
def _residual_share(bundle: InterestBundle) -> npt.NDArray[np.float32]:
    residual = bundle.model.blocks[RESIDUAL].item_projection
    gamma = bundle.model.gamma
    learned = (residual * gamma).norm(dim=1)
    rest = (bundle.model.item_factors() - residual * gamma).norm(dim=1)
    share: npt.NDArray[np.float32] = (learned / (learned + rest).clamp(min=1e-12)).numpy()
    return share
