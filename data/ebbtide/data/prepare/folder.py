"""Finds the files of a public data set in the folder that a user names, and reads their columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from polars.datatypes import DataType, DataTypeClass

from ebbtide.data.delimited import require_columns
from ebbtide.data.errors import DataError
from ebbtide.data.text_files import refuse_pointer

OUTPUT_FILES = ("events.parquet", "catalog.parquet")
"""What `ebbtide prepare` writes; no data set has files of these names."""

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".7z")
_SHOWN = 3


@dataclass(frozen=True)
class SourceFolder:
    """The folder with the unpacked files of a data set, and what messages call the data set."""

    path: Path
    title: str
    page: str

    def find(self, *patterns: str) -> list[Path]:
        """All files of the folder and the folders below whose name matches one of the patterns, sorted.

        Raises:
            DataError: The folder or every such file is missing; the message says where the data set is offered.
        """
        if not self.path.is_dir():
            raise DataError(f"{self.path}: no such folder; expected the unpacked files of {self.origin}")
        found = self.find_optional(*patterns)
        if not found:
            packed = [file.name for file in sorted(self.path.iterdir()) if file.name.endswith(_ARCHIVES)]
            hint = f". Unpack {', '.join(packed[:_SHOWN])}" if packed else ""
            raise DataError(
                f"{self.path}: no file {' or '.join(patterns)} in it or below; expected the unpacked files of "
                f"{self.origin}{hint}"
            )
        return found

    def find_optional(self, *patterns: str) -> list[Path]:
        """As `find`, but no file is no error."""
        matches = {file for pattern in patterns for file in self.path.rglob(pattern) if file.is_file()}
        # What an earlier run has written below the folder is no part of the data set.
        found = sorted(file for file in matches if file.name not in OUTPUT_FILES)
        for file in found:
            refuse_pointer(file)
        return found

    def find_one(self, *patterns: str) -> Path:
        """The one file that matches.

        Raises:
            DataError: There is none, or several: two copies or sizes of a data set must not be mixed.
        """
        found = self.find(*patterns)
        if len(found) > 1:
            shown = ", ".join(str(file.relative_to(self.path)) for file in found[:_SHOWN])
            raise DataError(
                f"{self.path}: got {len(found)} files ({shown}); expected one: name the folder of one of them"
            )
        return found[0]

    @property
    def origin(self) -> str:
        """The data set and where it is offered."""
        return f"{self.title} ({self.page})"


def scan_parquet(file: Path, *columns: str) -> pl.LazyFrame:
    """Some columns of a Parquet file.

    Raises:
        DataError: A column is missing.
    """
    frame = pl.scan_parquet(file, glob=False, hive_partitioning=False)
    require_columns(str(file), list(columns), frame.collect_schema().names())
    return frame.select(columns)


def scan_csv(file: Path, *columns: str) -> pl.LazyFrame:
    """Some columns of a CSV file with a header, plain or with gzip, as text.

    Raises:
        DataError: A column is missing.
    """
    frame = pl.scan_csv(file, glob=False, infer_schema=False)
    require_columns(str(file), list(columns), frame.collect_schema().names())
    return frame.select(columns)


def scan_tsv(file: Path, *columns: str) -> pl.LazyFrame:
    """A tab-separated file without header in which quotes are ordinary characters, as text.

    Args:
        file: Plain, or with gzip.
        columns: Names of all its columns. A row with fewer has null in the others.
    """
    return pl.scan_csv(
        file,
        glob=False,
        separator="\t",
        has_header=False,
        quote_char=None,
        schema=dict.fromkeys(columns, pl.String()),
        truncate_ragged_lines=True,
    )


def scan_json_lines(file: Path, types: Mapping[str, DataType | DataTypeClass]) -> pl.LazyFrame:
    """Some fields of a JSON Lines file, plain or with gzip; a field that a line lacks is null.

    Args:
        file: One object per line.
        types: Of the fields.
    """
    return pl.scan_ndjson(file, schema=dict(types))
