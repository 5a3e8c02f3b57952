"""Writes a public data set as ``events.parquet`` and ``catalog.parquet``, and says what was left out."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl

from ebbtide.data.errors import DataError
from ebbtide.data.prepare.folder import OUTPUT_FILES, SourceFolder
from ebbtide.data.prepare.source import Frames, Source

EVENTS_FILE, CATALOG_FILE = OUTPUT_FILES

_PARTIAL = ".partial"
_SAMPLE_SEED = 0
_MESSAGE_CHARACTERS = 300

Step = Callable[[str], AbstractContextManager[object]]
"""Shows that a step is being done, as long as its context is open."""


@dataclass(frozen=True)
class Selection:
    """A part of a data set; the defaults keep all of it."""

    users: int | None = None
    """This many users, drawn at random, the same ones in every run; None: all."""
    min_item_events: int = 1
    """Items with fewer events are left out with their events."""


@dataclass(frozen=True)
class Summary:
    """What was written."""

    folder: Path
    events: int
    users: int
    items: int
    """In the catalog, those without events included."""
    first: datetime
    """Time of the first event, UTC."""
    last: datetime
    left_out: dict[str, int]
    """Number of rows by reason, most first; a reason reads on from the number."""
    notes: tuple[str, ...]
    has_weight: bool

    @property
    def train_command(self) -> str:
        """The command that trains on the files, for a shell."""
        events, catalog, bundle = (
            shlex.quote(str(self.folder / name)) for name in (EVENTS_FILE, CATALOG_FILE, "bundle")
        )
        return (
            f"ebbtide train --events {events} --catalog {catalog} \\\n    --title-template '{{title}}' --out {bundle}"
        )


def prepare(
    source: Source, folder: Path, out: Path, selection: Selection | None = None, step: Step = nullcontext
) -> Summary:
    """Reads a data set and writes its two files.

    ``events.parquet`` has ``user``, ``item`` (text), ``time`` (date-time in ms, UTC) and, where the source has one,
    ``weight`` (float32). ``catalog.parquet`` has ``item``, ``title``, ``text`` and the attributes of the source. Every
    item of the events is in the catalog; without a description its text is its id.

    Args:
        source: Which data set.
        folder: Its unpacked files.
        out: Folder to write to; it is made if it is missing.
        selection: Which part to keep; None: all.
        step: Shows the progress.

    Raises:
        DataError: A file is missing or cannot be read, or no event is left.
    """
    selection = selection or Selection()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be made: {error.strerror}; expected a folder to write to") from error
    partial = {name: out / f"{name}{_PARTIAL}" for name in ("rows", EVENTS_FILE, CATALOG_FILE)}
    try:
        with _one_error(source, folder):
            with step(f"Reading {source.title}"):
                frames = source.read(SourceFolder(folder, source.title, source.page))
                has_weight = _write_rows(frames.events, partial["rows"])
            with step("Writing the events"):
                kept, reasons = _select(pl.scan_parquet(partial["rows"], glob=False), selection)
                kept.drop("left_out").sink_parquet(partial[EVENTS_FILE])
                events = pl.scan_parquet(partial[EVENTS_FILE], glob=False)
                facts = events.select(
                    pl.len(), pl.col("user").n_unique(), first=pl.col("time").min(), last=pl.col("time").max()
                ).collect(engine="streaming")
            count, users, first, last = facts.row(0)
            if not count:
                raise DataError(f"{folder}: no event is left: {_counts(reasons)}; expected the log of {source.title}")
            with step("Writing the catalog"):
                items, undescribed = _write_catalog(frames, events, partial[CATALOG_FILE], selection)
        for name in (EVENTS_FILE, CATALOG_FILE):
            partial[name].replace(out / name)
    finally:
        for file in partial.values():
            file.unlink(missing_ok=True)
    notes = frames.notes
    if undescribed:
        notes = (*notes, f"{undescribed:,} items have no description: their text is their id")
    return Summary(out, count, users, items, first, last, reasons, notes, has_weight)


def _write_rows(rows: pl.LazyFrame, file: Path) -> bool:
    """Writes all rows in one pass over the source, with why they are left out; says whether they have a weight."""
    names = rows.collect_schema().names()
    user, item = (pl.col(name).cast(pl.String) for name in ("user", "item"))
    missing = {
        "rows without a user": user.is_null() | (user == ""),
        "rows without an item": item.is_null() | (item == ""),
        "rows without a usable time": pl.col("time").is_null(),
    }
    if "weight" in names:
        missing["rows without a usable weight"] = pl.col("weight").is_null() | (pl.col("weight") < 0)
    reason = pl.coalesce("left_out", *(pl.when(rule).then(pl.lit(text)) for text, rule in missing.items()))
    columns = ["user", "item", "time", *(["weight"] if "weight" in names else []), "left_out"]
    rows.with_columns(user=user, item=item, time=pl.col("time").dt.cast_time_unit("ms"), left_out=reason).select(
        columns
    ).sink_parquet(file)
    return "weight" in names


def _select(rows: pl.LazyFrame, selection: Selection) -> tuple[pl.LazyFrame, dict[str, int]]:
    """The events to keep, and the number of all other rows by reason."""
    counted = rows.group_by("left_out").len().collect(engine="streaming").rows()
    reasons: dict[str, int] = {reason: number for reason, number in counted if reason is not None}
    kept = rows.filter(pl.col("left_out").is_null())
    if selection.users is not None:
        users = kept.select(pl.col("user").unique()).collect(engine="streaming")["user"].sort()
        drawn = np.random.default_rng(_SAMPLE_SEED).permutation(len(users))[: selection.users]
        before = _height(kept)
        kept = kept.join(
            pl.LazyFrame({"user": users.gather(np.sort(drawn))}), on="user", how="semi", maintain_order="left"
        )
        reasons["events of users outside the sample"] = before - _height(kept)
    if selection.min_item_events > 1:
        counts = kept.group_by("item").len()
        often = counts.filter(pl.col("len") >= selection.min_item_events).select("item").collect(engine="streaming")
        before = _height(kept)
        kept = kept.join(often.lazy(), on="item", how="semi", maintain_order="left")
        reasons[f"events of items with fewer than {selection.min_item_events} events"] = before - _height(kept)
    ordered = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))
    return kept, {reason: number for reason, number in ordered if number}


def _write_catalog(frames: Frames, events: pl.LazyFrame, file: Path, selection: Selection) -> tuple[int, int]:
    """Writes the catalog; returns the number of its items, and of those without a description."""
    used = events.select(pl.col("item").unique()).collect(engine="streaming")
    items = frames.items.with_columns(pl.col("item").cast(pl.String)).filter(pl.col("item") != "")
    if not frames.keep_items_without_events or selection != Selection():
        items = items.join(used.lazy(), on="item", how="semi", maintain_order="left")
    described = items.unique("item", keep="first", maintain_order=True).collect(engine="streaming")
    other = used.join(described, on="item", how="anti")
    # Groups and joins have no order of their own; sorted, the same files give the same bundle.
    catalog = pl.concat([described, other], how="diagonal").sort("item")
    undescribed = int((catalog["text"].is_null() & catalog["title"].is_null()).sum())
    catalog = catalog.with_columns(title=pl.coalesce("title", "item")).with_columns(text=pl.coalesce("text", "title"))
    first = ["item", "title", "text"]
    catalog.select(*first, pl.exclude(first)).write_parquet(file)
    return catalog.height, undescribed


def _height(frame: pl.LazyFrame) -> int:
    return int(frame.select(pl.len()).collect(engine="streaming").item())


def _counts(reasons: dict[str, int]) -> str:
    return ", ".join(f"{number:,} {reason}" for reason, number in reasons.items()) or "the files are empty"


@contextmanager
def _one_error(source: Source, folder: Path) -> Iterator[None]:
    """Turns what polars and the system raise into a `DataError` of one line."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        text = " ".join(str(error).split())[:_MESSAGE_CHARACTERS]
        raise DataError(
            f"{folder}: cannot be read as {source.title}: {text}; expected the files of {source.page}"
        ) from error
