"""What every reader of a public data set offers and hands over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import polars as pl

from ebbtide.data.prepare.folder import SourceFolder


@dataclass(frozen=True)
class Frames:
    """A data set in the common form, not yet computed."""

    events: pl.LazyFrame
    """``user`` and ``item`` (any type that becomes text), ``time`` (date-time, UTC), ``left_out`` (text; null for an
    event, else why the row is none), and for some formats ``weight`` (number)."""
    items: pl.LazyFrame
    """``item``, ``title``, ``text``, and attributes under the names of the source. The first row of an item counts."""
    keep_items_without_events: bool = True
    """False where an item without events has no text that could recommend it."""
    notes: tuple[str, ...] = ()
    """What a user should know about this copy of the data."""


@dataclass(frozen=True)
class Source:
    """A public data set."""

    name: str
    """As on the command line."""
    title: str
    page: str
    """Where its owner offers it."""
    read: Callable[[SourceFolder], Frames]


def one_row_each(values: pl.Expr) -> pl.Expr:
    """Lists whose empty ones are null, so that `explode` makes one row with null of them in every version of polars."""
    return pl.when(values.list.len() > 0).then(values)


def left_out(reasons: Mapping[str, pl.Expr]) -> pl.Expr:
    """The column ``left_out``: the first reason that holds, null where none does.

    Args:
        reasons: Condition (bool) by reason, in the order in which they are tried. A reason reads on from a number.
    """
    texts = [pl.when(condition.fill_null(False)).then(pl.lit(reason)) for reason, condition in reasons.items()]
    return pl.coalesce(*texts, pl.lit(None, dtype=pl.String)).alias("left_out")
