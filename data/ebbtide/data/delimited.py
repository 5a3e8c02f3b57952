"""CSV and TSV: rows with their line numbers. Rows with too many or too few fields are found before polars reads."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ebbtide.data.errors import DataError, MissingColumnError

Ints = npt.NDArray[np.int64]

_NEWLINE, _QUOTE, _RETURN = b'\n"\r'
_SEPARATORS = (",", "\t", ";", "|")
_HEAD_LINES = 20


@dataclass(frozen=True)
class _Records:
    """The records of a file, the header included; a quoted field may hold line ends."""

    line: Ints
    """``[records]``: the line on which each begins, from 1."""
    fields: Ints
    """``[records]``: how many fields each has; 0 for a blank line."""


def read_delimited(
    path: Path, data: bytes, columns: list[str], default_separator: str, lines_before: int = 0
) -> tuple[pl.DataFrame, Ints, pl.Series]:
    """The named columns as text, the line of each row, and its flaw: null, or what is wrong with its fields.

    Args:
        path: For messages.
        data: UTF-8.
        columns: Names that the header must have, each once.
        default_separator: Of this kind of file; another common one is used where it gives more of the columns.
        lines_before: Lines of the file between its header and the rows of `data`, which has the header too.

    Raises:
        DataError: No such column, or quotes that do not close.
    """
    if b"\n" not in data:
        # Line ends of old Macs.
        data = data.replace(b"\r", b"\n")
    header_end = data.find(b"\n")
    header_line = data[: header_end if header_end >= 0 else len(data)].decode().rstrip("\r")
    separator = max(
        sorted(_SEPARATORS, key=lambda one: one != default_separator),
        key=lambda one: _fit(columns, _split(header_line, one)),
    )
    header = _split(header_line, separator)
    if not set(columns) & set(header):
        _refuse_first_line(path, data, columns, header)
    require_columns(path, columns, header)
    is_quoted = _has_sound_quotes(path, data, ord(separator), header, lines_before)
    records = _records(data, ord(separator), is_quoted)
    wanted = [header.index(name) for name in columns]
    table = pl.read_csv(
        data,
        separator=separator,
        quote_char='"' if is_quoted else None,
        columns=sorted(wanted),
        infer_schema=False,
        truncate_ragged_lines=True,
    )
    if table.height != len(records.line) - 1:
        raise DataError(
            f"{path}: got {len(records.line) - 1:,} rows by its line ends, but {table.height:,} when read; expected "
            "one row per line, with line ends of one kind"
        )
    table.columns = [header[index] for index in sorted(wanted)]
    line, fields = records.line[1:] + lines_before, records.fields[1:]
    kept = fields > 0
    counts = pl.DataFrame({"fields": fields[kept]})
    flaw = counts.select(
        pl.when(pl.col("fields") > len(header))
        .then(pl.lit("more fields than the header"))
        .when(pl.col("fields") < len(header))
        .then(pl.lit("fewer fields than the header"))
    ).to_series()
    return table.select(columns).filter(pl.Series(kept)), line[kept], flaw


def _fit(columns: list[str], header: list[str]) -> tuple[int, int]:
    """How well a header has the named columns: how many of them; without any, how many columns there are."""
    named = len(set(columns) & set(header))
    return named, 0 if named else len(header)


def require_columns(path: Path | str, columns: list[str], found: list[str]) -> None:
    """Refuses a table without one of the columns, or with two of the name.

    Raises:
        DataError: With the columns that there are.
    """
    for name in columns:
        if name not in found:
            near = next((other for other in found if other.strip().casefold() == name.strip().casefold()), None)
            hint = "" if near is None else f". Did you mean {near!r}?"
            raise MissingColumnError(f"{path}: no column {name!r}; the file has {', '.join(found)}{hint}", name)
        if found.count(name) > 1:
            raise DataError(f"{path}: got {found.count(name)} columns named {name!r}; expected one: rename the others")


def _refuse_first_line(path: Path, data: bytes, columns: list[str], header: list[str]) -> None:
    """Refuses a file whose header is not its first line, or that has none.

    Raises:
        DataError: A later line has the columns, or the first one has values in place of names.
    """
    lines = data.split(b"\n", _HEAD_LINES)[:_HEAD_LINES]
    for number, line in enumerate(lines[1:], start=2):
        names = line.decode(errors="replace").rstrip("\r")
        if any(set(columns) <= set(_split(names, separator)) for separator in _SEPARATORS):
            raise DataError(
                f"{path}: got the column names in line {number}; expected them in line 1: remove the lines above"
            )
    if any(_is_number(name) for name in header):
        raise DataError(
            f"{path}: got values in line 1 ({', '.join(header)}); expected the names of the columns, with "
            f"{', '.join(columns)} among them: add a first line with them"
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _split(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator), [])


def _has_sound_quotes(path: Path, data: bytes, separator: int, header: list[str], lines_before: int) -> bool:
    """True if quotes enclose fields, as RFC 4180 has it; False if they are ordinary characters, as in ``27" screen``.

    Raises:
        DataError: Some fields begin with a quote, but the quotes do not match.
    """
    if b'"' not in data:
        return False
    bytes_ = np.frombuffer(data, dtype=np.uint8)
    at = np.flatnonzero(bytes_ == _QUOTE)
    before = np.where(at > 0, bytes_[at - 1], _NEWLINE)
    after = np.where(at + 1 < len(bytes_), bytes_[np.minimum(at + 1, len(bytes_) - 1)], _NEWLINE)
    begins_field = (before == separator) | (before == _NEWLINE)
    ends_field = (after == separator) | (after == _NEWLINE) | (after == _RETURN)
    is_opening = np.arange(len(at)) % 2 == 0
    # Inside a quoted field a quote is written twice: the first of the two closes, the second opens again.
    doubled = np.diff(at) == 1
    sound = np.where(is_opening, begins_field | np.append(False, doubled), ends_field | np.append(doubled, False))
    if sound.all() and len(at) % 2 == 0:
        return True
    if not begins_field.any():
        return False
    position = int(at[np.argmin(sound)] if not sound.all() else at[-1])
    begin = data.rfind(b"\n", 0, position) + 1
    column = data.count(bytes([separator]), begin, position)
    name = f", column {header[column]}" if column < len(header) else ""
    text = data[begin:].split(b"\n", 1)[0].decode()
    line = data.count(bytes([_NEWLINE]), 0, position) + 1 + lines_before
    raise DataError(
        f"{path}: line {line}{name}: got a quote that does not enclose a "
        f"whole field, in {text[:60]!r}; expected quotes around the field and each quote inside it twice, as in "
        '"27"" screen"'
    )


def _records(data: bytes, separator: int, is_quoted: bool) -> _Records:
    bytes_ = np.frombuffer(data, dtype=np.uint8)
    newlines = np.flatnonzero(bytes_ == _NEWLINE)
    ends, separators = newlines, np.flatnonzero(bytes_ == separator)
    if is_quoted:
        quotes = np.flatnonzero(bytes_ == _QUOTE)
        ends = ends[np.searchsorted(quotes, ends) % 2 == 0]
        separators = separators[np.searchsorted(quotes, separators) % 2 == 0]
    if not len(ends) or ends[-1] != len(data) - 1:
        ends = np.append(ends, len(data))
    starts = np.append(0, ends[:-1] + 1)
    width = ends - starts
    is_blank = (width == 0) | ((width == 1) & (bytes_[np.minimum(starts, len(data) - 1)] == _RETURN))
    fields = np.diff(np.searchsorted(separators, ends), prepend=0) + 1
    return _Records(np.searchsorted(newlines, starts) + 1, np.where(is_blank, 0, fields))
