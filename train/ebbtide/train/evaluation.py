"""Ranks the whole catalog before held-out events and measures where the event that came next stands.

Full ranking, never sampled negatives (Krichene and Rendle, CACM 65(7)); averaged within each person, then over persons.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ebbtide.interest.contract import Limits
from ebbtide.train.errors import DataError
from ebbtide.train.events import EventLog
from ebbtide.train.model import InterestModel
from ebbtide.train.popularity import PopularitySnapshots
from ebbtide.train.windows import LogTensors, batches, predict_windows

_CONTEXT_EVENTS = Limits().max_events
"""As many as a request may carry when served."""
_WINDOWS_PER_BATCH = 128
_TARGETS = 16

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Metrics:
    """Means over persons, for one relevant item at each event."""

    persons: int
    events: int
    ndcg_at_10: float
    """1 / log2(rank + 2) of the item that came, 0 below the tenth place."""
    hit_rate_at_10: float
    """Share of events whose item is in the first ten; equals recall at 10."""
    mrr: float
    """1 / (rank + 1)."""


def leave_last_out(log: EventLog) -> Mask:
    """True for each person's last event, where there is one before it, ``[n]``."""
    mask = np.zeros(log.events, dtype=np.bool_)
    mask[log.start[1:][np.diff(log.start) > 1] - 1] = True
    return mask


def after_time(log: EventLog, fraction: float, among: Mask | None = None) -> Mask:
    """True for the last ``fraction`` of the events by time, of all or of those in ``among``, ``[n]``."""
    times = log.time_ms if among is None else log.time_ms[among]
    border = np.quantile(times, 1 - fraction, method="lower")
    mask = log.time_ms >= border
    return mask if among is None else mask & among


def has_past(log: EventLog) -> Mask:
    """True for events with an earlier event of the same person, ``[n]``."""
    mask = np.ones(log.events, dtype=np.bool_)
    mask[log.start[:-1]] = False
    return mask


def held_out(log: EventLog, holdout: str) -> Mask:
    """The test events of a protocol: ``none``, ``leave-last-out`` or ``time:F`` (the last share F of the log), ``[n]``.

    Raises:
        DataError: Another protocol.
    """
    if holdout == "none":
        return np.zeros(log.events, dtype=np.bool_)
    if holdout == "leave-last-out":
        return leave_last_out(log)
    kind, _, fraction = holdout.partition(":")
    try:
        share = float(fraction)
    except ValueError:
        share = -1.0
    if kind != "time" or not 0 < share < 1:
        raise DataError(f"holdout: got {holdout!r}; expected 'none', 'leave-last-out' or 'time:F' with 0 < F < 1")
    return after_time(log, share)


@torch.inference_mode()
def target_ranks(
    model: InterestModel,
    log: EventLog,
    tensors: LogTensors,
    targets: Mask,
    popularity: PopularitySnapshots | None,
    candidates: Mask | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Where the item of each target event stands among the items ranked just before it.

    Args:
        model: Put into evaluation mode.
        log: Events.
        tensors: The same events.
        targets: ``[n]``, the events to predict; those without an earlier event of the person are skipped.
        popularity: The prior as of each moment; None for a model without prior.
        candidates: ``[N]``, the items that are ranked; None ranks all. Targets that are not among them are skipped.
        progress: Called with the number of targets just done.

    Returns:
        Log indices of the targets, and their ranks from 0, each ``[K]``. Ties count against the target.
    """
    model.eval()
    targets = targets & has_past(log)
    if candidates is not None:
        targets = targets & candidates[log.item]
    vectors, factors = model.event_vectors(), model.item_factors()
    prior = None if popularity is None else torch.from_numpy(popularity.columns) @ model.prior_weight
    mask = torch.from_numpy(targets)
    events: list[Tensor] = []
    ranks: list[Tensor] = []
    for windows in batches(_evaluation_windows(log, targets), _WINDOWS_PER_BATCH):
        predicted = predict_windows(model, tensors, windows, _CONTEXT_EVENTS, _TARGETS, mask, vectors)
        scores = predicted.interest @ factors.T
        if popularity is not None and prior is not None:
            moment = popularity.index_at(log.time_ms[predicted.event.numpy()])
            scores += prior[torch.from_numpy(moment)]
        if candidates is not None:
            scores[:, torch.from_numpy(~candidates)] = -torch.inf
        item = tensors.item[predicted.event]
        score = scores.gather(1, item[:, None])
        if not bool(score.isfinite().all()):
            raise FloatingPointError("a score is not a finite number; training has diverged: lower the learning rate")
        if model.config.exclude_seen:
            for row, event in enumerate(predicted.event.tolist()):
                scores[row, tensors.item[int(tensors.first[event]) : event]] = -torch.inf
            scores.scatter_(1, item[:, None], score)
        ranks.append((scores >= score).sum(1) - 1)
        events.append(predicted.event)
        if progress is not None:
            progress(len(item))
    if not events:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    return torch.cat(events).numpy(), torch.cat(ranks).numpy()


def _evaluation_windows(log: EventLog, targets: Mask) -> npt.NDArray[np.int64]:
    """Windows that cover the targets, each beginning at one, ``[windows, 2]``."""
    places = np.flatnonzero(targets)
    person = np.searchsorted(log.start, places, side="right") - 1
    starts: list[int] = []
    covered_to, covered_person = -1, -1
    for place, owner in zip(places.tolist(), person.tolist(), strict=True):
        if owner != covered_person or place >= covered_to:
            starts.append(place)
            covered_to, covered_person = place + _TARGETS, owner
    return np.repeat(np.array(starts, dtype=np.int64)[:, None], 2, axis=1)


def metrics_of(log: EventLog, events: npt.NDArray[np.int64], ranks: npt.NDArray[np.int64]) -> Metrics:
    """Averages ranks from `target_ranks` within each person, then over persons."""
    if not events.size:
        return Metrics(0, 0, float("nan"), float("nan"), float("nan"))
    _, owner = np.unique(np.searchsorted(log.start, events, side="right"), return_inverse=True)
    counts = np.bincount(owner)

    def mean(values: npt.NDArray[np.float64]) -> float:
        return float((np.bincount(owner, weights=values) / counts).mean())

    hit = ranks < 10
    return Metrics(
        persons=counts.shape[0],
        events=events.shape[0],
        ndcg_at_10=mean(np.where(hit, 1 / np.log2(ranks + 2), 0.0)),
        hit_rate_at_10=mean(hit.astype(np.float64)),
        mrr=mean(1 / (ranks + 1)),
    )
