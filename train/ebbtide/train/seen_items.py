"""The items that users had interacted with before each of many baskets: what the repeat score reads."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ebbtide.interest.events import MS_PER_DAY, MS_PER_HOUR
from ebbtide.interest.repeat import time_context

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SeenItems:
    """The past of some baskets: events, grouped into pairs of a basket and an item that its user had seen."""

    pair: Tensor
    """``[events]``: which pair each event belongs to."""
    age_days: Tensor
    """``[events]`` float32, from the event to the basket."""
    weight: Tensor
    """``[events]`` float32, as given; see `InterestModel.weighed`."""
    basket: Tensor
    """``[pairs]``, ascending: which of the baskets each pair belongs to."""
    item: Tensor
    """``[pairs]``, catalog index; ascending within a basket."""
    newest_hours: Tensor
    """``[pairs]`` float32, from the newest event of the pair to the basket."""
    user_events: Tensor
    """``[pairs]`` float32, events of the user before the basket."""
    context: Tensor
    """``[baskets, 5]`` float32, see `ebbtide.interest.repeat.time_context`."""
    event_type: Tensor | None = None
    """``[events]``, index of the type of each; None for events of one type."""

    def to(self, device: torch.device) -> SeenItems:
        """The same on a device."""
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return SeenItems(**{name: value.to(device) for name, value in given.items() if value is not None})


def seen_items(
    item: Ints,
    time_ms: Ints,
    weight: npt.NDArray[np.float32],
    first: Ints,
    heads: Ints,
    at_most: int,
    event_type: Ints | None = None,
) -> SeenItems:
    """The newest events of users strictly before some baskets, by item.

    Args:
        item: ``[log events]``, the log's catalog indices.
        time_ms: ``[log events]``.
        weight: ``[log events]``.
        first: ``[baskets]``, log index of the first event of each basket's user.
        heads: ``[baskets]``, log index of the first event of each basket.
        at_most: Events that count for one basket, the newest: as many as a request carries.
        event_type: ``[log events]``; None for events of one type.
    """
    begin = np.maximum(first, heads - at_most)
    counts = heads - begin
    basket = np.repeat(np.arange(heads.shape[0]), counts)
    index = np.arange(basket.shape[0]) - np.repeat(np.cumsum(counts) - counts, counts) + begin[basket]
    age_ms = time_ms[heads][basket] - time_ms[index]
    pairs, newest, pair = _pairs(basket, item[index], age_ms)
    idle_hours = (time_ms[heads] - time_ms[np.maximum(heads - 1, 0)]) / MS_PER_HOUR
    return SeenItems(
        pair=torch.from_numpy(pair),
        age_days=torch.from_numpy((age_ms / MS_PER_DAY).astype(np.float32)),
        weight=torch.from_numpy(weight[index]),
        basket=torch.from_numpy(pairs[0]),
        item=torch.from_numpy(pairs[1]),
        newest_hours=torch.from_numpy((newest / MS_PER_HOUR).astype(np.float32)),
        user_events=torch.from_numpy(counts[pairs[0]].astype(np.float32)),
        context=torch.from_numpy(time_context(time_ms[heads], np.where(counts > 0, idle_hours, 0))),
        event_type=None if event_type is None else torch.from_numpy(event_type[index]),
    )


def _pairs(basket: Ints, item: Ints, age_ms: Ints) -> tuple[Ints, Ints, Ints]:
    """Basket and item ``[2, pairs]``, age of the newest event ``[pairs]``, and each event's pair ``[events]``."""
    width = int(item.max(initial=0)) + 1
    key, pair = np.unique(basket * width + item, return_inverse=True)
    newest = np.full(key.shape[0], np.iinfo(np.int64).max)
    np.minimum.at(newest, pair, age_ms)
    return np.stack([key // width, key % width]), newest, pair
