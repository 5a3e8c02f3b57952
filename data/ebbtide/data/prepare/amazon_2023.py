"""Amazon Reviews 2023: ratings of products, with their descriptions.

Format: https://amazon-reviews-2023.github.io and ``Amazon-Reviews-2023.py`` of the data set
McAuley-Lab/Amazon-Reviews-2023; ``benchmark_scripts`` of https://github.com/hyp1231/AmazonReviews2023. Per category:

- ``All_Beauty.jsonl.gz``: one review per line with ``user_id``, ``parent_asin``, ``rating`` (1.0 to 5.0), ``timestamp``
  (Unix milliseconds) and more.
- ``meta_All_Beauty.jsonl.gz``: one product per line with ``parent_asin``, ``title``, ``store``, ``main_category``,
  ``categories`` (list) and more. Fields of changing type, such as ``price``, are not read.
- ``All_Beauty.csv.gz`` of the benchmark (``rating_only``) may stand in place of the reviews: ``user_id``,
  ``parent_asin``, ``rating``, ``timestamp``.

An item is a ``parent_asin``: variants of a product have it in common. As in the benchmark, the first review of a user
for an item counts.
"""

from __future__ import annotations

import polars as pl

from ebbtide.data.prepare.folder import SourceFolder, scan_csv, scan_json_lines
from ebbtide.data.prepare.source import Frames, Source, left_out
from ebbtide.data.prepare.texts import clean, sentences, unescape

_REVIEW = {
    "user_id": pl.String(),
    "parent_asin": pl.String(),
    "rating": pl.Float32(),
    "timestamp": pl.Int64(),
}
_PRODUCT = {
    "parent_asin": pl.String(),
    "title": pl.String(),
    "store": pl.String(),
    "main_category": pl.String(),
    "categories": pl.List(pl.String()),
}
_JSON = ("*.jsonl", "*.jsonl.gz")
_CSV = ("*.csv", "*.csv.gz")


def read(folder: SourceFolder) -> Frames:
    """All categories that lie in a folder; users have the same id in all of them."""
    found = folder.find(*_JSON, *_CSV)
    products = [file for file in found if file.name.startswith("meta_")]
    tables = [file for file in found if file not in products and ".csv" in file.suffixes]
    # The benchmark's file of a category is made from its reviews: reading both would count every review twice.
    named = {file.name.split(".")[0] for file in tables}
    reviews = [file for file in found if file not in [*products, *tables] and file.name.split(".")[0] not in named]
    if not products:
        folder.find("meta_*.jsonl.gz", "meta_*.jsonl")
    if not reviews and not tables:
        folder.find("CATEGORY.jsonl.gz", "CATEGORY.csv.gz")
    rows = pl.concat(
        [
            *(scan_json_lines(file, _REVIEW) for file in reviews),
            *(scan_csv(file, *_REVIEW).cast(pl.Schema(_REVIEW), strict=False) for file in tables),
        ]
    )
    first = (pl.col("user_id") != pl.col("user_id").shift(1)) | (
        pl.col("parent_asin") != pl.col("parent_asin").shift(1)
    )
    events = rows.sort("user_id", "parent_asin", "timestamp", maintain_order=True).select(
        left_out({"later reviews of the same item by the same user": ~first}),
        user="user_id",
        item="parent_asin",
        time=pl.from_epoch("timestamp", time_unit="ms").dt.replace_time_zone("UTC"),
        weight="rating",
    )
    title, store = (unescape(pl.col(name)) for name in ("title", "store"))
    categories = pl.col("categories").list.eval(unescape(pl.element()))
    items = pl.concat(scan_json_lines(file, _PRODUCT) for file in products).select(
        item="parent_asin",
        title=clean(title),
        text=sentences(title, store, categories.list.join(", ")),
        store=clean(store),
        main_category="main_category",
        categories=categories,
    )
    return Frames(events, items)


SOURCE = Source("amazon-2023", "Amazon Reviews 2023", "https://amazon-reviews-2023.github.io", read)
