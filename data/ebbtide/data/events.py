"""Reads an event log from a file with any column names; every row that is ignored is counted and reported."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel, ConfigDict

from ebbtide.data.bad_rows import BadRows, value_at
from ebbtide.data.errors import DataError
from ebbtide.data.event_types import EventTypeNames
from ebbtide.data.ids import ROUNDED_ID, is_missing, is_rounded, near_id
from ebbtide.data.tables import Table, one_error, read_pieces, read_table, refuse_too_many
from ebbtide.data.times import in_future, read_times
from ebbtide.data.value_notes import decimal_comma_hint, note_lost_characters, note_twins
from ebbtide.interest.time_units import TimeUnit

_NO_TYPE = "no event type"
_NO_WEIGHT = "a weight that is not a finite number of 0 or more"
_FLOAT_ID = r"^\d+\.0$"
_MUCH = 0.1
_MANY_EVENTS = 100
_MOST_WEIGHT = 1e15
"""Of an event in a state; see `ebbtide.interest.checks.RANGES`."""


class EventColumns(BaseModel):
    """Names of the columns that are read, and how; other columns are ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    user: str = "user"
    item: str = "item"
    time: str = "time"
    """Unix time, a date-time, or ISO 8601 text (UTC where it names no zone)."""
    weight: str | None = None
    """Rating, quantity or dwell time; None gives every event weight 1."""
    event_type: str | None = None
    """What the user did: view, purchase, dislike; None for a log of one type."""
    time_unit: TimeUnit | None = None
    """Unit of numeric times; None: by magnitude."""
    time_format: str | None = None
    """strptime format of the times; None: ISO 8601."""
    encoding: str | None = None
    """Of a text file that is not UTF-8 and has no byte order mark."""


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
    event_types: EventTypeNames | None = None
    """None where the log has no column of event types."""
    event_type: npt.NDArray[np.int64] | None = None
    """``[events]``: index among `event_types`; None without them."""

    @property
    def is_target(self) -> npt.NDArray[np.bool_]:
        """``[events]``: whether the event is of a type that is predicted and counted; all are without event types."""
        if self.event_types is None or self.event_type is None:
            return np.ones(self.item.shape, dtype=np.bool_)
        return self.event_type < self.event_types.targets

    @property
    def counted(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Item and time of the events that popularity counts, each ``[target events]``."""
        if self.event_type is None:
            return self.item, self.time_ms
        is_target = self.is_target
        return self.item[is_target], self.time_ms[is_target]

    def type_of(self, index: int) -> str | None:
        """The name of the type of one event; None for a log of events of one type."""
        if self.event_types is None or self.event_type is None:
            return None
        return self.event_types.names[int(self.event_type[index])]

    def only(self, keep: npt.NDArray[np.bool_]) -> EventLog:
        """The log of the kept events alone, ``[events]``; users who have none of them are left out."""
        counts = np.bincount(self.user[keep], minlength=len(self.users))
        present = counts > 0
        return replace(
            self,
            users=[user for user, here in zip(self.users, present.tolist(), strict=True) if here],
            start=np.concatenate([[0], np.cumsum(counts[present])]),
            item=self.item[keep],
            time_ms=self.time_ms[keep],
            weight=self.weight[keep],
            event_type=None if self.event_type is None else self.event_type[keep],
        )

    @property
    def events(self) -> int:
        """Number of events, `n`."""
        return self.item.shape[0]

    @property
    def period(self) -> str:
        """The UTC dates of the first and the last event, as in ``2010-12-01 to 2011-06-26``."""
        first, last = (str(np.datetime64(int(time), "ms"))[:10] for time in (self.time_ms.min(), self.time_ms.max()))
        return f"{first} to {last}"

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
            near = near_id(pl.Series([str(user_id)]), self.users)
            hint = "" if near is None else f", such as {near[1]!r}"
            raise DataError(
                f"user: got {user_id!r}; expected one of the log's {len(self.users):,} users{hint}"
            ) from None
        return slice(int(self.start[index]), int(self.start[index + 1]))


def read_events(
    path: str | Path, columns: EventColumns, item_index: dict[str, int] | None = None, max_bad_rows: float = 0.01
) -> tuple[pl.DataFrame, BadRows]:
    """The usable events of a file, in the order of the file.

    Args:
        path: What `read_table` reads.
        columns: Which columns to read, and how.
        item_index: Catalog index by item id; events of other items are bad rows. None accepts every item.
        max_bad_rows: Refuse the file when more than this share of its rows is bad.

    Returns:
        A frame with ``user`` and ``item`` (text), ``time_ms`` (int64) and ``weight`` (float32), and ``event_type``
        (text) if there is such a column; and what was left out.

    Raises:
        DataError: Unreadable file, missing column, or too many bad rows.
    """
    with one_error(str(path)):
        return _usable_events(path, columns, item_index, max_bad_rows)


def _usable_events(
    path: str | Path, columns: EventColumns, item_index: dict[str, int] | None, max_bad_rows: float
) -> tuple[pl.DataFrame, BadRows]:
    table = read_table(path, _names(columns), columns.encoding)
    checked = _Checked(table, columns)
    times, item, bad = checked.times, checked.item, checked.bad
    if item_index is not None:
        unknown = ~item.is_in(list(item_index)).fill_null(False)
        hint = _near_hint(item.filter(unknown), item_index)
        checked.refuse("an item that is not in the catalog", unknown, columns.item, hint)
    future, years = in_future(times.ms.set(~checked.usable, None))
    checked.refuse(f"a time more than {years} years after the rest of the log", future, columns.time)
    table.refuse_above(bad, max_bad_rows)
    frame = checked.frame()
    if frame.is_empty():
        raise DataError(f"{path}: no usable event ({bad})")
    # Hashes first: they are faster, and equal rows have equal hashes.
    if frame.hash_rows().n_unique() < frame.height:
        copies = (~frame.select(pl.struct(pl.all()).is_first_distinct()).to_series()).arg_true()
        if len(copies):
            lines = table.lines(checked.usable.arg_true().gather(copies))
            bad.notes.append(f"{len(copies):,} exact copies of an earlier event are kept ({lines})")
    if not (frame["weight"] > 0).any():
        raise DataError(f"{path}: column {columns.weight}: got weight 0 for all events; expected some that count")
    _note_dominant_user(frame, bad)
    for name, ids, rows in ((columns.user, frame["user"], checked.user), (columns.item, frame["item"], checked.item)):
        note_lost_characters(table, name, rows, checked.usable, bad)
        if name == columns.user or item_index is None:
            note_twins(name, ids, bad)
    if columns.event_type is not None:
        note_twins(columns.event_type, frame["event_type"], bad, "event types")
    for name, ids in ((columns.user, frame["user"]), (columns.item, frame["item"])):
        if ids.str.contains(_FLOAT_ID).all():
            bad.notes.append(
                f"every id of column {name} is a number with .0, such as {ids[0]!r}: requests must name it so too; "
                "store whole numbers if your services do"
            )
    return frame, bad


def read_event_pieces(
    path: str | Path, columns: EventColumns, event_id: str | None = None, *, latest_ms: int
) -> Iterator[tuple[pl.DataFrame, BadRows]]:
    """The usable events of a file that need not fit into memory, in pieces, in the order of the file.

    Numbers of all pieces are times in one unit, that of the first piece. How many rows are bad is for the caller to
    judge, with `refuse_bad_rows`.

    Args:
        path: What `read_table` reads.
        columns: Which columns to read, and how.
        event_id: Column with the id of the event among those of its user; None where there is none.
        latest_ms: Later times are faults, Unix milliseconds.

    Yields:
        A frame as from `read_events`, with ``event_id`` (text) if there is such a column; and what was left out.

    Raises:
        DataError: Unreadable file or missing column, at the piece that has the fault.
    """
    names = [*_names(columns), *([event_id] if event_id else [])]
    unit = None
    for table in read_pieces(path, list(dict.fromkeys(names)), columns.encoding):
        with one_error(str(path)):
            checked = _Checked(table, columns, unit)
            unit = checked.times.unit
            checked.refuse(
                "a time more than a day after now", (checked.times.ms > latest_ms).fill_null(False), columns.time
            )
            if event_id is not None:
                checked.add_id(event_id)
            yield checked.frame(), checked.bad


def refuse_bad_rows(path: str | Path, bad: BadRows, max_bad_rows: float) -> None:
    """Refuses a file if more than a share of its rows is bad, or all are.

    Raises:
        DataError: With every reason, the first lines and their values; or the share is not within 0 and 1.
    """
    refuse_too_many(path, bad, max_bad_rows)
    if bad.count == bad.rows:
        raise DataError(f"{path}: no usable event ({bad})")


class _Checked:
    """The columns of a table as events, and which rows are usable."""

    def __init__(self, table: Table, columns: EventColumns, unit: TimeUnit | None = None) -> None:
        self._table = table
        self.user, self.item = table.text(columns.user, is_id=True), table.text(columns.item, is_id=True)
        self.times = read_times(table, columns.time, columns.time_unit, columns.time_format, found=unit)
        self.weight = _weights(table, columns.weight)
        self._event_id: pl.Series | None = None
        self._event_type: pl.Series | None = None
        self.bad = BadRows(rows=len(self.user))
        self.usable = table.add_flaws(self.bad)
        self.refuse("no user", is_missing(self.user), columns.user)
        self.refuse("no item", is_missing(self.item), columns.item)
        for name, ids in ((columns.user, self.user), (columns.item, self.item)):
            self.refuse(ROUNDED_ID, is_rounded(ids), name, "export the column as text")
        for reason, rows, hint in self.times.faults:
            self.refuse(reason, rows, columns.time, hint)
        is_weight = (self.weight.is_finite() & (self.weight >= 0)).fill_null(False)
        self.refuse(_NO_WEIGHT, ~is_weight, columns.weight, _weight_hint(table, columns.weight, ~is_weight))
        self.refuse("a weight above 1e15", (self.weight > _MOST_WEIGHT).fill_null(False), columns.weight)
        if columns.event_type is not None:
            self._event_type = table.text(columns.event_type, is_id=True).str.strip_chars()
            self.refuse(_NO_TYPE, is_missing(self._event_type), columns.event_type)

    def refuse(self, reason: str, rows: pl.Series, column: str | None, hint: str = "") -> None:
        """Marks rows as bad, unless they are already."""
        self._table.add_bad(self.bad, reason, rows & self.usable, column, hint)
        self.usable = self.usable & ~rows

    def add_id(self, column: str) -> None:
        """Reads the ids of the events."""
        self._event_id = self._table.text(column, is_id=True)
        self.refuse("no event id", is_missing(self._event_id), column)

    def frame(self) -> pl.DataFrame:
        """The usable events."""
        values = {"user": self.user, "item": self.item, "time_ms": self.times.ms, "weight": self.weight}
        if self._event_id is not None:
            values["event_id"] = self._event_id
        if self._event_type is not None:
            values["event_type"] = self._event_type
        return pl.DataFrame(values).filter(self.usable)


def _names(columns: EventColumns) -> list[str]:
    names = [columns.user, columns.item, columns.time]
    names += [name for name in (columns.weight, columns.event_type) if name]
    for name in names:
        if names.count(name) > 1:
            raise DataError(
                f"columns: got {name!r} for two of user, item, time, weight and event type; expected a different "
                "column for each (--user-col, --item-col, --time-col, --weight-col, --event-type-col)"
            )
    return names


def _weights(table: Table, column: str | None) -> pl.Series:
    """``[rows]``, float32; null where a weight cannot be read."""
    if column is None:
        return pl.repeat(1.0, len(table.line), dtype=pl.Float32, eager=True)
    values = table.frame[column]
    kind = values.dtype
    if not kind.is_numeric():
        if not isinstance(kind, (pl.String, pl.Categorical, pl.Enum, pl.Null)):
            raise table.type_error(column, "numbers of 0 or more (such as 1 and 0 for true and false)")
        values = values.cast(pl.String).str.strip_chars()
    return values.cast(pl.Float64, strict=False).cast(pl.Float32)


def _near_hint(unknown: pl.Series, item_index: dict[str, int]) -> str:
    near = near_id(unknown, item_index) if len(unknown) else None
    if near is None:
        return ""
    show = repr if near[0].isascii() and near[1].isascii() else ascii
    return f"the catalog has {show(near[1])} for {show(near[0])}: write the ids in both files as the same text"


def _weight_hint(table: Table, column: str | None, rows: pl.Series) -> str:
    """What to do about the first weight that cannot be used."""
    if column is None or not rows.any():
        return ""
    value = str(value_at(table.frame[column], rows.arg_max() or 0))
    if value.strip().lower() in {"true", "false"}:
        return "write 1 and 0 for true and false"
    if (hint := decimal_comma_hint(value)) or not re.match(r"^\s*-\d", value):
        return hint
    return "leave returns and cancellations out of the log"


def _note_dominant_user(frame: pl.DataFrame, bad: BadRows) -> None:
    """Tells of a user with so many events that the id may stand for users without one."""
    if frame.height < _MANY_EVENTS:
        return
    users = frame["user"].value_counts(sort=True)
    user, events = users.row(0)
    if users.height > 1 / _MUCH and events > _MUCH * frame.height:
        bad.notes.append(
            f"user {user!r} has {events:,} of {frame.height:,} events: if this id stands for users without one, leave "
            "them out"
        )


def build_log(
    frame: pl.DataFrame, item_index: dict[str, int], event_types: EventTypeNames | None = None, column: str = ""
) -> EventLog:
    """Sorts events by user, then time, then row of the file: a total, stable order.

    Args:
        frame: From `read_events`.
        item_index: Item id to catalog index, for every item of the frame.
        event_types: Those that the events may have; None for a log of one type.
        column: Name of the column with the event types, for the error.

    Raises:
        DataError: An event has another type, or an item without an index.
    """
    ordered = frame.with_row_index("row").sort("user", "time_ms", "row")
    runs = ordered["user"].rle().struct.unnest()
    return EventLog(
        users=runs["value"].to_list(),
        start=np.concatenate([[0], np.cumsum(runs["len"].to_numpy())]).astype(np.int64),
        item=_indices(ordered["item"], item_index),
        time_ms=ordered["time_ms"].to_numpy(),
        weight=ordered["weight"].to_numpy(),
        event_types=event_types,
        event_type=None if event_types is None else event_types.indices(ordered["event_type"], column),
    )


def _indices(item: pl.Series, item_index: dict[str, int]) -> npt.NDArray[np.int64]:
    try:
        return item.replace_strict(item_index, return_dtype=pl.Int64).to_numpy()
    except pl.exceptions.InvalidOperationError as error:
        unknown = item.filter(~item.is_in(list(item_index)))
        raise DataError(
            f"item: got {len(unknown):,} events of items without an index, such as {unknown[0]!r}"
        ) from error
