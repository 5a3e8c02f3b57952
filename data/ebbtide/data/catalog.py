"""Reads a catalog: item ids, the text that describes each, and the title shown to users."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ebbtide.data.errors import DataError
from ebbtide.data.events import BadRows, read_table

_PLACEHOLDER = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Catalog:
    """Items and their texts; the position of an item is its catalog index. `N` items in all."""

    item_id: list[str]
    """``[items]``: unique ids."""
    text: list[str]
    """``[items]``: text for the encoder."""
    title: list[str]
    """``[items]``: title shown to users."""

    @property
    def index(self) -> dict[str, int]:
        """Item id to catalog index."""
        return {item_id: position for position, item_id in enumerate(self.item_id)}

    def __len__(self) -> int:
        return len(self.item_id)


def fill_template(template: str, table: pl.DataFrame) -> pl.Series:
    """One text for each row: ``"{title} ({year})"`` with the row's values, empty where a value is missing."""
    parts: list[pl.Expr] = []
    position = 0
    for match in _PLACEHOLDER.finditer(template):
        parts.append(pl.lit(template[position : match.start()]))
        parts.append(pl.col(match[1]).cast(pl.String).fill_null(""))
        position = match.end()
    parts.append(pl.lit(template[position:]))
    # A missing year must not leave "()" behind, nor a missing title a sentence that begins with a full stop.
    filled = (
        pl.concat_str(parts)
        .str.replace_all(r"\(\s*\)", "")
        .str.replace_all(r"\s+", " ")
        .str.replace_all(r" ([.,;:])", "$1")
        .str.strip_chars_start(" .,;:")
        .str.strip_chars_end()
    )
    return table.select(text=filled)["text"]


def read_catalog(
    path: Path,
    item_column: str = "item",
    text_template: str = "{text}",
    title_template: str | None = None,
    max_bad_rows: float = 0.01,
) -> tuple[Catalog, BadRows]:
    """The items of a Parquet, CSV, TSV or JSON Lines file.

    Args:
        path: The file.
        item_column: The column with the ids.
        text_template: The text of an item, with ``{column}`` for values: ``"{title} ({year}). {genres}"``.
        title_template: Title shown to users; None: the text.
        max_bad_rows: Refuse the file when more than this share of its rows is bad.

    Returns:
        The catalog in the file's order, and the ignored rows. An item with an empty text gets its id as text.

    Raises:
        DataError: Unreadable file, missing column, a template without placeholder, or too many bad rows.
    """
    templates = [text_template, title_template or text_template]
    columns = {name: None for template in templates for name in _PLACEHOLDER.findall(template)}
    if not columns:
        raise DataError(f"text template: got {text_template!r}; expected at least one {{column}} in it")
    columns.pop(item_column, None)
    table, first_line = read_table(path, [item_column, *columns])
    table = table.with_columns(pl.col(item_column).cast(pl.String)).with_row_index("__line", offset=first_line)
    missing = pl.col(item_column).is_null() | (pl.col(item_column) == "")
    repeated = ~missing & ~pl.col(item_column).is_first_distinct()
    flagged = table.select("__line", missing=missing, repeated=repeated)
    bad = BadRows(rows=table.height)
    for reason, column in (("no item id", "missing"), ("an item id that an earlier row has", "repeated")):
        lines = flagged.filter(pl.col(column))["__line"].to_list()
        if lines:
            bad.reasons[reason] = lines
    bad.refuse_above(max_bad_rows, path)
    table = table.filter(~(flagged["missing"] | flagged["repeated"]))
    if table.is_empty():
        raise DataError(f"{path}: no usable item ({bad})")
    ids = table[item_column].to_list()
    texts = [text or item_id for text, item_id in zip(fill_template(templates[0], table), ids, strict=True)]
    titles = [title or item_id for title, item_id in zip(fill_template(templates[1], table), ids, strict=True)]
    return Catalog(ids, texts, titles), bad


def catalog_of_events(items: pl.Series) -> Catalog:
    """The catalog of a log without a catalog file: every item of the log, with its id as text."""
    ids = items.unique().sort().to_list()
    return Catalog(ids, ids, ids)
