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
from ebbtide.data.value_notes import decimal_comma_hint
from ebbtide.export.errors import AttributesError
from ebbtide.export.head.attributes import ItemAttributes
from ebbtide.interest.attributes import NUMBER_WORDS
from ebbtide.interest.keys import item_keys
from ebbtide.interest.numbers import MISSING, numbers_of, ordered

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
    numbers: tuple[str, ...] = ()
    """The numeric columns, whose words stand behind those of the others; see `AttributeIndex`."""

    @property
    def digest(self) -> str:
        """SHA-256 of all values of all items, in hex."""
        content = hashlib.sha256(json.dumps(self.values, sort_keys=True).encode())
        if self.numbers:
            content.update(json.dumps(self.numbers).encode())
        content.update(self.items.words.tobytes())
        return content.hexdigest()

    @property
    def number_column(self) -> Ints:
        """``[numeric columns]``: indices into `ItemAttributes.columns`."""
        return np.arange(len(self.values), len(self.values) + len(self.numbers))

    @property
    def number_key(self) -> Ints:
        """``[numeric columns]``: the keys of their names."""
        return item_keys(self.numbers)

    @property
    def number_ranges(self) -> dict[str, tuple[float, float]]:
        """The least and the largest number that an item has in each numeric column."""
        found: dict[str, tuple[float, float]] = {}
        for name, column in zip(self.numbers, self.number_column.tolist(), strict=True):
            number = self.items.words[:, self.items.columns[column][0] + 1]
            least, most = numbers_of([number[number != MISSING].min(), number.max()]).tolist()
            found[name] = (least, most)
        return found


def read_attributes(
    path: Path,
    columns: Sequence[str],
    item_id: Sequence[str],
    *,
    item_column: str,
    separator: str = "|",
    encoding: str | None = None,
    numeric: Sequence[str] = (),
) -> CatalogAttributes:
    """Reads the attributes of a catalog's items; an item that is not in the file has no value and passes no filter.

    Args:
        path: Parquet, CSV, TSV or JSON Lines file with one row per item.
        columns: Columns to read. A list, or a text with separators, holds several values.
        item_id: ``[items]``, the item ids in catalog order.
        item_column: The column with the item ids.
        separator: Separator between the values in a text; empty if each text is one value.
        encoding: Of a text file that is not UTF-8 and has no byte order mark.
        numeric: Columns with one finite number for each item, for ranges.

    Raises:
        DataError: The file is missing, has another format or lacks a column.
        AttributesError: A column has no values or too many, or no item of the file is in the catalog; a numeric column
            has something else than numbers, or two numbers of one item.
    """
    for name in numeric:
        if name in columns:
            raise AttributesError(
                f"attributes of {path}, column {name}: got it with values and as a numeric column; expected one of them"
            )
    read = read_table(path, list(dict.fromkeys([item_column, *columns, *numeric])), encoding)
    table = read.frame.filter(read.flaw.is_null())
    index = pl.DataFrame({"_id": list(item_id), "_item": np.arange(len(item_id), dtype=np.int64)})
    known = table.select(pl.col(item_column).cast(pl.String).alias("_id"), *columns, *numeric).join(index, on="_id")
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
    return _packed(values, found, len(item_id), {name: _numbers(known, name, len(item_id), path) for name in numeric})


def _numbers(table: pl.DataFrame, name: str, items: int, path: Path) -> Ints:
    """The number of each item as an ordered integer, ``[items]``; `MISSING` without one.

    Raises:
        AttributesError: Some are no finite numbers, all are missing, or an item has two.
    """
    where = f"attributes of {path}, column {name}"
    kind = table.schema[name]
    if not (kind.is_numeric() or kind == pl.String or kind == pl.Null):
        raise AttributesError(
            f"{where}: got {kind}; expected numbers: name it with --attribute-col to filter by values"
        )
    column = pl.col(name).str.strip_chars().replace("", None) if kind == pl.String else pl.col(name)
    given = table.select("_item", given=column).filter(pl.col("given").is_not_null())
    # A text is not read as infinite, and NaN is no number.
    read = given.with_columns(number=pl.col("given").cast(pl.Float64, strict=False).fill_nan(None))
    if kind == pl.String:
        bad = read.filter(pl.col("number").is_null() & (pl.col("given").str.to_lowercase() != "nan"))
        if bad.height:
            hint = decimal_comma_hint(bad["given"][0])
            raise AttributesError(f"{where}: got {bad['given'][0]!r}; expected numbers" + (f": {hint}" if hint else ""))
    read = read.filter(pl.col("number").is_not_null()).unique(["_item", "number"])
    if read["number"].is_infinite().any():
        raise AttributesError(f"{where}: got an infinite number; expected finite numbers")
    if not read.height:
        raise AttributesError(f"{where}: got no number; expected at least one")
    if read["_item"].is_duplicated().any():
        first = read.filter(pl.col("_item").is_duplicated()).sort("_item", "number")["number"][:2].to_list()
        raise AttributesError(f"{where}: got {first[0]:g} and {first[1]:g} of one item; expected one number of each")
    found = np.full(items, MISSING, dtype=np.int64)
    found[read["_item"].to_numpy()] = ordered(read["number"].to_numpy())
    return found


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


def _packed(
    values: dict[str, tuple[str, ...]], found: list[tuple[Ints, Ints]], items: int, numbers: dict[str, Ints]
) -> CatalogAttributes:
    widths = [1 + len(distinct) // _WORD_BITS for distinct in values.values()] + [NUMBER_WORDS] * len(numbers)
    first = np.cumsum([0, *widths])
    words = np.zeros((items, int(first[-1])), dtype=np.uint64)
    keys: list[Ints] = []
    for (name, distinct), begin, (item, value) in zip(values.items(), first[: len(values)], found, strict=True):
        # Every item has the first bit, so the values begin at the second.
        words[:, begin] |= np.uint64(1)
        bit = value + 1
        np.bitwise_or.at(
            words, (item, begin + bit // _WORD_BITS), np.left_shift(np.uint64(1), (bit % _WORD_BITS).astype(np.uint64))
        )
        keys.append(item_keys(f"{name}={text}" for text in distinct))
    for number, begin in zip(numbers.values(), first[len(values) : -1], strict=True):
        words[:, begin] = np.uint64(1)
        words[:, begin + 1] = number.view(np.uint64)
    key = np.concatenate([*keys, np.empty(0, dtype=np.int64)])
    order = np.argsort(key)
    if np.unique(np.concatenate([key, item_keys(numbers)])).size < key.size + len(numbers):
        raise AttributesError("attributes: got the same key for two values; expected different keys: rename one value")
    sizes = [len(distinct) for distinct in values.values()]
    return CatalogAttributes(
        values=values,
        items=ItemAttributes(
            words.view(np.int64),
            tuple((int(begin), int(end)) for begin, end in pairwise(first)),
            frozenset(range(len(values), len(values) + len(numbers))),
        ),
        key=key[order],
        column=np.repeat(np.arange(len(sizes)), sizes)[order],
        bit=np.concatenate([np.arange(1, size + 1) for size in (*sizes, 0)])[order],
        numbers=tuple(numbers),
    )
