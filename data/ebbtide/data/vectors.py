"""Reads vectors of items that other models made: images, audio, knowledge graphs. One file is one feature block."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from ebbtide.data.bad_rows import BadRows, shown
from ebbtide.data.catalog import Catalog
from ebbtide.data.errors import DataError
from ebbtide.data.ids import ROUNDED_ID, is_missing, is_rounded, near_id
from ebbtide.data.tables import Table, column_types, one_error, read_table
from ebbtide.data.text_files import refuse_pointer

RESERVED_NAMES = ("text", "residual")
"""Of the two blocks that every model has."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
_ARCHIVE = ".npz"
_FORMS = (
    "expected a Parquet file with the item ids and a column of lists of numbers, or an .npz file with the ids "
    "(one axis) and the vectors (two axes)"
)
_IDS, _VECTORS = "item", "vector"

Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ItemVectors:
    """The vectors of one feature block, as the file has them; not every item has one."""

    vector: Floats
    """``[items, width]``, in catalog order; zeros for an item without a vector."""
    is_present: Mask
    """``[items]``: whether the item has a vector."""

    @property
    def width(self) -> int:
        """Numbers in a vector."""
        return int(self.vector.shape[1])

    @property
    def items(self) -> int:
        """Items that have a vector."""
        return int(self.is_present.sum())


def parse_vectors(given: Sequence[str]) -> dict[str, str]:
    """Name to file, from texts such as ``image=embeddings.parquet``.

    Raises:
        DataError: A text has another form, or a name cannot be used or is given twice.
    """
    files: dict[str, str] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or not path:
            raise DataError(f"vectors: got {text!r}; expected NAME=FILE, as in image=embeddings.parquet (--vectors)")
        if _NAME.fullmatch(name) is None or name in RESERVED_NAMES:
            raise DataError(
                f"vectors: got the name {name!r}; expected up to 32 lower-case letters, digits and _, with a letter "
                f"first, and none of {', '.join(RESERVED_NAMES)} (--vectors)"
            )
        if name in files:
            raise DataError(f"vectors: got the name {name!r} twice; expected one file for each name (--vectors)")
        files[name] = path
    return files


def read_vectors(
    name: str, path: str | Path, catalog: Catalog, item_column: str = "item", max_bad_rows: float = 0.01
) -> tuple[ItemVectors, BadRows]:
    """The vectors of a catalog's items.

    In a Parquet file the vectors are in the column that is named like the block, or in the only one that holds lists of
    numbers. In an ``.npz`` file (``numpy.savez``) the array with one axis holds the ids, the one with two the vectors.

    Args:
        name: Of the block.
        path: The file.
        catalog: The items. Vectors of other items are ignored, and told as a note.
        item_column: The column with the ids, of a Parquet file.
        max_bad_rows: Refuse the file when more than this share of its rows is bad.

    Returns:
        The vectors, and the ignored rows.

    Raises:
        DataError: Unreadable file, no such column, too many bad rows, or vectors that say nothing.
    """
    with one_error(str(path)):
        is_archive = Path(path).suffix.lower() == _ARCHIVE
        table, ids, vectors = _archive(Path(path)) if is_archive else _parquet(name, path, item_column)
        return _of_items(table, ids, vectors, catalog, max_bad_rows)


def _parquet(name: str, path: str | Path, item_column: str) -> tuple[Table, str, str]:
    """The table, and the names of its columns of ids and of vectors."""
    types = column_types(path)
    if types is None:
        raise DataError(f"{path}: got a file of type {Path(path).suffix}, which has no lists of numbers; {_FORMS}")
    lists = [column for column, kind in types.items() if _inner(kind).is_numeric()]
    if name in types:
        column = name
    elif len(lists) == 1:
        column = lists[0]
    else:
        found = f"{len(lists)} ({', '.join(lists)})" if lists else f"none among {', '.join(types)}"
        raise DataError(
            f"{path}: columns of lists of numbers: got {found}; expected one, or one that is named {name} like the "
            "block"
        )
    table = read_table(path, list(dict.fromkeys([item_column, column])))
    if column not in lists:
        raise table.type_error(column, "lists of numbers")
    return table, item_column, column


