"""Fits the smoothing of the popularity prior to a log: by maximum likelihood of each event, given the earlier ones.

A share needs the counts of the event's own item and the totals alone, so nothing is ranked, and a log is fitted in
seconds. Every event is predicted from what was counted before it, so the fit cannot learn a log by heart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ebbtide.data.baskets import basket_heads
from ebbtide.data.events import EventLog
from ebbtide.interest.events import MS_PER_DAY
from ebbtide.interest.popularity import Smoothing

_AT_MOST = 50_000
"""Events whose likelihood is computed."""
_NEWEST = 5_000_000
"""Events that are counted, the newest."""
_START_EVENTS = 1e4
_PENALTY = 1e-4
"""Of the squared distance of log s from its start: where the log says nothing, a half-life keeps little weight."""
_LEAST_GAIN = 1e-3
"""Nats per event. A half-life that gains less is left out."""
_STEPS = 100

Mask = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def fit_smoothing(
    log: EventLog, targets: Mask, items: int, half_life_days: Sequence[float], starts: tuple[int, ...], seed: int
) -> Smoothing:
    """Finds how far each half-life is to be trusted.

    Args:
        log: Events.
        targets: ``[events]``, the events that may be predicted; all of target types are counted.
        items: N.
        half_life_days: Ascending, in days.
        starts: See `Smoothing`.
        seed: Draws the events to predict where there are many.
    """
    half_lives = np.asarray(half_life_days, dtype=np.float64)
    index = np.flatnonzero(targets)
    newest = np.sort(log.time_ms)[-min(_NEWEST, log.events)]
    index = index[log.time_ms[index] >= newest]
    if index.size > _AT_MOST:
        index = np.sort(np.random.default_rng(seed).choice(index, _AT_MOST, replace=False))
    if not index.size:
        return Smoothing(half_lives, np.full(half_lives.shape, np.inf), starts)
    # Every basket counts as much as any other, as in training.
    heads = basket_heads(log)
    weight = 1 / np.bincount(heads, minlength=log.events)[heads[index]]
    counted = (log.time_ms >= newest) & log.is_target
    position = np.cumsum(counted) - 1
    counts, totals = np.empty((2, half_lives.shape[0], index.shape[0]))
    for row, half_life in enumerate(half_lives):
        rate = np.log(2) / (half_life * MS_PER_DAY)
        own = _counts_before(log.item[counted], log.time_ms[counted], rate)
        everyone = _counts_before(np.zeros_like(log.item[counted]), log.time_ms[counted], rate)
        counts[row], totals[row] = own[position[index]], everyone[position[index]]
    problem = _Likelihood(counts, totals, weight, items)
    active = list(range(half_lives.shape[0]))
    log_events = problem.fitted(active, np.full(half_lives.shape, np.log(_START_EVENTS)))
    while len(active) > 1:
        losses = [problem.loss([other for other in active if other != index], log_events) for index in active]
        if min(losses) - problem.loss(active, log_events) > _LEAST_GAIN:
            break
        active.pop(int(np.argmin(losses)))
    log_events = problem.fitted(active, log_events)
    events = np.full(half_lives.shape, np.inf)
    events[active] = np.exp(log_events[active])
    return Smoothing(half_lives, events, starts)


class _Likelihood:
    """The mean negative log share of some events as a function of the smoothing."""

    def __init__(self, counts: Doubles, totals: Doubles, weight: Doubles, items: int) -> None:
        self._counts, self._totals = torch.from_numpy(counts), torch.from_numpy(totals)
        self._weight = torch.from_numpy(weight / weight.sum())
        self._items = items

    def loss(self, active: Sequence[int], log_events: Doubles) -> float:
        """In nats, without penalty."""
        return float(self._loss(active, torch.from_numpy(log_events)))

    def fitted(self, active: Sequence[int], log_events: Doubles) -> Doubles:
        """Log s, ``[half-lives]``, improved from a start for the active half-lives."""
        values = torch.from_numpy(log_events.copy()).requires_grad_()
        optimizer = torch.optim.LBFGS([values], max_iter=_STEPS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            penalty = _PENALTY * (values - float(np.log(_START_EVENTS))).square().sum()
            loss = self._loss(active, values) + penalty
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return values.detach().numpy()

    def _loss(self, active: Sequence[int], log_events: Tensor) -> Tensor:
        share = torch.full_like(self._weight, 1 / self._items)
        for index in sorted(active, reverse=True):
            events = log_events[index].exp()
            share = (self._counts[index] + events * share) / (self._totals[index] + events)
        return -(self._weight * share.log()).sum()


def _counts_before(key: Ints, time_ms: Ints, rate_per_ms: float) -> Doubles:
    """The decayed number of events with an event's key strictly before it, ``[events]``.

    Args:
        key: ``[events]``.
        time_ms: ``[events]``.
        rate_per_ms: ln 2 over the half-life.
    """
    order = np.lexsort((time_ms, key))
    key, time_ms = key[order], time_ms[order]
    opens = np.r_[True, (key[1:] != key[:-1]) | (time_ms[1:] != time_ms[:-1])]
    group = np.cumsum(opens) - 1
    size = np.bincount(group).astype(np.float64)
    key, time_ms = key[opens], time_ms[opens]
    # count_k = kept_k (count_k-1 + size_k-1), by prefix doubling: the step from k - 2^j to k in one multiplication.
    kept = np.zeros(key.shape)
    same = key[1:] == key[:-1]
    kept[1:][same] = np.exp(-rate_per_ms * np.diff(time_ms)[same])
    count = kept * np.r_[0.0, size[:-1]]
    stride = 1
    while stride < kept.shape[0] and kept[stride:].any():
        count[stride:] += kept[stride:] * count[:-stride]
        kept[stride:] *= kept[:-stride].copy()
        stride *= 2
    found = np.empty(order.shape)
    found[order] = count[group]
    return found
