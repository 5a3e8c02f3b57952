"""Reads a catalog: item ids, the text that describes each, and the title shown to users."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from ebbtide.data.bad_rows import BadRows
from ebbtide.data.bad_rows import shown as as_shown
from ebbtide.data.errors import DataError
from ebbtide.data.ids import ROUNDED_ID, is_missing, is_rounded
from ebbtide.data.tables import Table, one_error, read_pieces, read_table
from ebbtide.data.value_notes import note_lost_characters, note_texts, note_twins
from ebbtide.interest.keys import item_keys

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


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
    path: str | Path,
    item_column: str = "item",
    text_template: str = "{text}",
    title_template: str | None = None,
    max_bad_rows: float = 0.01,
    encoding: str | None = None,
) -> tuple[Catalog, BadRows]:
    """The items of a file.

    Args:
        path: What `read_table` reads.
        item_column: The column with the ids.
        text_template: The text of an item, with ``{column}`` for values: ``"{title} ({year}). {genres}"``.
        title_template: Title shown to users; None: the text.
        max_bad_rows: Refuse the file when more than this share of its rows is bad.
        encoding: Of a text file that is not UTF-8 and has no byte order mark.

    Returns:
        The catalog in the file's order, and the ignored rows. An item with an empty text gets its id as text.

    Raises:
        DataError: Unreadable file, missing column, a template without placeholder, or too many bad rows.
    """
    title_template = text_template if title_template is None else title_template
    with one_error(str(path)):
        return _usable_items(path, item_column, text_template, title_template, max_bad_rows, encoding)


def _usable_items(
    path: str | Path,
    item_column: str,
    text_template: str,
    title_template: str,
    max_bad_rows: float,
    encoding: str | None,
) -> tuple[Catalog, BadRows]:
    placeholders = (
        *_placeholders("text template", "--text-template", text_template),
        *_placeholders("title template", "--title-template", title_template),
    )
    columns = list(dict.fromkeys([item_column, *placeholders]))
    table = read_table(path, columns, encoding)
    ids, usable, bad = _usable_ids(table, item_column)
    shown = _as_text(table, columns)
    table.refuse_above(bad, max_bad_rows)
    kept = shown.filter(usable)
    if kept.is_empty():
        raise DataError(f"{path}: no usable item ({bad})")
    item_id = kept[item_column].to_list()
    note_twins(item_column, kept[item_column], bad)
    note_lost_characters(table, item_column, ids, usable, bad)
    note_texts(table, shown.drop(item_column), usable, bad)
    texts = fill_template(text_template, kept)
    if kept.height > 1 and texts.n_unique() == 1 and texts[0]:
        bad.notes.append(f"all items have the text {as_shown(texts[0])}: it says nothing of an item")
    without = (texts == "").arg_true()
    if len(without):
        lines = table.lines(usable.arg_true().gather(without))
        bad.notes.append(f"{len(without):,} items without text are described by their id ({lines})")
    text, title = (
        [filled or one for filled, one in zip(column, item_id, strict=True)]
        for column in (texts.to_list(), fill_template(title_template, kept).to_list())
    )
    return Catalog(item_id, text, title), bad


def read_catalog_pieces(
    path: str | Path, item_column: str, text_template: str, encoding: str | None = None
) -> Iterator[tuple[pl.DataFrame, BadRows]]:
    """The usable items of a file that need not fit into memory, in pieces, in the order of the file.

    In memory are a piece, and 8 bytes for each item, by which an id is found again. How many rows are bad is for the
    caller to judge.

    Args:
        path: What `read_table` reads.
        item_column: The column with the ids.
        text_template: As for `read_catalog`.
        encoding: As for `read_catalog`.

    Yields:
        A frame with ``item`` and ``text``, both text, in which an item without a text has its id as text; and what was
        left out.

    Raises:
        DataError: Unreadable file, missing column or a template without placeholder, at the piece that has the fault.
    """
    columns = list(dict.fromkeys([item_column, *_placeholders("text template", "--text-template", text_template)]))
    earlier = _EarlierIds()
    for table in read_pieces(path, columns, encoding):
        with one_error(str(path)):
            _, usable, bad = _usable_ids(table, item_column, earlier)
            kept = _as_text(table, columns).filter(usable)
            texts = fill_template(text_template, kept)
            item = kept[item_column]
            yield pl.DataFrame({"item": item, "text": texts.zip_with(texts != "", item)}), bad


class _EarlierIds:
    """The ids of earlier pieces, by 8 bytes each."""

    def __init__(self) -> None:
        self._keys = np.empty(0, dtype=np.int64)

    def add(self, ids: pl.Series, usable: pl.Series) -> pl.Series:
        """Which of the usable rows have an id of an earlier piece, ``[rows]``; the other ones are known from now on."""
        rows = usable.arg_true().to_numpy()
        keys = item_keys(ids.gather(rows))
        is_known = np.zeros(rows.size, dtype=np.bool_)
        if self._keys.size:
            # Behind the end of the sorted keys stands none that could be equal.
            position = np.minimum(self._keys.searchsorted(keys), self._keys.size - 1)
            is_known = self._keys[position] == keys
        self._keys = np.sort(np.concatenate([self._keys, keys[~is_known]]), kind="stable")
        found = np.zeros(len(ids), dtype=np.bool_)
        found[rows[is_known]] = True
        return pl.Series(found)


def _usable_ids(
    table: Table, item_column: str, earlier: _EarlierIds | None = None
) -> tuple[pl.Series, pl.Series, BadRows]:
    """The ids ``[rows]``, which rows have an id of their own ``[rows]``, and the other rows."""
    ids = table.text(item_column, is_id=True)
    bad = BadRows(rows=len(ids))
    usable = table.add_flaws(bad)
    missing = is_missing(ids)
    table.add_bad(bad, "no item id", missing & usable, item_column)
    usable = usable & ~missing
    rounded = is_rounded(ids) & usable
    table.add_bad(bad, ROUNDED_ID, rounded, item_column, "export the column as text")
    usable = usable & ~rounded
    # Only among usable rows: a row that is ignored must not take the id from a sound one.
    repeated = usable & ~pl.select(pl.when(usable).then(ids)).to_series().is_first_distinct()
    if earlier is not None:
        repeated = repeated | earlier.add(ids, usable & ~repeated)
    table.add_bad(bad, "an item id that an earlier row has", repeated, item_column)
    return ids, usable & ~repeated, bad


def _as_text(table: Table, columns: list[str]) -> pl.DataFrame:
    return pl.DataFrame([table.text(name, is_id=False).alias(name) for name in columns])


def _placeholders(what: str, option: str, template: str) -> list[str]:
    """The columns that a template names.

    Raises:
        DataError: It names none, or has a brace that encloses no name.
    """
    names = _PLACEHOLDER.findall(template)
    if not names:
        raise DataError(f"{what}: got {template!r}; expected at least one {{column}} in it ({option})")
    if re.search(r"[{}]", _PLACEHOLDER.sub("", template)):
        raise DataError(
            f"{what}: got {template!r} with a brace that encloses no column; expected {{column}} as in "
            f'"{{title}} ({{year}})" ({option})'
        )
    return names


def catalog_of_events(items: pl.Series) -> Catalog:
    """The catalog of a log without a catalog file: every item of the log, with its id as text."""
    ids = items.unique().sort().to_list()
    return Catalog(ids, ids, ids)
