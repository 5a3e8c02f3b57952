"""Ranks of the targets among the whole catalog, and the few metrics that training validates with.

Full ranking, never sampled negatives (Krichene and Rendle, CACM 65(7)); averaged within each user, then over users.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ebbtide.data.baskets import Ints, Mask, basket_heads, baskets_of
from ebbtide.data.events import EventLog
from ebbtide.train.evaluation.scores import exclude_seen, score_baskets
from ebbtide.train.model import InterestModel
from ebbtide.train.popularity import PopularitySnapshots
from ebbtide.train.progress import Metrics
from ebbtide.train.windows import LogTensors


def target_ranks(
    model: InterestModel,
    log: EventLog,
    tensors: LogTensors,
    targets: Mask,
    popularity: PopularitySnapshots | None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Ints, Ints]:
    """The rank of each target event's item in the ranking of the catalog for its basket.

    Args:
        model: Put into evaluation mode.
        log: Events.
        tensors: The same events.
        targets: ``[events]``, the events to predict; those without a strictly earlier event of the user are skipped.
        popularity: The prior over time; None for a model without prior.
        progress: Called with the number of baskets just done.

    Returns:
        Log indices of the targets, and their ranks from 0, each ``[targets]``. Ties count against the target; an item
        that is excluded as seen ranks last.
    """
    events, ranks = target_ranks_by_offset(model, log, tensors, targets, popularity, (0.0,), progress)
    return events, ranks[0]


@torch.inference_mode()
def target_ranks_by_offset(
    model: InterestModel,
    log: EventLog,
    tensors: LogTensors,
    targets: Mask,
    popularity: PopularitySnapshots | None,
    offsets: Sequence[float],
    progress: Callable[[int], None] | None = None,
) -> tuple[Ints, Ints]:
    """The same if each of some offsets is added to the scores of seen items, from one pass over the events.

    Args:
        model: As in `target_ranks`, and so on.
        log: Events.
        tensors: The same events.
        targets: ``[events]``.
        popularity: The prior.
        offsets: ``[offsets]``; without effect for a model without a repeat score.
        progress: Called with the number of baskets just done.

    Returns:
        Log indices ``[targets]`` and ranks ``[offsets, targets]``.
    """
    baskets = baskets_of(log, targets)
    stop_of = dict(zip(baskets.head.tolist(), baskets.stop.tolist(), strict=True))
    events: list[Ints] = []
    ranks: list[Ints] = []
    for scored in score_baskets(model, log, tensors, baskets.head, popularity):
        if model.config.exclude_seen:
            exclude_seen(scored.scores, tensors, scored.head)
        found = [head + np.flatnonzero(targets[head : stop_of[head]]) for head in scored.head.tolist()]
        events += found
        items = [tensors.item[torch.from_numpy(event)] for event in found]
        ranks_of_offsets = []
        seen = None if scored.seen is None else (scored.seen.basket, scored.seen.item)
        value = None if seen is None else scored.scores[seen]
        for offset in offsets:
            if seen is not None and value is not None:
                scored.scores[seen] = value + offset
            ranks_of_offsets.append(_ranks(scored.scores, items))
        ranks.append(np.stack(ranks_of_offsets))
        if progress is not None:
            progress(len(scored.head))
    if not events:
        return np.empty(0, np.int64), np.empty((len(offsets), 0), np.int64)
    return np.concatenate(events), np.concatenate(ranks, axis=1)


def _ranks(scores: Tensor, targets: Sequence[Tensor]) -> Ints:
    """Items ranked before each target, ``[targets]``, from ``[baskets, items]`` and the targets of each basket."""
    ranks = []
    for row, items in zip(scores, targets, strict=True):
        ranks.append((row >= row[items][:, None]).sum(1) - 1)
    found: Ints = torch.cat(ranks).cpu().numpy()
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
