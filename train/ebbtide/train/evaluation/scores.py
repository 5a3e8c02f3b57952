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
from ebbtide.interest.related import NEWEST_EVENTS
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.model import InterestModel
from ebbtide.train.popularity import FrozenPopularity, LivePopularity, Popularity
from ebbtide.train.related import Related, related_before
from ebbtide.train.repeat import with_repeat_scores
from ebbtide.train.seen_items import SeenItems, seen_items
from ebbtide.train.windows import LogTensors, predict_windows

CONTEXT_EVENTS = Limits().max_events
"""As many as a request may carry when served."""
_EVENTS_PER_BATCH = 1 << 16
"""Events of all windows of a batch, those to predict included."""
_TARGETS = 16
_SCORES_PER_BATCH = 1 << 24
"""64 MiB for each part of the scores at a time, however large the catalog."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scored:
    """The parts of the catalog's scores before some baskets."""

    head: Ints
    """``[baskets]``, log index of the first event of each basket."""
    interest: Tensor
    """``[baskets, items]``, the user's interest times the item factors."""
    linear: Tensor | None
    """``[baskets, items]``, what the linear dimensions add; None for a model without them, and for a finished one."""
    prior: Tensor | None
    """``[baskets, items]``, what popularity adds; None for a model without prior."""
    alpha: Tensor
    """``[baskets, 1]`` or ``[baskets, d]``, share of history in the blend."""
    seen: SeenItems | None
    """Of these baskets; None for a model without a repeat score."""
    repeat: Tensor | None
    """``[pairs]``, the repeat scores of `seen`, which replace the others."""
    difference: Tensor | None = None
    """``[baskets, d]``, w_H - w_C; None where it was not asked for."""
    interest_share: float = 0.0
    """Of the model's repeat score."""
    related: Tensor | None = None
    """``[baskets, items]``, what related items get; None without any."""
    related_weight: float = 0.0
    """Of the model."""

    def scores(
        self,
        interest_scale: float = 1.0,
        repeat_offset: float = 0.0,
        linear_scale: float = 0.0,
        interest_share: float = 0.0,
        related_weight: float = 0.0,
        out: Tensor | None = None,
    ) -> Tensor:
        """``[baskets, items]``.

        Args:
            interest_scale: Factor of the interest's part.
            repeat_offset: Added to the repeat scores.
            linear_scale: Factor of the linear dimensions' part.
            interest_share: Added to that of the model.
            related_weight: Added to that of the model.
            out: ``[baskets, items]``, memory for them; a large new tensor costs more than the sum. None for new memory.
        """
        if self.prior is None:
            scores = torch.mul(self.interest, interest_scale, out=out)
        else:
            scores = torch.add(self.prior, self.interest, alpha=interest_scale, out=out)
        if self.linear is not None and linear_scale:
            scores.add_(self.linear, alpha=linear_scale)
        if self.related is not None and self.related_weight + related_weight:
            scores.add_(self.related, alpha=self.related_weight + related_weight)
        if self.seen is not None and self.repeat is not None:
            value = self.repeat + repeat_offset
            share = self.interest_share + interest_share
            if share:
                at = self.seen.basket, self.seen.item
                value = value + share * interest_scale * self.interest[at]
                if self.linear is not None:
                    value = value + share * linear_scale * self.linear[at]
            scores = with_repeat_scores(scores, self.seen, value, in_place=True)
        return scores


@dataclass(frozen=True)
class Interests:
    """The interest before some baskets."""

    head: Ints
    """``[baskets]``, log index of the first event of each basket, in no order."""
    interest: Tensor
    """``[baskets, d]``."""
    alpha: Tensor
    """``[baskets, 1]`` or ``[baskets, d]``."""
    difference: Tensor | None
    """``[baskets, d]``, w_H - w_C; None where it was not asked for."""


