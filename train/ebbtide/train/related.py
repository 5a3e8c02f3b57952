"""Related items in torch: the items with the nearest texts, and what a user's newest events add to their scores.

`ebbtide.interest.related` is the served version; the formula is in docs/method.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ebbtide.train.seen_items import SeenItems

MAX_ITEMS = 100_000
"""Items of a catalog whose texts are compared, each with each; a larger catalog has no related items."""
_NEIGHBOURS = 8
_TEMPERATURE = 0.15
_SAME = 1 - 1e-6
"""A cosine of texts that are the same."""
_COMPARED = 1 << 24
"""Cosines at a time, 64 MiB."""


@dataclass(frozen=True)
class Related:
    """The related items of each item; k to an item."""

    item: Tensor
    """``[items, k]`` int32: catalog indices."""
    score: Tensor
    """``[items, k]`` float32: exp((cosine - 1) / 0.15), times what the model weighs it."""

    def weighed(self, weight: float) -> Related:
        """The same with other scores, so many times as large."""
        return Related(self.item, self.score * weight)

    @classmethod
    def of(cls, text_vectors: Tensor) -> Related | None:
        """The items whose texts are nearest, with a weight of 1; None where the catalog is too small or too large.

        Cosines are those of the vectors without their mean, which all texts share. An item with more equals than
        neighbours, such as one without a text, has none: its text says nothing.

        Args:
            text_vectors: ``[items, text width]``.
        """
        items = text_vectors.shape[0]
        if not 2 <= items <= MAX_ITEMS or not bool(text_vectors.any()):
            return None
        unit = torch.nn.functional.normalize(text_vectors - text_vectors.mean(0), dim=1)
        neighbours = min(_NEIGHBOURS, items - 1)
        index = torch.empty(items, neighbours, dtype=torch.int32)
        cosine = torch.empty(items, neighbours)
        step = max(_COMPARED // items, 1)
        for start in range(0, items, step):
            of_part = unit[start : start + step] @ unit.T
            row = torch.arange(of_part.shape[0])
            of_part[row, start + row] = -torch.inf
            best = torch.topk(of_part, neighbours)
            index[start : start + step], cosine[start : start + step] = best.indices.int(), best.values
        score = torch.exp((cosine - 1) / _TEMPERATURE)
        score[cosine[:, -1] > _SAME] = 0
        return cls(index, score)


def related_before(related: Related, seen: SeenItems, baskets: int) -> Tensor:
    """What the newest events before some baskets add to the scores of related items, ``[baskets, items]``.

    Args:
        related: Of the catalog.
        seen: The newest events before each basket, `ebbtide.interest.related.NEWEST_EVENTS`, with the weights of the
            model.
        baskets: How many.
    """
    items, device = related.item.shape[0], seen.item.device
    pair = seen.pair[seen.weight > 0]
    item = seen.item[pair]
    index = seen.basket[pair, None] * items + related.item.to(device)[item]
    scores = torch.zeros(baskets * items, device=device)
    scores.index_add_(0, index.flatten(), related.score.to(device)[item].flatten())
    return scores.view(baskets, items)
