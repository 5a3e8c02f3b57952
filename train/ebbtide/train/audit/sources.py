"""Reads the groups that an audit is asked for: attributes of items and users, from files of their own or the data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from ebbtide.data.dataset import DataReference
from ebbtide.data.errors import DataError
from ebbtide.train.audit.audit import built_in_item_groups, built_in_user_groups
from ebbtide.train.audit.groups import Groups, by_value, contrast, values_of
from ebbtide.train.evaluation.segments import item_values, user_values
from ebbtide.train.evaluation.testset import TestSet


@dataclass(frozen=True)
class Attributes:
    """Which attributes of items or of users to look at."""

    path: str | None = None
    """File with the columns; None for the bundle's catalog (items) or event log (users)."""
    columns: Sequence[str] = ()
    protected: Sequence[tuple[str, str]] = field(default=())
    """Pairs of column and value; ``popularity``, ``activity`` and ``newness`` name the groups that need no
    attribute, if no column of that name is asked for."""


def item_groups(reference: DataReference, test: TestSet, attributes: Attributes) -> list[Groups]:
    """Groups of the catalog's items.

    Args:
        reference: For the names of the files and of the column with the item ids.
        test: Split log.
        attributes: What to look at.

    Raises:
        DataError: A file or a column cannot be used, or nobody is protected or unprotected.
    """
    path = attributes.path or reference.catalog
    importance = np.bincount(test.relevance.item, minlength=len(test.catalog))

    def read(column: str) -> pl.DataFrame:
        if path is None:
            raise DataError(f"column {column!r}: the bundle has no catalog file; expected --item-attributes FILE")
        encoding = None if attributes.path else reference.encoding
        return item_values(path, reference.catalog_item_column, column, encoding)

    built_in = [built_in_item_groups(test)]
    return _groups("items", read, attributes, test.catalog.item_id, importance, built_in)


def user_groups(reference: DataReference, test: TestSet, attributes: Attributes) -> list[Groups]:
    """Groups of the log's users; arguments and errors as for `item_groups`."""
    path = attributes.path or reference.events
    importance = np.bincount(test.owner, minlength=len(test.log.users))

    def read(column: str) -> pl.DataFrame:
        return user_values(path, reference.user_column, column, None if attributes.path else reference.encoding)

    built_in = built_in_user_groups(test)
    return _groups("users", read, attributes, list(test.log.users), importance, built_in)


def _groups(
    of_what: str,
    read: Callable[[str], pl.DataFrame],
    attributes: Attributes,
    ids: Sequence[str],
    importance: np.ndarray[tuple[int], np.dtype[np.int64]],
    built_in: Sequence[Groups],
) -> list[Groups]:
    found: list[Groups] = []
    for column in attributes.columns:
        found.append(by_value(column, f"{of_what.capitalize()} by {column}", read(column), ids, importance))
    for column, value in attributes.protected:
        given = next((one for one in built_in if one.name == column and column not in attributes.columns), None)
        values = read(column) if given is None else values_of(given, ids)
        found.append(contrast(column, f"Protected {of_what}: {column}={value}", values, ids, value))
    return found
