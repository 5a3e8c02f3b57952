"""Reads an event log from a file with any column names; every row that is ignored is counted and reported."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict

from ebbtide.data.errors import DataError

SECONDS_BELOW = 100_000_000_000
"""Numeric times below this are Unix seconds, others milliseconds: 1e11 s is the year 5138, 1e11 ms is 1973."""
_SHOWN_ROWS = 10


class EventColumns(BaseModel):
    """Names of the columns that are read; other columns are ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str = "user"
    item: str = "item"
    time: str = "time"
    """Unix seconds or milliseconds, a date-time, or ISO 8601 text (UTC where it names no zone)."""
    weight: str | None = None
    """Rating, quantity or dwell time; None gives every event weight 1."""


@dataclass
class BadRows:
    """Ignored rows, by reason."""

    rows: int
    """Number of rows read."""
    reasons: dict[str, list[int]] = field(default_factory=dict)
    """Line numbers by reason; the first line of a text file and the first row of a Parquet file are 1."""

    @property
    def count(self) -> int:
        """Number of bad rows."""
        return sum(len(lines) for lines in self.reasons.values())

    def __str__(self) -> str:
        if not self.count:
            return f"{self.rows:,} rows, none bad"
        parts = []
        for reason, lines in self.reasons.items():
            shown = ", ".join(str(line) for line in lines[:_SHOWN_ROWS])
            more = ", ..." if len(lines) > _SHOWN_ROWS else ""
            parts.append(f"{len(lines):,} with {reason} (line {shown}{more})")
        return f"{self.count:,} of {self.rows:,} rows ignored: " + "; ".join(parts)

    def refuse_above(self, fraction: float, source: Path) -> None:
        """Refuses the file if more than a share of its rows is bad.

        Raises:
            DataError: With every reason and the first lines.
        """
        if self.count > fraction * self.rows:
            raise DataError(f"{source}: {self}. That is more than the {fraction:.1%} allowed (--max-bad-rows)")


@dataclass(frozen=True)
class EventLog:
    """Events of all users, sorted by user and time; events at one time keep the order of the file."""

    users: list[str]
    """User ids, ``[users]``."""
    start: npt.NDArray[np.int64]
    """``[users + 1]``: the events of user u are ``start[u]`` up to ``start[u + 1]``."""
    item: npt.NDArray[np.int64]
    """``[events]``: catalog indices."""
    time_ms: npt.NDArray[np.int64]
    """``[events]``: Unix milliseconds, UTC."""
    weight: npt.NDArray[np.float32]
    """``[events]``: 1 where the log has no weight column."""

    @property
    def events(self) -> int:
        """Number of events, `n`."""
        return self.item.shape[0]

    @property
    def user(self) -> npt.NDArray[np.int64]:
        """``[events]``: index of each event's user."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.start))

    def of_user(self, user_id: str) -> slice:
        """The slice of one user's events.

        Raises:
            DataError: No such user.
        """
        try:
            index = self.users.index(user_id)
        except ValueError:
            raise DataError(f"user: got {user_id!r}; expected one of the log's {len(self.users):,} users") from None
        return slice(int(self.start[index]), int(self.start[index + 1]))


def read_table(path: Path, columns: list[str]) -> tuple[pl.DataFrame, int]:
    """The named columns of a Parquet, CSV, TSV or JSON Lines file, and the line number of the first row.

    Text files give text columns: what cannot be read as a number or a time is found later, row by row.

    Raises:
        DataError: The file is missing, of another kind, or lacks a column.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    suffix = path.suffix.lower()
    first_line = 1
    if suffix == ".parquet":
        frame = pl.read_parquet(path)
    elif suffix in {".csv", ".tsv"}:
        separator = "\t" if suffix == ".tsv" else ","
        frame = pl.read_csv(path, separator=separator, infer_schema=False, truncate_ragged_lines=True)
        first_line = 2
    elif suffix in {".jsonl", ".ndjson"}:
        frame = _read_json_lines(path, columns)
    else:
        raise DataError(
            f"{path}: got a file of type {suffix or '(no suffix)'}; expected .parquet, .csv, .tsv, .jsonl or .ndjson"
        )
    missing = [name for name in columns if name not in frame.columns]
    if missing:
        raise DataError(f"{path}: no column {missing[0]!r}; the file has {', '.join(frame.columns)}")
    return frame.select(columns), first_line


