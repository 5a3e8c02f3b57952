"""Yambda: listens and likes of Yandex Music.

Format: the data set card at https://huggingface.co/datasets/yandex/yambda and the benchmark code beside it
(``benchmarks/yambda/constants.py``). Parquet, with ``uid``, ``item_id`` and ``timestamp`` as uint32. A timestamp counts
seconds, in steps of 5, from a start that is not told:

- ``flat/SIZE/multi_event.parquet``: also ``event_type`` (listen, like, dislike, unlike, undislike) and
  ``played_ratio_pct`` (null except for listens).
- ``flat/SIZE/listens.parquet``, ``likes.parquet``: the same for one type, without ``event_type``.
- ``artist_item_mapping.parquet`` (``artist_id``, ``item_id``) and ``album_item_mapping.parquet`` (``album_id``,
  ``item_id``), at the root. An item may have several of each.

Events are likes, and listens to at least half of a track (``TRACK_LISTEN_THRESHOLD`` of the benchmark). There are no
names: the text of an item is made of the ids of its artists and albums.
"""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import polars as pl

from ebbtide.data.prepare.folder import SourceFolder, scan_parquet
from ebbtide.data.prepare.source import Frames, Source, left_out
from ebbtide.data.prepare.texts import sentences

LISTENED_PCT = 50
"""A listen to a smaller part of the track is no event."""

START = datetime(2024, 1, 1, tzinfo=timezone.utc)
"""Made up: the log does not tell when its clock starts. So hours and weekdays are off by the same amount for all."""

_COLUMNS = ("uid", "item_id", "timestamp")
_MAPPINGS = ("artist", "album")


def read(folder: SourceFolder) -> Frames:
    """One size of the flat form: the folder ``flat/50m``, or the root if it has one size only."""
    several = folder.find_optional("multi_event.parquet")
    if several:
        events = _read_multi_event(folder.find_one("multi_event.parquet"))
    else:
        listens = scan_parquet(folder.find_one("listens.parquet"), *_COLUMNS, "played_ratio_pct")
        parts = [listens.with_columns(kind=pl.lit("listen"))]
        if folder.find_optional("likes.parquet"):
            likes = scan_parquet(folder.find_one("likes.parquet"), *_COLUMNS)
            parts.append(likes.with_columns(kind=pl.lit("like")))
        events = pl.concat(parts, how="diagonal_relaxed")
    kind = pl.col("kind")
    events = events.select(
        left_out(
            {
                "listens to less than half of a track": (kind == "listen")
                & (pl.col("played_ratio_pct").fill_null(0) < LISTENED_PCT),
                "dislikes": kind == "dislike",
                "likes and dislikes taken back": kind.is_in(["unlike", "undislike"]),
            }
        ),
        user="uid",
        item=pl.col("item_id").cast(pl.Int64),
        time=pl.lit(START).dt.cast_time_unit("ms") + pl.duration(seconds=pl.col("timestamp").cast(pl.Int64)),
    )
    notes = [
        f"the log does not tell when its clock starts: {START:%Y-%m-%d} is made up",
        "the log has no names: the text of an item is the ids of its artists and albums",
    ]
    items = events.select("item").unique()
    found = {name: _mapping(folder, f"{name}_item_mapping.parquet") for name in _MAPPINGS}
    for name, file in found.items():
        if file is None:
            items = items.with_columns(pl.lit(None, dtype=pl.String).alias(name))
            notes.append(f"{name}_item_mapping.parquet is missing: the text of an item has no {name}s")
            continue
        ids = pl.col(f"{name}_id").cast(pl.String).sort().str.join("|").alias(name)
        by_item = scan_parquet(file, f"{name}_id", "item_id").group_by(item=pl.col("item_id").cast(pl.Int64)).agg(ids)
        items = items.join(by_item, on="item", how="left")
    texts = [pl.lit(f"{name} ") + pl.col(name).str.replace_all("|", ", ", literal=True) for name in _MAPPINGS]
    items = items.select(
        "item", *_MAPPINGS, title=pl.lit("track ") + pl.col("item").cast(pl.String), text=sentences(*texts)
    )
    return Frames(events, items, keep_items_without_events=False, notes=tuple(notes))


def _read_multi_event(file: Path) -> pl.LazyFrame:
    frame = scan_parquet(file, *_COLUMNS, "event_type", "played_ratio_pct")
    return frame.with_columns(kind=pl.col("event_type").cast(pl.String))


def _mapping(folder: SourceFolder, name: str) -> Path | None:
    """A mapping in the folder, or at the root of the data set if the folder is one size of it."""
    root = folder.path.resolve().parent.parent
    beside = [root / name] if folder.path.resolve().parent.name == "flat" else []
    return next((file for file in [*folder.find_optional(name), *beside] if file.is_file()), None)


SOURCE = Source("yambda", "Yambda", "https://huggingface.co/datasets/yandex/yambda", read)
