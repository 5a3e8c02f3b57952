"""The interest model in torch: decayed long-term and current interest, their blend, and the factorised scoring head."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ebbtide.interest.gate import SCALAR_FEATURES
from ebbtide.interest.parameters import NORM_FLOOR_SQUARED
from ebbtide.interest.popularity import Smoothing
from ebbtide.train.blocks import RESIDUAL, TEXT, AddedBlocks, FeatureBlock, side_by_side
from ebbtide.train.config import ModelConfig
from ebbtide.train.related import Related
from ebbtide.train.repeat import RepeatScore
from ebbtide.train.seen_items import SeenItems

EVENT_TYPE_BOUND = 4.0
"""Largest weight of an event type, of either sign, over that of the first one."""


@dataclass(frozen=True)
class Sums:
    """The two event sets of each request, summed: decayed vectors and, for the norms, their squares."""

    history: Tensor
    """``[requests, d]``: sum of v exp(-lambda age) exp(-mu rank) x over the history."""
    history_square: Tensor
    """``[requests, d]``: sum of the squares of the same terms."""
    current: Tensor
    """``[requests, d]``."""
    current_square: Tensor
    """``[requests, d]``."""


@dataclass(frozen=True)
class Context:
    """What the gate sees beside the vectors."""

    history_count: Tensor
    """``[requests]``, events of the history."""
    current_count: Tensor
    """``[requests]``, events of the session."""
    idle_hours: Tensor
    """``[requests]``, hours since the last event, 0 without one."""


@dataclass(frozen=True)
class Blend:
    """The interest of each request, as in `ebbtide.interest.blend`."""

    interest: Tensor
    """w, ``[requests, d]``."""
    long_term: Tensor
    """w_H, ``[requests, d]``."""
    current: Tensor
    """w_C, ``[requests, d]``."""
    alpha: Tensor
    """``[requests, 1]`` or ``[requests, d]``."""


class InterestModel(nn.Module):
    """Parameters and formulas; which events go in is the business of `windows` (training) and `reference` (requests).

    Event vectors x_i = sum_b P_b f_bi and item factors a_i = sum_b Q_b f_bi are sums over feature blocks b. Two blocks
    are always there: the text, and a learned residual for each item (its features are one-hot);
    score_i = (gamma (x) w) . a_i + prior_weight . prior_i is generalised matrix factorisation (He et al., WWW 2017,
    eq. 9).
    """

    text_vectors: Tensor
    related_item: Tensor
    """``[items, k]`` int32, see `related`."""
    related_score: Tensor
    """``[items, k]``."""
    residual_trust: Tensor | None
    """``[items, 1]``, n / (n + k) for an item with n training events: multiplies its residuals during training. None in
    a finished model, whose residuals include it."""
    linear_dimensions: int
    """k, the number of dimensions, the last ones, that hold a linear model which training leaves alone; their gamma is
    0 during training. 0 in a finished model, whose gamma says how much they count."""
    prior_smoothing_events: Tensor
    """``[half-lives]`` float64, see `Smoothing.events`; fitted before training, not learned by gradient descent."""
    prior_first_event_bonus: Tensor
    """Float64 scalar, see `Smoothing.first_event_bonus`; fitted with them."""

    def __init__(self, config: ModelConfig, text_vectors: Tensor, features: Mapping[str, Tensor] | None = None) -> None:
        """Starts from log-spaced half-lives and random projections; seed torch before for a reproducible start.

        Args:
            config: Shape of the model.
            text_vectors: ``[items, text width]``, the encoder's vectors of the catalog.
            features: Further feature blocks by name, ``[items, width]`` each; None for none.

        Raises:
            ValueError: A further block has a bad name or shape.
        """
        super().__init__()
        self.config = config
        items, text_width = text_vectors.shape
        d = config.dimensions
        self.register_buffer("text_vectors", text_vectors, persistent=False)
        self.event_projection = nn.Parameter(torch.randn(text_width, d) / math.sqrt(d))
        self.item_projection = nn.Parameter(torch.randn(text_width, d) / math.sqrt(d))
        self.event_residual = nn.Parameter(torch.randn(items, d) * 0.02)
        self.item_residual = nn.Parameter(torch.randn(items, d) * 0.02)
        self.register_buffer("residual_trust", None, persistent=False)
        self.gamma = nn.Parameter(torch.ones(d))
        self.linear_dimensions = 0
        half_lives = config.effective_prior_half_life_days
        self.register_buffer("prior_smoothing_events", torch.full((len(half_lives),), 1e4, dtype=torch.float64))
        self.register_buffer("prior_first_event_bonus", torch.zeros((), dtype=torch.float64))
        # Alone the prior then gives every item its share of what is popular.
        weight = torch.eye(1, len(config.prior_starts))[0]
        self.prior_weight = nn.Parameter(weight, requires_grad=bool(half_lives))
        if config.decay == "learned":
            self.log_decay_rate = nn.Parameter(
                log_rates(config.shortest_half_life_days, config.longest_half_life_days, d)
            )
            self.log_rank_decay_rate = nn.Parameter(
                log_rates(config.shortest_rank_half_life, config.longest_rank_half_life, d)
            )
        self.repeat: RepeatScore | None = None
        if config.repeat_score:
            self.repeat = RepeatScore(config, text_width, items)
        if len(config.event_types) > 1:
            start = EVENT_TYPE_BOUND * math.atanh(1 / EVENT_TYPE_BOUND)
            self.event_type_raw = nn.Parameter(torch.full((len(config.event_types) - 1,), start))
        if config.fixed_alpha is None:
            self.gate_hidden = nn.Linear(2 * d + SCALAR_FEATURES, config.gate_hidden)
            self.gate_output = nn.Linear(config.gate_hidden, d if config.alpha == "per-dimension" else 1)
        self.added_blocks = AddedBlocks(features or {}, items, d)
        self.relate(Related(torch.empty(items, 0, dtype=torch.int32), torch.empty(items, 0)))

    @property
    def blocks(self) -> dict[str, FeatureBlock]:
        """Every feature block by name."""
        return {
            TEXT: FeatureBlock(self.text_vectors, self.event_projection, self.item_projection),
            RESIDUAL: FeatureBlock(None, self._trusted(self.event_residual), self._trusted(self.item_residual)),
            **self.added_blocks.blocks(),
        }

    @property
    def described(self) -> list[FeatureBlock]:
        """The blocks with features: the text, and the added ones."""
        text = FeatureBlock(self.text_vectors, self.event_projection, self.item_projection)
        return [text, *self.added_blocks.blocks().values()]

    @property
    def features(self) -> Tensor:
        """The features of those blocks side by side, ``[items, sum of widths]``."""
        return side_by_side(self.text_vectors, self.added_blocks.features().values())

    @torch.no_grad()
    def put_projections(self, event: Tensor, item: Tensor, dims: slice) -> None:
        """Writes projections of all `features` together.

        Args:
            event: P, ``[sum of widths, dimensions]``.
            item: Q, of the same shape.
            dims: The dimensions to write.
        """
        first = 0
        for block in self.described:
            rows = slice(first, first + block.event_projection.shape[0])
            block.event_projection[:, dims], block.item_projection[:, dims] = event[rows], item[rows]
            first = rows.stop

    def _trusted(self, residual: Tensor) -> Tensor:
        return residual if self.residual_trust is None else residual * self.residual_trust

    def trust_residuals(self, events: Tensor, half_trust_events: float) -> None:
        """Weighs the residuals of items by how many events they are learned from.

        The gradient shrinks with the trust, so that a rare item also moves less in a step of Adam.

        Args:
            events: ``[items]``, training events.
            half_trust_events: k, the number of events at which a residual has half its weight.
        """
        self.residual_trust = (events / (events + half_trust_events).clamp(min=1)).float()[:, None]

    @torch.no_grad()
    def finish(self, interest_scale: float, linear_scale: float = 0.0) -> None:
        """Puts the trust, and factors for the scores of the interest and of its linear dimensions, into parameters."""
        for residual in (self.event_residual, self.item_residual):
            residual.copy_(self._trusted(residual))
        self.residual_trust = None
        self.gamma.mul_(interest_scale)
        if self.linear_dimensions:
            self.gamma[-self.linear_dimensions :] = linear_scale
        self.linear_dimensions = 0

    def relate(self, related: Related) -> None:
        """Takes other related items.

        Args:
            related: Of the catalog, weighed; of width 0 for none.
        """
        self.register_buffer("related_item", related.item)
        self.register_buffer("related_score", related.score)

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *rest: Any) -> None:  # noqa: ANN401
        """As every module does it, with related items of the width that the state has."""
        related = [state_dict.get(f"{prefix}related_{name}") for name in ("item", "score")]
        if related[0] is not None and related[1] is not None:
            self.relate(Related(torch.empty_like(related[0]), torch.empty_like(related[1])))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def related(self) -> Related | None:
        """The related items as they are served; None without any, and during training."""
        return Related(self.related_item, self.related_score) if self.related_item.shape[1] else None

    @property
    def smoothing(self) -> Smoothing:
        """How the popularity prior is computed from counts."""
        return Smoothing(
            half_life_days=np.array(self.config.effective_prior_half_life_days, dtype=np.float64),
            events=self.prior_smoothing_events.cpu().numpy(),
            starts=self.config.prior_starts,
            first_event_bonus=float(self.prior_first_event_bonus),
        )

    @property
    def decay_rate_per_day(self) -> Tensor:
        """lambda, ``[d]``; zeros with ``decay="none"``."""
        return self.log_decay_rate.exp() if self.config.decay == "learned" else torch.zeros_like(self.gamma)

    @property
    def rank_decay_rate(self) -> Tensor:
        """mu, ``[d]``; zeros with ``decay="none"``."""
        return self.log_rank_decay_rate.exp() if self.config.decay == "learned" else torch.zeros_like(self.gamma)

    @property
    def event_type_weight(self) -> Tensor:
        """``[types]``, the factor of each event type on the weights of its events.

        It is 1 for the first one, which sets the scale: the interest does not change if all weights are multiplied by
        one number.
        """
        types = len(self.config.event_types)
        first = self.gamma.new_ones(min(types, 1))
        if types < 2:
            return first
        return torch.cat([first, EVENT_TYPE_BOUND * torch.tanh(self.event_type_raw / EVENT_TYPE_BOUND)])

    def event_weight(self, weight: Tensor, event_type: Tensor | None) -> Tensor:
        """The weights v of events in the interest, same shape.

        Args:
            weight: As given with the events.
            event_type: Index of the type of each, same shape, on any device; None for events of one type.
        """
        if event_type is None or not self.config.event_types:
            return weight
        # Not weights[...]: the gradient of indexing is summed in an order that varies between runs.
        factor = nn.functional.embedding(event_type.to(weight.device), self.event_type_weight[:, None])
        return weight * factor.squeeze(-1)

    def weighed(self, seen: SeenItems) -> SeenItems:
        """Seen items with the weights of their events in place of those that were given with them."""
        return (
            seen if seen.event_type is None else replace(seen, weight=self.event_weight(seen.weight, seen.event_type))
        )

    def half_life_quantiles(self, quantiles: Sequence[float]) -> tuple[float, ...]:
        """Quantiles, over the interest dimensions, of the half-lives by age in days; empty without decay.

        Each is the half-life of a dimension: between one that fades and one that does not there is nothing.

        During training without the linear dimensions, which have none.
        """
        if self.config.decay == "none":
            return ()
        learned = self.config.dimensions - self.linear_dimensions
        half_lives = math.log(2) / self.decay_rate_per_day.detach()[:learned]
        return tuple(torch.quantile(half_lives.cpu(), torch.tensor(quantiles), interpolation="nearest").tolist())

    def event_vectors(
        self, items: Tensor | None = None, residual_dropout: float = 0.0, block_dropout: float = 0.0
    ) -> Tensor:
        """Vectors x of the catalog ``[items, d]``, or of chosen items ``[chosen items, d]``.

        Args:
            items: ``[chosen items]``; None for the whole catalog.
            residual_dropout: Share of the items that go without their residual, drawn anew; after DropoutNet (Volkovs
                et al., NeurIPS 2017), so that the features are good by themselves for an item without training events.
            block_dropout: The same share for each added block, so that the rest is good for an item without it.
        """
        projections = [block.event_projection for block in self.described]
        return self._sum_of_blocks(projections, self.event_residual, items, residual_dropout, block_dropout)

    def item_factors(
        self, items: Tensor | None = None, residual_dropout: float = 0.0, block_dropout: float = 0.0
    ) -> Tensor:
        """Factors gamma (x) a, ``[items, d]`` or ``[chosen items, d]``; arguments as for `event_vectors`."""
        projections = [block.item_projection for block in self.described]
        return self._sum_of_blocks(projections, self.item_residual, items, residual_dropout, block_dropout) * self.gamma

    def linear_factors(self) -> Tensor:
        """Item factors in the linear dimensions, as with a gamma of 1, ``[items, k]``."""
        dims = slice(self.config.dimensions - self.linear_dimensions, None)
        terms = [
            block.features @ block.item_projection[:, dims] for block in self.described if block.features is not None
        ]
        terms.insert(1, self._trusted(self.item_residual[:, dims]))
        return reduce(operator.add, terms)

    def _sum_of_blocks(
        self,
        projections: list[Tensor],
        residual: Tensor,
        items: Tensor | None,
        residual_dropout: float,
        block_dropout: float,
    ) -> Tensor:
        """The sum over all blocks, ``[items, d]`` or ``[chosen items, d]``.

        Args:
            projections: Of the text and of the added blocks, ``[width, d]`` each.
            residual: ``[items, d]``.
            items: ``[chosen items]``; None for the whole catalog.
            residual_dropout: Share of the items that go without their residual.
            block_dropout: Share of the items that go without an added block, drawn for each block.
        """
        # As `blocks`, but only the chosen rows of the residuals are multiplied by their trust, and only once.
        rows = _rows(residual, items)
        share = None if self.residual_trust is None else _rows(self.residual_trust, items)
        if residual_dropout:
            kept = torch.rand(rows.shape[0], 1, device=rows.device) >= residual_dropout
            share = kept if share is None else share * kept
        features = [self.text_vectors, *self.added_blocks.features().values()]
        terms = [_rows(one, items) @ projection for one, projection in zip(features, projections, strict=True)]
        if block_dropout:
            for index, term in enumerate(terms[1:], start=1):
                terms[index] = term * (torch.rand(term.shape[0], 1, device=term.device) >= block_dropout)
        terms.insert(1, rows if share is None else rows * share)
        return reduce(operator.add, terms)

    def repeat_item_bias(self) -> Tensor:
        """What each item adds to its repeat score, ``[items]``: its text vector times a weight, and its own bias.

        Raises:
            ValueError: The model has no repeat score.
        """
        if self.repeat is None:
            raise ValueError("repeat_score: got False; expected a model that has one")
        return self.text_vectors @ self.repeat.text_weight + self.repeat.item_bias

    def blend(self, sums: Sums, context: Context, alpha_override: Tensor | None = None) -> Blend:
        """The interest of each request.

        Args:
            sums: Of the two event sets.
            context: For the gate.
            alpha_override: ``[requests]``, NaN where the model decides.
        """
        floor = float(NORM_FLOOR_SQUARED)
        long_term = sums.history * torch.rsqrt(sums.history_square.sum(-1, keepdim=True) + floor)
        current = sums.current * torch.rsqrt(sums.current_square.sum(-1, keepdim=True) + floor)
        if self.config.fixed_alpha is None:
            alpha = self._gate(long_term, current, context)
        else:
            alpha = torch.full_like(long_term[:, :1], self.config.fixed_alpha)
        if alpha_override is not None:
            alpha = torch.where(alpha_override.isnan()[:, None], alpha, alpha_override[:, None])
        return Blend(alpha * long_term + (1 - alpha) * current, long_term, current, alpha)

    def _gate(self, long_term: Tensor, current: Tensor, context: Context) -> Tensor:
        floor = float(NORM_FLOOR_SQUARED)
        squares = (long_term.square().sum(-1) + floor) * (current.square().sum(-1) + floor)
        scalars = torch.stack(
            [
                (long_term * current).sum(-1) * torch.rsqrt(squares),
                context.history_count.log1p(),
                context.current_count.log1p(),
                context.idle_hours.log1p(),
            ],
            dim=-1,
        )
        features = torch.cat([long_term, current, scalars], dim=-1)
        alpha = torch.sigmoid(self.gate_output(torch.tanh(self.gate_hidden(features))))
        alpha = torch.where(context.current_count[:, None] == 0, torch.ones_like(alpha), alpha)
        return torch.where(context.history_count[:, None] == 0, torch.zeros_like(alpha), alpha)


def _rows(table: Tensor, items: Tensor | None) -> Tensor:
    """All rows or some; by embedding, as the gradient of indexing adds up in no fixed order."""
    return table if items is None else nn.functional.embedding(items, table)


def log_rates(shortest: float, longest: float, count: int) -> Tensor:
    """log(ln 2 / half-life) for log-spaced half-lives in random order, ``[count]``.

    The order is random so that age and rank half-lives pair up freely.
    """
    half_lives = np.geomspace(shortest, longest, count)
    rates = torch.tensor(np.log(np.log(2) / half_lives), dtype=torch.float32)
    return rates[torch.randperm(count)]
