"""``ebbtide refresh``: the popularity prior of a bundle is counted again from a log that has grown; no training."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ebbtide.cli.console import console, timed

if TYPE_CHECKING:
    from ebbtide.data.events import EventColumns
    from ebbtide.export.earlier import EarlierExport
    from ebbtide.train.bundle import InterestBundle
    from ebbtide.train.refresh import GrownLog

_SHOWN_GAINS = 5
_SHOWN_IDS = 3
_FIRST_ITEMS = 50


def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle written by `ebbtide train`, with a popularity prior.")],
    events: Annotated[
        Path | None,
        typer.Option(
            help="The whole log, old events and new: Parquet, CSV, TSV or JSON Lines. Unless given, the file that the "
            "bundle was trained on is read again."
        ),
    ] = None,
    user_col: Annotated[
        str | None, typer.Option(help="Column with the user's id. This and the next two: as trained unless given.")
    ] = None,
    item_col: Annotated[str | None, typer.Option(help="Column with the item's id.")] = None,
    time_col: Annotated[str | None, typer.Option(help="Column with the time.")] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            help="Count the events before this time, ISO 8601, UTC where it names no zone; just after the newest "
            "event unless given."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the refreshed bundle; in place of the old one unless given.")
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(
            help="Also export it as the next version here, with the options and filters of the version in service."
        ),
    ] = None,
) -> None:
    """Count the popularity prior again from new events and, with --repository, export it. Nothing is trained.

    A prior is as fresh as its last count: without this, what became popular since the training is recommended like what
    nobody takes. Items that are new since then are left out and told; they need a training, or come as text events.

    All events before the moment are counted, also those that --holdout kept from training: a refreshed bundle is for
    serving, and `ebbtide evaluate --popularity frozen` refuses it where it has seen what it predicts. The bundle is
    replaced at once, and answers change when a version of it is deployed, not before.

    **Examples**

    ebbtide refresh artifacts/bundle --repository artifacts/repository

    ebbtide deploy artifacts/repository --server localhost:8001

    ebbtide refresh artifacts/bundle --events log.parquet --as-of 2024-05-01T06:00 --out artifacts/refreshed
    """
    timestamp_ms = None if as_of is None else _timestamp_ms(as_of)
    with console.status("Loading the bundle"):
        from ebbtide.train.bundle import InterestBundle
        from ebbtide.train.refresh import read_grown_log, refresh_prior

        loaded = InterestBundle.load(bundle)
    with timed("counted"), console.status("Counting"):
        grown = read_grown_log(loaded, events, _columns(loaded, user_col, item_col, time_col))
        refreshed = refresh_prior(loaded, grown.log, timestamp_ms)
    _print_counted(loaded, refreshed, grown)
    earlier = None
    if repository is not None:
        with console.status("Loading onnx"):
            from ebbtide.export.earlier import EarlierExport

            # Before anything is written: what cannot be exported likewise is refused here.
            earlier = EarlierExport.read(repository, refreshed)
    index = out or bundle
    refreshed.save(index)
    _print_moved(loaded, refreshed, index)
    if earlier is None:
        console.print(
            "Next: the same with --repository FOLDER exports it beside the version in service, then `ebbtide deploy`.",
            markup=False,
        )
    else:
        _export(earlier, refreshed)
        console.print(f"Next: `ebbtide deploy {repository} --server HOST:PORT` brings it into service.", markup=False)


def _columns(bundle: InterestBundle, user_col: str | None, item_col: str | None, time_col: str | None) -> EventColumns:
    """As the bundle was trained with, but for what was given."""
    from ebbtide.data.events import EventColumns

    data = bundle.config.data
    return EventColumns(
        user=user_col or data.user_column,
        item=item_col or data.item_column,
        time=time_col or data.time_column,
        weight=data.weight_column,
    )


def _timestamp_ms(text: str) -> int:
    try:
        # Python 3.10 reads no final Z.
        timestamp = datetime.fromisoformat(text.removesuffix("Z"))
    except ValueError:
        raise typer.BadParameter(f"--as-of: got {text!r}; expected a time as in 2024-05-01T06:00") from None
    return round(timestamp.replace(tzinfo=timestamp.tzinfo or timezone.utc).timestamp() * 1000)


def _utc(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def _print_counted(before: InterestBundle, after: InterestBundle, grown: GrownLog) -> None:
    timestamp = after.config.prior_counted_at_ms
    counted = int((grown.log.time_ms < timestamp).sum())
    console.print(
        f"{counted:,} events counted, up to {_utc(timestamp)}; before, up to {_utc(before.config.prior_counted_at_ms)}"
    )
    if grown.bad_rows.count:
        console.print(f"  [yellow]events:[/yellow] {escape(str(grown.bad_rows))}")
    if later := grown.log.events - counted:
        console.print(f"  {later:,} later events are not counted")
    if items := len(grown.unknown_items):
        shown = ", ".join(grown.unknown_items[:_SHOWN_IDS]) + (", ..." if items > _SHOWN_IDS else "")
        console.print(
            f"  [yellow]left out:[/yellow] {grown.unknown_events:,} events of {items:,} item{'s' * (items != 1)} "
            f"that the bundle does not have ({escape(shown)}); new items need a training, or come as text events"
        )


def _print_moved(before: InterestBundle, after: InterestBundle, index: Path) -> None:
    from ebbtide.train.refresh import kept_among_best, largest_gains

    gains = largest_gains(before, after, _SHOWN_GAINS)
    if gains:
        table = Table(title="Gained most by popularity, for everybody", title_justify="left")
        table.add_column("title")
        for heading in ("score before", "score", "place before", "place"):
            table.add_column(heading, justify="right")
        for gain in gains:
            table.add_row(
                escape(after.catalog.title[gain.item]),
                *(f"{gain.score_before:.3f}", f"{gain.score:.3f}", f"{gain.index_before:,}", f"{gain.index:,}"),
            )
        console.print(table)
    first = min(_FIRST_ITEMS, len(after.catalog))
    kept = kept_among_best(before, after, first)
    console.print(f"Of the {first} most popular items, {kept} were so before{'' if gains else '; no item gained'}")
    if after.fingerprint == before.fingerprint:
        console.print(f"[green]✓[/green] bundle {after.fingerprint} in {escape(str(index))}: the counts are as before")
    else:
        console.print(
            f"[green]✓[/green] bundle {after.fingerprint} in {escape(str(index))}, which was {before.fingerprint}"
        )


def _export(earlier: EarlierExport, bundle: InterestBundle) -> None:
    """The next version, unless there is one with the same answers."""
    there = earlier.same_answers(bundle)
    if there is not None:
        console.print(f"[green]✓[/green] version {there} of the repository has these answers; nothing to export")
        return
    with timed("exported"), console.status("Exporting") as status:
        report = earlier.export(bundle, lambda part: status.update(f"Exporting: {part}"))
    of_encoder = (
        "its encoder taken over" if earlier.encoder else "the encoder exported again, as it is another training's"
    )
    console.print(
        f"[green]✓[/green] version {report.version} ({report.fingerprint}) in {escape(str(report.folder))}, with the "
        f"options of version {earlier.version}; {of_encoder}"
    )
