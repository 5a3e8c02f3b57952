"""The choice model of every world: one utility per user, item and time, and a softmax over the items alive.

    utility(user, item, t) = appeal(item, t) + taste(user, t) . attributes(item) + repeat(user, item, t)

A basket of one event draws an item with the probabilities softmax(utility). A basket of k events draws k different
items, one after the other, from the same softmax without the items already drawn (Gumbel top-k; Kool et al., ICML
2019). An item that is not alive, or that may not be chosen again, has the utility minus infinity. So the best possible
ranking before a basket is the order of the utilities: that is the oracle.

Appeal depends on nothing that users do. Repeat depends on the user's own earlier events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

LIST_LENGTH = 20
"""Ranks of the oracle's lists; the longest cut-off of the metrics."""

Appeal = Callable[[Floats], Floats]
"""Appeal ``[B, N]`` at the times ``[B]`` in days; minus infinity for an item that is not alive."""


@dataclass(frozen=True)
class Past:
    """The earlier events of B users, in the order in which they happened."""

    user: Ints
    """``[B]``."""
    time_days: Floats
    """``[B]``, the times of the baskets to choose."""
    row: Ints
    """``[E]``, the index in ``[B]`` of each earlier event."""
    item: Ints
    """``[E]``."""
    age_days: Floats
    """``[E]``, above zero."""


Repeat = Callable[[Floats, Past], None]
"""Adds the repeat tendency to utilities ``[B, N]``, in place."""


@dataclass(frozen=True)
class Schedule:
    """When users choose: n baskets, sorted by user, then by time, all times of a user different."""

    user: Ints
    """``[n]``, from 0."""
    time_ms: Ints
    """``[n]``, since the world's start."""
    size: Ints
    """``[n]``, events of each basket."""


@dataclass(frozen=True)
class Tastes:
    """Weights of item attributes for U users: a fixed part, and a drifting part (an Ornstein-Uhlenbeck process)."""

    fixed: Floats
    """``[U, D]``."""
    drifting: Floats
    """``[U, D]``, at the time of each user's first basket."""
    spread: Floats
    """``[D]``, standard deviation of the drifting part at any time."""
    memory_days: float
    """Time after which the drifting part keeps 1/e of its value."""


@dataclass(frozen=True)
class World:
    """A log with its catalog, and the oracle's list before every basket."""

    name: str
    start_ms: int
    """Unix time of the schedule's zero."""
    repeats: bool
    """Whether users choose seen items again."""
    schedule: Schedule
    texts: list[str]
    """``[N]``, the text of each item."""
    basket: Ints
    """``[events]``, the index in the schedule of each event's basket, ascending."""
    item: Ints
    """``[events]``."""
    oracle_item: Ints
    """``[n, LIST_LENGTH]``, the items with the highest choice probability, best first."""
    oracle_probability: Floats
    """``[n, LIST_LENGTH]``, their choice probabilities; 0 for an item that cannot be chosen."""
    born_ms: Ints = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """``[N]``, when each item was born, since the world's start; negative if before."""


@dataclass
class _Memory:
    """The events so far of every user."""

    item: Ints
    time_days: Floats
    count: Ints
    tastes: Floats
    last_days: Floats