def interests_before(
    model: InterestModel,
    log: EventLog,
    tensors: LogTensors,
    heads: Ints,
    context_events: int = CONTEXT_EVENTS,
    *,
    with_difference: bool = False,
) -> Interests | None:
    """The interest before each basket, from the events strictly before it; None without a basket that has any.

    Args:
        model: Put into evaluation mode.
        log: Events.
        tensors: The same events.
        heads: ``[baskets]``, log index of the first event of each basket, ascending.
        context_events: How many events of a user count at most, the newest ones.
        with_difference: Whether to keep w_H - w_C of each basket.
    """
    model.eval()
    wanted = np.zeros(log.events, dtype=np.bool_)
    wanted[heads] = True
    mask = torch.from_numpy(wanted)
    vectors = model.event_vectors()
    parts = [
        predict_windows(model, tensors, windows, context, _TARGETS, mask, vectors, exact=True)
        for windows, context in _batches(tensors, _windows(log, heads), context_events)
    ]
    if not parts:
        return None
    blends = [part.blend for part in parts]
    return Interests(
        head=torch.cat([part.event for part in parts]).numpy(),
        interest=torch.cat([blend.interest for blend in blends]),
        alpha=torch.cat([blend.alpha for blend in blends]),
        difference=torch.cat([blend.long_term - blend.current for blend in blends]) if with_difference else None,
    )


