"""MIND, the Microsoft News Dataset: clicks on news, in English.

Format: https://github.com/msnews/msnews.github.io (``assets/doc/introduction.md``), as read by
``recommenders/datasets/mind.py`` of https://github.com/recommenders-team/recommenders. Each split has two files without
header, separated by tabs, with quotes as ordinary characters:

- ``behaviors.tsv``: impression id, user id, time (``11/15/2019 8:55:22 AM``), history (ids of articles clicked before,
  separated by spaces, may be empty), impressions (``N1-0 N2-1``: article and whether it was clicked; the test split has
  articles only).
- ``news.tsv``: article id, category, subcategory, title, abstract, URL, entities of the title and of the abstract.

The clicks of ``history`` have no time, so they are no events. Times have no zone and are read as UTC.
"""

from __future__ import annotations

import polars as pl

from ebbtide.data.errors import DataError
from ebbtide.data.prepare.folder import SourceFolder, scan_tsv
from ebbtide.data.prepare.source import Frames, Source, left_out, one_row_each
from ebbtide.data.prepare.texts import clean, sentences

_TIME = "%m/%d/%Y %I:%M:%S %p"
_NEWS = ("item", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
_SIZES = ("demo", "small", "large")
"""Of which each holds impressions of the next larger one. Part of the names of the archives."""

_CLICK = r"\S+-1(?:\s|$)"
_LABEL = r"-[01](?:\s|$)"


def read(folder: SourceFolder) -> Frames:
    """All splits that lie in a folder, such as ``MINDsmall_train`` and ``MINDsmall_dev``."""
    files = folder.find("behaviors.tsv")
    sizes = [size for size in _SIZES if any(size in file.parent.name.lower() for file in files)]
    if len(sizes) > 1:
        raise DataError(f"{folder.path}: got the sizes {', '.join(sizes)} of MIND; expected one: name its folder")
    behaviors = pl.concat(scan_tsv(file, "impression", "user", "time", "history", "impressions") for file in files)
    clicked = pl.col("impressions").str.extract_all(_CLICK)
    events = (
        behaviors.select(
            "user",
            left_out(
                {
                    "impressions without labels (test split)": ~pl.col("impressions").str.contains(_LABEL),
                    "impressions without a click": clicked.list.len() == 0,
                }
            ),
            time=pl.col("time").str.to_datetime(_TIME, strict=False, time_unit="ms", time_zone="UTC"),
            item=one_row_each(clicked),
        )
        .explode("item")
        .with_columns(item=pl.col("item").str.strip_chars().str.strip_suffix("-1"))
    )
    items = pl.concat(scan_tsv(file, *_NEWS) for file in folder.find("news.tsv")).select(
        "item",
        "category",
        "subcategory",
        title=clean(pl.col("title")),
        text=sentences(pl.col("title"), pl.col("abstract"), pl.col("category"), pl.col("subcategory")),
    )
    per_user = behaviors.group_by("user").agg(pl.col("history").str.count_matches(r"\S+").max())
    untimed = int(per_user.select(pl.col("history").sum()).collect(engine="streaming").item())
    notes = (f"{untimed:,} clicks of the history column have no time and are not used",) if untimed else ()
    return Frames(events, items, notes=notes)


SOURCE = Source("mind", "MIND, the Microsoft News Dataset", "https://msnews.github.io", read)
