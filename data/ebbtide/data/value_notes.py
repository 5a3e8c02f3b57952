"""Findings about values that are read as they stand but look like a fault of the program that wrote them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import polars as pl

from ebbtide.data.bad_rows import BadRows, shown
from ebbtide.data.ids import is_missing, near_twins
from ebbtide.data.tables import Table

_LOST = "\ufffd"
"""What a program writes for a character that it could not read."""


def note_lost_characters(table: Table, column: str, values: pl.Series, usable: pl.Series, bad: BadRows) -> None:
    """Tells of values that lost a character before they were written to the file.

    Args:
        table: Of the column.
        column: Its name.
        values: ``[rows]``, text.
        usable: ``[rows]``.
        bad: Gets the note.
    """
    lost = (values.str.contains(_LOST, literal=True).fill_null(False) & usable).arg_true()
    if len(lost):
        bad.notes.append(
            f"{len(lost):,} values of column {column} have U+FFFD for a character that was lost before "
            f"({table.lines(lost, column)}): export the column again"
        )


def decimal_comma_hint(value: str) -> str:
    """What to do about a number such as ``259,62`` or ``1.149,05``; empty for other texts."""
    is_number = re.fullmatch(r"-?[\d.' ]*\d,\d+", value.strip()) is not None
    return "write a point in place of the decimal comma, and none between thousands" if is_number else ""


def note_twins(column: str, ids: pl.Series, bad: BadRows, kind: str = "ids") -> None:
    """Tells of values of one column that differ only in spaces, letter case, Unicode form, leading zeros or a ``.0``.

    Args:
        column: Its name.
        ids: Its values, text.
        bad: Gets the note.
        kind: What the values are.
    """
    twins = near_twins(ids)
    if not twins.is_empty():
        first, second = (ascii(one) for one in twins.row(0))
        bad.notes.append(
            f"{twins.height:,} {kind} of column {column} look like another one, such as {second} like {first}: if they "
            "are the same, write them as the same text"
        )


def note_texts(table: Table, texts: pl.DataFrame, usable: pl.Series, bad: BadRows) -> None:
    """Tells of words for null and lost characters in the columns of a template.

    Args:
        table: Of the columns.
        texts: The columns, text.
        usable: ``[rows]``.
        bad: Gets the notes.
    """
    for values in texts:
        words = (is_missing(values) & values.str.contains(r"\w").fill_null(False) & usable).arg_true()
        if len(words):
            bad.notes.append(
                f"{len(words):,} values of column {values.name} are a word for a missing value, such as "
                f"{shown(values[words[0]])} ({table.lines(words)}): they are part of the texts; leave them empty"
            )
        note_lost_characters(table, values.name, values, usable, bad)


def note_script(texts: Sequence[str], bad: BadRows) -> None:
    """Tells of a catalog that an encoder of English cannot read: most of its texts are mostly in another script.

    Other languages in Latin letters, and titles in two scripts, are not told: how well they are read is not seen here.

    Args:
        texts: ``[items]``, as the encoder gets them.
        bad: Gets the note.
    """
    values = pl.Series(texts, dtype=pl.String)
    letters = values.str.count_matches(r"\p{L}")
    other = (values.str.count_matches(r"\p{Latin}") * 2 < letters).arg_true()
    if len(other) * 2 > (letters > 0).sum():
        bad.notes.append(
            f"{len(other):,} of {len(values):,} texts are not in Latin letters, such as {shown(values[other[0]])}: the "
            "packaged encoder reads English; name a multilingual one with --encoder"
        )
