"""The repeat bonus in torch: the twin of `ebbtide.interest.repeat`, over many moments of a log at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ebbtide.interest.events import MS_PER_DAY, MS_PER_HOUR
from ebbtide.interest.repeat import RepeatParameters, strongest

HALF_LIFE_DAYS = (2.0, 14.0, 60.0, 365.0)
"""Where the learned half-lives of a person's own counts start."""
_DIRECT_WEIGHT = (0.5, 0.5, 2.0, 2.0)
"""Where the weights of their logarithms start: what lasts says more than what is new."""
_HIDDEN = 16

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class OwnEvents:
    """What K people had before K moments: E events, parted into G pairs of a moment and an item."""

    pair: Tensor
    """``[E]``: which pair each event belongs to."""
    age_days: Tensor
    """``[E]`` float32."""
    weight: Tensor
    """``[E]`` float32."""
    moment: Tensor
    """``[G]``, ascending: which moment each pair belongs to."""
    item: Tensor
    """``[G]``, catalog index; ascending within a moment."""
    newest_hours: Tensor
    """``[G]`` float32, since the newest event of the pair."""
    own_events: Tensor
    """``[G]`` float32, events of the person before the moment."""

    def to(self, device: torch.device) -> OwnEvents:
        """The same on a device."""
        return OwnEvents(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


class RepeatBonus(nn.Module):
    """Parameters and formula of the bonus."""

    def __init__(self, ebbs: bool, dimensions: int) -> None:
        """Starts as the logarithm of the decayed counts; hidden layer and event vectors add nothing yet.

        Args:
            ebbs: False leaves out whatever tells the age of an event.
            dimensions: d, of event vectors.
        """
        super().__init__()
        self.ebbs = ebbs
        half_lives = torch.tensor(HALF_LIFE_DAYS if ebbs else (math.inf,))
        features = len(half_lives) + (2 if ebbs else 1)
        if ebbs:
            self.log_decay_rate = nn.Parameter(torch.log(math.log(2) / half_lives))
        direct = torch.zeros(features)
        direct[: len(half_lives)] = torch.tensor(_DIRECT_WEIGHT) if ebbs else sum(_DIRECT_WEIGHT)
        self.direct_weight = nn.Parameter(direct)
        self.vector_weight = nn.Parameter(torch.zeros(dimensions))
        self.hidden = nn.Linear(features, _HIDDEN)
        self.output = nn.Linear(_HIDDEN, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.ones_(self.output.bias)

    @property
    def decay_rate_per_day(self) -> Tensor:
        """lambda, ``[M]``."""
        return self.log_decay_rate.exp() if self.ebbs else torch.zeros(1)

    def forward(self, own: OwnEvents, liking: Tensor) -> Tensor:
        """The bonus of every pair, ``[G]``.

        Args:
            own: E events in G pairs.
            liking: ``[N]``, what each item of the catalog adds: its event vector times `vector_weight`.
        """
        terms = torch.exp(-own.age_days[:, None] * self.decay_rate_per_day) * own.weight[:, None]
        counts = terms.new_zeros(own.item.shape[0], terms.shape[1]).index_add(0, own.pair, terms)
        columns = [counts.log1p(), own.own_events.log1p()[:, None]]
        if self.ebbs:
            columns.append(own.newest_hours.log1p()[:, None])
        features = torch.cat(columns, dim=1)
        value: Tensor = features @ self.direct_weight + self.output(torch.tanh(self.hidden(features)))[:, 0]
        # Not liking[...]: the gradient of indexing adds up in the order in which threads arrive.
        return value + nn.functional.embedding(own.item, liking[:, None])[:, 0]

    def add_to(self, scores: Tensor, own: OwnEvents, liking: Tensor, items: Tensor | None = None) -> Tensor:
        """Scores with the strongest bonuses of each moment added.

        Args:
            scores: ``[K, N]``, or ``[K, m]`` of some items.
            own: Of the K moments.
            liking: ``[N]``, as for `forward`.
            items: ``[m]``, catalog indices of the columns, ascending; None for the whole catalog.
        """
        value = self(own, liking)
        moment, item, bonus = (part.detach().cpu().numpy() for part in (own.moment, own.item, value))
        kept = torch.from_numpy(strongest(moment, item, bonus)).to(scores.device)
        column = own.item[kept]
        if items is not None:
            column = torch.searchsorted(items, own.item[kept]).clamp(max=items.shape[0] - 1)
            among = items[column] == own.item[kept]
            kept, column = kept[among], column[among]
        place = own.moment[kept] * scores.shape[1] + column
        return scores.flatten().index_add(0, place, value[kept]).view(scores.shape)

    def parameters_to_serve(self, liking: Tensor) -> RepeatParameters:
        """What the served twin takes; ``liking`` as for `forward`."""
        arrays = (
            self.decay_rate_per_day,
            self.direct_weight,
            liking,
            self.hidden.weight.T,
            self.hidden.bias,
            self.output.weight[0],
            self.output.bias,
        )
        return RepeatParameters(*(np.ascontiguousarray(part.detach().numpy(), dtype=np.float32) for part in arrays))


def own_items_loss(scores: Tensor, own: OwnEvents, row: Tensor, item: Tensor) -> Tensor:
    """Mean over K moments of the cross-entropy of what came again, among the person's own items alone.

    Over the whole catalog most of the loss is about which new items come, while the top of a list is about which of the
    own ones do. A moment at which nothing came again counts 0.

    Args:
        scores: ``[K, N]``, with bonuses.
        own: Of the K moments.
        row: ``[P]``, the moment of each item that came.
        item: ``[P]``, catalog indices.
    """
    moments, items = scores.shape
    place = own.moment * items + own.item
    again = torch.isin(place, row * items + item).to(scores.dtype)
    score = scores.flatten().gather(0, place)
    count = scores.new_zeros(moments).index_add(0, own.moment, again)
    largest = scores.new_zeros(moments).scatter_reduce(0, own.moment, score.detach(), "amax", include_self=False)
    spread = scores.new_zeros(moments).index_add(0, own.moment, (score - largest[own.moment]).exp())
    gained = scores.new_zeros(moments).index_add(0, own.moment, score * again) / count.clamp(min=1)
    came = count > 0
    return (spread[came].log() + largest[came] - gained[came]).sum() / moments


def own_events(
    item: Ints, time_ms: Ints, weight: npt.NDArray[np.float32], first: Ints, heads: Ints, at_most: int
) -> OwnEvents:
    """The newest events of K people strictly before K moments.

    Args:
        item: ``[n]``, the log's catalog indices.
        time_ms: ``[n]``.
        weight: ``[n]``.
        first: ``[K]``, log index of the first event of each person.
        heads: ``[K]``, log index of the first event of each moment to predict.
        at_most: Events of one person that are taken, the newest: what a request carries.
    """
    begin = np.maximum(first, heads - at_most)
    counts = heads - begin
    moment = np.repeat(np.arange(heads.shape[0]), counts)
    place = np.arange(moment.shape[0]) - np.repeat(np.cumsum(counts) - counts, counts) + begin[moment]
    age_ms = time_ms[heads][moment] - time_ms[place]
    pairs, newest, pair = _pairs(moment, item[place], age_ms)
    return OwnEvents(
        pair=torch.from_numpy(pair),
        age_days=torch.from_numpy((age_ms / MS_PER_DAY).astype(np.float32)),
        weight=torch.from_numpy(weight[place]),
        moment=torch.from_numpy(pairs[0]),
        item=torch.from_numpy(pairs[1]),
        newest_hours=torch.from_numpy((newest / MS_PER_HOUR).astype(np.float32)),
        own_events=torch.from_numpy(counts[pairs[0]].astype(np.float32)),
    )


def _pairs(moment: Ints, item: Ints, age_ms: Ints) -> tuple[Ints, Ints, Ints]:
    """Moment and item of each pair ``[2, G]``, the age of its newest event ``[G]``, and each event's pair ``[E]``."""
    width = int(item.max(initial=0)) + 1
    key, pair = np.unique(moment * width + item, return_inverse=True)
    newest = np.full(key.shape[0], np.iinfo(np.int64).max)
    np.minimum.at(newest, pair, age_ms)
    return np.stack([key // width, key % width]), newest, pair
