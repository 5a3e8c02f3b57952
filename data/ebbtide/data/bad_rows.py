"""Rows that are ignored: counted by reason, and shown with line, column and value."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import polars as pl

SHOWN_ROWS = 10
_SHOWN_CHARACTERS = 60
_YEAR_MS = 31_557_600_000


def value_at(values: pl.Series, row: int) -> object:
    """A value of a column for a message; a date that no calendar has is given by its year."""
    if isinstance(values.dtype, (pl.Date, pl.Datetime)):
        ms = values.slice(row, 1).dt.epoch("ms")[0]
        try:
            return None if ms is None else datetime(1970, 1, 1) + timedelta(milliseconds=ms)
        except OverflowError:
            return f"the year {1970 + ms / _YEAR_MS:.0f}"
    if isinstance(values.dtype, pl.Duration):
        return values.slice(row, 1).to_physical()[0]
    value = values[row]
    return value.to_list() if isinstance(value, pl.Series) else value


def shown(value: object) -> str:
    """A value as messages show it: quoted, without line ends, and cut when it is long."""
    if isinstance(value, bytes):
        return str(value[:_SHOWN_CHARACTERS])
    text = str(value)
    quoted = repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "...")
    # A backslash as the file has it, so that \N can be searched for.
    return quoted.replace("\\\\", "\\")


@dataclass
class BadRows:
    """Ignored rows by reason, and what else the reader should tell."""

    rows: int
    """Number of rows read."""
    reasons: dict[str, list[int]] = field(default_factory=dict)
    """Line numbers by reason; the first line of a text file and the first row of a Parquet file are 1."""
    details: dict[str, str] = field(default_factory=dict)
    """The first lines by reason, with column and value where one column is at fault."""
    hints: dict[str, str] = field(default_factory=dict)
    """What to do, by reason."""
    notes: list[str] = field(default_factory=list)
    """Findings about rows that are kept, such as duplicates."""

    @property
    def count(self) -> int:
        """Number of bad rows."""
        return sum(len(lines) for lines in self.reasons.values())

    def extend(self, later: BadRows) -> None:
        """Adds the rows of a later piece of the same file."""
        self.rows += later.rows
        for reason, lines in later.reasons.items():
            self.reasons.setdefault(reason, []).extend(lines)
            self.details.setdefault(reason, later.details[reason])
            if reason in later.hints:
                self.hints.setdefault(reason, later.hints[reason])
        self.notes += later.notes

    def __str__(self) -> str:
        if not self.count:
            return f"{self.rows:,} rows, none bad"
        parts = []
        for reason, lines in self.reasons.items():
            hint = f"; {self.hints[reason]}" if reason in self.hints else ""
            parts.append(f"{len(lines):,} with {reason} ({self.details[reason]}){hint}")
        return f"{self.count:,} of {self.rows:,} rows ignored: " + "; ".join(parts)

    @property
    def messages(self) -> list[str]:
        """What a display prints: the ignored rows if there are any, then the notes."""
        return ([str(self)] if self.count else []) + self.notes
