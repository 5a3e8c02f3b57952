"""``ebbtide capacity``: replicas, cores and memory for a number of users per day, with every step shown."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ebbtide.cli.console import console, errors, escape

if TYPE_CHECKING:
    from ebbtide.capacity import Memory, Plan, Replica

_DEFAULT_COLUMNS = 68


def command(
    users: Annotated[str, typer.Option(help="Users per day; or several: 1000,100000.")] = "1000,100000,10000000",
    measured: Annotated[
        Path | None,
        typer.Option(help="Result of `ebbtide loadtest --json`, `ebbtide tune --out` or `make bench-serving`."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(help="In place of --measured: requests per second at which one replica holds the objective."),
    ] = None,
    cores: Annotated[float | None, typer.Option(help="Cores of one replica. As in --measured unless given.")] = None,
    memory: Annotated[
        Path | None, typer.Option(help="Result of `make bench-serving`; its memory figures are used.")
    ] = None,
    base_mib: Annotated[
        float | None, typer.Option(help="In place of --memory: memory of a replica without the catalog.")
    ] = None,
    instance_mib: Annotated[float, typer.Option(help="Memory of each instance of a Python model.")] = 0.0,
    items: Annotated[int | None, typer.Option(help="Items in the catalog. As in --memory unless given.")] = None,
    columns: Annotated[
        int | None, typer.Option(help="Floats in an item's factors. As in --memory, or 68, unless given.")
    ] = None,
    instances: Annotated[
        int, typer.Option(min=1, help="Instances of the Python models that a request runs through.")
    ] = 1,
    head_instances: Annotated[int, typer.Option(min=1, help="Instances of the scoring head.")] = 1,
    requests_per_user: Annotated[float, typer.Option(help="Requests per user and day.")] = 10.0,
    peak_factor: Annotated[float, typer.Option(help="Rate of the busiest minutes over the mean rate.")] = 3.0,
    utilisation: Annotated[float, typer.Option(help="Share of a replica's rate to plan with.")] = 0.7,
    zones: Annotated[
        int,
        typer.Option(
            min=1, help="Availability zones; the plan survives the loss of one at peak. 1: one spare replica."
        ),
    ] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Show how many replicas, cores and how much memory a number of users needs, step by step.

    **Examples**

    ebbtide capacity --measured tuned.json --memory benchmarks/results/serving.json --items 200000

    ebbtide capacity --users 250000 --rate 1800 --cores 4 --requests-per-user 6 --peak-factor 4 --zones 2
    """
    from ebbtide.capacity import CapacityError, Demand, Replica, notes_of, plan, read_measured, read_memory

    if (measured is None) == (rate is None):
        raise CapacityError("measured, rate: got both or neither; expected one of --measured and --rate")
    if memory is not None and base_mib is not None:
        raise CapacityError("memory, base_mib: got both; expected one of them")
    of_memory = None if memory is None else read_memory(memory)
    source, notes, mix = "as given", tuple[str, ...](), None
    if measured is not None:
        found = read_measured(measured)
        notes = notes_of(found, of_memory)
        rate, mix = found.rate_per_s, dict(found.mix)
        source = f"{found.endpoints}; {found.what}; on {found.machine or 'another machine than the load'}; {measured}"
        if cores is None and found.machine is not None:
            cores = found.machine.cores
    assert rate is not None  # noqa: S101 - one of the two was given
    if cores is None:
        raise CapacityError(
            "cores: got none; expected --cores: with --rate, and where the load test ran on another machine than the "
            "server"
        )
    given = None if of_memory is None else of_memory.memory
    replica = Replica(rate, cores, _memory(given, base_mib, instance_mib, items, columns, instances, head_instances))
    plans = [
        plan(Demand(count, requests_per_user, peak_factor, utilisation, zones), replica) for count in _counts(users)
    ]
    if as_json:
        content = {"replica": asdict(replica), "source": source, "mix": mix, "notes": notes}
        typer.echo(json.dumps({**content, "plans": [asdict(one) for one in plans]}, indent=1))
        return
    for note in notes:
        errors.print(f"[yellow]note:[/yellow] {escape(note)}", soft_wrap=True)
    _print(replica, source, plans)


def _counts(text: str) -> list[int]:
    from ebbtide.capacity import CapacityError

    try:
        return [int(part.replace("_", "")) for part in text.split(",")]
    except ValueError as error:
        raise CapacityError.of_field("users", text, "whole numbers separated by commas") from error


def _memory(
    measured: Memory | None,
    base_mib: float | None,
    instance_mib: float,
    items: int | None,
    columns: int | None,
    instances: int,
    head_instances: int,
) -> Memory | None:
    from ebbtide.capacity import CapacityError, Memory

    if measured is None:
        if base_mib is None:
            return None
        if items is None:
            raise CapacityError("items: got none; expected --items with --base-mib")
        measured = Memory(base_mib, instance_mib, items, _DEFAULT_COLUMNS)
    return replace(
        measured,
        items=measured.items if items is None else items,
        columns=measured.columns if columns is None else columns,
        instances=instances,
        head_instances=head_instances,
    )


def _print(replica: Replica, source: str, plans: list[Plan]) -> None:
    console.print(
        f"One replica: {replica.rate_per_s:,.0f} requests/s on {replica.cores:g} cores ({escape(source)})",
        soft_wrap=True,
    )
    for one in plans:
        table = Table(
            title=f"{one.demand.users_per_day:,} users per day",
            title_justify="left",
            pad_edge=False,
            show_edge=False,
            box=None,
        )
        table.add_column("step")
        table.add_column("arithmetic", overflow="fold")
        table.add_column("", justify="right", no_wrap=True)
        for line in one.lines:
            table.add_row(line.name, line.arithmetic, line.shown)
        console.print(table)
