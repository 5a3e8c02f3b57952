"""Keeps the results of each model, so that a later run, on another day or machine, computes only what is missing.

The report (JSON) has one row for each model and seed of a data set. Beside it, a Parquet file has the NDCG@10 of every
test user, which paired comparisons need. A row counts as long as its fingerprint is the present one: that of the split,
the settings and the code of the model.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from ebbtide.train.evaluation.report import without_nan

Values = npt.NDArray[np.float32]
_DIGITS = 16
_SCHEMA: dict[str, type[pl.DataType] | pl.DataType] = {
    "data_set": pl.String,
    "model": pl.String,
    "fingerprint": pl.String,
    "ndcg_at_10": pl.List(pl.Float32),
    "cold_ndcg_at_10": pl.List(pl.Float32),
}


@dataclass(frozen=True, eq=False)
class Record:
    """The result of one model and seed on the test split."""

    row: dict[str, Any]
    """JSON values; ``name`` and ``fingerprint`` identify it."""
    ndcg: Values
    """``[users]``, NDCG@10 of each test user."""
    cold_ndcg: Values
    """``[users with cold targets]``, the same where only cold items are relevant."""


class Records:
    """All results, in a JSON file and a Parquet file beside it."""

    def __init__(self, path: Path) -> None:
        """Reads what is there.

        Args:
            path: The JSON file; the Parquet file has the same name with ``-users`` at its end.
        """
        self.path, self.users_path = path, path.with_name(f"{path.stem}-users.parquet")
        report = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"data_sets": []}
        self._data_sets: dict[str, dict[str, Any]] = {one["name"]: one for one in report["data_sets"]}
        self._values: dict[tuple[str, str], tuple[str, Values, Values]] = {}
        for name, model, fingerprint, ndcg, cold in self._read_users().iter_rows():
            values = np.asarray(ndcg, dtype=np.float32), np.asarray(cold, dtype=np.float32)
            self._values[name, model] = (fingerprint, *values)

    def of(self, data_set: str, name: str, fingerprint: str) -> Record | None:
        """The result of a model; None if there is none, or one of other data, settings or code."""
        row = next((row for row in self.rows(data_set) if row["name"] == name), None)
        values = self._values.get((data_set, name))
        if row is None or row.get("fingerprint") != fingerprint or values is None or values[0] != fingerprint:
            return None
        return Record(row, *values[1:])

    def rows(self, data_set: str) -> list[dict[str, Any]]:
        """The rows of a data set, valid or not."""
        found = self._data_sets.get(data_set)
        rows: list[dict[str, Any]] = [] if found is None else found["models"]
        return rows

    def save(self, data_set: dict[str, Any], records: list[Record]) -> None:
        """Writes a data set's entry of the report, and the values of its users.

        Args:
            data_set: The entry; its rows are those of the records, and perhaps older ones.
            records: Results whose values are kept; older values of the data set are dropped.
        """
        name = str(data_set["name"])
        self._data_sets[name] = data_set
        self._values = {key: values for key, values in self._values.items() if key[0] != name}
        for record in records:
            key = name, str(record.row["name"])
            self._values[key] = (record.row["fingerprint"], record.ndcg, record.cold_ndcg)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        report = {"data_sets": [*self._data_sets.values()]}
        text = json.dumps(without_nan(report), indent=1, allow_nan=False) + "\n"
        _replace(self.path, lambda partial: partial.write_text(text, encoding="utf-8"))
        rows = [(*key, fingerprint, *map(_list, values)) for key, (fingerprint, *values) in self._values.items()]
        frame = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
        _replace(self.users_path, lambda partial: frame.write_parquet(partial, compression="zstd"))

    def _read_users(self) -> pl.DataFrame:
        return pl.read_parquet(self.users_path) if self.users_path.is_file() else pl.DataFrame(schema=_SCHEMA)


def fingerprint_of(key: dict[str, object]) -> str:
    """Fingerprint of JSON values."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def circumstances() -> dict[str, Any]:
    """Entries of a new row: when and where it was computed."""
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
    return {"date": datetime.now(timezone.utc).date().isoformat(), "machine": machine}


def _list(values: Values) -> list[float]:
    found: list[float] = values.tolist()
    return found


def _replace(path: Path, write: Any) -> None:  # noqa: ANN401 - what the writers return is of no use
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    write(partial)
    partial.replace(path)
