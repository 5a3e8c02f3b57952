"""Scores the whole catalog for each of many baskets, from the events strictly before it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ebbtide.data.events import EventLog
from ebbtide.interest.contract import Limits
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.config import ModelConfig
from ebbtide.train.model import InterestModel
from ebbtide.train.popularity import PopularitySnapshots, popularity_snapshots, snapshot_times
from ebbtide.train.repeat import with_repeat_scores
from ebbtide.train.seen_items import SeenItems, seen_items
from ebbtide.train.windows import LogTensors, batches, predict_windows

_CONTEXT_EVENTS = Limits().max_events
"""As many as a request may carry when served."""
_WINDOWS_PER_BATCH = 128
_TARGETS = 16
_SCORES_PER_BATCH = 1 << 25
"""128 MiB of scores at a time, however large the catalog."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scored:
    """The scores of the catalog before some baskets."""

    head: Ints
    """``[baskets]``, log index of the first event of each basket."""
    scores: Tensor
    """``[baskets, items]``, before anything is excluded."""
    alpha: Tensor
    """``[baskets]``, share of history in the blend; its mean where it is one per dimension."""
    seen: SeenItems | None
    """Of these baskets; their scores are repeat scores. None for a model without a repeat score."""


@torch.inference_mode()
def score_baskets(
    model: InterestModel, log: EventLog, tensors: LogTensors, heads: Ints, popularity: PopularitySnapshots | None
) -> Iterator[Scored]:
    """Scores before each basket; several batches, each heading the next.

    Args:
        model: Put into evaluation mode.
        log: Events.
        tensors: The same events.
        heads: ``[baskets]``, log index of the first event of each basket, ascending.
        popularity: The prior over time; None for a model without prior.

    Raises:
        FloatingPointError: A score is not a finite number.
    """
    model.eval()
    wanted = np.zeros(log.events, dtype=np.bool_)
    wanted[heads] = True
    mask = torch.from_numpy(wanted)
    vectors, factors = model.event_vectors(), model.item_factors()
    device = model.gamma.device
    columns = None if popularity is None else torch.from_numpy(popularity.columns).to(device)
    prior = None if columns is None else columns @ model.prior_weight
    item_bias = None if model.repeat is None else model.repeat_item_bias()
    rows = max(_SCORES_PER_BATCH // factors.shape[0], 1)
    for windows in batches(_windows(log, heads), _WINDOWS_PER_BATCH):
        predicted = predict_windows(model, tensors, windows, _CONTEXT_EVENTS, _TARGETS, mask, vectors, exact=True)
        for start in range(0, len(predicted.event), rows):
            part = slice(start, start + rows)
            head = predicted.event[part].numpy()
            scores = predicted.interest[part] @ factors.T
            timestamp = None
            if popularity is not None and prior is not None:
                timestamp = torch.from_numpy(popularity.index_at(log.time_ms[head])).to(device)
                scores += prior[timestamp]
            seen = None
            if model.repeat is not None and item_bias is not None:
                seen = seen_before(log, tensors, head).to(device)
                seen_prior = (
                    None if columns is None or timestamp is None else columns[timestamp[seen.basket], seen.item]
                )
                scores = with_repeat_scores(scores, seen, model.repeat(seen, item_bias, seen_prior))
            if not bool(scores.isfinite().all()):
                raise FloatingPointError(
                    "a score is not a finite number; training has diverged: lower the learning rate"
                )
            yield Scored(head, scores, predicted.alpha[part].mean(1), seen)


def seen_before(log: EventLog, tensors: LogTensors, heads: Ints) -> SeenItems:
    """The items that each user had seen strictly before the basket, as a request would carry them.

    Args:
        log: Events.
        tensors: The same events.
        heads: ``[baskets]``.
    """
    first = tensors.first.numpy()[heads]
    return seen_items(log.item, log.time_ms, log.weight, first, heads, _CONTEXT_EVENTS)


def exclude_seen(scores: Tensor, tensors: LogTensors, heads: Ints) -> None:
    """Sets the scores of items that each user had seen strictly before the basket to minus infinity, in place.

    Args:
        scores: ``[baskets, items]``.
        tensors: Events.
        heads: ``[baskets]``.
    """
    for row, head in enumerate(heads.tolist()):
        scores[row, tensors.item[int(tensors.first[head]) : head]] = -torch.inf


def _windows(log: EventLog, heads: Ints) -> Ints:
    """Windows that cover the baskets' heads, each beginning at one, ``[windows, 2]``; see `predict_windows`."""
    user = np.searchsorted(log.start, heads, side="right") - 1
    starts: list[int] = []
    covered_to, covered_user = -1, -1
    for head, owner in zip(heads.tolist(), user.tolist(), strict=True):
        if owner != covered_user or head >= covered_to:
            starts.append(head)
            covered_to, covered_user = head + _TARGETS, owner
    return np.repeat(np.array(starts, dtype=np.int64)[:, None], 2, axis=1)


def updated_popularity(log: EventLog, heads: Ints, items: int, config: ModelConfig) -> PopularitySnapshots | None:
    """The prior kept up to date over the baskets to predict: recounted at many timestamps.

    Args:
        log: Events; each recount counts those strictly before its timestamp.
        heads: ``[baskets]``, the baskets.
        items: N.
        config: The prior's half-lives.
    """
    half_lives = config.effective_prior_half_life_days
    if not half_lives:
        return None
    timestamps = snapshot_times(log.time_ms[heads], items, len(half_lives))
    return popularity_snapshots(log.item, log.time_ms, items, half_lives, timestamps)


def frozen_popularity(bundle: InterestBundle) -> PopularitySnapshots | None:
    """The prior as training left it, at all times."""
    if not bundle.config.model.effective_prior_half_life_days:
        return None
    return PopularitySnapshots(np.array([bundle.config.prior_counted_at_ms]), bundle.prior_columns[None])
