"""Ids: which texts mean that an id is missing, and ids that differ only in how a program wrote them."""

from __future__ import annotations

from collections.abc import Iterable

import polars as pl

_SPACE = r"[\s\u200b-\u200d\u2060\ufeff]*"
_WORDS = r"null|none|nan|nat|nil|undefined|\\n|n/a|<na>|<null>|\(null\)|\[null\]|\"\"|''"
_SPREADSHEET = r"#(?:n/a|ref!|value!|name\?|null!|num!|div/0!)"
_MISSING = rf"(?i)^{_SPACE}(?:{_WORDS}|{_SPREADSHEET})?{_SPACE}$"
r"""Texts that stand for a missing id, in any letter case, with any spaces around: ``NULL``, ``\N``, ``#REF!``. ``NA``
is none of them: it is a code of its own in many lists."""
_ROUNDED = r"^\d[.,]\d+[eE]\+\d\d+$"
"""A long number as a spreadsheet writes it: 4006381333931 becomes 4.00638E+12, as do its neighbours."""

ROUNDED_ID = "an id that has lost its last digits in a spreadsheet"
"""Why a row with such an id is bad."""


def is_missing(ids: pl.Series) -> pl.Series:
    """True where an id is null or a word that databases and data frames write for null."""
    return ids.str.contains(_MISSING).fill_null(True)


def is_rounded(ids: pl.Series) -> pl.Series:
    """True where an id has lost digits in a spreadsheet."""
    return ids.str.contains(_ROUNDED).fill_null(False)


def near_id(unknown: pl.Series, known: Iterable[str]) -> tuple[str, str] | None:
    """An unknown id and a known one that are equal but for a ``.0``, leading zeros, spaces, case or Unicode form.

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


def near_twins(ids: pl.Series) -> pl.DataFrame:
    """Ids that are equal but for a ``.0``, leading zeros, spaces, case or Unicode form: one row for each later id.

    Args:
        ids: Of one column.

    Returns:
        Columns ``first``, the id of this form that comes first, and ``other``.
    """
    forms = pl.DataFrame({"other": ids.unique(maintain_order=True)}).with_columns(form=_form(pl.col("other")))
    first = pl.col("other").first().over("form")
    return forms.select(first.alias("first"), "other").filter(pl.col("first") != pl.col("other"))


def _form(ids: pl.Expr) -> pl.Expr:
    return (
        ids.str.normalize("NFKC")
        .str.replace_all("[\u200b-\u200d\u2060\ufeff]", "")
        .str.strip_chars()
        .str.to_lowercase()
        .str.replace(r"^(\d+)\.0+$", "$1")
        .str.replace(r"^0+([0-9])", "$1")
    )
