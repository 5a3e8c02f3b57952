"""The choice model of every world: one utility per user, item and time, and a softmax over the items alive.

    utility(user, item, t) = appeal(item, t) + taste(user, t) . attributes(item) + habit(user, item)
                             + repeat(user, item, t)

A basket of one event draws an item with the probabilities softmax(utility). A basket of k events draws k different
items, one after the other, from the same softmax without the items already drawn (Gumbel top-k; Kool et al., ICML
2019). An item that is not alive, or that may not be chosen again, has the utility minus infinity. So the best possible
ranking before a basket is the order of the utilities: that is the oracle.

Appeal depends on nothing that users do. Repeat depends on the user's own earlier events.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

MS_PER_DAY = 86_400_000
LIST_LENGTH = 20
"""Ranks of the oracle's lists; the longest cut-off of the metrics."""

_UTILITIES_PER_TURN = 4_000_000

Appeal = Callable[[Floats], Floats]
"""Appeal ``[baskets, items]`` at the times ``[baskets]`` in days; minus infinity for an item that is not alive."""


@dataclass(frozen=True)
class Past:
    """The earlier events of B users, in the order in which they happened."""

    user: Ints
    """``[baskets]``."""
    time_days: Floats
    """``[baskets]``, the times of the baskets to choose."""
    row: Ints
    """``[events]``, the index in ``[baskets]`` of each earlier event."""
    item: Ints
    """``[events]``."""
    age_days: Floats
    """``[events]``, above zero."""


Repeat = Callable[[Floats, Past, Floats], None]
"""Adds the repeat tendency to utilities ``[baskets, items]``, in place. The last argument is a trait of each user,
``[baskets]``, a standard normal number in which the tendency is linear."""


@dataclass(frozen=True)
class Schedule:
    """When users choose: n baskets, sorted by user, then by time, all times of a user different."""

    user: Ints
    """``[baskets]``, from 0."""
    time_ms: Ints
    """``[baskets]``, since the world's start."""
    size: Ints
    """``[baskets]``, events of each basket."""


@dataclass(frozen=True)
class Tastes:
    """Weights of item attributes for U users: a fixed part, and a drifting part (an Ornstein-Uhlenbeck process)."""

    fixed: Floats
    """``[users, attributes]``."""
    drifting: Floats
    """``[users, attributes]``, at the time of each user's first basket."""
    spread: Floats
    """``[attributes]``, standard deviation of the drifting part at any time."""
    memory_days: float
    """Time after which the drifting part keeps 1/e of its value."""


@dataclass(frozen=True)
class Design:
    """A world before anybody has chosen."""

    name: str
    start_ms: int
    """Unix time of the schedule's zero."""
    repeats: bool
    """Whether users choose seen items again."""
    schedule: Schedule
    texts: list[str]
    """``[items]``, the text of each item."""
    born_days: Floats
    """``[items]``, when each item is born, since the world's start; negative if before."""
    attributes: Floats
    """``[items, attributes]``."""
    tastes: Tastes
    appeal: Appeal
    repeat: Repeat
    trait: Floats
    """``[users]``, standard normal; see `Repeat`."""
    habit: Floats | None = None
    """``[users, items]``, utility of each user's usual products, 0 for the others; None: nobody has habits."""


@dataclass(frozen=True)
class World:
    """A log with its catalog, and the oracle's list before every basket."""

    design: Design
    basket: Ints
    """``[events]``, the index in the schedule of each event's basket, ascending."""
    item: Ints
    """``[events]``."""
    oracle_item: Ints
    """``[baskets, LIST_LENGTH]``, the items with the highest choice probability, best first."""
    oracle_probability: Floats
    """``[baskets, LIST_LENGTH]``, their choice probabilities; 0 for an item that cannot be chosen."""


class Memory:
    """The events so far of every user."""

    def __init__(self, users: int, events: int) -> None:
        self._item = np.zeros((users, events), dtype=np.int64)
        self._time_days = np.zeros((users, events))
        self._count = np.zeros(users, dtype=np.int64)

    def past(self, user: Ints, now: Floats) -> Past:
        """The events of users ``[baskets]`` so far."""
        count = self._count[user]
        row, slot = np.nonzero(np.arange(int(count.max(initial=0))) < count[:, None])
        return Past(
            user=user,
            time_days=now,
            row=row,
            item=self._item[user[row], slot],
            age_days=now[row] - self._time_days[user[row], slot],
        )

    def add(self, user: Ints, now: Floats, items: Ints, kept: Mask) -> None:
        """Adds the items ``[baskets, kept items]`` that are kept, those of a row from the left."""
        row, column = np.nonzero(kept)
        slot = self._count[user[row]] + column
        self._item[user[row], slot] = items[row, column]
        self._time_days[user[row], slot] = now[row]
        self._count[user] += kept.sum(axis=1)