@torch.inference_mode()
def score_baskets(
    model: InterestModel,
    log: EventLog,
    tensors: LogTensors,
    heads: Ints,
    popularity: Popularity | None,
    *,
    context_events: int | None = CONTEXT_EVENTS,
    with_difference: bool = False,
    related: Related | None = None,
) -> Iterator[Scored]:
    """Scores before each basket, in batches by ascending time, so that popularity can be counted along.

    Args:
        model: Put into evaluation mode.
        log: Events.
        tensors: The same events.
        heads: ``[baskets]``, log index of the first event of each basket, ascending.
        popularity: The prior over time, before its first basket; None for a model without prior.
        context_events: How many events of a user count at most, the newest ones; None for all, as in a user's state.
        with_difference: Whether to keep w_H - w_C of each basket.
        related: Related items that the model does not weigh yet; None for those of the model.

    Raises:
        FloatingPointError: A score is not a finite number.
    """
    if context_events is None:
        context_events = int((heads - tensors.first.numpy()[heads]).max(initial=1))
    before = interests_before(model, log, tensors, heads, context_events, with_difference=with_difference)
    if before is None:
        return
    found, interest, alpha, difference = before.head, before.interest, before.alpha, before.difference
    factors = model.item_factors()
    linear_factors = model.linear_factors() if model.linear_dimensions else None
    item_bias = None if model.repeat is None else model.repeat_item_bias()
    near, related_weight = (model.related, 1.0) if related is None else (related, 0.0)
    by_time = np.lexsort((found, log.time_ms[found]))
    rows = max(_SCORES_PER_BATCH // factors.shape[0], 1)
    for start in range(0, by_time.shape[0], rows):
        chosen = by_time[start : start + rows]
        head, index = found[chosen], torch.from_numpy(chosen).to(interest.device)
        scores = interest[index] @ factors.T
        linear = None if linear_factors is None else interest[index][:, -linear_factors.shape[1] :] @ linear_factors.T
        seen = None if model.repeat is None else seen_before(log, tensors, head, context_events)
        prior, seen_prior = _prior(model, popularity, log.time_ms[head], seen)
        repeat = None
        if seen is not None and model.repeat is not None and item_bias is not None:
            seen = model.weighed(seen.to(scores.device))
            repeat = model.repeat(seen, item_bias, seen_prior)
        # A sum is finite if all of its terms are, and takes a tenth of the time of looking at each.
        finite = [part.sum().isfinite() for part in (scores, prior, repeat) if part is not None]
        if not all(map(bool, finite)):
            raise FloatingPointError("a score is not a finite number; training has diverged: lower the learning rate")
        difference_of = None if difference is None else difference[index]
        share = 0.0 if model.repeat is None else float(model.repeat.interest_share)
        of_related = None
        if near is not None:
            newest = model.weighed(seen_before(log, tensors, head, NEWEST_EVENTS))
            of_related = related_before(near, newest, len(head)).to(scores.device)
        yield Scored(
            *(head, scores, linear, prior, alpha[index], seen, repeat, difference_of, share),
            *(of_related, related_weight),
        )


def _prior(
    model: InterestModel, popularity: Popularity | None, time_ms: Ints, seen: SeenItems | None
) -> tuple[Tensor | None, Tensor | None]:
    """What popularity adds to the scores ``[baskets, items]``, and the columns of the seen items ``[pairs, p]``.

    Args:
        model: Weighs the columns.
        popularity: None for a model without prior.
        time_ms: ``[baskets]``, ascending.
        seen: On the CPU; None where only the scores are wanted.
    """
    if popularity is None:
        return None, None
    device, weight = model.gamma.device, model.prior_weight.cpu()
    scores, of_seen = [], []
    bounds = None if seen is None else np.searchsorted(seen.basket.numpy(), np.arange(time_ms.shape[0] + 1))
    for row, columns in enumerate(map(torch.from_numpy, popularity.columns_at(time_ms))):
        scores.append(columns @ weight)
        if seen is not None and bounds is not None:
            of_seen.append(columns[seen.item[bounds[row] : bounds[row + 1]]])
    return torch.stack(scores).to(device), torch.cat(of_seen).to(device) if of_seen else None


def seen_before(log: EventLog, tensors: LogTensors, heads: Ints, context_events: int = CONTEXT_EVENTS) -> SeenItems:
    """The items that each user had seen strictly before the basket, as a request would carry them.

    Args:
        log: Events.
        tensors: The same events.
        heads: ``[baskets]``.
        context_events: How many events of a user count, the newest ones.
    """
    first = tensors.first.numpy()[heads]
    return seen_items(log.item, log.time_ms, log.weight, first, heads, context_events, log.event_type)


def exclude_seen(scores: Tensor, tensors: LogTensors, heads: Ints) -> None:
    """Sets the scores of items that each user had seen strictly before the basket to minus infinity, in place.

    Args:
        scores: ``[baskets, items]``, or one of the parts that they are the sum of.
        tensors: Events.
        heads: ``[baskets]``.
    """
    counts = heads - tensors.first.numpy()[heads]
    row = np.repeat(np.arange(heads.shape[0]), counts)
    event = heads[row] - 1 - (np.arange(row.shape[0]) - np.repeat(np.cumsum(counts) - counts, counts))
    index = torch.from_numpy(row * scores.shape[1]) + tensors.item[torch.from_numpy(event)]
    scores.view(-1).index_fill_(0, index.to(scores.device), -torch.inf)


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


def _batches(tensors: LogTensors, windows: Ints, context_events: int) -> Iterator[tuple[Ints, int]]:
    """The windows in batches, and the context that each batch needs: windows of users with short histories together.

    Args:
        tensors: Events.
        windows: ``[windows, 2]``.
        context_events: The longest context.
    """
    # With so many events none is left out before any target, so exact windows have nothing to subtract.
    needed = windows[:, 0] - tensors.first.numpy()[windows[:, 1]] + _TARGETS - 1
    needed = np.minimum(needed, context_events)
    order = np.argsort(-needed, kind="stable")
    start = 0
    while start < order.shape[0]:
        longest = int(needed[order[start]])
        chosen = order[start : start + max(_EVENTS_PER_BATCH // (longest + _TARGETS), 1)]
        yield windows[chosen], longest
        start += chosen.shape[0]


def live_popularity(model: InterestModel, log: EventLog) -> Popularity | None:
    """The prior kept up to date: before each basket every earlier event of the log counts; None without a prior."""
    if not model.config.prior_starts:
        return None
    return LivePopularity(*log.counted, model.text_vectors.shape[0], model.smoothing)


def frozen_popularity(bundle: InterestBundle) -> Popularity | None:
    """The prior as training left it, at all times."""
    return FrozenPopularity(bundle.prior_columns) if bundle.config.model.prior_starts else None
