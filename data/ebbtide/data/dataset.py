"""An event log with its catalog: the files and columns, and the data read from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ebbtide.data.bad_rows import BadRows
from ebbtide.data.catalog import Catalog, catalog_of_events, read_catalog
from ebbtide.data.errors import DataError
from ebbtide.data.event_types import EventTypeNames
from ebbtide.data.events import EventColumns, EventLog, build_log, read_events
from ebbtide.data.vectors import ItemVectors, read_vectors
from ebbtide.interest.time_units import TimeUnit

BUNDLE_CATALOG_FILE = "catalog.parquet"
"""Of a bundle: ``item_id``, ``text`` and ``title`` of each item."""
BUNDLE_CONFIG_FILE = "bundle.json"
"""The bundle file that holds the reference to the training data, under the key ``data``."""


class DataReference(BaseModel):
    """Files, columns and holdout of a training, so that evaluation finds the same split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    events: str
    catalog: str | None
    user_column: str
    item_column: str
    time_column: str
    weight_column: str | None
    catalog_item_column: str
    text_template: str
    title_template: str | None
    max_bad_rows: float = Field(ge=0, le=1, allow_inf_nan=False)
    holdout: str
    """``none``, ``leave-last-out``, ``time:F`` or ``time:DATE``."""
    time_unit: TimeUnit | None = None
    """Unit of numeric times; None: by magnitude."""
    time_format: str | None = None
    """strptime format of the times; None: ISO 8601."""
    encoding: str | None = None
    """Of text files that are not UTF-8 and have no byte order mark."""
    event_type_column: str | None = None
    """None for a log of events of one type."""
    event_types: tuple[str, ...] = ()
    """Names of the event types of the training, those that are predicted first; empty before the training."""
    target_types: tuple[str, ...] = ()
    """Names of those that are predicted."""
    vectors: dict[str, str] = {}
    """Files with vectors of the items, by the name of their feature block; the bundle keeps what it needs of them."""

    @property
    def columns(self) -> EventColumns:
        """How the event log is read."""
        return EventColumns(
            user=self.user_column,
            item=self.item_column,
            time=self.time_column,
            weight=self.weight_column,
            time_unit=self.time_unit,
            time_format=self.time_format,
            encoding=self.encoding,
            event_type=self.event_type_column,
        )

    def log_of(self, frame: pl.DataFrame, item_index: dict[str, int]) -> EventLog:
        """The events of a frame of `read_events` as a log.

        Args:
            frame: Read with `columns`.
            item_index: Item id to catalog index, for every item of the frame.

        Raises:
            DataError: An event type is not of the training, or no event is of a target type.
        """
        if self.event_type_column is None:
            return build_log(frame, item_index)
        if self.event_types:
            names = EventTypeNames(self.event_types, len(self.target_types))
        else:
            names = EventTypeNames.found(frame["event_type"], self.target_types)
        return build_log(frame, item_index, names, self.event_type_column)

    @classmethod
    def of_bundle(cls, folder: Path) -> DataReference:
        """The training data of a bundle; reads only its config file, so torch is not needed.

        Raises:
            DataError: The folder is not a bundle.
        """
        path = folder / BUNDLE_CONFIG_FILE
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8"))["data"])
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            seen = error.strerror if isinstance(error, OSError) else error
            raise DataError(f"{path}: got {seen}; expected a bundle written by `ebbtide train`") from error


@dataclass(frozen=True)
class Dataset:
    """An event log and its catalog, as read."""

    log: EventLog
    catalog: Catalog
    bad_events: BadRows
    bad_items: BadRows | None
    """None for a log without a catalog file."""


def read_blocks(reference: DataReference, catalog: Catalog) -> dict[str, tuple[ItemVectors, BadRows]]:
    """Reads the files of vectors that a reference names: the vectors of each feature block, and the ignored rows.

    Args:
        reference: Also names the column with the ids.
        catalog: Whose items have the vectors.

    Raises:
        DataError: A file cannot be used; the message says which and why.
    """
    return {
        name: read_vectors(name, path, catalog, reference.catalog_item_column, reference.max_bad_rows)
        for name, path in reference.vectors.items()
    }


def read_dataset(reference: DataReference) -> Dataset:
    """Reads the files that a reference names.

    Raises:
        DataError: A file cannot be used; the message says which and why.
    """
    if reference.catalog is None:
        frame, bad_events = read_events(reference.events, reference.columns, None, reference.max_bad_rows)
        catalog, bad_items = catalog_of_events(frame["item"]), None
    else:
        catalog, bad_items = read_catalog(
            reference.catalog,
            reference.catalog_item_column,
            reference.text_template,
            reference.title_template,
            reference.max_bad_rows,
            reference.encoding,
        )
        frame, bad_events = read_events(reference.events, reference.columns, catalog.index, reference.max_bad_rows)
        if unused := len(catalog) - frame["item"].n_unique():
            bad_items.notes.append(f"{unused:,} of {len(catalog):,} items have no event")
    if frame.height > 1 and frame["time_ms"].n_unique() == 1:
        raise DataError(
            f"{reference.events}: column {reference.time_column}: got the same time for all {frame.height:,} events; "
            "expected the time of each event, not of the export"
        )
    return Dataset(reference.log_of(frame, catalog.index), catalog, bad_events, bad_items)