def _read_json_lines(path: Path, columns: list[str]) -> pl.DataFrame:
    """The columns as text; a line that is not a JSON object gives nulls, which the checks count as bad."""
    values: dict[str, list[str | None]] = {name: [] for name in columns}
    found: set[str] = set()
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                row = None
            if not isinstance(row, dict):
                row = {}
            found.update(row)
            for name in columns:
                value = row.get(name)
                values[name].append(None if value is None else str(value))
    absent = [name for name in columns if name not in found]
    if absent:
        raise DataError(f"{path}: no line has the key {absent[0]!r}; keys seen: {', '.join(sorted(found)) or 'none'}")
    return pl.DataFrame(values, schema=dict.fromkeys(columns, pl.String))


def read_events(
    path: Path, columns: EventColumns, item_index: dict[str, int] | None = None, max_bad_rows: float = 0.01
) -> tuple[pl.DataFrame, BadRows]:
    """The usable events of a file, in the order of the file.

    Args:
        path: Parquet, CSV, TSV or JSON Lines.
        columns: Which columns to read.
        item_index: Catalog index by item id; events of other items are bad rows. None accepts every item.
        max_bad_rows: Refuse the file when more than this share of its rows is bad.

    Returns:
        A frame with ``user`` and ``item`` (text), ``time_ms`` (int64) and ``weight`` (float32), and what was left out.

    Raises:
        DataError: Unreadable file, missing column, or too many bad rows.
    """
    names = [columns.user, columns.item, columns.time] + ([columns.weight] if columns.weight else [])
    table, first_line = read_table(path, names)
    frame = table.select(
        user=pl.col(columns.user).cast(pl.String),
        item=pl.col(columns.item).cast(pl.String),
        time_ms=_time_ms(table[columns.time]),
        weight=pl.col(columns.weight).cast(pl.Float32, strict=False) if columns.weight else pl.lit(1.0, pl.Float32),
    ).with_row_index("line", offset=first_line)
    known = pl.lit(True) if item_index is None else pl.col("item").is_in(list(item_index))
    reason = (
        pl.when(pl.col("user").is_null() | (pl.col("user") == ""))
        .then(pl.lit("no user"))
        .when(pl.col("item").is_null() | (pl.col("item") == ""))
        .then(pl.lit("no item"))
        .when(pl.col("time_ms").is_null())
        .then(pl.lit("an unreadable time"))
        .when(pl.col("time_ms") < 0)
        .then(pl.lit("a time before 1970"))
        .when(pl.col("weight").is_null() | ~pl.col("weight").is_finite() | (pl.col("weight") < 0))
        .then(pl.lit("a weight that is not a finite number of 0 or more"))
        .when(~known)
        .then(pl.lit("an item that is not in the catalog"))
    )
    frame = frame.with_columns(reason=reason)
    bad = BadRows(rows=frame.height)
    for row_reason, group in frame.filter(pl.col("reason").is_not_null()).group_by("reason", maintain_order=True):
        bad.reasons[str(row_reason[0])] = group["line"].to_list()
    bad.refuse_above(max_bad_rows, path)
    usable = frame.filter(pl.col("reason").is_null()).drop("reason", "line")
    if usable.is_empty():
        raise DataError(f"{path}: no usable event ({bad})")
    return usable, bad


def _time_ms(times: pl.Series) -> pl.Series:
    """Unix milliseconds; null where a time cannot be read. A numeric column has one unit, seconds or milliseconds."""
    if times.dtype in (pl.Date, pl.Datetime) or isinstance(times.dtype, pl.Datetime):
        return times.cast(pl.Datetime("ms")).dt.epoch("ms")
    numbers = times.cast(pl.Float64, strict=False)
    if numbers.null_count() < len(times):
        numbers = numbers.set(~numbers.is_finite().fill_null(False), None)
        median = numbers.abs().median()
        in_seconds = isinstance(median, float) and median < SECONDS_BELOW
        return (numbers * (1000 if in_seconds else 1)).round(0).cast(pl.Int64, strict=False)
    return times.cast(pl.String).str.to_datetime(strict=False, time_unit="ms", time_zone="UTC").dt.epoch("ms")


def build_log(frame: pl.DataFrame, item_index: dict[str, int]) -> EventLog:
    """Sorts events by user, then time, then row of the file: a total, stable order.

    Args:
        frame: From `read_events`.
        item_index: Item id to catalog index, for every item of the frame.
    """
    ordered = frame.with_row_index("row").sort("user", "time_ms", "row")
    runs = ordered["user"].rle().struct.unnest()
    return EventLog(
        users=runs["value"].to_list(),
        start=np.concatenate([[0], np.cumsum(runs["len"].to_numpy())]).astype(np.int64),
        item=ordered["item"].replace_strict(item_index, return_dtype=pl.Int64).to_numpy(),
        time_ms=ordered["time_ms"].to_numpy(),
        weight=ordered["weight"].to_numpy(),
    )
