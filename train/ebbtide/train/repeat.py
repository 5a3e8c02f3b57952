"""The repeat score in torch: the twin of `ebbtide.interest.repeat`, over many moments of a log at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ebbtide.interest.events import MS_PER_DAY, MS_PER_HOUR
from ebbtide.interest.repeat import RepeatParameters, time_context

HALF_LIFE_DAYS = (2.0, 14.0, 60.0, 365.0)
"""Where the learned half-lives of a user's own counts start."""
_DIRECT_WEIGHT = (0.5, 0.5, 2.0, 2.0)
"""Where the weights of their logarithms start: what lasts says more than what is new."""
REPEAT_OFFSETS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
"""What own items may gain, in the unit of scores (log odds): new items are scored too high by a model that has seen in
training which of them came."""
_HIDDEN = 32
_LEAST_SPREAD = 1e-3
"""A feature that varies less is left as it is."""
_BIAS_SPREAD = 0.7
"""Standard deviation of the items' biases before anything is known of them: a normal prior, as in ridge regression."""
_RHYTHM_SPREAD = 0.1
"""The same of their weights by the moment."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class OwnEvents:
    """What K users had before K moments: E events, parted into G pairs of a moment and an item."""

    pair: Tensor
    """``[E]``: which pair each event belongs to."""
    age_days: Tensor
    """``[E]`` float32."""
    weight: Tensor
    """``[E]`` float32."""
    timestamp: Tensor
    """``[G]``, ascending: which moment each pair belongs to."""
    item: Tensor
    """``[G]``, catalog index; ascending within a moment."""
    newest_hours: Tensor
    """``[G]`` float32, since the newest event of the pair."""
    own_events: Tensor
    """``[G]`` float32, events of the user before the moment."""
    context: Tensor
    """``[K, 5]`` float32, see `time_context`."""

    def to(self, device: torch.device) -> OwnEvents:
        """The same on a device."""
        return OwnEvents(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


class RepeatScore(nn.Module):
    """Parameters and formula of the score of own items."""

    repeat_offset: Tensor
    """A scalar that all own items gain when a model ranks; chosen on validation, not learned."""
    centre: Tensor
    """``[F]``, taken from each feature ..."""
    spread: Tensor
    """``[F]``, ... before it is divided by this; see `standardise`."""
    context_centre: Tensor
    """``[C]``, the same of what a moment is like ..."""
    context_spread: Tensor
    """``[C]``."""

    def __init__(self, ebbs: bool, text_width: int, items: int, prior_half_life_days: Sequence[float] = ()) -> None:
        """Starts as the logarithm of the decayed counts; all else adds nothing yet.

        Args:
            ebbs: False leaves out whatever tells the age of an event.
            text_width: Of text vectors.
            items: N.
            prior_half_life_days: Of the p columns of the popularity prior.
        """
        super().__init__()
        self.ebbs = ebbs
        half_lives = torch.tensor(HALF_LIFE_DAYS if ebbs else (math.inf,))
        self.longest = int(np.argmax(prior_half_life_days)) if len(prior_half_life_days) else 0
        """Place of the prior's longest half-life."""
        trends = max(len(prior_half_life_days) - 1, 0)
        features = len(half_lives) + (2 if ebbs else 1) + trends
        if ebbs:
            self.log_decay_rate = nn.Parameter(torch.log(math.log(2) / half_lives))
        direct = torch.zeros(features)
        direct[: len(half_lives)] = torch.tensor(_DIRECT_WEIGHT) if ebbs else sum(_DIRECT_WEIGHT)
        self.direct_weight = nn.Parameter(direct)
        self.text_weight = nn.Parameter(torch.zeros(text_width))
        self.item_bias = nn.Parameter(torch.zeros(items))
        timestamp = 5 if ebbs else 4
        self.item_time_weights = nn.Parameter(torch.zeros(items, timestamp))
        self.register_buffer("context_centre", torch.zeros(timestamp))
        self.register_buffer("context_spread", torch.ones(timestamp))
        self.register_buffer("repeat_offset", torch.zeros(()))
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.hidden = nn.Linear(features, _HIDDEN)
        self.output = nn.Linear(_HIDDEN, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.ones_(self.output.bias)

    @property
    def decay_rate_per_day(self) -> Tensor:
        """lambda, ``[M]``."""
        return self.log_decay_rate.exp() if self.ebbs else torch.zeros(1)

    def trend(self, prior: Tensor) -> Tensor:
        """What everybody takes of late against what everybody took of long: offers and seasons, ``[..., p - 1]``.

        How popular an item is at all is left to its own bias.

        Args:
            prior: ``[..., p]``, columns of the popularity prior: logarithms of counts.
        """
        at = self.longest
        return torch.cat([prior[..., :at], prior[..., at + 1 :]], dim=-1) - prior[..., at : at + 1]

    def forward(self, own: OwnEvents, item_bias: Tensor, prior: Tensor | None) -> Tensor:
        """The score of every pair, ``[G]``.

        Args:
            own: E events in G pairs.
            item_bias: ``[N]``, what each item of the catalog adds; see `InterestModel.repeat_item_bias`.
            prior: ``[G, p]``, columns of the popularity prior of each pair's item at its moment; None without a prior.
        """
        features = (self._features(own, prior) - self.centre) / self.spread
        value: Tensor = features @ self.direct_weight + self.output(torch.tanh(self.hidden(features)))[:, 0]
        # Not liking[...]: the gradient of indexing adds up in the order in which threads arrive.
        value = value + nn.functional.embedding(own.item, item_bias[:, None])[:, 0]
        context = (self._context(own) - self.context_centre) / self.context_spread
        value = value + (nn.functional.embedding(own.item, self.item_time_weights) * context[own.timestamp]).sum(1)
        return value if self.training else value + self.repeat_offset

    def _features(self, own: OwnEvents, prior: Tensor | None) -> Tensor:
        """``[G, F]``, as they are; arguments as for `forward`."""
        terms = torch.exp(-own.age_days[:, None] * self.decay_rate_per_day) * own.weight[:, None]
        counts = terms.new_zeros(own.item.shape[0], terms.shape[1]).index_add(0, own.pair, terms)
        columns = [counts.log1p(), own.own_events.log1p()[:, None]]
        if self.ebbs:
            columns.append(own.newest_hours.log1p()[:, None])
        if prior is not None:
            columns.append(self.trend(prior))
        return torch.cat(columns, dim=1)

    def _context(self, own: OwnEvents) -> Tensor:
        """``[K, C]``, as it is."""
        return own.context[:, : self.item_time_weights.shape[1]]

    @torch.no_grad()
    def standardise(self, own: OwnEvents, prior: Tensor | None) -> None:
        """Fits centre and spread to what features are in a log, so that none drowns the others in the hidden layer.

        The weights of a fresh module keep the order of items that they give.

        Args:
            own: Some of the log's.
            prior: As for `forward`.
        """
        features, context = self._features(own, prior), self._context(own)
        self.centre.copy_(features.mean(dim=0))
        self.spread.copy_(_spread(features))
        self.direct_weight.mul_(self.spread)
        self.context_centre.copy_(context.mean(dim=0))
        self.context_spread.copy_(_spread(context))

    def level(self, own: OwnEvents) -> Tensor:
        """The part of the score that is the same for all own items of a moment, ``[G]``."""
        index = len(self.decay_rate_per_day)
        amount = (own.own_events.log1p() - self.centre[index]) / self.spread[index]
        return amount * self.direct_weight[index] + self.output.bias

    def negative_log_prior(self) -> Tensor:
        """Of the items' own parameters, up to a constant; a scalar."""
        bias, time_weights = self.item_bias.square().sum(), self.item_time_weights.square().sum()
        return bias / (2 * _BIAS_SPREAD**2) + time_weights / (2 * _RHYTHM_SPREAD**2)

    def parameters_to_serve(self, item_bias: Tensor, prior_columns: npt.NDArray[np.float32]) -> RepeatParameters:
        """What the served twin takes.

        Args:
            item_bias: As for `forward`.
            prior_columns: ``[N, p]``, as of one moment.
        """
        # Centre and spread go into the weights: a request is spared them.
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
        )
        return RepeatParameters(*(np.ascontiguousarray(part.detach().numpy(), dtype=np.float32) for part in arrays))