def simulate(
    rng: np.random.Generator,
    schedule: Schedule,
    attributes: Floats,
    tastes: Tastes,
    appeal: Appeal,
    repeat: Repeat,
) -> tuple[Ints, Ints, Ints, Floats]:
    """Draws the items of every basket; the k-th baskets of all users are drawn together.

    Args:
        rng: Source of all randomness.
        schedule: When users choose, and how many items.
        attributes: ``[N, D]``.
        tastes: Weights of the attributes.
        appeal: The items' appeal over time.
        repeat: The repeat tendency.

    Returns:
        Basket and item of every event, then the oracle's items and their probabilities, as in `World`.
    """
    baskets = schedule.user.shape[0]
    users = tastes.fixed.shape[0]
    per_user = np.bincount(schedule.user, minlength=users)
    first = np.concatenate([[0], np.cumsum(per_user)])[:-1]
    events = np.bincount(schedule.user, weights=schedule.size, minlength=users).astype(np.int64)
    time_days = schedule.time_ms / 86_400_000
    memory = _Memory(
        item=np.zeros((users, int(events.max())), dtype=np.int64),
        time_days=np.zeros((users, int(events.max()))),
        count=np.zeros(users, dtype=np.int64),
        tastes=tastes.drifting.copy(),
        last_days=np.where(per_user > 0, time_days[np.minimum(first, baskets - 1)], 0.0),
    )
    oracle_item = np.zeros((baskets, LIST_LENGTH), dtype=np.int64)
    oracle_probability = np.zeros((baskets, LIST_LENGTH))
    chosen_basket, chosen_item = [], []
    for step in range(int(per_user.max())):
        everyone = np.flatnonzero(per_user > step)
        for user in np.array_split(everyone, max(everyone.shape[0] * attributes.shape[0] // 4_000_000, 1)):
            case = first[user] + step
            now = time_days[case]
            utility = appeal(now)
            utility += _tastes_at(rng, memory, tastes, user, now) @ attributes.T
            repeat(utility, _past(memory, user, now))
            order = _best(utility, LIST_LENGTH)
            best = np.take_along_axis(utility, order, axis=1)
            top = best[:, :1]
            oracle_item[case] = order
            oracle_probability[case] = np.exp(best - top) / np.exp(utility - top).sum(axis=1, keepdims=True)
            size = schedule.size[case]
            noisy = utility + rng.gumbel(size=utility.shape)
            drawn = _best(noisy, int(size.max()))
            kept = np.arange(drawn.shape[1]) < size[:, None]
            # A user may have fewer items left than the basket should have.
            kept &= np.isfinite(np.take_along_axis(noisy, drawn, axis=1))
            row, column = np.nonzero(kept)
            chosen_basket.append(case[row])
            chosen_item.append(drawn[row, column])
            slot = memory.count[user[row]] + column
            memory.item[user[row], slot] = drawn[row, column]
            memory.time_days[user[row], slot] = now[row]
            memory.count[user] += kept.sum(axis=1)
    basket, item = np.concatenate(chosen_basket), np.concatenate(chosen_item)
    order = np.argsort(basket, kind="stable")
    return basket[order], item[order], oracle_item, oracle_probability


def never_again(utility: Floats, past: Past) -> None:
    """The repeat tendency of users who never choose an item twice."""
    utility[past.row, past.item] = -np.inf


def _best(values: Floats, number: int) -> Ints:
    """Indices of the highest values of each row, the highest first, ``[B, number]``."""
    number = min(number, values.shape[1])
    best = np.argpartition(-values, number - 1, axis=1)[:, :number]
    order = np.argsort(-np.take_along_axis(values, best, axis=1), axis=1, kind="stable")
    return np.take_along_axis(best, order, axis=1)


def _tastes_at(rng: np.random.Generator, memory: _Memory, tastes: Tastes, user: Ints, now: Floats) -> Floats:
    """Moves the drifting tastes of users on to now and returns all tastes, ``[B, D]``."""
    kept = np.exp(-(now - memory.last_days[user]) / tastes.memory_days)[:, None]
    noise = rng.standard_normal((user.shape[0], tastes.spread.shape[0])) * tastes.spread
    memory.tastes[user] = memory.tastes[user] * kept + noise * np.sqrt(1 - kept**2)
    memory.last_days[user] = now
    return np.asarray(tastes.fixed[user] + memory.tastes[user])


def _past(memory: _Memory, user: Ints, now: Floats) -> Past:
    count = memory.count[user]
    row, slot = np.nonzero(np.arange(int(count.max(initial=0))) < count[:, None])
    return Past(
        user=user,
        time_days=now,
        row=row,
        item=memory.item[user[row], slot],
        age_days=now[row] - memory.time_days[user[row], slot],
    )
