"""RetailRocket: views, carts and purchases of a shop, with hashed properties.

Format: the description at https://www.kaggle.com/datasets/retailrocket/ecommerce-dataset. CSV with a header:

- ``events.csv``: ``timestamp`` (Unix milliseconds), ``visitorid``, ``event`` (view, addtocart, transaction),
  ``itemid``, ``transactionid``.
- ``item_properties_part1.csv``, ``item_properties_part2.csv``: ``timestamp``, ``itemid``, ``property``, ``value``:
  weekly snapshots. All values are hashes but those of ``categoryid`` and ``available``; numbers begin with ``n``.
- ``category_tree.csv``: ``categoryid``, ``parentid`` (empty for a root).

There is no readable text: the text of an item is the path of its category and the hashed words of its properties, as
the newest snapshot has them. The weights 1, 2 and 3 for view, cart and purchase are usual for this data set.
"""

from __future__ import annotations

import polars as pl

from ebbtide.data.prepare.folder import SourceFolder, scan_csv
from ebbtide.data.prepare.source import Frames, Source, left_out
from ebbtide.data.prepare.texts import sentences

WEIGHTS = {"view": 1.0, "addtocart": 2.0, "transaction": 3.0}

_TEXT_CHARACTERS = 300
_MAX_DEPTH = 10
"""The tree has six levels; a longer path would be a circle."""
_NUMBER = r"^n-?[\d.]+$"


def read(folder: SourceFolder) -> Frames:
    """The log, and the properties and the category tree where they are."""
    rows = scan_csv(folder.find_one("events.csv"), "timestamp", "visitorid", "event", "itemid")
    time = pl.from_epoch(pl.col("timestamp").cast(pl.Int64, strict=False), time_unit="ms")
    events = rows.select(
        left_out(
            {
                "exact copies of an earlier event": ~pl.struct(pl.all()).is_first_distinct(),
                "events of another kind": ~pl.col("event").is_in(list(WEIGHTS)),
            }
        ),
        user="visitorid",
        item="itemid",
        time=time.dt.replace_time_zone("UTC"),
        weight=pl.col("event").replace_strict(WEIGHTS, default=None, return_dtype=pl.Float32),
    )
    notes = ["the log has no readable text: the text of an item is its category and hashed words"]
    files = folder.find_optional("item_properties_part*.csv", "item_properties.csv")
    if not files:
        items = events.select("item").unique().with_columns(title="item", text="item")
        notes.append("item_properties_part1.csv and part2.csv are missing: the text of an item is its id")
        return Frames(events, items, keep_items_without_events=False, notes=tuple(notes))
    newest = (
        pl.concat(scan_csv(file, "timestamp", "itemid", "property", "value") for file in files)
        .group_by("itemid", "property")
        .agg(pl.col("value").sort_by(pl.col("timestamp").cast(pl.Int64, strict=False), "value").last())
    )
    category = newest.filter(pl.col("property") == "categoryid").select(item="itemid", category="value")
    trees = folder.find_optional("category_tree.csv")
    if trees:
        category = category.join(_paths(scan_csv(trees[0], "categoryid", "parentid")), on="category", how="left")
    else:
        category = category.with_columns(path=pl.col("category"))
        notes.append("category_tree.csv is missing: the text of an item has its own category only")
    items = (
        _words(newest)
        .join(category, on="item", how="full", coalesce=True)
        .select(
            "item",
            "category",
            title=pl.format("item {}", "item"),
            text=sentences(pl.lit("category ") + pl.coalesce("path", "category"), pl.col("words")),
        )
    )
    return Frames(events, items, keep_items_without_events=False, notes=tuple(notes))


def _words(newest: pl.LazyFrame) -> pl.LazyFrame:
    """``item`` and ``words``: its hashed words, those of the most common properties first."""
    values = newest.filter(~pl.col("property").is_in(["categoryid", "available"])).with_columns(
        pl.col("value")
        .str.split(" ")
        .list.eval(pl.element().filter(~pl.element().str.contains(_NUMBER)))
        .list.join(" ")
    )
    spread = values.group_by("property").len("items")
    return (
        values.filter(pl.col("value") != "")
        .join(spread, on="property")
        .sort(["items", "property"], descending=[True, False])
        .group_by("itemid", maintain_order=True)
        .agg(pl.col("value").str.join(" ").str.head(_TEXT_CHARACTERS))
        .select(item="itemid", words="value")
    )


def _paths(tree: pl.LazyFrame) -> pl.LazyFrame:
    """``category`` and ``path``: its ids from the root down, as in ``140 > 1016 > 213``."""
    parents = tree.unique("categoryid", keep="first").select(step="categoryid", above="parentid")
    walk = parents.select(category="step", step="step", path="step")
    for _ in range(_MAX_DEPTH):
        parent = pl.when(pl.col("above") != "").then("above")
        walk = walk.join(parents, on="step", how="left").select(
            "category", step=parent, path=pl.concat_str([parent, "path"], separator=" > ", ignore_nulls=True)
        )
    return walk.select("category", "path")


SOURCE = Source("retailrocket", "RetailRocket", "https://www.kaggle.com/datasets/retailrocket/ecommerce-dataset", read)
