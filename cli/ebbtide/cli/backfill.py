"""``ebbtide backfill``: builds the states of all users from an event log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebbtide.cli.console import console, escape
from ebbtide.cli.errors import CommandError
from ebbtide.cli.log_options import (
    EncodingOfTexts,
    EventTypeCol,
    FormatOfTimes,
    ItemCol,
    LogOfBundle,
    LogOfFiles,
    MaxBadRows,
    Scratch,
    TimeCol,
    UnitOfTimes,
    UserCol,
    WeightCol,
    log_files,
)
from ebbtide.cli.reading_display import ReadingDisplay
from ebbtide.cli.states import timestamp
from ebbtide.cli.stores import Store, store_address

if TYPE_CHECKING:
    from ebbtide.backfill import Summary


def command(
    repository: Annotated[Path, typer.Argument(help="Model repository written by `ebbtide export`.")],
    events: LogOfFiles = None,
    state: Store = None,
    bundle: LogOfBundle = None,
    user_col: UserCol = None,
    item_col: ItemCol = None,
    time_col: TimeCol = None,
    time_unit: UnitOfTimes = None,
    time_format: FormatOfTimes = None,
    encoding: EncodingOfTexts = None,
    weight_col: WeightCol = None,
    event_type_col: EventTypeCol = None,
    event_id_col: Annotated[
        str | None,
        typer.Option(
            help="Column with the event id that the service observes events with. Default: item and time are the id."
        ),
    ] = None,
    max_bad_rows: MaxBadRows = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="Version whose states are built. Default: the newest in the repository.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            help="Leave out events at this time or later, ISO 8601 (UTC without an offset): when the service began to "
            "observe, for a log that has the same events. Default: take all."
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Build all records anew, those that hold events newer than the log included."),
    ] = False,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that write. Default: one for each processor.")
    ] = None,
    scratch: Scratch = None,
) -> None:
    """Build the states of all users from an event log, so that a server knows them by id.

    The version is noted in the store first: from then on all versions in service write what they observe to its records
    too. Events that are in the log and were observed count once. The same log can be given again: what is in the store
    is skipped, so a run that was stopped goes on.

    **Examples**

    ebbtide backfill artifacts/repository --bundle artifacts/bundle

    ebbtide backfill artifacts/repository --events log.parquet --user-col visitor --item-col sku --time-col at
    --state redis://localhost:6379/0
    """
    if not repository.is_dir():
        raise CommandError(f"{repository}: no such folder; expected a repository written by `ebbtide export`")
    given = {
        "user": user_col,
        "item": item_col,
        "time": time_col,
        "weight": weight_col,
        "event_type": event_type_col,
        "time_unit": time_unit,
        "time_format": time_format,
        "encoding": encoding,
    }
    until_time = None if until is None else timestamp("--until", until)
    log = log_files(events, bundle, given, max_bad_rows, event_id_col=event_id_col, until=until_time)
    from ebbtide.backfill import backfill
    from ebbtide.store import config_from_environment

    with _Display() as display:
        summary = backfill(
            repository,
            log,
            store_address(state, repository),
            config_from_environment(os.environ),
            version=version,
            replace_folded=replace,
            processes=processes,
            scratch=scratch,
            progress=display,
        )
    _print(summary)


class _Display(ReadingDisplay):
    """The progress bar."""

    def writing(self, files: int, of: int) -> None:
        """See `ebbtide.backfill.Progress`."""
        self.working("Writing the states", files, of)


def _print(summary: Summary) -> None:
    for message in summary.log.messages:
        console.print(f"  [yellow]events:[/yellow] {escape(message)}", soft_wrap=True)
    counts, log = summary.counts, summary.log
    seconds = f"[dim]({summary.reading_s + summary.writing_s:.1f} s)[/dim]"
    if counts.done_before:
        console.print(
            f"[green]✓[/green] {escape(summary.store)} has had the events of this log before for "
            f"{counts.done_before:,} users {'' if counts.users else seconds}",
            soft_wrap=True,
        )
    if counts.users or not counts.done_before:
        details = [
            f"{log.unknown_items:,} of unknown items",
            f"{counts.late:,} late",
            f"{summary.events_per_s:,.0f} events/s",
            f"{summary.bytes_per_user:,.0f} bytes per user",
        ]
        if counts.duplicates:
            details.insert(1, f"{counts.duplicates:,} repeated")
        if log.after:
            details.insert(1, f"{log.after:,} not before --until")
        console.print(
            f"[green]✓[/green] states of {counts.users:,} users from {counts.added:,} events in "
            f"{escape(summary.store)}: {', '.join(details)} {seconds}",
            soft_wrap=True,
        )
    if counts.kept:
        console.print(
            f"  [yellow]kept:[/yellow] {counts.kept:,} users have the events of another log, and newer events than "
            "this one; `--replace` builds their states from this log",
            soft_wrap=True,
        )
