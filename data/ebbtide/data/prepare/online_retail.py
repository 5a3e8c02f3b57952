"""Online Retail and Online Retail II: invoices of a wholesale gift shop.

Format: https://archive.ics.uci.edu/dataset/352/online+retail and, for II,
https://archive.ics.uci.edu/dataset/502/online+retail+ii. The workbook is saved as CSV (UTF-8 or Latin-1) or
Parquet, with one row per line of an invoice: ``InvoiceNo`` (II: ``Invoice``), ``StockCode``, ``Description``,
``Quantity``, ``InvoiceDate`` (Parquet may call it ``time``), ``CustomerID`` (II: ``Customer ID``), and more.

- Invoices that begin with C, and negative quantities, are cancellations and corrections.
- A stock code of an article begins with five digits or with DCGS. Others are fees, vouchers and corrections: POST, DOT,
  M, D, C2, S, BANK CHARGES, AMAZONFEE, gift_0001_20, ...
- About a quarter of the lines have no customer.
- Descriptions also hold remarks of the staff ("damages", "?"): the most frequent description of an article counts.
- A spreadsheet writes customer ids as 17850.0, and dates by its language: ``12/1/2010 8:26`` or ``01-12-2010 08:26``.

The lines of an invoice become one basket: one event per article, at the first time of the invoice. Times have no zone
and are read as UTC.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from ebbtide.data.errors import DataError
from ebbtide.data.prepare.folder import SourceFolder, scan_parquet
from ebbtide.data.prepare.source import Frames, Source, left_out
from ebbtide.data.prepare.texts import clean
from ebbtide.data.text_files import read_utf8

_NAMES = {
    "invoice": ("InvoiceNo", "Invoice"),
    "item": ("StockCode",),
    "title": ("Description",),
    "quantity": ("Quantity",),
    "time": ("InvoiceDate", "time"),
    "user": ("CustomerID", "Customer ID"),
}
_FORMATS = (
    "%Y-%m-%d %H:%M:%S",
    "%Y-%m-%d %H:%M",
    "%m/%d/%Y %H:%M",
    "%d/%m/%Y %H:%M",
    "%d-%m-%Y %H:%M",
    "%m-%d-%Y %H:%M",
)
_ARTICLE = r"^(?:\d{5}|DCGS)"


def read(folder: SourceFolder) -> Frames:
    """All files of invoice lines in a folder."""
    files = folder.find("*.csv", "*.parquet")
    lines = pl.concat(_lines(file, folder) for file in files)
    first_time = pl.col("time").min().over("invoice")
    is_bought = ~pl.col("invoice").str.starts_with("C") & (pl.col("quantity") > 0)
    marked = lines.with_columns(time=first_time, bought=is_bought)
    same_article = ("bought", "invoice", "item")
    events = marked.select(
        "user",
        "item",
        "time",
        left_out(
            {
                "cancelled or corrected lines": ~pl.col("bought"),
                "lines for fees and vouchers": ~pl.col("item").str.contains(_ARTICLE),
                "lines without a customer": pl.col("user").is_null(),
                "further lines of an invoice for the same article": pl.int_range(pl.len()).over(same_article) > 0,
            }
        ),
        weight=pl.col("quantity").sum().over(same_article).cast(pl.Float32),
    )
    described = marked.filter(pl.col("item").str.contains(_ARTICLE) & pl.col("bought") & pl.col("title").is_not_null())
    # Of equally frequent descriptions the first in the alphabet: the same one in every run.
    by_use = (
        described.group_by("item", "title").len("uses").sort(["item", "uses", "title"], descending=[False, True, False])
    )
    items = by_use.group_by("item", maintain_order=True).agg(pl.col("title").first()).with_columns(text="title")
    return Frames(events, items)


def _lines(file: Path, folder: SourceFolder) -> pl.LazyFrame:
    """The columns that are used, under common names: ids and title as text, quantity as int64, time in UTC."""
    if file.suffix == ".parquet":
        names = pl.scan_parquet(file, glob=False).collect_schema().names()
        rows = scan_parquet(file, *_columns(file, names, folder).values()).collect()
    else:
        rows = pl.read_csv(read_utf8(file, "latin-1"), infer_schema=False)
    rows = rows.select(pl.col(name).alias(ours) for ours, name in _columns(file, rows.columns, folder).items())
    customer = clean(pl.col("user")).str.strip_suffix(".0")
    return rows.lazy().select(
        clean(pl.col("invoice")).str.to_uppercase(),
        clean(pl.col("item")).str.to_uppercase(),
        clean(pl.col("title")),
        pl.col("quantity").cast(pl.Int64, strict=False),
        _times(rows["time"], file),
        customer,
    )


def _columns(file: Path, names: list[str], folder: SourceFolder) -> dict[str, str]:
    found: dict[str, str] = {}
    for ours, theirs in _NAMES.items():
        name = next((name for name in theirs if name in names), None)
        if name is None:
            raise DataError(f"{file}: no column {' or '.join(theirs)}; expected the invoice lines of {folder.origin}")
        found[ours] = name
    return found


def _times(values: pl.Series, file: Path) -> pl.Series:
    """Times as the file writes them; the first format that reads them all counts."""
    if isinstance(values.dtype, pl.Datetime):
        utc = values.dt.convert_time_zone("UTC") if values.dtype.time_zone else values.dt.replace_time_zone("UTC")
        return utc.dt.cast_time_unit("ms")
    for time_format in _FORMATS:
        times = values.str.to_datetime(time_format, strict=False, time_unit="ms", time_zone="UTC")
        if times.null_count() == values.null_count():
            return times
    raise DataError(f"{file}: column time: got {values.drop_nulls()[0]!r}; expected a time such as 2010-12-01 08:26:00")


SOURCE = Source("online-retail", "Online Retail", "https://archive.ics.uci.edu/dataset/352/online+retail", read)
