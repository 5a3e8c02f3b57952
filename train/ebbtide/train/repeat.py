"""The repeat score in torch, for many baskets of a log at once; `ebbtide.interest.repeat` is the served version."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ebbtide.interest.repeat import RepeatParameters, context_width
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.seen_items import SeenItems

_LEAST_SPREAD = 1e-3
"""A feature whose standard deviation is smaller is not scaled."""


class RepeatScore(nn.Module):
    """Parameters and formula of the score of seen items."""

    repeat_offset: Tensor
    interest_share: Tensor
    """A scalar added to the scores of all seen items at ranking; chosen on validation, not learned."""
    centre: Tensor
    """``[features]``, the mean that is subtracted from each feature; see `standardise`."""
    spread: Tensor
    """``[features]``, the standard deviation that each feature is divided by."""
    context_centre: Tensor
    """``[context]``, the mean of each column of the time context."""
    context_spread: Tensor
    """``[context]``, the standard deviation of each column of the time context."""

    def __init__(self, config: ModelConfig, text_width: int, items: int) -> None:
        """Initialises the score as a weighted sum of the logarithms of the decayed counts; other terms start at zero.

        Args:
            config: Half-lives and hidden units. With ``decay="none"`` no feature depends on the age of an event.
            text_width: Width of the text vectors.
            items: Number of catalog items.
        """
        super().__init__()
        self.decays = config.decay == "learned"
        self.has_event_types = bool(config.event_types)
        half_lives = torch.tensor(config.repeat_half_life_days if self.decays else (math.inf,))
        trends = max(len(config.prior_starts) - 1, 0)
        features = len(half_lives) + (2 if self.decays else 1) + trends
        if self.decays:
            self.log_decay_rate = nn.Parameter(torch.log(math.log(2) / half_lives))
        direct = torch.zeros(features)
        weights = config.repeat_count_weights
        direct[: len(half_lives)] = torch.tensor(weights) if self.decays else sum(weights)
        self.direct_weight = nn.Parameter(direct)
        self.text_weight = nn.Parameter(torch.zeros(text_width))
        self.item_bias = nn.Parameter(torch.zeros(items))
        context = context_width(with_idle_time=self.decays)
        self.item_time_weights = nn.Parameter(torch.zeros(items, context))
        self.register_buffer("context_centre", torch.zeros(context))
        self.register_buffer("context_spread", torch.ones(context))
        self.register_buffer("repeat_offset", torch.zeros(()))
        self.register_buffer("interest_share", torch.zeros(()))
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.hidden = nn.Linear(features, config.repeat_hidden)
        self.output = nn.Linear(config.repeat_hidden, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.ones_(self.output.bias)

    @property
    def decay_rate_per_day(self) -> Tensor:
        """lambda, ``[half-lives]``."""
        return self.log_decay_rate.exp() if self.decays else torch.zeros(1)

    def trend(self, prior: Tensor) -> Tensor:
        """The recent popularity of items relative to their long-term popularity (offers, seasons), ``[..., p - 1]``.

        The overall popularity of an item is part of its bias.

        Args:
            prior: ``[..., p]``, columns of the popularity prior: logarithms of shares, the slowest one last.
        """
        return prior[..., :-1] - prior[..., -1:]

    def forward(self, seen: SeenItems, item_bias: Tensor, prior: Tensor | None) -> Tensor:
        """The score of every pair, ``[pairs]``.

        Args:
            seen: The events, grouped into pairs of basket and item.
            item_bias: ``[items]``, the bias of each catalog item; see `InterestModel.repeat_item_bias`.
            prior: ``[pairs, p]``, the prior of each pair's item at the time of its basket; None without a prior.
        """
        features = (self._features(seen, prior) - self.centre) / self.spread
        value: Tensor = features @ self.direct_weight + self.output(torch.tanh(self.hidden(features)))[:, 0]
        # Not item_bias[...]: the gradient of indexing is summed in an order that varies between runs.
        value = value + nn.functional.embedding(seen.item, item_bias[:, None])[:, 0]
        context = (self._context(seen) - self.context_centre) / self.context_spread
        value = value + (nn.functional.embedding(seen.item, self.item_time_weights) * context[seen.basket]).sum(1)
        return value if self.training else value + self.repeat_offset

    def _features(self, seen: SeenItems, prior: Tensor | None) -> Tensor:
        """The features before standardising, ``[pairs, features]``; arguments as for `forward`."""
        terms = torch.exp(-seen.age_days[:, None] * self.decay_rate_per_day) * seen.weight[:, None]
        counts = terms.new_zeros(seen.item.shape[0], terms.shape[1]).index_add(0, seen.pair, terms)
        logarithms = counts.log1p()
        if self.has_event_types:
            # A count is negative where what the user did with the item weighs less than nothing.
            logarithms = counts.sign() * counts.abs().log1p()
        columns = [logarithms, seen.user_events.log1p()[:, None]]
        if self.decays:
            columns.append(seen.newest_hours.log1p()[:, None])
        if prior is not None:
            columns.append(self.trend(prior))
        return torch.cat(columns, dim=1)

    def _context(self, seen: SeenItems) -> Tensor:
        """The time context before standardising, ``[baskets, context]``."""
        return seen.context[:, : self.item_time_weights.shape[1]]

    @torch.no_grad()
    def standardise(self, seen: SeenItems, prior: Tensor | None) -> None:
        """Fits centre and spread to the features in a log, so that all have a similar scale in the hidden layer.

        The weights of a new module are rescaled, so that it ranks items as before.

        Args:
            seen: Pairs of some baskets of the log.
            prior: As for `forward`.
        """
        features, context = self._features(seen, prior), self._context(seen)
        self.centre.copy_(features.mean(dim=0))
        self.spread.copy_(_spread(features))
        self.direct_weight.mul_(self.spread)
        self.context_centre.copy_(context.mean(dim=0))
        self.context_spread.copy_(_spread(context))

    def common_level(self, seen: SeenItems) -> Tensor:
        """The term of the score that is equal for all seen items of a basket, ``[pairs]``."""
        index = len(self.decay_rate_per_day)
        amount = (seen.user_events.log1p() - self.centre[index]) / self.spread[index]
        return amount * self.direct_weight[index] + self.output.bias

    def negative_log_prior(self, config: TrainConfig) -> Tensor:
        """The negative log of the normal priors of the per-item parameters, up to a constant; a scalar."""
        bias, time_weights = self.item_bias.square().sum(), self.item_time_weights.square().sum()
        return bias / (2 * config.item_bias_spread**2) + time_weights / (2 * config.item_time_weights_spread**2)

    def parameters_to_serve(self, item_bias: Tensor, prior_columns: npt.NDArray[np.float32]) -> RepeatParameters:
        """The parameters in the form that is served.

        Args:
            item_bias: As for `forward`.
            prior_columns: ``[items, p]``, the popularity prior as of one timestamp.
        """
        # The served weights include centre and spread, so that served features need no standardising.
        direct_weight, hidden_weight = self.direct_weight / self.spread, self.hidden.weight / self.spread
        time_weights = self.item_time_weights / self.context_spread
        arrays = (
            self.decay_rate_per_day,
            direct_weight,
            item_bias - time_weights @ self.context_centre,
            self.trend(torch.from_numpy(prior_columns)),
            time_weights,
            hidden_weight.T,
            self.hidden.bias - hidden_weight @ self.centre,
            self.output.weight[0],
            self.output.bias + self.repeat_offset - direct_weight @ self.centre,
            self.interest_share[None],
        )
        return RepeatParameters(*(np.ascontiguousarray(array.detach().numpy(), dtype=np.float32) for array in arrays))


def _spread(values: Tensor) -> Tensor:
    """Standard deviation of each column, or 1 where it hardly varies."""
    spread = values.std(dim=0)
    return torch.where(spread > _LEAST_SPREAD, spread, torch.ones_like(spread))


def with_repeat_scores(
    scores: Tensor, seen: SeenItems, value: Tensor, items: Tensor | None = None, *, in_place: bool = False
) -> Tensor:
    """The scores, with the repeat scores at the seen items.

    Args:
        scores: ``[baskets, items]``, or ``[baskets, candidates]`` for some items.
        seen: Pairs of the same baskets.
        value: ``[pairs]``, from `RepeatScore`.
        items: ``[candidates]``, catalog indices of the columns, ascending; None for the whole catalog.
        in_place: Whether the scores may be changed; saves a copy.
    """
    basket, column = seen.basket, seen.item
    if items is not None:
        column = torch.searchsorted(items, seen.item).clamp(max=items.shape[0] - 1)
        among = items[column] == seen.item
        basket, column, value = basket[among], column[among], value[among]
    index = basket * scores.shape[1] + column
    if in_place:
        scores.view(-1).scatter_(0, index, value)
        return scores
    return scores.flatten().scatter(0, index, value).view(scores.shape)


def seen_items_loss(value: Tensor, seen: SeenItems, row: Tensor, item: Tensor, baskets: int) -> Tensor:
    """Mean over baskets of the cross-entropy of their repeated targets, among the user's seen items only.

    The loss over the whole catalog depends mostly on the new items among the targets, while the top of a list depends
    on the seen items. A basket without a repeated target adds 0.

    Args:
        value: ``[pairs]``, scores of the seen items.
        seen: Pairs of the same baskets.
        row: ``[targets]``, the basket of each target.
        item: ``[targets]``, catalog indices of the targets.
        baskets: Number of baskets.
    """
    width = int(torch.cat([seen.item, item]).max()) + 1
    is_target = torch.isin(seen.basket * width + seen.item, row * width + item).to(value.dtype)
    count = value.new_zeros(baskets).index_add(0, seen.basket, is_target)
    largest = value.new_zeros(baskets).scatter_reduce(0, seen.basket, value.detach(), "amax", include_self=False)
    spread = value.new_zeros(baskets).index_add(0, seen.basket, (value - largest[seen.basket]).exp())
    target_mean = value.new_zeros(baskets).index_add(0, seen.basket, value * is_target) / count.clamp(min=1)
    repeats = count > 0
    return (spread[repeats].log() + largest[repeats] - target_mean[repeats]).sum() / baskets
