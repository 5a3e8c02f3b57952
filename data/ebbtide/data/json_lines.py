"""JSON Lines: one object per line, read into text columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ebbtide.data.delimited import Ints
from ebbtide.data.errors import DataError

_NO_OBJECT = "text that is not a JSON object"
_NESTED = "an object in {column!r}, where a text or a number is expected"
_HALF = "half a character (a lone surrogate)"


def read_json_lines(
    path: Path, data: bytes, columns: list[str], lines_before: int = 0
) -> tuple[pl.DataFrame, Ints, pl.Series]:
    """The named columns, the line of each row, and its flaw: null, or what is wrong with it.

    Values become text; a column with lists becomes a column of lists of text. Blank lines are no rows.

    Args:
        path: For messages.
        data: UTF-8.
        columns: Keys of which each must be in some line, if these are the first of the file.
        lines_before: Lines of the file before those of `data`.

    Raises:
        DataError: No line has one of the keys.
    """
    values: dict[str, list[Any]] = {name: [] for name in columns}
    found: set[str] = set()
    lines: list[int] = []
    flaws: list[str | None] = []
    for number, line in enumerate(data.decode().split("\n"), start=lines_before + 1):
        if not line or line.isspace():
            continue
        flaw = None
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            row, flaw = {}, _NO_OBJECT
        found.update(row)
        for name in columns:
            value = row.get(name)
            if type(value) is int or type(value) is float:
                # NaN is not equal to itself.
                value = str(value) if value == value else None
            elif type(value) is not str and value is not None:
                value, is_nested = _plain(value)
                flaw = flaw or (_NESTED.format(column=name) if is_nested else None)
            values[name].append(value)
        lines.append(number)
        flaws.append(flaw)
    if lines and not found and not lines_before:
        raise DataError(f"{path}: line {lines[0]}: got {_NO_OBJECT}; expected an object in each line (JSON Lines)")
    absent = [name for name in columns if name not in found]
    if absent and not lines_before:
        raise DataError(f"{path}: no line has the key {absent[0]!r}; keys seen: {', '.join(sorted(found)) or 'none'}")
    table = pl.DataFrame([_series(name, values[name], flaws) for name in columns])
    return table, np.array(lines, dtype=np.int64), pl.Series(flaws, dtype=pl.String)


def _plain(value: object) -> tuple[str | list[str | None] | None, bool]:
    """The value as text or a list of texts, and whether it holds an object."""
    if isinstance(value, list):
        parts = [_plain(part) for part in value]
        texts = [text for text, _ in parts if not isinstance(text, list)]
        return texts, len(texts) < len(parts) or any(nested for _, nested in parts)
    if isinstance(value, dict):
        return None, True
    if value is None or value != value:
        return None, False
    return (value if isinstance(value, str) else json.dumps(value)), False


def _series(name: str, values: list[Any], flaws: list[str | None]) -> pl.Series:
    dtype: pl.DataType | type[pl.DataType] = pl.String
    if any(isinstance(value, list) for value in values):
        dtype = pl.List(pl.String)
        values = [value if value is None or isinstance(value, list) else [value] for value in values]
    try:
        return pl.Series(name, values, dtype=dtype)
    except UnicodeEncodeError:
        for index, value in enumerate(values):
            if any("\ud800" <= character <= "\udfff" for text in _texts(value) for character in text):
                values[index], flaws[index] = None, flaws[index] or _HALF
        return pl.Series(name, values, dtype=dtype)


def _texts(value: str | list[str | None] | None) -> list[str]:
    return [text for text in (value if isinstance(value, list) else [value]) if text is not None]