@dataclass(frozen=True)
class Turn:
    """The k-th baskets of some users."""

    user: Ints
    """``[baskets]``."""
    case: Ints
    """``[baskets]``, indices in the schedule."""
    now: Floats
    """``[baskets]``, days."""


def turns(schedule: Schedule, users: int, items: int) -> Iterator[Turn]:
    """The first baskets of all users, then the second ones, and so on, in groups that fit in memory."""
    per_user = np.bincount(schedule.user, minlength=users)
    first = np.concatenate([[0], np.cumsum(per_user)])[:-1]
    for step in range(int(per_user.max())):
        everyone = np.flatnonzero(per_user > step)
        for user in np.array_split(everyone, max(everyone.shape[0] * items // _UTILITIES_PER_TURN, 1)):
            case = first[user] + step
            yield Turn(user, case, schedule.time_ms[case] / MS_PER_DAY)


def memory_of(design: Design) -> Memory:
    """An empty memory with room for all events of a schedule."""
    schedule = design.schedule
    return Memory(design.trait.shape[0], int(np.bincount(schedule.user, weights=schedule.size).max()))


def simulate(rng: np.random.Generator, design: Design) -> World:
    """Draws the items of every basket."""
    schedule, memory = design.schedule, memory_of(design)
    users, items = design.trait.shape[0], len(design.texts)
    drift = design.tastes.drifting.copy()
    last_days = np.full(users, np.nan)
    oracle_item = np.zeros((schedule.user.shape[0], LIST_LENGTH), dtype=np.int64)
    oracle_probability = np.zeros((schedule.user.shape[0], LIST_LENGTH))
    chosen_basket, chosen_item = [], []
    for turn in turns(schedule, users, items):
        user = turn.user
        elapsed = np.where(np.isnan(last_days[user]), 0.0, turn.now - last_days[user])
        drift[user] = _drifted(rng, drift[user], design.tastes, elapsed)
        last_days[user] = turn.now
        utility = design.appeal(turn.now) + (design.tastes.fixed[user] + drift[user]) @ design.attributes.T
        if design.habit is not None:
            utility += design.habit[user]
        design.repeat(utility, memory.past(user, turn.now), design.trait[user])
        oracle_item[turn.case], oracle_probability[turn.case] = ranked(utility)
        noisy = utility + rng.gumbel(size=utility.shape)
        size = schedule.size[turn.case]
        drawn = best(noisy, int(size.max()))
        # A user may have fewer items left than the basket should have.
        kept = (np.arange(drawn.shape[1]) < size[:, None]) & np.isfinite(np.take_along_axis(noisy, drawn, axis=1))
        memory.add(user, turn.now, drawn, kept)
        row, column = np.nonzero(kept)
        chosen_basket.append(turn.case[row])
        chosen_item.append(drawn[row, column])
    basket, item = np.concatenate(chosen_basket), np.concatenate(chosen_item)
    order = np.argsort(basket, kind="stable")
    return World(design, basket[order], item[order], oracle_item, oracle_probability)


def never_again(utility: Floats, past: Past, _trait: Floats) -> None:
    """The repeat tendency of users who never choose an item twice."""
    utility[past.row, past.item] = -np.inf


def ranked(utility: Floats) -> tuple[Ints, Floats]:
    """The items of highest utility ``[baskets, items]`` and their probabilities, both ``[baskets, LIST_LENGTH]``."""
    order = best(utility, LIST_LENGTH)
    top = utility.max(axis=1, keepdims=True)
    top[~np.isfinite(top)] = 0.0
    exponential = np.exp(utility - top)
    total = np.maximum(exponential.sum(axis=1, keepdims=True), 1e-300)
    return order, np.take_along_axis(exponential, order, axis=1) / total


def best(values: Floats, number: int) -> Ints:
    """Indices of the highest values of each row, the highest first, ``[baskets, number]``."""
    number = min(number, values.shape[1])
    found = np.argpartition(-values, number - 1, axis=1)[:, :number]
    order = np.argsort(-np.take_along_axis(values, found, axis=1), axis=1, kind="stable")
    return np.take_along_axis(found, order, axis=1)


def _drifted(rng: np.random.Generator, drift: Floats, tastes: Tastes, elapsed_days: Floats) -> Floats:
    """The drifting tastes ``[baskets, attributes]`` after some days ``[baskets]``."""
    kept = np.exp(-elapsed_days / tastes.memory_days)[:, None]
    return np.asarray(drift * kept + rng.standard_normal(drift.shape) * tastes.spread * np.sqrt(1 - kept**2))
