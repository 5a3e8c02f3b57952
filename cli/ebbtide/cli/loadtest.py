"""``ebbtide loadtest``: replays real sessions against a running server, and reports latency and throughput."""

from __future__ import annotations

import json
import shlex
import sys
from contextlib import AbstractContextManager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ebbtide.cli.access import Tls, TlsCa, TlsCertificate, TlsKey, TlsServerName, TokenFile, read_access
from ebbtide.cli.console import console, errors, escape, working
from ebbtide.cli.modules import require_modules
from ebbtide.cli.outputs import require_different, require_file, require_folder
from ebbtide.cli.session_log import (
    CatalogFile,
    CatalogItemCol,
    Encoding,
    ItemCol,
    TextTemplate,
    TimeCol,
    TimeFormat,
    TimeUnitOption,
    UserCol,
    WeightCol,
    read_session_log,
)

if TYPE_CHECKING:
    from ebbtide.loadtest import Load, Run, Slo
    from ebbtide.loadtest.calibrate import Generates
    from ebbtide.loadtest.report.tables import Table as ReportTable

_BROKEN = 1
_LEFT_OUT = ("share", "cancelled", "cache hits")


class Arrivals(str, Enum):
    """How the due times of an open model are spread."""

    constant = "constant"
    poisson = "poisson"
    log = "log"


