"""Reads item attributes from a file, so that requests can filter, for example by category or by stock."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ebbtide.data.tables import read_table
from ebbtide.export.errors import AttributesError
from ebbtide.export.head.attributes import ItemAttributes
from ebbtide.interest.keys import item_keys

MAX_VALUES = 4096
"""Largest number of values of all columns together; each value takes one bit of every item."""
_WORD_BITS = 64
_SHOWN = 5

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CatalogAttributes:
    """The attribute values of a catalog, and the keys by which requests name them."""

    values: dict[str, tuple[str, ...]]
    """The values of each column, sorted."""
    items: ItemAttributes
    """The values of each item, as bits."""
    key: Ints
    """``[values]``, ascending: the key of ``column=value``."""
    column: Ints
    """``[values]``: the column of each key, in the order of `values`."""
    bit: Ints
    """``[values]``: the bit of each key within the column's words; never 0, since every item has bit 0."""

    @property
    def digest(self) -> str:
        """SHA-256 of all values of all items, in hex."""
        content = hashlib.sha256(json.dumps(self.values, sort_keys=True).encode())
        content.update(self.items.words.tobytes())
        return content.hexdigest()


def read_attributes(
    path: Path,
    columns: Sequence[str],
    item_id: Sequence[str],
    *,
    item_column: str,
    separator: str = "|",
    encoding: str | None = None,
) -> CatalogAttributes:
    """Reads the attributes of a catalog's items; an item that is not in the file has no value and passes no filter.

    Args:
        path: Parquet, CSV, TSV or JSON Lines file with one row per item.
        columns: Columns to read. A list, or a text with separators, holds several values.
        item_id: ``[items]``, the item ids in catalog order.
        item_column: The column with the item ids.
        separator: Separator between the values in a text; empty if each text is one value.
        encoding: Of a text file that is not UTF-8 and has no byte order mark.

    Raises:
        DataError: The file is missing, has another format or lacks a column.
        AttributesError: A column has no values or too many, or no item of the file is in the catalog.
    """
    read = read_table(path, list(dict.fromkeys([item_column, *columns])), encoding)
    table = read.frame.filter(read.flaw.is_null())
    index = pl.DataFrame({"_id": list(item_id), "_item": np.arange(len(item_id), dtype=np.int64)})
    known = table.select(pl.col(item_column).cast(pl.String).alias("_id"), *columns).join(index, on="_id")
    if known.is_empty():
        raise AttributesError(
            f"attributes of {path}: got no item of the catalog in column {item_column}; expected ids such as "
            f"{', '.join(item_id[:_SHOWN])}"
        )
    values: dict[str, tuple[str, ...]] = {}
    found: list[tuple[Ints, Ints]] = []
    for name in columns:
        pairs = _pairs(known, name, separator)
        distinct = tuple(sorted(pairs["value"].unique().to_list()))
        if not distinct:
            raise AttributesError(f"attributes of {path}, column {name}: got no value; expected at least one")
        values[name] = distinct
        found.append((pairs["_item"].to_numpy(), np.searchsorted(np.array(distinct), pairs["value"].to_numpy())))
    count = sum(len(distinct) for distinct in values.values())
    if count > MAX_VALUES:
        raise AttributesError(
            f"attributes of {path}: got {count} values ("
            + ", ".join(f"{len(distinct)} of {name}" for name, distinct in values.items())
            + f"); expected at most {MAX_VALUES} in all: choose columns with fewer values"
        )
    return _packed(values, found, len(item_id))


def _pairs(table: pl.DataFrame, name: str, separator: str) -> pl.DataFrame:
    """The distinct pairs of item and value: columns ``_item`` and ``value``."""
    column = pl.col(name)
    kind = table.schema[name]
    if kind == pl.String and separator:
        column = column.str.split(separator)
    exploded = table.select("_item", value=column)
    if exploded.schema["value"] == pl.List:
        exploded = exploded.explode("value")
    return (
        exploded.with_columns(pl.col("value").cast(pl.String).str.strip_chars())
        .filter(pl.col("value").is_not_null() & (pl.col("value") != ""))
        .unique(maintain_order=True)
    )


def _packed(values: dict[str, tuple[str, ...]], found: list[tuple[Ints, Ints]], items: int) -> CatalogAttributes:
    widths = [1 + len(distinct) // _WORD_BITS for distinct in values.values()]
    first = np.cumsum([0, *widths])
    words = np.zeros((items, int(first[-1])), dtype=np.uint64)
    keys: list[Ints] = []
    for (name, distinct), begin, (item, value) in zip(values.items(), first[:-1], found, strict=True):
        # Every item has the first bit, so the values begin at the second.
        words[:, begin] |= np.uint64(1)
        bit = value + 1
        np.bitwise_or.at(
            words, (item, begin + bit // _WORD_BITS), np.left_shift(np.uint64(1), (bit % _WORD_BITS).astype(np.uint64))
        )
        keys.append(item_keys(f"{name}={text}" for text in distinct))
    key = np.concatenate(keys)
    order = np.argsort(key)
    if np.any(key[order][1:] == key[order][:-1]):
        raise AttributesError("attributes: got the same key for two values; expected different keys: rename one value")
    sizes = [len(distinct) for distinct in values.values()]
    return CatalogAttributes(
        values=values,
        items=ItemAttributes(words.view(np.int64), tuple((int(begin), int(end)) for begin, end in pairwise(first))),
        key=key[order],
        column=np.repeat(np.arange(len(sizes)), sizes)[order],
        bit=np.concatenate([np.arange(1, size + 1) for size in sizes])[order],
    )
