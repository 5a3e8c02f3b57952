"""NDCG@10 by the values of a column that the model need not know: segments of items (catalog) or of users (log)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from ebbtide.data.dataset import DataReference
from ebbtide.data.errors import DataError
from ebbtide.data.tables import read_table
from ebbtide.train.evaluation.accuracy import accuracy, user_means
from ebbtide.train.evaluation.breakdowns import Bin, Breakdown
from ebbtide.train.evaluation.evaluate import Run
from ebbtide.train.evaluation.intervals import estimate

MOST_SEGMENTS = 20
"""Values that are shown, those with the most baskets; the others are one segment together."""
OTHER = "all others"
SEPARATOR = "|"

Mask = npt.NDArray[np.bool_]


def segments(run: Run, column: str, seed: int = 0) -> Breakdown:
    """The breakdown by one column, which is looked for in the catalog's file and then in the event log.

    Args:
        run: Measured.
        column: Of the catalog: an item is in the segment of each of its values, which may be a list or stand in a text
            with ``|`` between them; a list over the whole catalog is judged by the relevant items of the segment alone.
            Of the log: a user is in the segment of the value of most of their events.
        seed: Of the intervals.

    Raises:
        DataError: Neither file has the column.
    """
    reference = run.bundle.config.data
    failures: list[str] = []
    for read, measure in ((_item_values, _of_items), (_user_values, _of_users)):
        try:
            values = read(reference, column)
        except DataError as error:
            failures.append(str(error))
            continue
        of_what = "items" if measure is _of_items else "users"
        return Breakdown(column, f"By {column} of the {of_what}", column, measure(run, values, seed))
    raise DataError(f"column {column!r}: expected one of the catalog or of the event log; {'; '.join(failures)}")


def item_values(path: str, id_column: str, column: str, encoding: str | None = None) -> pl.DataFrame:
    """Columns ``id`` and ``value``, one row for each value of an item; those without a value are left out.

    Args:
        path: File with one row for each item. A list, or a text with ``|``, holds several values.
        id_column: The column with the item ids.
        column: The column with the values.
        encoding: As for `read_table`.

    Raises:
        DataError: The file cannot be read or lacks a column.
    """
    table = read_table(path, [id_column, column], encoding).frame
    values = table.select(id=pl.col(id_column).cast(pl.String), value=pl.col(column))
    if values.schema["value"] == pl.String:
        values = values.with_columns(pl.col("value").str.split(SEPARATOR))
    if values.schema["value"] == pl.List:
        values = values.explode("value")
    return _with_texts(values).unique(maintain_order=True)


def user_values(path: str, id_column: str, column: str, encoding: str | None = None) -> pl.DataFrame:
    """Columns ``id`` and ``value``, one row for each user: the value of most rows, the first by name of equals.

    Args:
        path: File with rows of users, such as an event log.
        id_column: The column with the user ids.
        column: The column with the values.
        encoding: As for `read_table`.

    Raises:
        DataError: The file cannot be read or lacks a column.
    """
    table = read_table(path, [id_column, column], encoding).frame
    values = table.select(id=pl.col(id_column).cast(pl.String), value=pl.col(column))
    counts = _with_texts(values).group_by("id", "value").len()
    return counts.sort("len", "value", descending=[True, False]).unique("id", keep="first", maintain_order=True)


def _item_values(reference: DataReference, column: str) -> pl.DataFrame:
    if reference.catalog is None:
        raise DataError("catalog: got none in the bundle")
    return item_values(reference.catalog, reference.catalog_item_column, column, reference.encoding)


def _user_values(reference: DataReference, column: str) -> pl.DataFrame:
    return user_values(reference.events, reference.user_column, column, reference.encoding)


def _with_texts(values: pl.DataFrame) -> pl.DataFrame:
    if values.schema["value"].is_float():
        values = values.with_columns(pl.col("value").fill_nan(None))
    texts = values.with_columns(pl.col("value").cast(pl.String).str.strip_chars())
    return texts.filter(pl.col("value").is_not_null() & (pl.col("value") != ""))


def _of_items(run: Run, values: pl.DataFrame, seed: int) -> list[Bin]:
    test, index = run.test, run.test.catalog.index
    marks: dict[str, Mask] = {}
    for item_id, value in values.select("id", "value").iter_rows():
        if item_id in index:
            marks.setdefault(value, np.zeros(len(test.catalog), dtype=np.bool_))[index[item_id]] = True
    baskets = {value: int((test.relevance.only(mark).counts > 0).sum()) for value, mark in marks.items()}
    shown, rest = _shown(baskets)
    if rest:
        marks[OTHER] = np.any([marks[value] for value in rest], axis=0)
    found: list[Bin] = []
    for value in shown:
        relevance = test.relevance.only(marks[value])
        met = relevance.counts > 0
        if met.any():
            ndcg = accuracy(run.lists, relevance)["ndcg_at_10"]
            means = user_means(test.owner[met], ndcg[met])
            found.append(Bin(value, means.shape[0], int(met.sum()), estimate(means, seed)))
    return found


def _of_users(run: Run, values: pl.DataFrame, seed: int) -> list[Bin]:
    test = run.test
    value_of = dict(values.select("id", "value").iter_rows())
    of_user = np.array([value_of.get(user, "") for user in test.log.users], dtype=np.object_)[test.owner]
    names, counts = np.unique(of_user[of_user != ""].astype(str), return_counts=True)
    shown, rest = _shown(dict(zip(names.tolist(), counts.tolist(), strict=True)))
    if rest:
        of_user[np.isin(of_user.astype(str), rest)] = OTHER
    ndcg = accuracy(run.lists, test.relevance)["ndcg_at_10"]
    found: list[Bin] = []
    for value in shown:
        inside = of_user == value
        means = user_means(test.owner[inside], ndcg[inside])
        found.append(Bin(value, means.shape[0], int(inside.sum()), estimate(means, seed)))
    return found


def _shown(baskets: dict[str, int]) -> tuple[list[str], list[str]]:
    """The segments to show, those with the most baskets first, and the values that are in the last one together."""
    ordered = sorted((value for value in baskets if baskets[value]), key=lambda value: (-baskets[value], value))
    rest = ordered[MOST_SEGMENTS:]
    return [*ordered[:MOST_SEGMENTS], *([OTHER] if rest else [])], rest
