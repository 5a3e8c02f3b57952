"""EB-NeRD, the Ekstra Bladet News Recommendation Dataset: clicks on news, in Danish.

Format: https://recsys.eb.dk/dataset and ``src/ebrec/utils/_constants.py`` of
https://github.com/ebanalyse/ebnerd-benchmark. All files are Parquet:

- ``behaviors.parquet`` (one per split): ``user_id`` (uint32), ``impression_time`` (date-time), ``article_ids_clicked``
  (list of int32; the test split lacks the column), and more.
- ``history.parquet`` (one per split): one row per user with the clicks of the three weeks before the split, as lists of
  equal length: ``article_id_fixed`` (int32), ``impression_time_fixed`` (date-time), and more.
- ``articles.parquet``: ``article_id`` (int32), ``title``, ``subtitle``, ``category_str``, ``topics`` (list), and more.

The history of the validation split repeats the clicks of the training split, a little later: a history holds the time
of the article's page, behaviors the time of the page with the link. So a record of the same user and article within an
hour of the one before is left out. Times have no zone and are read as UTC.
"""

from __future__ import annotations

from datetime import timedelta

import polars as pl

from ebbtide.data.errors import DataError
from ebbtide.data.prepare.folder import SourceFolder, scan_parquet
from ebbtide.data.prepare.source import Frames, Source, left_out, one_row_each
from ebbtide.data.prepare.texts import clean, sentences

_CLICKED = "article_ids_clicked"
_SAME_READ = timedelta(hours=1)


def read(folder: SourceFolder) -> Frames:
    """All splits that lie in a folder, such as ``train`` and ``validation`` of ``ebnerd_small``."""
    articles = folder.find_one("articles.parquet")
    clicks: list[pl.LazyFrame] = []
    notes = ["texts are Danish and the packaged encoder reads English: name a multilingual model with --encoder"]
    for file in folder.find("behaviors.parquet"):
        if _CLICKED not in pl.scan_parquet(file, glob=False).collect_schema().names():
            notes.append(f"{file.relative_to(folder.path)} has no clicks (test split) and is not used")
            continue
        behaviors = scan_parquet(file, "user_id", "impression_time", _CLICKED).with_columns(
            one_row_each(pl.col(_CLICKED))
        )
        clicks.append(_events(behaviors.explode(_CLICKED), _CLICKED, "impression_time"))
    if not clicks:
        raise DataError(f"{folder.path}: got the test split only, without clicks; expected a split of {folder.origin}")
    for file in folder.find_optional("history.parquet"):
        lists = ("article_id_fixed", "impression_time_fixed")
        history = scan_parquet(file, "user_id", *lists).filter(pl.col(lists[0]).list.len() > 0)
        clicks.append(_events(history.explode(lists), *lists))
    ordered = pl.concat(clicks).sort("user", "item", "time")
    same = [pl.col(name) == pl.col(name).shift(1) for name in ("user", "item")]
    again = same[0] & same[1] & (pl.col("time") - pl.col("time").shift(1) <= _SAME_READ)
    events = ordered.with_columns(
        left_out({"impressions without a click": pl.col("item").is_null(), "second records of one read": again})
    )
    columns = ("article_id", "title", "subtitle", "category_str", "topics")
    items = scan_parquet(articles, *columns).select(
        item="article_id",
        title=clean(pl.col("title")),
        text=sentences(pl.col("title"), pl.col("subtitle"), pl.col("category_str"), pl.col("topics").list.join(", ")),
        category="category_str",
        topics="topics",
    )
    return Frames(events, items, notes=tuple(notes))


def _events(rows: pl.LazyFrame, item: str, time: str) -> pl.LazyFrame:
    at = pl.col(time).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
    return rows.select(user="user_id", item=pl.col(item).cast(pl.Int64), time=at)


SOURCE = Source("eb-nerd", "EB-NeRD, the Ekstra Bladet News Recommendation Dataset", "https://recsys.eb.dk", read)