def _spread(values: Tensor) -> Tensor:
    """Standard deviation of each column, or 1 where it hardly varies."""
    spread = values.std(dim=0)
    return torch.where(spread > _LEAST_SPREAD, spread, torch.ones_like(spread))


def put(scores: Tensor, own: OwnEvents, value: Tensor, items: Tensor | None = None) -> Tensor:
    """Scores with those of the own items in the place of what factors and popularity gave them.

    Args:
        scores: ``[K, N]``, or ``[K, m]`` of some items.
        own: Of the K moments.
        value: ``[G]``, from `RepeatScore`.
        items: ``[m]``, catalog indices of the columns, ascending; None for the whole catalog.
    """
    timestamp, column = own.timestamp, own.item
    if items is not None:
        column = torch.searchsorted(items, own.item).clamp(max=items.shape[0] - 1)
        among = items[column] == own.item
        timestamp, column, value = timestamp[among], column[among], value[among]
    index = timestamp * scores.shape[1] + column
    return scores.flatten().scatter(0, index, value).view(scores.shape)


def seen_items_loss(value: Tensor, own: OwnEvents, row: Tensor, item: Tensor, timestamps: int) -> Tensor:
    """Mean over K moments of the cross-entropy of what came again, among the user's own items alone.

    Over the whole catalog most of the loss is about which new items come, while the top of a list is about which of the
    own ones do. A moment at which nothing came again counts 0.

    Args:
        value: ``[G]``, scores of the own items.
        own: Of the K moments.
        row: ``[P]``, the moment of each item that came.
        item: ``[P]``, catalog indices.
        timestamps: K.
    """
    width = int(torch.cat([own.item, item]).max()) + 1
    again = torch.isin(own.timestamp * width + own.item, row * width + item).to(value.dtype)
    count = value.new_zeros(timestamps).index_add(0, own.timestamp, again)
    largest = value.new_zeros(timestamps).scatter_reduce(0, own.timestamp, value.detach(), "amax", include_self=False)
    spread = value.new_zeros(timestamps).index_add(0, own.timestamp, (value - largest[own.timestamp]).exp())
    gained = value.new_zeros(timestamps).index_add(0, own.timestamp, value * again) / count.clamp(min=1)
    came = count > 0
    return (spread[came].log() + largest[came] - gained[came]).sum() / timestamps