def command(
    address: Annotated[
        str, typer.Argument(help="gRPC address (host:port) of the server, as printed by `ebbtide serve`.")
    ] = "localhost:8001",
    bundle: Annotated[
        Path | None,
        typer.Option(help="Bundle that supplies the event log, its columns, the catalog and the holdout."),
    ] = None,
    events: Annotated[
        str | None,
        typer.Option(help="Event log to replay: Parquet, CSV, TSV or JSON Lines. The shipped one unless given."),
    ] = None,
    user_col: UserCol = "user",
    item_col: ItemCol = "item",
    time_col: TimeCol = "time",
    time_unit: TimeUnitOption = None,
    time_format: TimeFormat = None,
    encoding: Encoding = None,
    weight_col: WeightCol = None,
    catalog: CatalogFile = None,
    catalog_item_col: CatalogItemCol = None,
    text_template: TextTemplate = "{text}",
    holdout: Annotated[
        str | None,
        typer.Option(
            help="Held-out events, before which requests are sent: time:F, time:DATE or leave-last-out. As in the "
            "bundle, or time:0.2."
        ),
    ] = None,
    requests: Annotated[
        int, typer.Option(min=1, help="Number of different requests of each endpoint, from random users.")
    ] = 2_000,
    mix: Annotated[str, typer.Option(help="Endpoints and their weights: recommend=6,observe=3.")] = "recommend=1",
    by_user: Annotated[
        bool,
        typer.Option(
            "--by-user",
            help="Name the user in each request, in place of the history. The histories go into the server's states "
            "before the test, under ids of its own, and are erased after it.",
        ),
    ] = False,
    rate: Annotated[
        str | None,
        typer.Option(help="Open model: requests per second, whatever the server does; or several runs: 50,100,200."),
    ] = None,
    ramp_to: Annotated[float | None, typer.Option(help="The rate at the end, reached in a straight line.")] = None,
    spike: Annotated[
        str | None, typer.Option(help="A spike in the middle: 5x3s is five times the rate for 3 s.")
    ] = None,
    arrivals: Annotated[
        Arrivals, typer.Option(help="Arrivals of the open model. log: in sessions with the log's own pauses.")
    ] = Arrivals.poisson,
    concurrency: Annotated[
        str | None,
        typer.Option(help="Closed model: number of requests under way; or several runs: 1,4,16."),
    ] = None,
    duration: Annotated[
        str, typer.Option(help="Length of each run, or of each trial of --find-rate: 30s, 3m.")
    ] = "30s",
    warm_up: Annotated[str, typer.Option(help="Load before the first run that is not reported: 3s; or none.")] = "3s",
    timeout: Annotated[str, typer.Option(help="Deadline of each request.")] = "5s",
    slo: Annotated[str | None, typer.Option(help="Objective: p99<20ms, or several: p99<20ms,errors<1%.")] = None,
    find_rate: Annotated[bool, typer.Option("--find-rate", help="Find the highest rate that holds the --slo.")] = False,
    workers: Annotated[
        int, typer.Option(min=0, help="Send from this many worker processes instead of from this one.")
    ] = 0,
    bind: Annotated[
        str, typer.Option(help="Address that workers connect to, host:port; port 0 takes a free one.")
    ] = "127.0.0.1:0",
    remote_workers: Annotated[
        bool,
        typer.Option("--remote-workers", help="You start the --workers, on other machines, with the command printed."),
    ] = False,
    perf_analyzer: Annotated[
        str | None,
        typer.Option(help="Repeat the closed runs with NVIDIA's perf_analyzer: its path, or 'find'."),
    ] = None,
    perf_analyzer_input: Annotated[
        Path | None, typer.Option(help="Write the requests as perf_analyzer's --input-data, and stop.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the whole result here.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the report here as one HTML file with charts.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the report here as Markdown.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None, typer.Option(help="Compare two results of --json instead of running anything.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws users, endpoints and arrivals.")] = 0,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
    token_file: TokenFile = None,
) -> None:
    """Replay real sessions against a running server, and report latency, throughput and where the time went.

    Each request is sent just before a held-out event of a user, with the real history. In the open
    model (`--rate`) latency counts from the time at which a request was due. Exit status: 0; 1 if the
    objective is broken, or requests are not accounted for.

    **Examples**

    ebbtide loadtest localhost:8001 --duration 30s --rate 50 --json out.json --html out.html

    ebbtide loadtest localhost:8001 --mix recommend=8,recommend_text=1 --slo "p99<20ms" --find-rate --duration 5s

    ebbtide loadtest localhost:8001 --by-user --mix recommend=6,observe=3 --concurrency 16

    ebbtide loadtest --compare before.json after.json
    """
    if compare is not None:
        _compare(*compare)
        return
    outputs = {"--json": json_file, "--html": html, "--markdown": markdown}
    for option, path in outputs.items():
        require_file(option, path)
    require_folder("--perf-analyzer-input", perf_analyzer_input)
    require_different(outputs)
    if html is not None:
        require_modules("--html", "load", "matplotlib", "jinja2")
    if find_rate and slo is None:
        raise typer.BadParameter("--find-rate needs an objective: --slo, as in --slo 'p99<20ms'")
    if remote_workers and not workers:
        raise typer.BadParameter("--remote-workers needs the number of --workers that you start")
    with working("Reading the log"):
        from ebbtide.loadtest import (
            ENDPOINTS,
            USER_PREFIX,
            Access,
            Options,
            build_workload,
            known_users,
            learns_online,
            load_test,
            parse_duration,
            parse_mix,
            served_limits,
        )

        access = Access(*read_access(tls, tls_ca, tls_certificate, tls_key, tls_server_name, token_file))
        shares = parse_mix(mix, ENDPOINTS)
        objective = _objective(slo)
        loads = _loads(rate, concurrency, ramp_to, spike, arrivals.value, parse_duration("duration", duration))
        warm_up_s = 0.0 if warm_up == "none" else parse_duration("warm_up", warm_up)
        timeout_s = parse_duration("timeout", timeout)
        replayed, notes = read_session_log(
            bundle,
            events,
            catalog,
            holdout,
            text_template,
            (user_col, item_col, time_col, weight_col, catalog_item_col),
            (time_unit, time_format, encoding),
        )
        limits = served_limits(address, shares, access)
        with_shown = "observe" in shares and learns_online(address, access)
        workload = build_workload(
            replayed, shares, limits=limits, requests=requests, seed=seed, by_user=by_user, with_shown=with_shown
        )
    console.print(f"requests from {workload.users:,} held-out users: {_counted(workload.messages)}")
    if perf_analyzer_input is not None:
        from ebbtide.loadtest.perf_analyzer import write_input

        for endpoint, path in write_input(perf_analyzer_input, workload).items():
            console.print(f"[green]✓[/green] {endpoint}: {escape(str(path))}")
        if workload.user_ids:
            with known_users(address, workload, access, keep=True):
                console.print(f"{workload.users:,} users are in the server's states, each as {USER_PREFIX}ID")
        return
    compare_with = None
    if perf_analyzer is not None:
        from ebbtide.loadtest import LoadTestError
        from ebbtide.loadtest.perf_analyzer import find, measure_beside

        if access != Access():
            raise LoadTestError("perf_analyzer: got it with TLS or a token; expected a server without either")
        binary = find(None if perf_analyzer == "find" else Path(perf_analyzer))

        def compare_with(runs: Any) -> dict[str, Any]:  # noqa: ANN401
            with working("perf_analyzer"):
                return measure_beside(binary, address, workload, runs)

    if workers:
        from ebbtide.loadtest.workers import Workers

        made: AbstractContextManager[Generates] = Workers(
            address,
            workload,
            timeout_s=timeout_s,
            workers=workers,
            bind=bind,
            remote=remote_workers,
            access=access,
            say=console.print,
        )
        engine = f"{workers} workers"
    else:
        from ebbtide.loadtest import Generator
        from ebbtide.loadtest.engine import ENGINE

        made, engine = Generator(address, workload, timeout_s=timeout_s, access=access), ENGINE
    options = Options(
        loads,
        warm_up_s=warm_up_s,
        timeout_s=timeout_s,
        slo=objective,
        search=find_rate,
        seed=seed,
        access=access,
        command=shlex.join(["ebbtide", *sys.argv[1:]]),
        engine=engine,
        notes=tuple(notes),
        on_run=_print_run,
    )
    with known_users(address, workload, access, say=_warn), made as generator, working("Sending"):
        result = load_test(address, workload, generator, options, compare_with=compare_with)
    _print(result)
    _write(result, json_file, html, markdown)
    if result["unaccounted"] or (result["slo"] is not None and not result["slo"]["held"]):
        raise typer.Exit(_BROKEN)


def _warn(sentence: str) -> None:
    errors.print(f"[yellow]warning:[/yellow] {escape(sentence)}", soft_wrap=True)


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
        raise LoadTestError("rate: got it together with --concurrency; expected one of them")
    if concurrency is not None:
        if ramp_to is not None or spike is not None:
            raise LoadTestError(
                "concurrency: got it with --ramp-to or --spike; expected --rate, since a closed model has no rate"
            )
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


def _counted(messages: dict[str, list[bytes]]) -> str:
    return ", ".join(f"{len(of_one):,} of {name}" for name, of_one in messages.items())


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
        (tables.perf_analyzer(result), "Comparison with perf_analyzer"),
    ):
        if table is not None and table.rows:
            console.print(_shown(table, title))
    for sentence in tables.verdict(result):
        console.print(f"- {escape(sentence)}", soft_wrap=True)


def _shown(table: ReportTable, title: str) -> Table:
    """A table that fits a terminal of 80 characters; the files have every column."""
    shown = Table(title=title, title_justify="left", pad_edge=False, show_edge=False, box=None)
    kept = [index for index, heading in enumerate(table.headings) if heading not in _LEFT_OUT]
    for index in kept:
        shown.add_column(table.headings[index], justify="left" if index == 0 else "right", no_wrap=index == 0)
    for row in table.rows:
        shown.add_row(*(escape(row[index].removesuffix(" (ensemble)")) for index in kept))
    return shown


def _write(result: dict[str, Any], json_file: Path | None, html: Path | None, markdown: Path | None) -> None:
    texts = {}
    if json_file is not None:
        texts[json_file] = json.dumps(result, indent=1, allow_nan=False) + "\n"
    if html is not None:
        # It imports matplotlib, which takes a second.
        from ebbtide.loadtest.report.html import html_report

        texts[html] = html_report(result)
    if markdown is not None:
        from ebbtide.loadtest.report.markdown import markdown_report

        texts[markdown] = markdown_report(result)
    for path, text in texts.items():
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
