"""The event log that load tests replay, and its options: a file and its columns, a bundle, or the shipped log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebbtide.interest.time_units import TimeUnit

if TYPE_CHECKING:
    from ebbtide.loadtest import Replayed

UserCol = Annotated[str, typer.Option(help="Column with the user's id.")]
ItemCol = Annotated[str, typer.Option(help="Column with the item's id.")]
TimeCol = Annotated[str, typer.Option(help="Column with the time.")]
WeightCol = Annotated[str | None, typer.Option(help="Column with a rating, quantity or dwell.")]
CatalogFile = Annotated[str | None, typer.Option(help="Catalog file, as for `ebbtide train`.")]
CatalogItemCol = Annotated[str | None, typer.Option(help="The id column there. As --item-col unless given.")]
TimeUnitOption = Annotated[
    TimeUnit | None, typer.Option("--time-unit", help="Unit of numeric times, as for `ebbtide train`.")
]
TimeFormat = Annotated[
    str | None, typer.Option(help="strptime format of times that are not ISO 8601, as for `ebbtide train`.")
]
Encoding = Annotated[str | None, typer.Option(help="Encoding of text files that are not UTF-8, such as cp1252.")]
TextTemplate = Annotated[str, typer.Option(help="Text of an item, with {column} for its values.")]

_EXAMPLE = Path("examples") / "movielens-small"
_DEFAULT_HOLDOUT = "time:0.2"


def read_session_log(
    bundle: Path | None,
    events: str | None,
    catalog: str | None,
    holdout: str | None,
    text_template: str,
    columns: tuple[str, str, str, str | None, str | None],
    reading: tuple[TimeUnit | None, str | None, str | None] = (None, None, None),
) -> tuple[Replayed, list[str]]:
    """The log to replay, and notes for the reader of the report.

    Args:
        bundle: Supplies the log, its columns and the holdout; then only `holdout` of the other arguments is used.
        events: The log; without it the shipped one, read from the project's own folder.
        catalog: The catalog; without it the items are those of the log.
        holdout: Which events are held out; without it as the bundle says, or else the last fifth.
        text_template: Text of an item.
        columns: Of the user, item, time and weight, and of the item in the catalog.
        reading: Unit of numeric times, format of other times, and encoding of text files.

    Raises:
        LoadTestError: Both `bundle` and `events` are given, or neither and the shipped log is not there.
    """
    from ebbtide.data.dataset import DataReference, read_dataset
    from ebbtide.data.splits import held_out, require_protocol
    from ebbtide.loadtest import LoadTestError, Replayed

    if holdout is not None:
        require_protocol(holdout)
    if reading[0] is not None and reading[1] is not None:
        raise LoadTestError("time_unit: got it with --time-format; expected --time-unit for numbers or --time-format")
    if bundle is not None and any(one is not None for one in reading):
        raise LoadTestError("bundle: got it with --time-unit, --time-format or --encoding; expected one of both")
    if bundle is not None and events is not None:
        raise LoadTestError("events: got a file together with --bundle; expected one of them")
    if bundle is None and events is None:
        events, catalog = str(_EXAMPLE / "ratings.parquet"), str(_EXAMPLE / "movies.parquet")
        columns, text_template = ("userId", "movieId", "timestamp", None, None), "{title} ({year}). {genres}"
        if not Path(events).is_file():
            raise LoadTestError(
                f"events: got none, and the shipped log is not in {events}; expected --events or --bundle, or a run "
                "from the project's own folder"
            )
    notes = []
    if bundle is not None:
        reference = DataReference.of_bundle(bundle)
        if reference.holdout == "none":
            notes.append("the bundle's training held nothing out, so the replayed users are not new to the model")
        else:
            holdout = holdout or reference.holdout
    else:
        user, item, time, weight, catalog_item = columns
        unit, time_format, encoding = reading
        reference = DataReference(
            events=str(events),
            catalog=None if catalog is None else str(catalog),
            user_column=user,
            item_column=item,
            time_column=time,
            weight_column=weight,
            catalog_item_column=catalog_item or item,
            text_template=text_template,
            title_template=None,
            max_bad_rows=0.01,
            holdout="none",
            time_unit=unit,
            time_format=time_format,
            encoding=encoding,
        )
    data = read_dataset(reference)
    if data.bad_events.count:
        notes.append(f"{reference.events}: {data.bad_events}")
    return Replayed(data.log, data.catalog, held_out(data.log, holdout or _DEFAULT_HOLDOUT)), notes
