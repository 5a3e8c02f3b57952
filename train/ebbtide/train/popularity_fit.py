"""Fits the smoothing of the popularity prior to a log: by maximum likelihood of each event, given the earlier ones.

A share needs the counts of the event's own item and the totals alone, so nothing is ranked, and a log is fitted in
seconds. Every event is predicted from what was counted before it, so the fit cannot learn a log by heart. What gains
little is left out: half-lives, and the bonus of first events.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ebbtide.data.baskets import basket_heads
from ebbtide.data.events import EventLog
from ebbtide.interest.events import MS_PER_DAY
from ebbtide.interest.popularity import Smoothing
from ebbtide.train.popularity import is_first

_AT_MOST = 50_000
"""Events whose likelihood is computed."""
_NEWEST = 5_000_000
"""Events that are counted, the newest."""
_START_EVENTS = 1e4
_START_BONUS = 1.0
_PENALTY = 1e-4
"""Of the squared distance of log s and log b from their starts: where the log says nothing, a half-life keeps little
weight."""
_LEAST_GAIN = 1e-3
"""Nats per event. A half-life that gains less is left out, and so is the bonus."""
_STEPS = 100

Mask = npt.NDArray[np.bool_]
Doubles = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def fit_smoothing(
    log: EventLog, targets: Mask, items: int, half_life_days: Sequence[float], starts: tuple[int, ...], seed: int
) -> Smoothing:
    """Finds how far each half-life is to be trusted, and what the first event of an item counts.

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
    item, time_ms = log.item[counted], log.time_ms[counted]
    first = is_first(*log.counted)[counted[log.is_target]]
    position = (np.cumsum(counted) - 1)[index]
    own, everyone, own_first, all_first = np.empty((4, half_lives.shape[0], index.shape[0]))
    everything = np.zeros_like(item)
    for row, half_life in enumerate(half_lives):
        rate = np.log(2) / (half_life * MS_PER_DAY)
        own[row] = _counts_before(item, time_ms, rate)[position]
        everyone[row] = _counts_before(everything, time_ms, rate)[position]
        own_first[row] = _counts_before(item, time_ms, rate, first)[position]
        all_first[row] = _counts_before(everything, time_ms, rate, first)[position]
    problem = _Likelihood((own, own_first), (everyone, all_first), weight, items)
    used = set(range(half_lives.shape[0] + 1))
    values = problem.fitted(used, problem.start)
    while True:
        # At least one half-life stays.
        dispensable = used if len(used - {problem.bonus}) > 1 else used & {problem.bonus}
        losses = {one: problem.loss(used - {one}, values) for one in sorted(dispensable)}
        if not losses or min(losses.values()) - problem.loss(used, values) > _LEAST_GAIN:
            break
        used.remove(min(losses, key=lambda one: losses[one]))
    values = problem.fitted(used, values)
    events = np.full(half_lives.shape, np.inf)
    active = sorted(used - {problem.bonus})
    events[active] = np.exp(values[active])
    bonus = float(np.exp(values[problem.bonus])) if problem.bonus in used else 0.0
    return Smoothing(half_lives, events, starts, bonus)


class _Likelihood:
    """The mean negative log share of some events as a function of the smoothing.

    Its values are log s of each half-life and, as the last one, log b, of which some may be left out.
    """

    def __init__(
        self, counts: tuple[Doubles, Doubles], totals: tuple[Doubles, Doubles], weight: Doubles, items: int
    ) -> None:
        """Takes what was counted before the events.

        Args:
            counts: Of their items, and of the first events of their items alone, ``[half-lives, events]`` each.
            totals: The same of all items.
            weight: ``[events]``.
            items: N.
        """
        self._counts, self._first_counts = map(torch.from_numpy, counts)
        self._totals, self._first_totals = map(torch.from_numpy, totals)
        self._weight = torch.from_numpy(weight / weight.sum())
        self._items = items
        self.bonus = counts[0].shape[0]
        """Index of log b among the values."""
        self.start = np.log(np.r_[np.full(self.bonus, _START_EVENTS), _START_BONUS])

    def loss(self, used: AbstractSet[int], values: Doubles) -> float:
        """In nats, without penalty."""
        return float(self._loss(used, torch.from_numpy(values)))

    def fitted(self, used: AbstractSet[int], start: Doubles) -> Doubles:
        """The values, improved from a start where they are used."""
        values = torch.from_numpy(start.copy()).requires_grad_()
        optimizer = torch.optim.LBFGS([values], max_iter=_STEPS, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            penalty = _PENALTY * (values - torch.from_numpy(self.start)).square().sum()
            loss = self._loss(used, values) + penalty
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
        return values.detach().numpy()

    def _loss(self, used: AbstractSet[int], values: Tensor) -> Tensor:
        share = torch.full_like(self._weight, 1 / self._items)
        bonus = values[self.bonus].exp() if self.bonus in used else 0.0
        for index in sorted(used - {self.bonus}, reverse=True):
            events = values[index].exp()
            counts = self._counts[index] + bonus * self._first_counts[index]
            totals = self._totals[index] + bonus * self._first_totals[index]
            share = (counts + events * share) / (totals + events)
        return -(self._weight * share.log()).sum()


def _counts_before(key: Ints, time_ms: Ints, rate_per_ms: float, counted: Mask | None = None) -> Doubles:
    """The decayed number of events with an event's key strictly before it, ``[events]``.

    Args:
        key: ``[events]``.
        time_ms: ``[events]``.
        rate_per_ms: ln 2 over the half-life.
        counted: ``[events]``, those that count; None for all.
    """
    order = np.lexsort((time_ms, key))
    key, time_ms = key[order], time_ms[order]
    opens = np.r_[True, (key[1:] != key[:-1]) | (time_ms[1:] != time_ms[:-1])]
    group = np.cumsum(opens) - 1
    size = np.bincount(group, weights=None if counted is None else counted[order]).astype(np.float64)
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