def _archive(path: Path) -> tuple[Table, str, str]:
    """An ``.npz`` file as a table, and the names of its columns of ids and of vectors."""
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    refuse_pointer(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: cannot be read: {' '.join(str(error).split())}; {_FORMS}: np.savez(path, item=ids.astype(str), "
            "vector=vectors)"
        ) from error
    ids = [array for array in arrays.values() if array.ndim == 1]
    vectors = [array for array in arrays.values() if array.ndim == 2]
    if len(ids) != 1 or len(vectors) != 1 or len(ids[0]) != len(vectors[0]):
        shapes = ", ".join(f"{key} {list(array.shape)}" for key, array in arrays.items()) or "none"
        raise DataError(f"{path}: got the arrays {shapes}; expected two: ids [rows] and vectors [rows, width]")
    if vectors[0].dtype.kind not in "fiu" or ids[0].dtype.kind not in "iuUS":
        raise DataError(
            f"{path}: got ids of type {ids[0].dtype} and vectors of type {vectors[0].dtype}; expected text or whole "
            "numbers, and numbers"
        )
    with np.errstate(over="ignore"):
        rows = vectors[0].astype(np.float32)
    names = ids[0].astype(str).tolist()
    frame = pl.DataFrame({_IDS: pl.Series(names, dtype=pl.String), _VECTORS: _as_lists(rows)})
    line = np.arange(1, frame.height + 1)
    return (
        Table(str(path), frame, line, pl.repeat(None, frame.height, dtype=pl.String, eager=True), "row"),
        _IDS,
        _VECTORS,
    )


def _as_lists(rows: Floats) -> pl.Series:
    return pl.Series(rows, dtype=pl.Array(pl.Float32, rows.shape[1])).cast(pl.List(pl.Float32))


def _inner(kind: pl.DataType) -> pl.DataType:
    """The type in a list; that of nothing for another type."""
    inner = kind.inner if isinstance(kind, (pl.List, pl.Array)) else pl.Null
    return inner if isinstance(inner, pl.DataType) else inner()


def _of_items(
    table: Table, id_column: str, column: str, catalog: Catalog, max_bad_rows: float
) -> tuple[ItemVectors, BadRows]:
    """Puts the usable rows in catalog order.

    Raises:
        DataError: See `read_vectors`.
    """
    ids = table.text(id_column, is_id=True)
    lists = table.frame[column].cast(pl.List(pl.Float32), strict=False)
    bad = BadRows(rows=len(ids))
    missing = is_missing(ids)
    table.add_bad(bad, "no item id", missing, id_column)
    usable = ~missing
    rounded = is_rounded(ids) & usable
    table.add_bad(bad, ROUNDED_ID, rounded, id_column, "export the column as text")
    usable = usable & ~rounded
    # A row without a vector says nothing of its item; another row may.
    is_empty = lists.is_null() | (lists.list.len() == 0).fill_null(True)
    given = usable & ~is_empty
    repeated = given & ~pl.select(pl.when(given).then(ids)).to_series().is_first_distinct()
    table.add_bad(bad, "an item id that an earlier row has", repeated, id_column, "keep one vector for each item")
    given = given & ~repeated
    if not given.any():
        raise DataError(f"{table.source}: column {column}: got no vector in {len(ids):,} rows ({bad}); expected some")
    lengths = lists.list.len()
    width = int(lengths.filter(given).mode().max())  # type: ignore[arg-type]
    ragged = given & (lengths != width).fill_null(False)
    table.add_bad(bad, f"a vector of another length than {width}", ragged, column, "every vector needs one length")
    given = given & ~ragged
    rows = given.arg_true().to_numpy()
    vectors = lists.filter(given).explode().to_numpy().reshape(-1, width).astype(np.float32, copy=False)
    is_finite = np.isfinite(vectors).all(axis=1)
    not_finite = np.zeros(len(ids), dtype=np.bool_)
    not_finite[rows[~is_finite]] = True
    table.add_bad(bad, "a vector with NaN, null or an infinite number", pl.Series(not_finite), column)
    table.refuse_above(bad, max_bad_rows)
    rows, vectors = rows[is_finite], vectors[is_finite]
    return _in_catalog_order(table, ids.gather(rows), rows, vectors, catalog, bad, id_column)


def _in_catalog_order(
    table: Table,
    ids: pl.Series,
    rows: npt.NDArray[np.int64],
    vectors: Floats,
    catalog: Catalog,
    bad: BadRows,
    id_column: str,
) -> tuple[ItemVectors, BadRows]:
    """The vectors of the catalog's items.

    Args:
        table: The file.
        ids: ``[usable rows]``.
        rows: ``[usable rows]``, row indices of the table.
        vectors: ``[usable rows, width]``.
        catalog: The items.
        bad: Of the file; gets notes.
        id_column: For messages.
    """
    index = catalog.index
    item = np.array([index.get(one, -1) for one in ids.to_list()], dtype=np.int64)
    is_known = item >= 0
    if not is_known.any():
        near = near_id(ids, catalog.item_id)
        hint = f", such as {shown(catalog.item_id[0])}" if near is None else f": {shown(near[1])} for {shown(near[0])}"
        raise DataError(
            f"{table.source}: {table.unit} {table.line[rows[0]]}, column {id_column}: got {shown(ids[0])}, and no id "
            f"of the catalog in any row; expected ids of the catalog{hint}"
        )
    if unknown := int((~is_known).sum()):
        lines = table.lines(pl.Series(rows[~is_known]), id_column)
        bad.notes.append(f"{unknown:,} vectors of items that the catalog lacks are ignored ({lines})")
    has_value = vectors.any(axis=1)
    if zeros := int((is_known & ~has_value).sum()):
        lines = table.lines(pl.Series(rows[is_known & ~has_value]), id_column)
        bad.notes.append(f"{zeros:,} vectors of zeros count as missing ({lines})")
    used = is_known & has_value
    if not used.any() or (vectors[used] == vectors[used][0]).all():
        found = f"the same vector for all {int(used.sum()):,} items" if used.any() else "zeros for all items"
        raise DataError(f"{table.source}: got {found}; expected vectors that tell items apart")
    is_present = np.zeros(len(catalog), dtype=np.bool_)
    is_present[item[used]] = True
    found_vectors = np.zeros((len(catalog), vectors.shape[1]), dtype=np.float32)
    found_vectors[item[used]] = vectors[used]
    count = int(is_present.sum())
    bad.notes.append(f"{count:,} of {len(catalog):,} items have a vector of {vectors.shape[1]:,} numbers")
    return ItemVectors(found_vectors, is_present), bad
