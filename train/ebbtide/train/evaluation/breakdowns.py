"""NDCG@10 by what decay is about: the gap since the last event, the length of history, the age of the interest met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.data.baskets import Baskets, Ints
from ebbtide.data.events import EventLog
from ebbtide.interest.events import MS_PER_DAY
from ebbtide.train.evaluation.accuracy import user_means
from ebbtide.train.evaluation.intervals import Estimate, estimate
from ebbtide.train.evaluation.relevance import Relevance

Floats = npt.NDArray[np.float64]

_DAY_EDGES = (30 / 1440, 1.0, 7.0, 30.0, 180.0)
_DAY_LABELS = ("up to 30 min", "30 min to 1 day", "1 to 7 days", "7 to 30 days", "30 to 180 days", "over 180 days")
_EVENT_EDGES = (5.0, 20.0, 100.0, 500.0)
_EVENT_LABELS = ("1 to 5", "6 to 20", "21 to 100", "101 to 500", "over 500")
_PAST_EVENTS = 512
"""Past events that are searched for the matching interest, the newest ones."""
_MATCHED_BASKETS = 20_000
"""Baskets for which the age of the matching interest is found, drawn at random if there are more."""
_EQUAL_COSINE = 1e-5


@dataclass(frozen=True)
class Bin:
    """The baskets of one range."""

    label: str
    users: int
    baskets: int
    ndcg_at_10: Estimate
    """Mean within each user's baskets of the range, then over those users."""


@dataclass(frozen=True)
class Breakdown:
    """NDCG@10 over the ranges of one quantity."""

    name: str
    title: str
    quantity: str
    """What is measured, with its unit."""
    bins: list[Bin]
    """Without the empty ones."""


def gap_days(log: EventLog, baskets: Baskets) -> Floats:
    """Days from the user's last event to each basket, ``[baskets]``."""
    return np.asarray((log.time_ms[baskets.head] - log.time_ms[baskets.head - 1]) / MS_PER_DAY)


def history_events(log: EventLog, baskets: Baskets) -> Ints:
    """The user's events strictly before each basket, ``[baskets]``."""
    first = log.start[np.searchsorted(log.start, baskets.head, side="right") - 1]
    return np.asarray(baskets.head - first)


def interest_age_days(
    log: EventLog, baskets: Baskets, relevance: Relevance, text_vectors: npt.NDArray[np.float32], seed: int
) -> Floats:
    """How old the interest is that each basket met, in days, ``[baskets]``; NaN where it was not looked for.

    For each next item: the age of the past event, among the newest 512, whose item's text is most similar to it
    (cosine; the newest of equals, so a repeated item gives the time since its last event). A basket's age is
    the median over its items.

    Args:
        log: Events.
        baskets: The predicted baskets.
        relevance: Of the same.
        text_vectors: ``[items, width]``.
        seed: Draws the baskets that are looked at where there are more than 20,000.
    """
    norms = np.linalg.norm(text_vectors, axis=1, keepdims=True)
    unit = text_vectors / np.where(norms > 0, norms, 1)
    ages = np.full(len(baskets), np.nan)
    cases = np.arange(len(baskets))
    if len(baskets) > _MATCHED_BASKETS:
        cases = np.sort(np.random.default_rng(seed).choice(cases, _MATCHED_BASKETS, replace=False))
    length = np.minimum(history_events(log, baskets), _PAST_EVENTS)
    for case in cases.tolist():
        head = int(baskets.head[case])
        newest_first = np.arange(head - 1, head - 1 - int(length[case]), -1)
        targets = relevance.item[relevance.start[case] : relevance.start[case + 1]]
        cosine = unit[log.item[newest_first]] @ unit[targets].T
        match = np.argmax(cosine >= cosine.max(0) - _EQUAL_COSINE, axis=0)
        ages[case] = np.median(log.time_ms[head] - log.time_ms[newest_first[match]]) / MS_PER_DAY
    return ages


def breakdowns(
    log: EventLog,
    baskets: Baskets,
    owner: Ints,
    ndcg_at_10: Floats,
    age_days: Floats,
    seed: int,
) -> list[Breakdown]:
    """The three breakdowns.

    Args:
        log: Events.
        baskets: The predicted baskets.
        owner: ``[baskets]``, the user of each basket.
        ndcg_at_10: ``[baskets]``.
        age_days: ``[baskets]``, from `interest_age_days`.
        seed: Of the intervals.
    """
    quantities: list[tuple[str, str, str, Floats, Sequence[float], Sequence[str]]] = [
        (
            "gap",
            "By time since the last event",
            "time since the last event",
            gap_days(log, baskets),
            _DAY_EDGES,
            _DAY_LABELS,
        ),
        (
            *("history", "By length of history", "earlier events"),
            *(history_events(log, baskets).astype(np.float64), _EVENT_EDGES, _EVENT_LABELS),
        ),
        (
            "interest_age",
            "By age of the matching interest",
            "age of the matching interest",
            age_days,
            _DAY_EDGES,
            _DAY_LABELS,
        ),
    ]
    return [
        Breakdown(name, title, quantity, _bins(values, edges, labels, owner, ndcg_at_10, seed))
        for name, title, quantity, values, edges, labels in quantities
    ]


def _bins(
    values: Floats, edges: Sequence[float], labels: Sequence[str], owner: Ints, ndcg_at_10: Floats, seed: int
) -> list[Bin]:
    """One for each range with a basket; a value on an edge belongs to the range below."""
    index = np.where(np.isnan(values), -1, np.searchsorted(np.asarray(edges), values, side="left"))
    found = []
    for which, label in enumerate(labels):
        inside = index == which
        if inside.any():
            means = user_means(owner[inside], ndcg_at_10[inside])
            found.append(Bin(label, means.shape[0], int(inside.sum()), estimate(means, seed)))
    return found
