"""Options that say how an event log is read, which several commands share."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebbtide.cli.bundle_data import absolute
from ebbtide.interest.time_units import TimeUnit

if TYPE_CHECKING:
    from ebbtide.backfill import LogFiles
    from ebbtide.data.events import EventColumns

UnitOfTimes = Annotated[
    TimeUnit | None,
    typer.Option(
        "--time-unit", help="Unit of numeric times. Default: found by magnitude for times between 1995 and 2200."
    ),
]
FormatOfTimes = Annotated[
    str | None,
    typer.Option("--time-format", help="strptime format of times that are not ISO 8601, such as '%d/%m/%Y %H:%M'."),
]
EncodingOfTexts = Annotated[
    str | None,
    typer.Option(
        "--encoding", help="Encoding of text files that are not UTF-8 and have no byte order mark, such as cp1252."
    ),
]
LogOfFiles = Annotated[
    list[str] | None,
    typer.Option(
        "--events",
        help="Event log: Parquet, CSV, TSV or JSON Lines; a folder or an s3:// URL of Parquet files. Repeat the "
        "option for a log in several files; a user may be in all of them. Default: the log of --bundle.",
    ),
]
LogOfBundle = Annotated[
    Path | None,
    typer.Option(
        "--bundle", help="Bundle that the repository was exported from; its log and columns are the defaults."
    ),
]
UserCol = Annotated[str | None, typer.Option("--user-col", help="Column with the user id. Default: user.")]
ItemCol = Annotated[str | None, typer.Option("--item-col", help="Column with the item id. Default: item.")]
TimeCol = Annotated[
    str | None,
    typer.Option(
        "--time-col",
        help="Column with the time: Unix time, a date-time, or ISO 8601 text (UTC without a zone). Default: time.",
    ),
]
WeightCol = Annotated[
    str | None,
    typer.Option(
        "--weight-col", help="Column with the event weight, as in training. Default: every event has weight 1."
    ),
]
EventTypeCol = Annotated[
    str | None,
    typer.Option(
        "--event-type-col",
        help="Column with what the user did (view, purchase, dislike), for a model that was trained with event types. "
        "Default: every event is of the first target type.",
    ),
]
MaxBadRows = Annotated[
    float | None,
    typer.Option(
        "--max-bad-rows",
        min=0,
        max=1,
        help="Refuse a file if more than this share of its rows cannot be used. Default: 0.01.",
    ),
]
Scratch = Annotated[
    Path | None,
    typer.Option(
        "--scratch",
        help="Folder for temporary files, 36 to 52 bytes for each event. Default: the system's temporary folder.",
    ),
]


def log_files(
    events: list[str] | None,
    bundle: Path | None,
    columns: Mapping[str, object],
    max_bad_rows: float | None,
    *,
    event_id_col: str | None = None,
    until: datetime | None = None,
) -> LogFiles:
    """The log that the options name.

    Args:
        events: Files; None for those of the bundle.
        bundle: Whose columns are the defaults; None for none.
        columns: The fields of `EventColumns` that were given; None for one that was not.
        max_bad_rows: None for the bundle's.
        event_id_col: Column of the event ids; None for none.
        until: Events at this time or later are left out; None for none.

    Raises:
        BadParameter: Neither files nor a bundle, or unit and format of times.
        DataError: The folder is no bundle.
    """
    if columns["time_unit"] is not None and columns["time_format"] is not None:
        raise typer.BadParameter("expected --time-unit for numbers or --time-format for text, not both")
    if events is None and bundle is None:
        raise typer.BadParameter("expected the --events of a log, or the --bundle with the log of its training")
    from ebbtide.backfill import LogFiles
    from ebbtide.data.dataset import DataReference

    reference = None if bundle is None else DataReference.of_bundle(bundle)
    if max_bad_rows is None:
        max_bad_rows = 0.01 if reference is None else reference.max_bad_rows
    return LogFiles(
        [absolute(path) for path in events] if events else [reference.events if reference else ""],
        _columns(None if reference is None else reference.columns, columns),
        event_id_col,
        None if until is None else milliseconds(until),
        max_bad_rows,
    )


def milliseconds(time: datetime) -> int:
    """Unix milliseconds."""
    return round(time.timestamp() * 1000)


def _columns(of_training: EventColumns | None, given: Mapping[str, object]) -> EventColumns:
    """How the log is read: as in the training, except for what the command line gives."""
    from ebbtide.data.events import EventColumns

    values = {name: value for name, value in given.items() if value is not None}
    columns = {} if of_training is None else of_training.model_dump()
    if "time_unit" in values or "time_format" in values:
        # The two exclude each other, so one of the command line replaces the other of the training.
        columns |= {"time_unit": None, "time_format": None}
    return EventColumns.model_validate(columns | values)
