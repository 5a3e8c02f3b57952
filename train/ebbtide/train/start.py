"""Where training begins: what is found in closed form goes into the dimensions of a fresh model.

A start at the items fills all dimensions with a linear model of which items occur together. A start at the texts fills
a part of them with the directions in which texts predict texts, and the last third with the linear model, as a term of
its own that gradient descent leaves alone: the events that it learns from are those that the linear model was computed
from, so it would only believe it too much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ebbtide.train.canonical import CanonicalText
from ebbtide.train.choices import Loss, Start
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.lowrank import LowRank
from ebbtide.train.model import InterestModel, log_rates

UNFITTED = 0.35
"""Weight of the texts where nothing fits it: the canonical scores are log odds for jointly normal texts, which texts
are not."""
_LINEAR_SHARE = 1 / 3
_SCORE_SPREAD = 0.5
"""Root mean square, over windows and items, of the scores that the undecayed interest of a window gives."""
_FEATURES_PENALTY = 1.0
_LEAST_TRUST = 1e-6
_LONG_DAYS = 180.0
"""Half-lives by age from here on are long ones."""
_LONG_EVENTS = 100.0
"""The same by rank."""
_LONGEST_EVENTS = 5000.0
_NO_DECAY = math.log(math.log(2) / 1e6)
"""Logarithm of a decay rate: a half-life of a million days, or events."""


def linear_dimensions(start: Start, model: ModelConfig, training: TrainConfig) -> int:
    """k, the number of dimensions, the last ones, that hold the linear model as its own term."""
    if start is Start.items or training.loss is Loss.mse:
        return 0
    return round(model.dimensions * _LINEAR_SHARE)


@torch.no_grad()
def start_at_items(model: InterestModel, factors: LowRank | None) -> None:
    """Puts the linear model into a fresh one, every direction twice: with a long and with a short half-life.

    Of the factors, the part that the features explain goes into the projections, so that new items start near similar
    ones; the rest goes into the residual. Dimensions that are left over add nothing to a score until they are trained.

    Args:
        model: Fresh, with the items' trust.
        factors: None for none.
    """
    half = model.config.dimensions // 2
    _clear(model)
    if factors is not None:
        directions = min(half, factors.event.shape[1])
        for first in (0, half):
            _place(model, factors, slice(first, first + directions))
    if model.config.decay == "learned":
        # The first copy of every direction gets the long half-lives, the second the short ones.
        rates = model.log_decay_rate.sort().values
        order = torch.cat([torch.randperm(half), half + torch.randperm(rates.shape[0] - half)])
        model.log_decay_rate.copy_(rates[order])


@torch.no_grad()
def start_at_texts(model: InterestModel, texts: Sequence[CanonicalText | None]) -> tuple[slice, ...]:
    """Puts the canonical directions of the texts into a fresh model, each twice; all else adds nothing to a score yet.

    Args:
        model: Fresh, with the items' trust and its linear dimensions.
        texts: Of each of the model's `described` blocks; None for none.

    Returns:
        For each block with directions, its dimensions with long and those with short half-lives, whose weights are
        still to be set.
    """
    learned = model.config.dimensions - model.linear_dimensions
    half = learned // 2
    _clear(model)
    if model.config.decay == "learned":
        config = model.config
        days = (config.shortest_half_life_days, _LONG_DAYS, config.longest_half_life_days)
        events = (config.shortest_rank_half_life, _LONG_EVENTS, max(_LONGEST_EVENTS, config.longest_rank_half_life))
        for rates, (shortest, middle, longest) in ((model.log_decay_rate, days), (model.log_rank_decay_rate, events)):
            middle = min(max(middle, shortest), longest)
            rates[:half] = log_rates(middle, longest, half)
            rates[half:learned] = log_rates(shortest, middle, learned - half)
    groups: list[slice] = []
    first = 0
    for text, block in zip(texts, model.described, strict=True):
        if text is None or block.features is None:
            continue
        directions = text.event.shape[1]
        scale = float((block.features @ text.event).square().sum(1).mean().sqrt())
        for start in (first, half + first):
            dims = slice(start, start + directions)
            model.event_residual[:, dims] = 0
            # Here every other block adds nothing.
            model.event_projection[:, dims] = 0
            block.event_projection[:, dims] = text.event / scale
            block.item_projection[:, dims] = text.item * scale
            groups.append(dims)
        first += directions
    return tuple(groups)


@torch.no_grad()
def weigh(model: InterestModel, groups: Sequence[slice], weights: Sequence[float]) -> None:
    """Multiplies the scores of groups of dimensions, which are those of texts alone."""
    for dims, weight in zip(groups, weights, strict=True):
        for block in model.described:
            block.item_projection[:, dims] *= weight


@torch.no_grad()
def place_linear(model: InterestModel, factors: LowRank | None) -> None:
    """Puts the linear model into the last dimensions, without decay.

    Its gamma is 0 until validation has decided how much it counts, so no gradient reaches it through a score. The gate
    does not read it.

    Args:
        model: With its linear dimensions.
        factors: None for none, where a log is too small: the dimensions are then zero.
    """
    first = model.config.dimensions - model.linear_dimensions
    for part in _parts(model):
        part.zero_()
    if factors is not None:
        _place(model, factors, slice(first, first + factors.event.shape[1]))
    if model.config.decay == "learned":
        model.log_decay_rate[first:] = _NO_DECAY
        model.log_rank_decay_rate[first:] = _NO_DECAY


class LinearTerm:
    """What the linear dimensions of a model hold, which the steps of an optimiser would change."""

    def __init__(self, model: InterestModel) -> None:
        """Remembers it.

        Args:
            model: On its device.
        """
        self._kept = [part.clone() for part in _parts(model)]

    @torch.no_grad()
    def restore(self, model: InterestModel) -> None:
        """Undoes what a step did to it."""
        for part, kept in zip(_parts(model), self._kept, strict=True):
            part.copy_(kept)


def _parts(model: InterestModel) -> list[Tensor]:
    """The parameters of the linear dimensions, as views."""
    d = model.config.dimensions
    first = d - model.linear_dimensions
    whole: list[Tensor] = [model.event_residual, model.item_residual, model.gamma]
    for block in model.described:
        whole += [block.event_projection, block.item_projection]
    if model.config.decay == "learned":
        whole += [model.log_decay_rate, model.log_rank_decay_rate]
    parts = [parameter.detach()[..., first:] for parameter in whole]
    if model.config.fixed_alpha is None:
        weight = model.gate_hidden.weight.detach()
        parts += [weight[:, first:d], weight[:, d + first : 2 * d]]
    return parts


def _clear(model: InterestModel) -> None:
    model.item_residual.zero_()
    for block in model.described:
        block.item_projection.zero_()


def _place(model: InterestModel, factors: LowRank, dims: slice) -> None:
    """Puts the strongest directions of the linear model into some dimensions, at a common scale."""
    directions = dims.stop - dims.start
    event, item = factors.event[:, :directions], factors.item[:, :directions]
    known = factors.count > 0
    event = event / event[known].square().sum(1).mean().sqrt()
    item = item * (_SCORE_SPREAD / _spread(factors.interest[:, :directions], item[known]))
    features, explained = model.features, []
    for vectors, residual in ((event, model.event_residual), (item, model.item_residual)):
        by_features = _by_features(features, vectors, factors.count)
        rest = (vectors - features @ by_features) * known[:, None]
        if model.residual_trust is not None:
            rest = rest / model.residual_trust.clamp(min=_LEAST_TRUST)
        residual[:, dims] = rest
        explained.append(by_features)
    model.put_projections(explained[0], explained[1], dims)


def _spread(left: Tensor, right: Tensor) -> float:
    """Root mean square of left @ right.T, without the product."""
    square = torch.sum((left.T @ left) * (right.T @ right)) / (left.shape[0] * right.shape[0])
    return float(square.sqrt().clamp(min=1e-12))


def _by_features(features: Tensor, vectors: Tensor, count: Tensor) -> Tensor:
    """The ridge regression of vectors on features, ``[width, d]``; items weigh by the root of their count."""
    weight = count.sqrt()[:, None]
    gram = features.T @ (features * weight) + _FEATURES_PENALTY * torch.eye(features.shape[1])
    found: Tensor = torch.linalg.solve(gram, features.T @ (vectors * weight))
    return found
