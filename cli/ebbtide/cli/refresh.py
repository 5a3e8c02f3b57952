"""``ebbtide refresh``: counts the popularity prior of a bundle again from a log that has grown; no training."""

from __future__ import annotations

import math
import signal
import threading
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ebbtide.cli.boundary import line_of
from ebbtide.cli.bundle_data import absolute
from ebbtide.cli.console import console, errors, escape, timed, working
from ebbtide.cli.errors import CommandError
from ebbtide.cli.outputs import require_bundle_folder, require_outside
from ebbtide.interest.time_units import TimeUnit

if TYPE_CHECKING:
    from ebbtide.data.events import EventColumns
    from ebbtide.export.earlier import EarlierExport
    from ebbtide.train.bundle import InterestBundle
    from ebbtide.train.refresh import GrownLog

_SHOWN_GAINS = 5
_SHOWN_IDS = 3
_FIRST_ITEMS = 50
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle written by `ebbtide train`, with a popularity prior.")],
    events: Annotated[
        str | None,
        typer.Option(
            help="The whole log, with old and new events: Parquet, CSV, TSV or JSON Lines. Default: the log of the "
            "last refresh, or of the training."
        ),
    ] = None,
    user_col: Annotated[str | None, typer.Option(help="Column with the user id. Default: as in training.")] = None,
    item_col: Annotated[str | None, typer.Option(help="Column with the item id. Default: as in training.")] = None,
    time_col: Annotated[str | None, typer.Option(help="Column with the time. Default: as in training.")] = None,
    time_unit: Annotated[TimeUnit | None, typer.Option(help="Unit of numeric times. Default: as in training.")] = None,
    time_format: Annotated[
        str | None, typer.Option(help="strptime format of the times. Default: as in training.")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Encoding of a text file that is not UTF-8. Default: as in training.")
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option(
            help="Count only events before this time (ISO 8601; UTC unless it names a zone). Default: just after the "
            "newest event."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the refreshed bundle. Default: replace the old bundle.")
    ] = None,
    repository: Annotated[
        Path | None,
        typer.Option(
            help="Also export the bundle as the next version of this repository, with the options and filters "
            "of the version in service."
        ),
    ] = None,
    every: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Refresh again and again, with this pause: 30s, 10m, 2h or 1d. A refresh that fails is told, and the "
            "next one tries again. Default: refresh once.",
        ),
    ] = None,
) -> None:
    """Count the popularity prior again from new events and, with --repository, export it. Nothing is trained.

    Popularity is as of the last count: without a refresh, an item that became popular after training is ranked like an
    item without events. Items that are new since training are ignored and reported: train again, or send their events
    as text.

    All events before --as-of count, including those that --holdout kept out of training. So a refreshed bundle is for
    serving: `ebbtide evaluate --popularity frozen` refuses it if the prior has seen the test events. The bundle is
    replaced atomically; answers change only when the new version is deployed.

    **Examples**

    ebbtide refresh artifacts/bundle --repository artifacts/repository

    ebbtide deploy artifacts/repository --server localhost:8001

    ebbtide refresh artifacts/bundle --repository artifacts/repository --every 1h

    ebbtide refresh artifacts/bundle --events log.parquet --as-of 2024-05-01T06:00 --out artifacts/refreshed
    """
    timestamp_ms = None if as_of is None else _timestamp_ms(as_of)
    pause_s = None if every is None else seconds_of(every)
    if pause_s is not None and as_of is not None:
        raise typer.BadParameter("--every: got it together with --as-of; expected one of them: --as-of is one time")
    events = None if events is None else absolute(events)
    require_bundle_folder("--out", bundle if out is None else out)
    require_outside("--out", out, "--events", events)
    if repository is not None and not (repository / "ebbtide-export.json").is_file():
        raise CommandError(
            f"--repository: {repository}: got no ebbtide-export.json; expected a repository written by `ebbtide export`"
        )
    given = {
        "user": user_col,
        "item": item_col,
        "time": time_col,
        "time_unit": None if time_unit is None else time_unit.value,
        "time_format": time_format,
        "encoding": encoding,
    }
    chosen = {name: value for name, value in given.items() if value is not None}
    if pause_s is None:
        _refresh(bundle, events, chosen, timestamp_ms, out, repository)
        return
    _refresh_again_and_again(bundle, events, chosen, out, repository, pause_s)


def _refresh_again_and_again(
    bundle: Path,
    events: str | None,
    given: dict[str, str],
    out: Path | None,
    repository: Path | None,
    pause_s: float,
) -> None:
    """Refreshes until Ctrl-C; the arguments are those of `_refresh`, and the pause between two of them in seconds."""
    interrupted = threading.Event()

    def interrupt(_number: int, _frame: object) -> None:
        # The exception is lost where it is raised in a library's callback; the loop then ends at its next turn.
        interrupted.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    source = bundle
    while not interrupted.is_set():
        try:
            _refresh(source, events, given, None, out, repository)
            source = out or bundle
        except Exception as error:
            line = line_of(error)
            if line is None:
                raise
            errors.print(f"[red]error:[/red] {escape(line)}; the next refresh tries again", soft_wrap=True)
        interrupted.wait(pause_s)
    raise KeyboardInterrupt