def own_events(
    item: Ints, time_ms: Ints, weight: npt.NDArray[np.float32], first: Ints, heads: Ints, at_most: int
) -> OwnEvents:
    """The newest events of K users strictly before K moments.

    Args:
        item: ``[n]``, the log's catalog indices.
        time_ms: ``[n]``.
        weight: ``[n]``.
        first: ``[K]``, log index of the first event of each user.
        heads: ``[K]``, log index of the first event of each moment to predict.
        at_most: Events of one user that are taken, the newest: what a request carries.
    """
    begin = np.maximum(first, heads - at_most)
    counts = heads - begin
    timestamp = np.repeat(np.arange(heads.shape[0]), counts)
    index = np.arange(timestamp.shape[0]) - np.repeat(np.cumsum(counts) - counts, counts) + begin[timestamp]
    age_ms = time_ms[heads][timestamp] - time_ms[index]
    pairs, newest, pair = _pairs(timestamp, item[index], age_ms)
    idle_hours = (time_ms[heads] - time_ms[np.maximum(heads - 1, 0)]) / MS_PER_HOUR
    return OwnEvents(
        pair=torch.from_numpy(pair),
        age_days=torch.from_numpy((age_ms / MS_PER_DAY).astype(np.float32)),
        weight=torch.from_numpy(weight[index]),
        timestamp=torch.from_numpy(pairs[0]),
        item=torch.from_numpy(pairs[1]),
        newest_hours=torch.from_numpy((newest / MS_PER_HOUR).astype(np.float32)),
        own_events=torch.from_numpy(counts[pairs[0]].astype(np.float32)),
        context=torch.from_numpy(time_context(time_ms[heads], np.where(counts > 0, idle_hours, 0))),
    )


def _pairs(timestamp: Ints, item: Ints, age_ms: Ints) -> tuple[Ints, Ints, Ints]:
    """Moment and item of each pair ``[2, G]``, the age of its newest event ``[G]``, and each event's pair ``[E]``."""
    width = int(item.max(initial=0)) + 1
    key, pair = np.unique(timestamp * width + item, return_inverse=True)
    newest = np.full(key.shape[0], np.iinfo(np.int64).max)
    np.minimum.at(newest, pair, age_ms)
    return np.stack([key // width, key % width]), newest, pair
