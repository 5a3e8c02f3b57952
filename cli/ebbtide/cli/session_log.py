"""The event log that load is replayed from, and its options: named by its columns, by a bundle, or the shipped one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ebbtide.data.dataset import DataReference
    from ebbtide.loadtest import SessionLog

UserCol = Annotated[str, typer.Option(help="Column with the user's id.")]
ItemCol = Annotated[str, typer.Option(help="Column with the item's id.")]
TimeCol = Annotated[str, typer.Option(help="Column with the time.")]
WeightCol = Annotated[str | None, typer.Option(help="Column with a rating, quantity or dwell.")]
CatalogFile = Annotated[Path | None, typer.Option(help="Catalog file, as for `ebbtide train`.")]
CatalogItemCol = Annotated[str | None, typer.Option(help="The id column there. As --item-col unless given.")]
TextTemplate = Annotated[str, typer.Option(help="Text of an item, with {column} for its values.")]

_EXAMPLE = Path("examples") / "movielens-small"


def read_session_log(
    bundle: Path | None,
    events: Path | None,
    catalog: Path | None,
    holdout: str | None,
    text_template: str,
    columns: tuple[str, str, str, str | None, str | None],
) -> tuple[SessionLog, list[str]]:
    """The log to replay, and what a reader of the report must know about it.

    Args:
        bundle: Where the log, its columns and what was held out are taken from; then the rest but `holdout` is unused.
        events: The log; the shipped one without it, read from the project's own folder.
        catalog: The catalog; without it the items are those of the log.
        holdout: Events to ask before; as the bundle's, or else the last fifth.
        text_template: Text of an item.
        columns: Of the user, item, time and weight, and of the item in the catalog.

    Raises:
        LoadTestError: Both or neither are given, and the shipped log is not there.
    """
    from ebbtide.data.dataset import DataReference, read_dataset
    from ebbtide.data.splits import held_out
    from ebbtide.loadtest import LoadTestError, SessionLog

    trained_on_all = False
    if bundle is not None:
        if events is not None:
            raise LoadTestError("events: got a file beside --bundle; expected one of them")
        reference = DataReference.of_bundle(bundle)
        trained_on_all = reference.holdout == "none"
        holdout = holdout or (None if trained_on_all else reference.holdout)
    elif events is None:
        events, catalog = _EXAMPLE / "ratings.parquet", _EXAMPLE / "movies.parquet"
        reference = _reference(
            events, catalog, ("userId", "movieId", "timestamp", None, None), "{title} ({year}). {genres}"
        )
        if not events.is_file():
            raise LoadTestError(
                f"events: got none, and the shipped log is not in {events}; expected --events or --bundle, or a run "
                "from the project's own folder"
            )
    else:
        reference = _reference(events, catalog, columns, text_template)
    data = read_dataset(reference)
    notes = [f"{reference.events}: {data.bad_events}"] if data.bad_events.count else []
    if trained_on_all:
        notes.append("the bundle's training held nothing out, so the replayed users are not new to the model")
    log = data.log
    asked = held_out(log, holdout or "time:0.2")
    weights = None if reference.weight_column is None else log.weight
    return SessionLog(log.start, log.item, log.time_ms, weights, asked, data.catalog.item_id, data.catalog.text), notes


def _reference(
    events: Path, catalog: Path | None, columns: tuple[str, str, str, str | None, str | None], text_template: str
) -> DataReference:
    from ebbtide.data.dataset import DataReference

    user, item, time, weight, catalog_item = columns
    return DataReference(
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
    )
