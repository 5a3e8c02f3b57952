"""Ids: which texts mean that an id is missing, and ids that differ only in how a program wrote them."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

_MISSING = r"(?i)^\s*(?:null|none|nan|\\n|<na>)?\s*$"
r"""Texts that stand for a missing id, in any letter case and with any spaces around: ``NULL``, ``None``, ``\N``."""


def is_missing(ids: pl.Series) -> pl.Series:
    """True where an id is null or a word that databases and data frames write for null."""
    return ids.str.contains(_MISSING).fill_null(True)


def near_id(unknown: pl.Series, known: Iterable[str]) -> tuple[str, str] | None:
    """An unknown id and a known one that are equal but for a ``.0``, leading zeros, spaces or letter case.

    Args:
        unknown: Ids that the catalog lacks.
        known: The catalog's ids.
    """
    pairs = (
        pl.DataFrame({"unknown": unknown.unique(maintain_order=True)})
        .with_columns(form=_form(pl.col("unknown")))
        .join(
            pl.DataFrame({"known": list(known)}, schema={"known": pl.String}).with_columns(form=_form(pl.col("known"))),
            on="form",
            maintain_order="left",
        )
    )
    return None if pairs.is_empty() else (pairs["unknown"][0], pairs["known"][0])


def _form(ids: pl.Expr) -> pl.Expr:
    return ids.str.strip_chars().str.to_lowercase().str.replace(r"^(\d+)\.0+$", "$1").str.replace(r"^0+([0-9])", "$1")
