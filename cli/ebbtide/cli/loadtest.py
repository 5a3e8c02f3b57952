"""``ebbtide loadtest``: real sessions replayed against a running server, and a report that a skeptic can rerun."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import AbstractContextManager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from ebbtide.cli.console import console, errors

if TYPE_CHECKING:
    from ebbtide.loadtest import Load, Run, SessionLog, Slo
    from ebbtide.loadtest.calibrate import Generates
    from ebbtide.loadtest.report.tables import Table as ReportTable

_EXAMPLE = Path("examples") / "movielens-small"
_BROKEN = 1
_LEFT_OUT = ("share", "cancelled", "cache hits")


class Arrivals(str, Enum):
    """How the moments of an open model scatter."""

    constant = "constant"
    poisson = "poisson"
    log = "log"


def command(
    address: Annotated[
        str, typer.Argument(help="gRPC address (host:port) of the server, as printed by `ebbtide serve`.")
    ] = "localhost:8001",
    bundle: Annotated[
        Path | None,
        typer.Option(help="Bundle whose log, columns, catalog and holdout to take, instead of giving them."),
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(help="Event log to replay: Parquet, CSV, TSV or JSON Lines. The shipped one unless given."),
    ] = None,
    user_col: Annotated[str, typer.Option(help="Column with the person's id.")] = "user",
    item_col: Annotated[str, typer.Option(help="Column with the item's id.")] = "item",
    time_col: Annotated[str, typer.Option(help="Column with the time.")] = "time",
    weight_col: Annotated[str | None, typer.Option(help="Column with a rating, quantity or dwell.")] = None,
    catalog: Annotated[Path | None, typer.Option(help="Catalog file, as for `ebbtide train`.")] = None,
    catalog_item_col: Annotated[
        str | None, typer.Option(help="The id column there. As --item-col unless given.")
    ] = None,
    text_template: Annotated[str, typer.Option(help="Text of an item, with {column} for its values.")] = "{text}",
    holdout: Annotated[
        str | None,
        typer.Option(
            help="Events to ask before: time:F, time:DATE or leave-last-out. As the bundle's, or else time:0.2."
        ),
    ] = None,
    requests: Annotated[
        int, typer.Option(min=1, help="Different requests of each endpoint, from people at random.")
    ] = 2_000,
    mix: Annotated[
        str, typer.Option(help="Endpoints and their weights: recommend=8,recommend_text=1,embed=1.")
    ] = "recommend=1",
    rate: Annotated[
        str | None,
        typer.Option(help="Open model: requests per second, whatever the server does; or several: 50,100,200."),
    ] = None,
    ramp_to: Annotated[float | None, typer.Option(help="The rate at the end, reached in a straight line.")] = None,
    spike: Annotated[
        str | None, typer.Option(help="A spike in the middle: 5x3s is five times the rate for 3 s.")
    ] = None,
    arrivals: Annotated[
        Arrivals, typer.Option(help="Of the open model; log: in sessions with the log's own pauses.")
    ] = Arrivals.poisson,
    concurrency: Annotated[
        str | None,
        typer.Option(help="Closed model: so many requests at a time; or several, one after the other: 1,4,16."),
    ] = None,
    duration: Annotated[str, typer.Option(help="Of each run; of each trial with --find-rate: 30s, 3m.")] = "30s",
    warm_up: Annotated[str, typer.Option(help="Load before, of which nothing is reported: 3s; or none.")] = "3s",
    timeout: Annotated[str, typer.Option(help="Deadline of each request.")] = "5s",
    slo: Annotated[str | None, typer.Option(help="Objective: p99<20ms, or p50<5ms,p99.9<40ms,errors<0.5%.")] = None,
    find_rate: Annotated[
        bool, typer.Option("--find-rate", help="Search the highest rate that holds the --slo.")
    ] = False,
    workers: Annotated[
        int, typer.Option(min=0, help="Send from so many Locust workers instead of from this process.")
    ] = 0,
    locust_bind: Annotated[
        str, typer.Option(help="Where workers find the master, host:port; port 0 takes a free one.")
    ] = "127.0.0.1:0",
    remote_workers: Annotated[
        bool, typer.Option("--remote-workers", help="Wait for --workers started by hand elsewhere; start none.")
    ] = False,
    web: Annotated[
        int | None, typer.Option(help="Serve Locust's web page on this port; the load is set there, until Ctrl-C.")
    ] = None,
    perf_analyzer: Annotated[
        str | None,
        typer.Option(help="Measure the closed runs with NVIDIA's perf_analyzer too: its path, or 'find'."),
    ] = None,
    perf_analyzer_input: Annotated[
        Path | None, typer.Option(help="Write the requests as perf_analyzer's --input-data, and stop.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the whole result here.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report here, one file with plots.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the report here as Markdown.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Compare two results of --json instead of running anything.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of people, endpoints and arrivals.")] = 0,
) -> None:
    """Replay real sessions against a running server, and report latency, throughput and where the time went.

    Requests are those of held-out people just before their held-out events, with their real histories. In the open
    model (`--rate`) latency counts from the moment that a request was meant to leave. Exit status: 0; 1 if the
    objective is broken, or requests are unaccounted for.

    **Examples**

    ebbtide loadtest localhost:8001 --duration 30s --rate 50 --json out.json --html out.html

    ebbtide loadtest localhost:8001 --mix recommend=8,recommend_text=1 --slo "p99<20ms" --find-rate --duration 5s

    ebbtide loadtest --compare before.json after.json
    """
    if compare is not None:
        _compare(*compare)
        return
    with console.status("Reading the log"):
        from ebbtide.loadtest import ENDPOINTS, Options, build_deck, load_test, parse_duration, parse_mix

        shares = parse_mix(mix, ENDPOINTS)
        objective = _objective(slo)
        loads = _loads(rate, concurrency, ramp_to, spike, arrivals.value, parse_duration("duration", duration))
        warm_up_s = 0.0 if warm_up == "none" else parse_duration("warm_up", warm_up)
        timeout_s = parse_duration("timeout", timeout)
        log, notes = _read_log(
            bundle,
            events,
            catalog,
            holdout,
            text_template,
            (user_col, item_col, time_col, weight_col, catalog_item_col),
        )
        deck = build_deck(log, shares, requests=requests, seed=seed)
    console.print(f"requests of {deck.people:,} held-out people: " + _counted(deck.messages))
    if perf_analyzer_input is not None:
        from ebbtide.loadtest.perf_analyzer import write_input

        for endpoint, path in write_input(perf_analyzer_input, deck).items():
            console.print(f"[green]✓[/green] {endpoint}: {escape(str(path))}")
        return
    if web is not None:
        from ebbtide.loadtest.distributed import serve_page

        serve_page(address, deck, workers or 1, locust_bind, web, timeout_s, remote=remote_workers, say=console.print)
        return
    beside = None
    if perf_analyzer is not None:
        from ebbtide.loadtest.perf_analyzer import find, measure_beside

        binary = find(None if perf_analyzer == "find" else Path(perf_analyzer))

        def beside(runs: Any) -> dict[str, Any]:  # noqa: ANN401
            with console.status("perf_analyzer"):
                return measure_beside(binary, address, deck, runs)

    if workers:
        from ebbtide.loadtest.distributed import LocustGenerator

        made: AbstractContextManager[Generates] = LocustGenerator(
            address,
            deck,
            timeout_s=timeout_s,
            workers=workers,
            bind=locust_bind,
            remote=remote_workers,
            say=console.print,
        )
        engine = f"Locust, {workers} workers"
    else:
        from ebbtide.loadtest import Generator

        made, engine = Generator(address, deck, timeout_s=timeout_s), "asyncio, one process"
    options = Options(
        loads,
        warm_up_s=warm_up_s,
        timeout_s=timeout_s,
        slo=objective,
        search=find_rate,
        seed=seed,
        command=shlex.join(["ebbtide", *sys.argv[1:]]),
        engine=engine,
        notes=tuple(notes),
        on_run=_print_run,
    )
    with made as generator, console.status("Sending"):
        result = load_test(address, deck, generator, options, beside=beside)
    _print(result)
    _write(result, json_file, html, markdown)
    if result["unaccounted"] or (result["slo"] is not None and not result["slo"]["held"]):
        raise typer.Exit(_BROKEN)


def _objective(text: str | None) -> Slo | None:
    from ebbtide.loadtest import Slo

    return None if text is None else Slo.parse(text)


def _loads(
    rate: str | None,
    concurrency: str | None,
    ramp_to: float | None,
    spike: str | None,
    arrivals: str,
    duration_s: float,
) -> list[Load]:
    from ebbtide.loadtest import Load, LoadTestError, RateProfile, parse_duration, parse_levels

    if rate is not None and concurrency is not None:
        raise LoadTestError("rate: got one beside --concurrency; expected an open model or a closed one")
    if concurrency is not None:
        if ramp_to is not None or spike is not None:
            raise LoadTestError("concurrency: a closed model has no rate to ramp or spike; give --rate")
        levels = parse_levels("concurrency", concurrency)
        if any(level != int(level) for level in levels):
            raise LoadTestError.of_field("concurrency", concurrency, "whole numbers")
        return [Load(duration_s, concurrency=int(level)) for level in levels]
    factor, spike_s = 1.0, 0.0
    if spike is not None:
        times, _, length = spike.partition("x")
        factor, spike_s = parse_levels("spike", times)[0], parse_duration("spike", length)
    process: Any = arrivals
    return [
        Load(duration_s, RateProfile(level, ramp_to, factor, spike_s), process)
        for level in parse_levels("rate", rate or "50")
    ]


def _read_log(
    bundle: Path | None,
    events: Path | None,
    catalog: Path | None,
    holdout: str | None,
    text_template: str,
    columns: tuple[str, str, str, str | None, str | None],
) -> tuple[SessionLog, list[str]]:
    """The log to replay, and what a reader of the report must know about it."""
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


def _counted(messages: dict[str, list[bytes]]) -> str:
    return ", ".join(f"{len(of_one):,} different ones of {name}" for name, of_one in messages.items())


def _print_run(run: Run) -> None:
    from ebbtide.loadtest.samples import histogram, percentiles_ms

    latency = percentiles_ms(histogram(run.phase.records))
    counts = run.phase.counts
    lost = f", [red]{counts.failed + counts.cancelled:,} not answered[/red]" if counts.answered < counts.sent else ""
    took = f"p50 {latency['p50']:.2f} ms, p99 {latency['p99']:.2f} ms"
    console.print(f"  {run.load}: {run.phase.throughput:,.1f} answers/s, {took}{lost}")


def _print(result: dict[str, Any]) -> None:
    from ebbtide.loadtest.report import tables

    for table, title in (
        (tables.totals(result), "Latency by endpoint"),
        (tables.models(result), "Where the server spent its time"),
        (tables.errors(result), "Errors"),
        (tables.perf_analyzer(result), "Beside perf_analyzer"),
    ):
        if table is not None and table.rows:
            console.print(_shown(table, title))
    for sentence in tables.verdict(result):
        console.print(f"- {escape(sentence)}", soft_wrap=True)


def _shown(table: ReportTable, title: str) -> Table:
    """A table that fits a terminal of 80 characters; the files have every column."""
    shown = Table(title=title, title_justify="left", pad_edge=False, show_edge=False, box=None)
    kept = [place for place, heading in enumerate(table.headings) if heading not in _LEFT_OUT]
    for place in kept:
        shown.add_column(table.headings[place], justify="left" if place == 0 else "right", no_wrap=place == 0)
    for row in table.rows:
        shown.add_row(*(escape(row[place].removesuffix(" (ensemble)")) for place in kept))
    return shown


def _write(result: dict[str, Any], json_file: Path | None, html: Path | None, markdown: Path | None) -> None:
    from ebbtide.loadtest import html_report, markdown_report

    for path, text in (
        (json_file, json.dumps(result, indent=1, allow_nan=False) + "\n"),
        (html, html_report(result)),
        (markdown, markdown_report(result)),
    ):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            console.print(f"[green]✓[/green] {escape(str(path))}")


def _compare(first: Path, second: Path) -> None:
    from ebbtide.loadtest import compare, read_result

    found = compare(read_result(first), read_result(second))
    for warning in found.warnings:
        errors.print(f"[yellow]not the same:[/yellow] {escape(warning)}")
    for difference in found.differences:
        console.print(str(difference), soft_wrap=True)
