"""The event log that load is replayed from, and its options: named by its columns, by a bundle, or the shipped one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ebbtide.loadtest import SessionLog

UserCol = Annotated[str, typer.Option(help="Column with the person's id.")]
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
        columns: Of the person, item, time and weight, and of the item in the catalog.

    Raises:
        LoadTestError: Both or neither are given, and the shipped log is not there.
    """
    from ebbtide.loadtest import LoadTestError, SessionLog
    from ebbtide.train.catalog import catalog_of_events, read_catalog
    from ebbtide.train.evaluation.split import held_out
    from ebbtide.train.events import EventColumns, build_log, read_events

    user, item, time, weight, catalog_item = columns
    trained_on_all = False
    if bundle is not None:
        if events is not None:
            raise LoadTestError("events: got a file beside --bundle; expected one of them")
        data = json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["data"]
        events, catalog = Path(data["events"]), None if data["catalog"] is None else Path(data["catalog"])
        user, item, time, weight = (data[f"{name}_column"] for name in ("user", "item", "time", "weight"))
        catalog_item, text_template = data["catalog_item_column"], data["text_template"]
        trained_on_all = data["holdout"] == "none"
        holdout = holdout or (None if trained_on_all else data["holdout"])
    elif events is None:
        events, catalog = _EXAMPLE / "ratings.parquet", _EXAMPLE / "movies.parquet"
        user, item, time, catalog_item, text_template = (
            "userId",
            "movieId",
            "timestamp",
            "movieId",
            "{title} ({year}). {genres}",
        )
        if not events.is_file():
            raise LoadTestError(
                f"events: got none, and the shipped log is not in {events}; expected --events or --bundle, or a run "
                "from the project's own folder"
            )
    names = EventColumns(user=user, item=item, time=time, weight=weight)
    if catalog is None:
        frame, bad = read_events(events, names, None, 0.01)
        items = catalog_of_events(frame["item"])
    else:
        items, _ = read_catalog(catalog, catalog_item or item, text_template, None, 0.01)
        frame, bad = read_events(events, names, items.index, 0.01)
    log = build_log(frame, items.index)
    notes = [f"{events}: {bad}"] if bad.count else []
    if trained_on_all:
        notes.append("the bundle's training held nothing out, so the replayed people are not new to the model")
    asked = held_out(log, holdout or "time:0.2")
    weights = None if weight is None else log.weight
    return SessionLog(log.start, log.item, log.time_ms, weights, asked, items.item_id, items.text), notes
