"""``ebbtide tune``: the instances and threads with which this machine serves most requests under an objective."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from ebbtide.cli.console import console, escape, working
from ebbtide.cli.outputs import require_file
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
    from ebbtide.tune import Trial


def command(
    repository: Annotated[Path, typer.Argument(help="Model repository written by `ebbtide export`, for a CPU.")],
    slo: Annotated[str, typer.Option(help="Objective: p99<20ms, or several: p99<20ms,errors<1%.")] = "p99<20ms",
    bundle: Annotated[
        Path | None,
        typer.Option(help="Bundle that supplies the event log, its columns, the catalog and the holdout."),
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.1, help="Time for the search and the final comparison.")] = 10.0,
    mix: Annotated[
        str, typer.Option(help="Endpoints and their weights; the models that they run are tuned.")
    ] = "recommend=1",
    events: Annotated[
        str | None, typer.Option(help="Event log to replay, as for `ebbtide loadtest`. The shipped one unless given.")
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
    holdout: Annotated[str | None, typer.Option(help="Held-out events, as for `ebbtide loadtest`.")] = None,
    requests: Annotated[int, typer.Option(min=1, help="Number of different requests of each endpoint.")] = 2_000,
    turn: Annotated[str, typer.Option(help="Length of one measurement of one of a pair of settings.")] = "1.5s",
    write: Annotated[
        bool, typer.Option("--write", help="Write the winner into the repository's config.pbtxt files.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Write the whole result here, as JSON.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws users and arrivals.")] = 0,
) -> None:
    """Find the instances and threads with which this machine serves most requests under an objective.

    Two servers are started, and real sessions are replayed against both in turn: one has the best settings so far, the
    other has settings to try. These win only if they are significantly better. At the end the winner is compared with
    the repository's own settings under an open model, and is kept only if it holds a higher rate.

    **Examples**

    ebbtide tune artifacts/repository --bundle artifacts/bundle --slo "p99<20ms" --minutes 10 --out tuned.json

    ebbtide tune artifacts/repository --bundle artifacts/bundle --mix recommend=8,recommend_text=1 --write
    """
    require_file("--out", out)
    with working("Reading the log"):
        from ebbtide.loadtest import STATELESS_ENDPOINTS, Slo, build_workload, parse_duration, parse_mix
        from ebbtide.tune import TuneOptions, read_limits, tune, write_winner

        shares, objective, turn_s = parse_mix(mix, STATELESS_ENDPOINTS), Slo.parse(slo), parse_duration("turn", turn)
        replayed, notes = read_session_log(
            bundle,
            events,
            catalog,
            holdout,
            text_template,
            (user_col, item_col, time_col, weight_col, catalog_item_col),
            (time_unit, time_format, encoding),
        )
        limits = read_limits(repository, shares)
        workload = build_workload(replayed, shares, limits=limits, requests=requests, seed=seed)
    console.print(f"requests from {workload.users:,} held-out users, under {objective}", markup=False)
    with working("") as status:
        options = TuneOptions(
            objective,
            minutes=minutes,
            turn_s=turn_s,
            seed=seed,
            command=shlex.join(["ebbtide", *sys.argv[1:]]),
            on_trial=_print_trial,
            on_stage=lambda stage: status.update(stage.capitalize()),
        )
        result = tune(repository, workload, options)
    result["notes"] = [*notes, *result["notes"]]
    _print(result)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        console.print(f"[green]✓[/green] {escape(str(out))}")
    if write:
        for path in write_winner(repository, result):
            console.print(f"[green]✓[/green] {escape(str(path))}")


def _print_trial(trial: Trial) -> None:
    what = "default" if trial.value is None else str(trial.value)
    shown = f"  {what}: {trial.ratio}, {trial.outcome}"
    console.print(f"[green]{escape(shown)}[/green]" if trial.won else escape(shown), soft_wrap=True)


def _print(result: dict[str, Any]) -> None:
    chosen = {one["model"]: one for one in result["winner"]["settings"]}
    table = Table(title="Settings", title_justify="left", pad_edge=False, show_edge=False, box=None)
    table.add_column("model", no_wrap=True)
    for heading in ("instances", "threads"):
        table.add_column(heading, justify="right")
    for default in result["default"]["settings"]:
        tuned = chosen[default["model"]]
        cells = [_change(default.get(name), tuned.get(name)) for name in ("instances", "threads")]
        table.add_row(default["model"], *cells)
    console.print(table)
    for sentence in (result["verdict"], *result["notes"]):
        console.print(f"- {escape(sentence)}", soft_wrap=True)
    if result["winner"]["export_options"]:
        console.print(f"- ebbtide export ... {escape(result['winner']['export_options'])}", soft_wrap=True)


def _change(before: int | None, after: int | None) -> str:
    if before == after:
        return "" if before is None else str(before)
    return f"{before} -> {after}"
