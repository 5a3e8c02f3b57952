"""Reads the files of a log piece by piece, and spills its events with the keys of users and items in place of ids."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import xxhash

from ebbtide.backfill.errors import BackfillError
from ebbtide.backfill.spill import Spill, event_dtype
from ebbtide.data.bad_rows import BadRows
from ebbtide.data.events import EventColumns, read_event_pieces, refuse_bad_rows
from ebbtide.interest.event_types import EventTypes, known_types
from ebbtide.interest.events import MS_PER_DAY
from ebbtide.interest.keys import item_keys, user_keys
from ebbtide.interest.lookup import UNKNOWN, KeyIndex

Ints = npt.NDArray[np.int64]

_SHOWN_IDS = 3


@dataclass(frozen=True)
class LogFiles:
    """An event log, in one file or several, and how it is read."""

    paths: Sequence[str | Path]
    """What `ebbtide.data.tables.read_table` reads."""
    columns: EventColumns = field(default_factory=EventColumns)
    event_id: str | None = None
    """Column with the id of the event among those of its user, as events are observed with; None: item and time are
    the id."""
    until_ms: int | None = None
    """Events at this time or later are left out, Unix milliseconds; None takes all."""
    max_bad_rows: float = 0.01
    """A file is refused if more than this share of its rows is bad."""


@dataclass
class Spilled:
    """What was read."""

    events: int = 0
    """Events of known items."""
    unknown_items: int = 0
    """Events left out, because their items are not in the catalog."""
    after: int = 0
    """Events left out, because they are not before `LogFiles.until_ms`."""
    newest_ms: int = 0
    """Time of the newest of these events, Unix milliseconds."""
    mark: int = 0
    """Stands for all that was spilled; from 1 to 2^32 - 1. The same files read in the same way have the same mark."""
    messages: list[str] = field(default_factory=list)
    """On rows that could not be used."""


def spill_log(
    log: LogFiles,
    index: KeyIndex,
    spill: Spill,
    report: Callable[[int], None],
    event_types: EventTypes | None,
    *,
    with_ids: bool = False,
) -> Spilled:
    """Reads a log.

    Args:
        log: At least one file.
        index: The catalog's keys.
        spill: Where the events go.
        report: Called with the number of rows read so far.
        event_types: Of the export; None for none.
        with_ids: Whether to note the ids of the users too.

    Raises:
        DataError: A file cannot be used.
        BackfillError: No item is known, no event is left, or an event type is not known.
    """
    if log.columns.event_type is not None and event_types is None:
        raise BackfillError(
            f"event types: got column {log.columns.event_type!r} for a model that was trained without event types; "
            "expected none, or a repository of a training with --event-type-col"
        )
    found = Spilled()
    digest = xxhash.xxh3_64()
    latest_ms = time.time_ns() // 1_000_000 + MS_PER_DAY
    unknown_ids: list[str] = []
    rows = 0
    for path in log.paths:
        bad = BadRows(rows=0)
        for frame, of_piece in read_event_pieces(path, log.columns, log.event_id, latest_ms=latest_ms):
            bad.extend(of_piece)
            rows += of_piece.rows
            if event_types is not None and log.columns.event_type is not None:
                _check_types(frame["event_type"], event_types, path, log.columns.event_type)
            events = _with_keys(frame)
            keep = np.ones(events.size, dtype=np.bool_)
            if log.until_ms is not None:
                keep = events["time_ms"] < log.until_ms
                found.after += int(events.size - keep.sum())
            is_known = index.find(np.ascontiguousarray(events["item_key"])) != UNKNOWN
            found.unknown_items += int((keep & ~is_known).sum())
            if len(unknown_ids) < _SHOWN_IDS:
                unknown = frame["item"].filter(pl.Series(~is_known)).head(1000).unique(maintain_order=True)
                unknown_ids = list(dict.fromkeys(chain(unknown_ids, unknown)))[:_SHOWN_IDS]
            kept = events[keep & is_known]
            found.events += kept.size
            found.newest_ms = max(found.newest_ms, int(kept["time_ms"].max(initial=0)))
            digest.update(kept.tobytes())
            spill.add(kept)
            if with_ids:
                spill.add_ids(frame["user"].filter(pl.Series(keep & is_known)).unique(maintain_order=True).to_list())
            report(rows)
        refuse_bad_rows(path, bad, log.max_bad_rows)
        found.messages += bad.messages
    if not found.events:
        _refuse(found, unknown_ids)
    found.mark = digest.intdigest() % (2**32 - 1) + 1
    return found


def _with_keys(frame: pl.DataFrame) -> npt.NDArray[np.void]:
    """Events of `read_event_pieces` as `Spill` takes them."""
    has_id, has_type = "event_id" in frame.columns, "event_type" in frame.columns
    events = np.empty(frame.height, dtype=event_dtype(with_id=has_id, with_type=has_type))
    events["user"] = _looked_up(frame["user"], user_keys)
    events["item_key"] = _looked_up(frame["item"], item_keys)
    events["time_ms"] = frame["time_ms"].to_numpy()
    events["weight"] = frame["weight"].to_numpy()
    if has_id:
        events["event_id"] = item_keys(frame["event_id"].to_list())
    if has_type:
        events["event_type"] = _looked_up(frame["event_type"], item_keys)
    return events


def _check_types(event_type: pl.Series, event_types: EventTypes, path: str | Path, column: str) -> None:
    unknown = event_type.filter(~event_type.is_in(list(event_types.names)))
    if len(unknown):
        raise BackfillError(
            f"{path}, column {column}: got {unknown[0]!r}; expected an event type of the training, such as "
            f"{known_types(event_types.names, unknown[0])}"
        )


def _looked_up(ids: pl.Series, keys_of: Callable[[Iterable[str]], Ints]) -> Ints:
    """The key of each id; each distinct id is hashed once."""
    distinct = ids.unique()
    numbers = pl.DataFrame({"id": distinct, "number": np.arange(len(distinct))})
    number = pl.DataFrame({"id": ids}).join(numbers, on="id", how="left", maintain_order="left")["number"]
    keys: Ints = keys_of(distinct.to_list())[number.to_numpy()]
    return keys


def _refuse(found: Spilled, unknown_ids: Sequence[str]) -> None:
    if found.unknown_items:
        raise BackfillError(
            f"events: got {found.unknown_items:,} events of items that are not in the catalog of the export, such as "
            f"{', '.join(map(repr, unknown_ids))}, and none of its items; expected the item ids of the training"
        )
    raise BackfillError(f"events: got {found.after:,} events, none of them before the given time; expected some")
