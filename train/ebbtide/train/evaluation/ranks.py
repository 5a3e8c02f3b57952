"""Ranks of the targets among the whole catalog, and the few metrics that training validates with.

Full ranking, never sampled negatives (Krichene and Rendle, CACM 65(7)); averaged within each user, then over users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ebbtide.data.baskets import Ints, Mask, basket_heads, baskets_of
from ebbtide.data.events import EventLog
from ebbtide.train.evaluation.scores import exclude_seen, score_baskets
from ebbtide.train.model import InterestModel
from ebbtide.train.popularity import Popularity
from ebbtide.train.progress import Metrics
from ebbtide.train.related import Related
from ebbtide.train.windows import LogTensors

_COMPARED = 1 << 22
"""Scores that are compared with their targets at a time, 16 MiB."""


@dataclass(frozen=True)
class Variant:
    """How the parts of a score are put together."""

    interest_scale: float = 1.0
    """Factor of the interest's part."""
    repeat_offset: float = 0.0
    """Added to the repeat scores."""
    linear_ratio: float = 0.0
    """Factor of the linear dimensions' part, over the interest's."""
    interest_share: float = 0.0
    """How much of the score by factors a seen item has beside its repeat score."""
    related_weight: float = 0.0
    """Of what related items get."""

    @property
    def linear_scale(self) -> float:
        """Factor of the linear dimensions' part."""
        return self.interest_scale * self.linear_ratio


@torch.inference_mode()
def target_ranks(
    model: InterestModel,
    log: EventLog,
    tensors: LogTensors,
    targets: Mask,
    popularity: Popularity | None,
    variants: Sequence[Variant] = (Variant(),),
    related: Related | None = None,
) -> tuple[Ints, Ints]:
    """The rank of each target event's item in the ranking of the catalog for its basket, under some variants.

    Args:
        model: Put into evaluation mode.
        log: Events.
        tensors: The same events.
        targets: ``[events]``, the events to predict; those without a strictly earlier event of the user are skipped.
        popularity: The prior over time; None for a model without prior.
        variants: All from one pass over the events.
        related: As for `score_baskets`.

    Returns:
        Log indices of the targets ``[targets]``, and their ranks from 0 ``[variants, targets]``. Ties count against the
        target; an item that is excluded as seen ranks last.
    """
    baskets = baskets_of(log, targets)
    stop_of = dict(zip(baskets.head.tolist(), baskets.stop.tolist(), strict=True))
    events: list[Ints] = []
    ranks: list[Ints] = []
    for scored in score_baskets(model, log, tensors, baskets.head, popularity, related=related):
        found = [head + np.flatnonzero(targets[head : stop_of[head]]) for head in scored.head.tolist()]
        events += found
        row = torch.from_numpy(np.repeat(np.arange(len(found)), [event.size for event in found]))
        item = tensors.item[torch.from_numpy(np.concatenate(found))]
        row, item = row.to(scored.interest.device), item.to(scored.interest.device)
        if model.config.exclude_seen:
            exclude_seen(scored.interest if scored.prior is None else scored.prior, tensors, scored.head)
        memory = torch.empty_like(scored.interest)
        of_variants = []
        for variant in variants:
            parts = (variant.interest_scale, variant.repeat_offset, variant.linear_scale, variant.interest_share)
            scores = scored.scores(*parts, variant.related_weight, memory)
            of_variants.append(_ranks(scores, row, item))
        ranks.append(np.stack(of_variants))
    if not events:
        return np.empty(0, np.int64), np.empty((len(variants), 0), np.int64)
    return np.concatenate(events), np.concatenate(ranks, axis=1)


def _ranks(scores: Tensor, row: Tensor, item: Tensor) -> Ints:
    """Items ranked before each target, ``[targets]``.

    Args:
        scores: ``[baskets, items]``.
        row: ``[targets]``, the basket of each target.
        item: ``[targets]``.
    """
    found = np.empty(row.shape, dtype=np.int64)
    step = max(_COMPARED // scores.shape[1], 1)
    for start in range(0, row.shape[0], step):
        part = slice(start, start + step)
        # Where each basket of the part has one target, its rows need no copy.
        first, count = int(row[start]), row[part].shape[0]
        one_each = bool((row[part] == torch.arange(first, first + count, device=row.device)).all())
        rows = scores[first : first + count] if one_each else scores[row[part]]
        before = rows >= rows.gather(1, item[part, None])
        # NumPy counts truth values several times faster than torch sums them.
        on_cpu = before.device.type == "cpu"
        counts = np.count_nonzero(before.numpy(), axis=1) if on_cpu else before.sum(1).cpu().numpy()
        found[part] = counts - 1
    return found


def metrics_of(log: EventLog, events: Ints, ranks: Ints) -> Metrics:
    """Averages of the ranks from `target_ranks`, within each user, then over users."""
    if not events.size:
        return Metrics(0, 0, 0, float("nan"), float("nan"), float("nan"))
    heads = basket_heads(log)[events]
    # An item that occurs twice in one basket is one relevant item.
    _, distinct = np.unique(heads * np.int64(log.item.max() + 1) + log.item[events], return_index=True)
    ranks = ranks[distinct]
    head, basket = np.unique(heads[distinct], return_inverse=True)
    relevant = np.bincount(basket)
    gain = np.bincount(basket, weights=np.where(ranks < 10, 1 / np.log2(ranks + 2), 0.0))
    best_gain = np.cumsum(1 / np.log2(np.arange(10) + 2))[np.minimum(relevant, 10) - 1]
    first = np.full(head.shape[0], np.iinfo(np.int64).max)
    np.minimum.at(first, basket, ranks)

    _, owner = np.unique(np.searchsorted(log.start, head, side="right"), return_inverse=True)
    counts = np.bincount(owner)

    def mean(values: npt.NDArray[np.float64]) -> float:
        return float((np.bincount(owner, weights=values) / counts).mean())

    return Metrics(
        users=counts.shape[0],
        baskets=head.shape[0],
        events=ranks.shape[0],
        ndcg_at_10=mean(gain / best_gain),
        hit_rate_at_10=mean((first < 10).astype(np.float64)),
        mrr=mean(1 / (first + 1.0)),
    )
