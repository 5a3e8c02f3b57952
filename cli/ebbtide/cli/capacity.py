"""``ebbtide capacity``: replicas, cores and memory for so many users a day, every step of the arithmetic shown."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ebbtide.cli.console import console, errors

if TYPE_CHECKING:
    from ebbtide.capacity import Memory, Plan, Replica

_DEFAULT_COLUMNS = 68


def command(
    users: Annotated[str, typer.Option(help="Users a day; or several.")] = "1000,100000,10000000",
    measured: Annotated[
        Path | None,
        typer.Option(help="Result of `ebbtide loadtest --json`, `ebbtide tune --out` or `make bench-serving`."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Instead: requests per second at which one replica holds the objective.")
    ] = None,
    cores: Annotated[float | None, typer.Option(help="Of one replica; as in --measured.")] = None,
    memory: Annotated[
        Path | None, typer.Option(help="Result of `make bench-serving`, whose memory part is taken.")
    ] = None,
    base_mib: Annotated[float | None, typer.Option(help="Instead: memory of a replica without catalog.")] = None,
    instance_mib: Annotated[float, typer.Option(help="Memory of each instance of a Python model.")] = 0.0,
    items: Annotated[int | None, typer.Option(help="Of the catalog; as in --memory.")] = None,
    columns: Annotated[int | None, typer.Option(help="Floats of an item's factors; as in --memory, or 68.")] = None,
    instances: Annotated[int, typer.Option(min=1, help="Of the Python models that a request meets.")] = 1,
    head_instances: Annotated[int, typer.Option(min=1, help="Of the scoring head.")] = 1,
    requests_per_user: Annotated[float, typer.Option(help="In a day.")] = 10.0,
    peak_factor: Annotated[float, typer.Option(help="Busiest minutes over the mean of the day.")] = 3.0,
    utilisation: Annotated[float, typer.Option(help="Share of a replica's rate to plan with.")] = 0.7,
    zones: Annotated[
        int, typer.Option(min=1, help="One of which may be lost at the peak; 1 keeps one replica to spare.")
    ] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """Say how many replicas, cores and how much memory it takes, line by line.

    **Examples**

    ebbtide capacity --measured tuned.json --memory benchmarks/results/serving.json --items 200000

    ebbtide capacity --users 250000 --rate 1800 --cores 4 --requests-per-user 6 --peak-factor 4 --zones 2
    """
    from ebbtide.capacity import CapacityError, Demand, Replica, plan, read_measured

    if (measured is None) == (rate is None):
        raise CapacityError("measured, rate: got both or neither; expected one of --measured and --rate")
    told = "as given"
    if measured is not None:
        found = read_measured(measured)
        rate, cores, told = found.rate_per_s, cores or found.cores, f"{measured}: {found.what}"
        if not found.is_under_objective:
            errors.print(f"[yellow]no objective:[/yellow] {escape(told)}; plan with a lower --utilisation")
    assert rate is not None  # noqa: S101 - one of the two was given
    if cores is None:
        raise CapacityError("cores: got none; expected --cores with --rate")
    replica = Replica(rate, cores, _memory(memory, base_mib, instance_mib, items, columns, instances, head_instances))
    plans = [
        plan(Demand(count, requests_per_user, peak_factor, utilisation, zones), replica) for count in _counts(users)
    ]
    if as_json:
        content = {"replica": asdict(replica), "source": told, "plans": [asdict(one) for one in plans]}
        typer.echo(json.dumps(content, indent=1))
        return
    _print(replica, told, plans)


def _counts(text: str) -> list[int]:
    from ebbtide.capacity import CapacityError

    try:
        return [int(part.replace("_", "")) for part in text.split(",")]
    except ValueError as error:
        raise CapacityError.of_field("users", text, "whole numbers separated by commas") from error


def _memory(
    path: Path | None,
    base_mib: float | None,
    instance_mib: float,
    items: int | None,
    columns: int | None,
    instances: int,
    head_instances: int,
) -> Memory | None:
    from ebbtide.capacity import CapacityError, Memory, read_memory

    if path is not None:
        if base_mib is not None:
            raise CapacityError("memory, base_mib: got both; expected one of them")
        found = read_memory(path)
        return replace(
            found,
            items=found.items if items is None else items,
            columns=found.columns if columns is None else columns,
            instances=instances,
            head_instances=head_instances,
        )
    if base_mib is None:
        return None
    if items is None:
        raise CapacityError("items: got none; expected --items with --base-mib")
    return Memory(base_mib, instance_mib, items, columns or _DEFAULT_COLUMNS, instances, head_instances)


def _print(replica: Replica, told: str, plans: list[Plan]) -> None:
    console.print(f"One replica: {replica.rate_per_s:,.0f} requests/s on {replica.cores:g} cores ({escape(told)})")
    for one in plans:
        table = Table(
            title=f"{one.demand.users_per_day:,} users a day",
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
