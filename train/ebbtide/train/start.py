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

UNFITTED = (0.35, 0.35)
"""Weights of the texts where nothing fits them: the canonical scores are log odds for jointly normal texts, which texts
are not."""
_LINEAR_SHARE = 1 / 3
_SCORE_SPREAD = 0.5
"""Root mean square, over windows and items, of the scores that the undecayed interest of a window gives."""
_TEXT_PENALTY = 1.0
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

    Of the factors, the part that the text explains goes into the projections, so that new items start near similar
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
def start_at_texts(model: InterestModel, text: CanonicalText | None) -> tuple[slice, slice]:
    """Puts the canonical directions of the texts into a fresh model, each twice; all else adds nothing to a score yet.

    Args:
        model: Fresh, with the items' trust and its linear dimensions.
        text: None for none.

    Returns:
        The dimensions with long and those with short half-lives, whose weights are still to be set.
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
    directions = 0 if text is None else text.event.shape[1]
    groups = slice(0, directions), slice(half, half + directions)
    if text is not None:
        scale = float((model.text_vectors @ text.event).square().sum(1).mean().sqrt())
        for dims in groups:
            model.event_residual[:, dims] = 0
            model.event_projection[:, dims] = text.event / scale
            model.item_projection[:, dims] = text.item * scale
    return groups


@torch.no_grad()
def weigh(model: InterestModel, groups: Sequence[slice], weights: Sequence[float]) -> None:
    """Multiplies the scores of groups of dimensions, which are those of texts alone."""
    for dims, weight in zip(groups, weights, strict=True):
        model.item_projection[:, dims] *= weight


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
    whole = [model.event_projection, model.item_projection, model.event_residual, model.item_residual, model.gamma]
    if model.config.decay == "learned":
        whole += [model.log_decay_rate, model.log_rank_decay_rate]
    parts = [parameter.detach()[..., first:] for parameter in whole]
    if model.config.fixed_alpha is None:
        weight = model.gate_hidden.weight.detach()
        parts += [weight[:, first:d], weight[:, d + first : 2 * d]]
    return parts


def _clear(model: InterestModel) -> None:
    model.item_residual.zero_()
    model.item_projection.zero_()


def _place(model: InterestModel, factors: LowRank, dims: slice) -> None:
    """Puts the strongest directions of the linear model into some dimensions, at a common scale."""
    directions = dims.stop - dims.start
    event, item = factors.event[:, :directions], factors.item[:, :directions]
    known = factors.count > 0
    event = event / event[known].square().sum(1).mean().sqrt()
    item = item * (_SCORE_SPREAD / _spread(factors.interest[:, :directions], item[known]))
    for vectors, projection, residual in (
        (event, model.event_projection, model.event_residual),
        (item, model.item_projection, model.item_residual),
    ):
        explained = _by_text(model.text_vectors, vectors, factors.count)
        rest = (vectors - model.text_vectors @ explained) * known[:, None]
        if model.residual_trust is not None:
            rest = rest / model.residual_trust.clamp(min=_LEAST_TRUST)
        projection[:, dims], residual[:, dims] = explained, rest


def _spread(left: Tensor, right: Tensor) -> float:
    """Root mean square of left @ right.T, without the product."""
    square = torch.sum((left.T @ left) * (right.T @ right)) / (left.shape[0] * right.shape[0])
    return float(square.sqrt().clamp(min=1e-12))


def _by_text(text: Tensor, vectors: Tensor, count: Tensor) -> Tensor:
    """The ridge regression of vectors on texts, ``[text width, d]``; items weigh by the root of their count."""
    weight = count.sqrt()[:, None]
    gram = text.T @ (text * weight) + _TEXT_PENALTY * torch.eye(text.shape[1])
    found: Tensor = torch.linalg.solve(gram, text.T @ (vectors * weight))
    return found
