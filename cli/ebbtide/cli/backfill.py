"""``ebbtide backfill``: builds the states of all users from an event log."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ebbtide.cli.bundle_data import absolute
from ebbtide.cli.console import console, percentage_progress
from ebbtide.cli.errors import CommandError
from ebbtide.cli.log_options import EncodingOfTexts, FormatOfTimes, UnitOfTimes
from ebbtide.cli.states import timestamp
from ebbtide.cli.stores import Store, store_address

if TYPE_CHECKING:
    from ebbtide.backfill import Summary
    from ebbtide.data.events import EventColumns


def command(
    repository: Annotated[Path, typer.Argument(help="Model repository written by `ebbtide export`.")],
    events: Annotated[
        list[str] | None,
        typer.Option(
            help="Event log: Parquet, CSV, TSV or JSON Lines; a folder or an s3:// URL of Parquet files. Repeat the "
            "option for a log in several files; a user may be in all of them. Default: the log of --bundle."
        ),
    ] = None,
    state: Store = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Bundle that the repository was exported from; its log and columns are the defaults."),
    ] = None,
    user_col: Annotated[str | None, typer.Option(help="Column with the user id. Default: user.")] = None,
    item_col: Annotated[str | None, typer.Option(help="Column with the item id. Default: item.")] = None,
    time_col: Annotated[
        str | None,
        typer.Option(
            help="Column with the time: Unix time, a date-time, or ISO 8601 text (UTC without a zone). Default: time."
        ),
    ] = None,
    time_unit: UnitOfTimes = None,
    time_format: FormatOfTimes = None,
    encoding: EncodingOfTexts = None,
    weight_col: Annotated[
        str | None,
        typer.Option(help="Column with the event weight, as in training. Default: every event has weight 1."),
    ] = None,
    event_id_col: Annotated[
        str | None,
        typer.Option(
            help="Column with the event id that the service observes events with. Default: item and time are the id."
        ),
    ] = None,
    max_bad_rows: Annotated[
        float | None,
        typer.Option(help="Refuse a file if more than this share of its rows cannot be used. Default: 0.01."),
    ] = None,
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
    scratch: Annotated[
        Path | None,
        typer.Option(
            help="Folder for temporary files, 36 bytes for each event. Default: the system's temporary folder."
        ),
    ] = None,
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
    if time_unit is not None and time_format is not None:
        raise typer.BadParameter("expected --time-unit for numbers or --time-format for text, not both")
    if not repository.is_dir():
        raise CommandError(f"{repository}: no such folder; expected a repository written by `ebbtide export`")
    if events is None and bundle is None:
        raise typer.BadParameter("expected the --events of a log, or the --bundle with the log of its training")
    from ebbtide.backfill import LogFiles, backfill
    from ebbtide.data.dataset import DataReference
    from ebbtide.store import config_from_environment

    reference = None if bundle is None else DataReference.of_bundle(bundle)
    given = {
        "user": user_col,
        "item": item_col,
        "time": time_col,
        "weight": weight_col,
        "time_unit": time_unit,
        "time_format": time_format,
        "encoding": encoding,
    }
    if max_bad_rows is None:
        max_bad_rows = 0.01 if reference is None else reference.max_bad_rows
    log = LogFiles(
        [absolute(path) for path in events] if events else [reference.events if reference else ""],
        _columns(None if reference is None else reference.columns, given),
        event_id_col,
        None if until is None else _milliseconds(timestamp("--until", until)),
        max_bad_rows,
    )
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


def _columns(of_training: EventColumns | None, given: Mapping[str, object]) -> EventColumns:
    """How the log is read: as in the training, except for what the command line gives."""
    from ebbtide.data.events import EventColumns

    values = {name: value for name, value in given.items() if value is not None}
    columns = {} if of_training is None else of_training.model_dump()
    if "time_unit" in values or "time_format" in values:
        # The two exclude each other, so one of the command line replaces the other of the training.
        columns |= {"time_unit": None, "time_format": None}
    return EventColumns.model_validate(columns | values)


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)


class _Display:
    """The progress bar."""

    def __init__(self) -> None:
        self._progress = percentage_progress()
        self._task = self._progress.add_task("Reading the log", total=None)

    def reading(self, rows: int) -> None:
        """See `ebbtide.backfill.Progress`."""
        self._progress.update(self._task, description=f"Reading the log ({rows:,} rows)")

    def writing(self, files: int, of: int) -> None:
        """See `ebbtide.backfill.Progress`."""
        self._progress.update(self._task, description="Writing the states", completed=files, total=of)

    def __enter__(self) -> _Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()


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
