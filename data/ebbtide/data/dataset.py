"""An event log with its catalog: the files and columns, and the data read from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ebbtide.data.catalog import Catalog, catalog_of_events, read_catalog
from ebbtide.data.errors import DataError
from ebbtide.data.events import BadRows, EventColumns, EventLog, build_log, read_events

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
    max_bad_rows: float
    holdout: str
    """``none``, ``leave-last-out``, ``time:F`` or ``time:DATE``."""

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
            raise DataError(f"{path}: got {error}; expected a bundle written by `ebbtide train`") from error


@dataclass(frozen=True)
class Dataset:
    """An event log and its catalog, as read."""

    log: EventLog
    catalog: Catalog
    bad_events: BadRows
    bad_items: BadRows | None
    """None for a log without a catalog file."""


def read_dataset(reference: DataReference) -> Dataset:
    """Reads the files that a reference names.

    Raises:
        DataError: A file cannot be used; the message says which and why.
    """
    events_file = Path(reference.events)
    columns = EventColumns(
        user=reference.user_column,
        item=reference.item_column,
        time=reference.time_column,
        weight=reference.weight_column,
    )
    if reference.catalog is None:
        frame, bad_events = read_events(events_file, columns, None, reference.max_bad_rows)
        catalog, bad_items = catalog_of_events(frame["item"]), None
    else:
        catalog, bad_items = read_catalog(
            Path(reference.catalog),
            reference.catalog_item_column,
            reference.text_template,
            reference.title_template,
            reference.max_bad_rows,
        )
        frame, bad_events = read_events(events_file, columns, catalog.index, reference.max_bad_rows)
    return Dataset(build_log(frame, catalog.index), catalog, bad_events, bad_items)