def _refresh(
    bundle: Path,
    events: str | None,
    given: dict[str, str],
    timestamp_ms: int | None,
    out: Path | None,
    repository: Path | None,
) -> None:
    """One refresh; the arguments are those of the command, `given` the columns and formats of the log."""
    with working("Loading the bundle"):
        from ebbtide.train.bundle import InterestBundle
        from ebbtide.train.refresh import read_grown_log, refresh_prior

        loaded = InterestBundle.load(bundle)
    columns = _columns(loaded, given)
    with timed("counted"), working("Counting"):
        grown = read_grown_log(loaded, events, columns)
        refreshed = refresh_prior(loaded, grown.log, timestamp_ms)
        if events is not None:
            refreshed = _remembering(refreshed, events, columns)
    _print_counted(loaded, refreshed, grown)
    earlier = None
    if repository is not None:
        with working("Loading onnx"):
            from ebbtide.export.earlier import EarlierExport

            # Before anything is written, so that an impossible export leaves the old bundle in place.
            earlier = EarlierExport.read(repository, refreshed)
    folder = out or bundle
    refreshed.save(folder)
    _print_moved(loaded, refreshed, folder)
    if earlier is None:
        console.print(
            "Next: run it again with --repository FOLDER to export the bundle as a new version, then run "
            "`ebbtide deploy`.",
            markup=False,
        )
    else:
        _export(earlier, refreshed)


def _remembering(bundle: InterestBundle, events: str, columns: EventColumns) -> InterestBundle:
    """The bundle with the log that the next refresh reads unless it is given another."""
    given = {
        "events": events,
        "user_column": columns.user,
        "item_column": columns.item,
        "time_column": columns.time,
        "weight_column": columns.weight,
        "event_type_column": columns.event_type,
        "time_unit": columns.time_unit,
        "time_format": columns.time_format,
        "encoding": columns.encoding,
    }
    counted = bundle.config.data.model_copy(update=given)
    return replace(bundle, config=bundle.config.model_copy(update={"counted": counted}))


def _columns(bundle: InterestBundle, given: dict[str, str]) -> EventColumns:
    """How the training read the log, except for what the command line gives."""
    from ebbtide.data.events import EventColumns

    columns = (bundle.config.counted or bundle.config.data).columns.model_dump()
    if "time_unit" in given or "time_format" in given:
        # The two exclude each other, so one of the command line replaces the other of the training.
        columns |= {"time_unit": None, "time_format": None}
    return EventColumns.model_validate(columns | given)


def seconds_of(text: str) -> float:
    """A time such as 10m in seconds."""
    number, unit = text[:-1], text[-1:]
    try:
        seconds = float(number) * _UNITS_S[unit]
    except (ValueError, KeyError):
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise typer.BadParameter(f"--every: got {text!r}; expected a number with a unit: 30s, 10m, 2h or 1d")
    return seconds


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
        f"{counted:,} events counted, up to {_utc(timestamp)}; previous count up to "
        f"{_utc(before.config.prior_counted_at_ms)}"
    )
    for message in grown.bad_rows.messages:
        console.print(f"  [yellow]events:[/yellow] {escape(message)}")
    if later := grown.log.events - counted:
        console.print(f"  {later:,} later events are not counted")
    if items := len(grown.unknown_items):
        shown = ", ".join(grown.unknown_items[:_SHOWN_IDS]) + (", ..." if items > _SHOWN_IDS else "")
        console.print(
            f"  [yellow]ignored:[/yellow] {grown.unknown_events:,} events of {items:,} item{'s' * (items != 1)} "
            f"that the bundle does not have ({escape(shown)}); train again, or send events of new items as text"
        )


def _print_moved(before: InterestBundle, after: InterestBundle, folder: Path) -> None:
    from ebbtide.train.refresh import kept_among_best, largest_gains

    gains = largest_gains(before, after, _SHOWN_GAINS)
    if gains:
        table = Table(title="Largest gains in popularity score (the same for all users)", title_justify="left")
        table.add_column("title")
        for heading in ("score before", "score", "rank before", "rank"):
            table.add_column(heading, justify="right")
        for gain in gains:
            table.add_row(
                escape(after.catalog.title[gain.item]),
                *(f"{gain.score_before:.3f}", f"{gain.score:.3f}", f"{gain.index_before:,}", f"{gain.index:,}"),
            )
        console.print(table)
    first = min(_FIRST_ITEMS, len(after.catalog))
    kept = kept_among_best(before, after, first)
    console.print(
        f"Of the {first} most popular items, {kept} were among them before{'' if gains else '; no item gained'}"
    )
    if after.fingerprint == before.fingerprint:
        console.print(
            f"[green]✓[/green] bundle {after.fingerprint} in {escape(str(folder))}: the counts did not change"
        )
    else:
        console.print(
            f"[green]✓[/green] bundle {after.fingerprint} in {escape(str(folder))} replaces {before.fingerprint}"
        )


def _export(earlier: EarlierExport, bundle: InterestBundle) -> None:
    """The next version, unless there is one with the same answers."""
    there = earlier.same_answers(bundle)
    if there is not None:
        console.print(f"[green]✓[/green] version {there} of the repository gives the same answers; nothing to export")
        if there != earlier.version:
            _print_next(earlier.repository, f" --version {there}")
        return
    with timed("exported"), working("Exporting") as status:
        report = earlier.export(bundle, lambda part: status.update(f"Exporting: {part}"))
    of_encoder = (
        "its encoder reused" if earlier.encoder else "the encoder exported again, because it is from another training"
    )
    console.print(
        f"[green]✓[/green] version {report.version} ({report.fingerprint}) in {escape(str(report.folder))}, with the "
        f"options of version {earlier.version}; {of_encoder}"
    )
    _print_next(earlier.repository)


def _print_next(repository: Path, option: str = "") -> None:
    console.print(f"Next: `ebbtide deploy {repository}{option} --server HOST:PORT` puts it into service.", markup=False)
