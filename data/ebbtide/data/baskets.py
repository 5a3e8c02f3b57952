"""Baskets: the events of one user at one timestamp, which are predicted together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.data.events import EventLog
from ebbtide.data.sessions import session_starts

Mask = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Baskets:
    """Baskets to predict, in log order: a basket is all events of one user at one timestamp.."""

    head: Ints
    """``[baskets]``, log index of the basket's first event; a prediction may see the user's events before it."""
    stop: Ints
    """``[baskets]``, one past the last event of the basket."""

    def __len__(self) -> int:
        return self.head.shape[0]


def basket_heads(log: EventLog) -> Ints:
    """The log index of the first event of each event's basket (same user, same time), ``[events]``."""
    return session_starts(log, 0)


def has_past(log: EventLog) -> Mask:
    """True for events with a strictly earlier event of the same user, ``[events]``."""
    return np.asarray(basket_heads(log) > np.repeat(log.start[:-1], np.diff(log.start)))


def is_repeat(log: EventLog) -> Mask:
    """True for events of an item that the user had had strictly before, ``[events]``."""
    key = log.user * (np.int64(log.item.max(initial=0)) + 1) + log.item
    order = np.lexsort((log.time_ms, key))
    opens = np.r_[True, np.diff(key[order]) != 0]
    first_time = log.time_ms[order][np.maximum.accumulate(np.where(opens, np.arange(log.events), 0))]
    repeats = np.empty(log.events, dtype=np.bool_)
    repeats[order] = log.time_ms[order] > first_time
    return repeats


def repeat_share(log: EventLog, among: Mask) -> float:
    """The share of repeats among the chosen events ``[events]`` that have a strictly earlier event of their user."""
    chosen = among & has_past(log)
    return float(is_repeat(log)[chosen].mean()) if chosen.any() else 0.0


def baskets_of(log: EventLog, targets: Mask) -> Baskets:
    """The baskets that contain a target event and have an earlier event of the user.

    Args:
        log: Events.
        targets: ``[events]``; `held_out` holds out whole baskets only.
    """
    heads = basket_heads(log)
    head, first = np.unique(heads, return_index=True)
    stop = np.append(first[1:], log.events)
    wanted = np.isin(head, heads[targets & has_past(log)])
    return Baskets(head[wanted], stop[wanted])


def seen_share(log: EventLog, baskets: Baskets) -> float:
    """Share of the baskets' events whose item the user had interacted with before the basket; 0 without events."""
    inside = np.isin(basket_heads(log), baskets.head) & log.is_target
    return float(is_repeat(log)[inside].mean()) if inside.any() else 0.0


def in_turn(owner: Ints, seed: int) -> Ints:
    """An order of baskets that takes one of each user in turn: who has many is not heard more than others.

    Args:
        owner: ``[baskets]``, the user of each, ascending.
        seed: Draws the order of a user's baskets, and of the users within a turn.

    Returns:
        ``[baskets]``, the indices of the baskets.
    """
    random = np.random.default_rng(seed)
    drawn = np.lexsort((random.random(owner.shape[0]), owner))
    turn = np.empty(owner.shape[0], dtype=np.int64)
    turn[drawn] = np.arange(owner.shape[0]) - np.searchsorted(owner, owner)
    order: Ints = np.lexsort((random.random(owner.shape[0]), turn))
    return order
