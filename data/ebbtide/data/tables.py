"""Reads the named columns of a table file. What polars or the system cannot read becomes one `DataError`."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import polars as pl

from ebbtide.data.bad_rows import SHOWN_ROWS, BadRows, shown, value_at
from ebbtide.data.delimited import Ints, read_delimited, require_columns
from ebbtide.data.errors import DataError
from ebbtide.data.json_lines import read_json_lines
from ebbtide.data.text_files import read_utf8, read_utf8_pieces, refuse_binary, refuse_pointer

_FORMATS = "expected .parquet, .csv, .tsv, .jsonl or .ndjson, or a folder of Parquet files"
_STORE = (
    "expected an object store that this machine can read (S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION "
    "in the environment), or copy the file here"
)
_URL = re.compile(r"^[a-z][a-z0-9+]*://")
_EXACT = {"Float16": 2**11, "Float32": 2**24, "Float64": 2**53}
"""Above these a float type does not hold every whole number."""
_CALENDAR_MS = (-62_135_596_800_000, 253_402_300_799_999)
"""The years 1 to 9999."""
_PARQUET, _ENCRYPTED = b"PAR1", b"PARE"
_HEAD_BYTES = 64
_MESSAGE_CHARACTERS = 300
_SEPARATORS = {".csv": ",", ".tsv": "\t"}
PIECE_ROWS = 500_000
"""Rows of a piece of a Parquet file."""
PIECE_BYTES = 2**24
"""Bytes of a piece of a text file."""


@dataclass(frozen=True)
class Table:
    """Columns of a file, and where each row came from."""

    source: str
    """The file, for messages."""
    frame: pl.DataFrame
    """The named columns: text for CSV, TSV and JSON Lines; as they are typed for Parquet."""
    line: Ints
    """``[rows]``: line of a text file, or row of a Parquet file, from 1."""
    flaw: pl.Series
    """``[rows]``: null, or why the whole row cannot be used."""
    unit: str = "line"
    """What `line` counts: ``line``, or ``row`` for Parquet."""

    def error(self, column: str, row: int, expected: str) -> DataError:
        """The error of one value."""
        got = shown(value_at(self.frame[column], row))
        return DataError(
            f"{self.source}: {self.unit} {self.line[row]}, column {column}: got {got}; expected {expected}"
        )

    def type_error(self, column: str, expected: str) -> DataError:
        """The error of a column whose type cannot be used, with its first value."""
        values = self.frame[column].drop_nulls()
        first = f" with values such as {shown(value_at(values, 0))}" if len(values) else ""
        return DataError(f"{self.source}: column {column}: got the type {values.dtype}{first}; expected {expected}")

    def text(self, column: str, *, is_id: bool) -> pl.Series:
        """A column as text; NaN is null.

        Args:
            column: Its name.
            is_id: Refuse what is no id: lists, times, logical values. Otherwise lists are joined by commas.

        Raises:
            DataError: The column has another type, or an id has lost digits.
        """
        values = self.frame[column]
        kind = values.dtype
        expected = "text or whole numbers" if is_id else "text, numbers, dates or lists of them"
        if kind == pl.String:
            return values
        if kind.is_float():
            values = values.fill_nan(None)
            is_inexact = (values.abs().cast(pl.Float64) > _EXACT[str(kind)]).fill_null(False)
            if is_id and is_inexact.any():
                row = is_inexact.arg_max() or 0
                raise self.error(column, row, "ids as integers or text: a float this large has lost digits")
            return values.cast(pl.String)
        if (
            isinstance(kind, (pl.List, pl.Array))
            and not is_id
            and (kind.inner.is_numeric() or isinstance(kind.inner, (pl.String, pl.Boolean, pl.Categorical, pl.Enum)))
        ):
            return values.cast(pl.List(pl.String)).list.join(", ", ignore_nulls=True)
        is_text = kind.is_integer() or isinstance(kind, (pl.Categorical, pl.Enum, pl.Decimal, pl.Binary, pl.Null))
        if not is_text and (is_id or not isinstance(kind, (pl.Boolean, pl.Date, pl.Datetime, pl.Time))):
            raise self.type_error(column, expected)
        if isinstance(kind, (pl.Date, pl.Datetime)):
            in_calendar = values.dt.epoch("ms").is_between(*_CALENDAR_MS)
            if not in_calendar.all():
                raise self.error(column, in_calendar.arg_min() or 0, "a date between the years 1 and 9999")
        try:
            return values.cast(pl.String)
        except pl.exceptions.PolarsError:
            row = next(row for row, value in enumerate(values) if isinstance(value, bytes) and not _is_utf8(value))
            raise self.error(column, row, "text in UTF-8: cast the binary column") from None

    def add_bad(self, bad: BadRows, reason: str, rows: pl.Series, column: str | None = None, hint: str = "") -> None:
        """Adds the rows where ``rows`` is true to the bad ones, with their values of a column."""
        at = rows.arg_true()
        if not len(at):
            return
        bad.reasons[reason] = self.line[at.to_numpy()].tolist()
        bad.details[reason] = self.lines(at)
        if column is not None:
            bad.details[reason] = f"column {column}: {self.lines(at, column)}"
        if hint:
            bad.hints[reason] = hint

    def lines(self, at: pl.Series, column: str | None = None) -> str:
        """The first lines of some rows, as in ``line 3, 9, ...``; with a column each with its value, if any has one.

        Args:
            at: Row indices.
            column: Whose values to show.
        """
        first = at.head(SHOWN_ROWS)
        numbers = self.line[first.to_numpy()].tolist()
        more = ["..."] if len(at) > len(first) else []
        values = [None if column is None else value_at(self.frame[column], row) for row in first]
        if all(value is None for value in values):
            return f"{self.unit} " + ", ".join([*map(str, numbers), *more])
        pairs = (
            f"{self.unit} {number}" + ("" if value is None else f" {shown(value)}")
            for number, value in zip(numbers, values, strict=True)
        )
        return ", ".join([*pairs, *more])

    def add_flaws(self, bad: BadRows) -> pl.Series:
        """Adds the rows with a flaw to the bad ones; returns ``[rows]``, true for all other rows."""
        for reason in self.flaw.drop_nulls().unique(maintain_order=True):
            self.add_bad(bad, reason, (self.flaw == reason).fill_null(False))
        return self.flaw.is_null()

    def refuse_above(self, bad: BadRows, fraction: float) -> None:
        """Refuses the file if more than a share of its rows is bad.

        Raises:
            DataError: With every reason, the first lines and their values; or the share is not within 0 and 1.
        """
        refuse_too_many(self.source, bad, fraction)


def refuse_too_many(source: str | Path, bad: BadRows, fraction: float) -> None:
    """Refuses a file of which more than a share of the rows is bad.

    Raises:
        DataError: With every reason, the first lines and their values; or the share is not within 0 and 1.
    """
    if not 0 <= fraction <= 1:
        raise DataError(f"max_bad_rows: got {fraction}; expected a share from 0 to 1")
    if bad.count > fraction * bad.rows:
        raise DataError(f"{source}: {bad}. That is more than the {fraction:.1%} allowed (--max-bad-rows)")


def read_table(path: str | Path, columns: list[str], encoding: str | None = None) -> Table:
    """The named columns of a Parquet, CSV, TSV or JSON Lines file, or of a folder of Parquet files.

    Text files give text columns: what cannot be read as a number or a time is found later, row by row.

    Args:
        path: A file, a folder of Parquet files (hive partitions are columns), or the URL of Parquet files
            (``s3://bucket/log.parquet``), which polars reads.
        columns: Names; the file must have each of them once.
        encoding: Of a text file that is not UTF-8 and has no byte order mark.

    Raises:
        DataError: The file is missing, of another kind or damaged, or lacks a column.
    """
    if not isinstance(path, (str, Path)):
        raise DataError(
            f"table: got a {type(path).__name__}; expected the path of a file: write it first, as with write_parquet"
        )
    source = str(path)
    with one_error(source):
        lazy = _parquet(source)
        if lazy is not None:
            return _of_parquet(source, lazy, columns)
        file = Path(path)
        data = read_utf8(file, encoding)
        separator = _SEPARATORS.get(file.suffix.lower())
        if separator is None:
            return Table(source, *read_json_lines(file, data, columns))
        return Table(source, *read_delimited(file, data, columns, separator))


def column_types(path: str | Path) -> dict[str, pl.DataType] | None:
    """The columns of Parquet files with their types; None for a text file, whose columns are text.

    Raises:
        DataError: The file is missing, of another kind or damaged.
    """
    source = str(path)
    lazy = _parquet(source)
    with one_error(source):
        return None if lazy is None else dict(lazy.collect_schema())


def read_pieces(path: str | Path, columns: list[str], encoding: str | None = None) -> Iterator[Table]:
    """What `read_table` reads, in pieces that need little memory.

    Raises:
        DataError: As for `read_table`, at the piece that has the fault.
    """
    source = str(path)
    lazy = _parquet(source)
    if lazy is not None:
        for start in count(0, PIECE_ROWS):
            with one_error(source):
                table = _of_parquet(source, lazy.slice(start, PIECE_ROWS), columns, start)
            if table.frame.is_empty():
                return
            yield table
    file = Path(path)
    separator = _SEPARATORS.get(file.suffix.lower())
    header = b""
    with one_error(source):
        pieces = read_utf8_pieces(file, encoding, PIECE_BYTES, quotes=separator is not None)
    while True:
        with one_error(source):
            lines, data = next(pieces, (0, b""))
            if not data:
                return
            if separator is None:
                table = Table(source, *read_json_lines(file, data, columns, lines))
            else:
                header = header or data[: data.find(b"\n") + 1]
                # A header that is repeated stands for none of the lines.
                data, before = (header + data, lines - 1) if lines else (data, 0)
                table = Table(source, *read_delimited(file, data, columns, separator, before))
        yield table


@contextmanager
def one_error(source: str) -> Iterator[None]:
    """Turns what polars and the system raise into a `DataError` of one line."""
    try:
        with warnings.catch_warnings():
            # What polars warns of here (a region to guess, a schema to infer) is no news for the reader of a table.
            warnings.simplefilter("ignore")
            yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError, csv.Error) as error:
        text = " ".join(str(error).split())[:_MESSAGE_CHARACTERS]
        expected = _STORE if _URL.match(source) else _FORMATS
        raise DataError(f"{source}: cannot be read: {text}; {expected}") from error


def _parquet(source: str) -> pl.LazyFrame | None:
    """Parquet files; None for a text file that can be read.

    Raises:
        DataError: There is no such file, or one of another kind.
    """
    with one_error(source):
        if _URL.match(source):
            return _object_store(source)
        if not source:
            raise DataError("got an empty path; expected that of a table")
        file = Path(source)
        if file.is_dir():
            return _folder(file)
        if not file.exists():
            raise DataError(f"{file}: no such file")
        suffix = file.suffix.lower()
        if suffix not in {".parquet", ".jsonl", ".ndjson", *_SEPARATORS}:
            _refuse_type(file)
        refuse_pointer(file)
        if suffix == ".parquet":
            _refuse_other_than_parquet(file)
        return pl.scan_parquet(file, glob=False, hive_partitioning=False) if suffix == ".parquet" else None


def _refuse_type(file: Path) -> None:
    """Refuses a file whose name does not say what it is.

    Raises:
        DataError: With what its content is, where the first bytes tell.
    """
    if file.is_file():
        with file.open("rb") as opened:
            head = opened.read(_HEAD_BYTES)
        refuse_binary(file, head)
        suffix = file.suffix.lower()
        hint = ""
        if head.lstrip()[:1] == b"[":
            hint = ". It has one JSON list: write each object in a line of its own, into a .jsonl file"
        elif head.lstrip()[:1] == b"{":
            hint = ". If each line is a JSON object, name it .jsonl"
        elif suffix in {"", ".txt", ".dat", ".psv", ".tab", ".data"} and b"\0" not in head:
            hint = ". If it is a table of text, name it .csv or .tsv"
        raise DataError(f"{file}: got a file of type {suffix or '(no suffix)'}; {_FORMATS}{hint}")
    raise DataError(f"{file}: got no ordinary file; {_FORMATS}")


def _refuse_other_than_parquet(file: Path) -> None:
    """Refuses a file that is named .parquet and is none, or not whole.

    Raises:
        DataError: With what it is.
    """
    with file.open("rb") as opened:
        head = opened.read(_HEAD_BYTES)
        opened.seek(-min(len(_PARQUET), file.stat().st_size), 2)
        end = opened.read()
    if not head.startswith((_PARQUET, _ENCRYPTED)):
        refuse_binary(file, head)
        what = "other bytes" if b"\0" in head else f"text such as {shown(head[:40].decode(errors='replace'))}"
        raise DataError(
            f"{file}: got {what}; expected a Parquet file: name the file by its content, or download it again"
        )
    if end not in {_PARQUET, _ENCRYPTED}:
        raise DataError(f"{file}: got a Parquet file without its end; expected a whole one: write or download it again")


def _of_parquet(source: str, lazy: pl.LazyFrame, columns: list[str], rows_before: int = 0) -> Table:
    require_columns(source, columns, lazy.collect_schema().names())
    frame = lazy.select(columns).collect()
    no_flaw = pl.repeat(None, frame.height, dtype=pl.String, eager=True)
    return Table(source, frame, np.arange(1, frame.height + 1) + rows_before, no_flaw, "row")


def _folder(folder: Path) -> pl.LazyFrame:
    """All Parquet files of a folder; a hive partition is a text column, so that ids keep their leading zeros."""
    files = sorted(folder.glob("**/*.parquet"))
    if not files:
        raise DataError(f"{folder}: got a folder without .parquet files; expected a file, or a folder of Parquet files")
    for file in files:
        refuse_pointer(file)
    keys = {
        part.partition("=")[0]: pl.String
        for file in files
        for part in file.relative_to(folder).parts[:-1]
        if "=" in part
    }
    return pl.scan_parquet(files, glob=False, hive_partitioning=bool(keys), hive_schema=keys or None)


def _object_store(url: str) -> pl.LazyFrame:
    if not url.endswith((".parquet", "/")):
        raise DataError(
            f"{url}: got a URL; expected one of Parquet files, ending in .parquet or /: copy other files here"
        )
    return pl.scan_parquet(url)


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
