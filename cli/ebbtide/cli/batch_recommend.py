"""``ebbtide batch-recommend``: the lists of all users of an event log at one time."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
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
    milliseconds,
)
from ebbtide.cli.outputs import require_folder, require_outside
from ebbtide.cli.reading_display import ReadingDisplay
from ebbtide.cli.states import timestamp
from ebbtide.cli.worker_options import RayAddress, require_ray

if TYPE_CHECKING:
    from ebbtide.batch import Summary


def command(
    repository: Annotated[Path, typer.Argument(help="Model repository written by `ebbtide export`.")],
    out: Annotated[Path, typer.Option(help="Folder for the lists (Parquet): a new one, or that of the same run.")],
    events: LogOfFiles = None,
    bundle: LogOfBundle = None,
    user_col: UserCol = None,
    item_col: ItemCol = None,
    time_col: TimeCol = None,
    time_unit: UnitOfTimes = None,
    time_format: FormatOfTimes = None,
    encoding: EncodingOfTexts = None,
    weight_col: WeightCol = None,
    event_type_col: EventTypeCol = None,
    max_bad_rows: MaxBadRows = None,
    now: Annotated[
        str | None,
        typer.Option(
            help="Time of the lists, ISO 8601 (UTC without an offset). Events at this time or later are left out. "
            "Default: just after the newest event."
        ),
    ] = None,
    top: Annotated[
        int | None, typer.Option(min=1, help="Length of a list. Default and most: the top N of the export.")
    ] = None,
    seen: Annotated[
        bool | None,
        typer.Option(
            "--seen/--no-seen",
            help="Keep or leave out items that the user has seen. Default: as trained.",
        ),
    ] = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="Version to rank with. Default: the one that the repository answers with.")
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that rank. Default: one for each processor, less one on Ray."),
    ] = None,
    ray: RayAddress = None,
    scratch: Scratch = None,
) -> None:
    """Write the lists of all users of an event log at one time, such as for a newsletter. No server is needed.

    Each list is what a server answers to a request with the user's newest events. The files have the columns user,
    time, rank, item and score. A run that was stopped goes on when the command is run again.

    **Examples**

    ebbtide batch-recommend artifacts/repository --bundle artifacts/bundle --out artifacts/lists

    ebbtide batch-recommend artifacts/repository --events log.parquet --user-col visitor --item-col sku --time-col at
    --now 2026-12-01 --top 10 --out lists
    """
    if not repository.is_dir():
        raise CommandError(f"{repository}: no such folder; expected a repository written by `ebbtide export`")
    require_folder("--out", out)
    require_ray(ray)
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
    log = log_files(events, bundle, given, max_bad_rows)
    for path in log.paths:
        require_outside("--out", out, "--events", path)
    now_ms = None if now is None else milliseconds(timestamp("--now", now))
    from ebbtide.batch import batch_recommend

    with _Display() as display:
        summary = batch_recommend(
            repository,
            log,
            out,
            now_ms=now_ms,
            top_n=top,
            exclude_seen=None if seen is None else not seen,
            version=version,
            processes=processes,
            ray=ray,
            scratch=scratch,
            progress=display,
        )
    _print(summary, out)


class _Display(ReadingDisplay):
    """The progress bar."""

    def ranking(self, parts: int, of: int) -> None:
        """See `ebbtide.batch.Progress`."""
        self.working("Ranking", parts, of)


def _print(summary: Summary, out: Path) -> None:
    for message in summary.log.messages:
        console.print(f"  [yellow]events:[/yellow] {escape(message)}", soft_wrap=True)
    log, counts = summary.log, summary.counts
    if log.unknown_items:
        console.print(
            f"  [yellow]events:[/yellow] {log.unknown_items:,} of items that are not in the catalog are left out",
            soft_wrap=True,
        )
    if log.after:
        console.print(f"  {log.after:,} events at the time of the lists or later are left out", soft_wrap=True)
    if counts.cut:
        console.print(
            f"  {counts.cut:,} users have more events than a request takes: the newest ones count", soft_wrap=True
        )
    seconds = f"[dim]({summary.reading_s + summary.ranking_s:.1f} s)[/dim]"
    if summary.kept_parts:
        console.print(f"  {summary.kept_parts:,} of {summary.parts:,} parts were there before", soft_wrap=True)
    now = datetime.fromtimestamp(0, timezone.utc) + timedelta(milliseconds=summary.now_ms)
    time = now.replace(tzinfo=None).isoformat(timespec="milliseconds")
    if counts.users or not summary.kept_parts:
        console.print(
            f"[green]✓[/green] lists of {counts.users:,} users as of {time} UTC in {escape(str(out))}: "
            f"{counts.items:,} rows, {summary.users_per_s:,.0f} lists/s {seconds}",
            soft_wrap=True,
        )
    else:
        console.print(
            f"[green]✓[/green] all lists as of {time} UTC are in {escape(str(out))} {seconds}", soft_wrap=True
        )
