"""Groups of items and of users: tiers of popularity and activity, and the values of any attribute.

Whoever has no value is in a group of their own, which is neither protected nor unprotected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from ebbtide.data.baskets import Ints
from ebbtide.data.errors import DataError
from ebbtide.train.evaluation.segments import MOST_SEGMENTS, OTHER

Floats = npt.NDArray[np.float64]

MISSING = "(missing)"
"""Label of the group without a value."""
HEAD, MIDDLE, TAIL, NEW, KNOWN = "head", "middle", "tail", "new", "in training"
POPULARITY, ACTIVITY, NEWNESS = "popularity", "activity", "newness"
"""Names of the groups that need no attribute."""
_HEAD_SHARE, _TAIL_SHARE = 0.2, 0.8
_ACTIVITY_TIERS = 3
_SHOWN = 5


@dataclass(frozen=True)
class Groups:
    """A partition of items or of users."""

    name: str
    """Of the attribute."""
    title: str
    labels: tuple[str, ...]
    weight: Floats
    """``[members, groups]``: how much of each item or user is in each group; a row sums to 1."""
    is_contrast: bool = False
    """Whether the first two groups are the protected and the unprotected one."""


def popularity_tiers(training_events: Ints) -> Groups:
    """Head, middle, tail and new items.

    The head is the most popular items that have 20 % of the training events together, the tail the least popular ones
    with the last 20 % (Abdollahpouri et al., RecSys 2020, "The connection between popularity bias, calibration, and
    fairness in recommendation", section 3). Items with equal counts are in one tier. New items have no training event.

    Args:
        training_events: ``[items]``.
    """
    counts, which, members = np.unique(training_events, return_inverse=True, return_counts=True)
    events = counts * members
    # The share of the events that items with more events have.
    above = 1 - np.cumsum(events) / max(int(events.sum()), 1)
    tier = np.where(above < _HEAD_SHARE, 0, np.where(above < _TAIL_SHARE, 1, 2))
    tier[counts == 0] = 3
    labels = (HEAD, MIDDLE, TAIL, NEW)
    return _one_each(POPULARITY, "Items by popularity", [labels[index] for index in tier[which]], labels)


def activity_tiers(events: Ints, is_tested: npt.NDArray[np.bool_]) -> Groups:
    """Thirds of the tested users by their events.

    Args:
        events: ``[users]``, of the whole log: most tested users may be new to the training.
        is_tested: ``[users]``, those whose lists are audited. Users with equal counts are in one third.
    """
    cuts = np.quantile(events[is_tested], np.arange(1, _ACTIVITY_TIERS) / _ACTIVITY_TIERS, method="lower")
    edges = np.unique(cuts.astype(np.int64))
    tier = np.searchsorted(edges, events, side="left")
    lows = [1, *(int(edge) + 1 for edge in edges)]
    labels = [f"{low:,} to {int(edge):,} events" for low, edge in zip(lows, edges, strict=False)]
    labels.append(f"{lows[-1]:,} events or more")
    return _one_each(ACTIVITY, "Users by activity", [labels[index] for index in tier], labels)


def newness(training_events: Ints) -> Groups:
    """Users without a training event, and the others.

    Args:
        training_events: ``[users]``.
    """
    labels = (NEW, KNOWN)
    return _one_each(NEWNESS, "New users", [labels[int(count > 0)] for count in training_events], labels)


def by_value(
    name: str, title: str, values: pl.DataFrame, ids: Sequence[str], importance: npt.NDArray[np.int64]
) -> Groups:
    """Groups by the values of an attribute; whoever has several values is in each of them in equal parts.

    Args:
        name: Of the attribute.
        title: For people.
        values: Columns ``id`` and ``value``, one row for each value of an item or user.
        ids: ``[members]``.
        importance: ``[members]``: the 20 values with the most of it are groups, the others are one together.

    Raises:
        DataError: Nobody has a value.
    """
    member, value = _pairs(name, values, ids)
    labels, which = np.unique(value, return_inverse=True)
    part = 1.0 / np.bincount(member, minlength=len(ids))[member]
    total = np.bincount(which, weights=part * importance[member])
    order = np.lexsort((labels, -total))
    column = np.empty(len(labels), dtype=np.int64)
    column[order] = np.minimum(np.arange(len(labels)), MOST_SEGMENTS)
    shown = [*labels[order[:MOST_SEGMENTS]].tolist(), *([OTHER] if len(labels) > MOST_SEGMENTS else []), MISSING]
    weight = np.zeros((len(ids), len(shown)))
    np.add.at(weight, (member, column[which]), part)
    weight[:, -1] = weight.sum(1) == 0
    return _without_empty(Groups(name, title, tuple(shown), weight))


def contrast(name: str, title: str, values: pl.DataFrame, ids: Sequence[str], protected: str) -> Groups:
    """The protected group (whoever has the value), the unprotected one (only other values) and those without a value.

    Args:
        name: Of the attribute.
        title: For people.
        values: As for `by_value`.
        ids: ``[members]``.
        protected: The value.

    Raises:
        DataError: Nobody has the value, or nobody has another one.
    """
    member, value = _pairs(name, values, ids)
    with_value, with_any = np.zeros(len(ids), dtype=np.bool_), np.zeros(len(ids), dtype=np.bool_)
    with_value[member[value == protected]] = True
    with_any[member] = True
    if not with_value.any():
        seen = ", ".join(map(repr, np.unique(value)[:_SHOWN].tolist()))
        raise DataError(f"protected: got {name}={protected}, which nobody has; expected a value such as {seen}")
    if (with_value == with_any).all():
        raise DataError(f"protected: got {name}={protected}, which all have; expected a value that only some have")
    weight = np.stack([with_value, with_any & ~with_value, ~with_any], axis=1).astype(np.float64)
    groups = Groups(f"{name}={protected}", title, (protected, f"not {protected}", MISSING), weight, is_contrast=True)
    return _without_empty(groups)


def values_of(groups: Groups, ids: Sequence[str]) -> pl.DataFrame:
    """Groups of one label for each member as values, so that a tier can be protected like the value of an attribute."""
    labels = np.asarray(groups.labels, dtype=np.object_)[groups.weight.argmax(1)]
    return pl.DataFrame({"id": list(ids), "value": pl.Series(labels.tolist(), dtype=pl.String)})


def _pairs(name: str, values: pl.DataFrame, ids: Sequence[str]) -> tuple[Ints, npt.NDArray[np.str_]]:
    """Index and value of each pair that belongs to somebody."""
    index = pl.DataFrame({"id": list(ids), "member": np.arange(len(ids))}, schema_overrides={"id": pl.String})
    known = values.select("id", "value").unique(maintain_order=True).join(index, on="id")
    if known.is_empty():
        raise DataError(
            f"column {name!r}: got no value for any of the {len(ids):,} ids such as "
            f"{', '.join(map(repr, ids[:_SHOWN]))}; expected some"
        )
    return known["member"].to_numpy(), known["value"].to_numpy().astype(str)


def _one_each(name: str, title: str, label: Sequence[str], labels: Sequence[str]) -> Groups:
    column = {one: index for index, one in enumerate(labels)}
    weight = np.zeros((len(label), len(labels)))
    weight[np.arange(len(label)), [column[one] for one in label]] = 1
    return _without_empty(Groups(name, title, tuple(labels), weight))


def _without_empty(groups: Groups) -> Groups:
    """Without the groups that nobody is in."""
    kept = np.flatnonzero(groups.weight.any(0))
    labels = tuple(groups.labels[index] for index in kept)
    return Groups(groups.name, groups.title, labels, groups.weight[:, kept], groups.is_contrast)
