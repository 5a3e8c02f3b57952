"""``ebbtide prepare``: a public data set becomes the event log and the catalog that ``ebbtide train`` reads."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ebbtide.cli.console import console, escape, timed, working
from ebbtide.cli.outputs import require_folder


class FormatName(str, Enum):
    """The keys of `ebbtide.data.prepare.formats.SOURCES`. Repeated here, as that module loads polars."""

    mind = "mind"
    eb_nerd = "eb-nerd"
    yambda = "yambda"
    amazon_2023 = "amazon-2023"
    lastfm_1k = "lastfm-1k"
    retailrocket = "retailrocket"
    movielens = "movielens"
    online_retail = "online-retail"


def command(
    format_: Annotated[FormatName, typer.Argument(metavar="FORMAT", help="Name of the data set.")],
    folder: Annotated[Path, typer.Argument(help="Folder with its unpacked files.")],
    out: Annotated[Path, typer.Option(help="Folder to write events.parquet and catalog.parquet to.")],
    users: Annotated[
        int | None, typer.Option(min=1, help="Keep the events of this many users, drawn at random. Default: all users.")
    ] = None,
    min_item_events: Annotated[
        int, typer.Option(min=1, help="Leave out items with fewer events, to bound the catalog of a large log.")
    ] = 1,
) -> None:
    """Turn a public data set into an event log and a catalog, and print the command that trains on them.

    **Example**

    ebbtide prepare movielens ml-1m --out artifacts/ml-1m
    """
    require_folder("--out", out)
    from ebbtide.data.prepare.formats import SOURCES
    from ebbtide.data.prepare.write import Selection, prepare

    selection = Selection(users, min_item_events)
    with timed("prepared"):
        summary = prepare(SOURCES[format_.value], folder, out, selection, working)
    console.print(
        f"[green]✓[/green] {summary.events:,} events of {summary.users:,} users, "
        f"{summary.first:%Y-%m-%d} to {summary.last:%Y-%m-%d}; {summary.items:,} items in the catalog",
        soft_wrap=True,
    )
    for reason, number in summary.left_out.items():
        console.print(f"  [yellow]left out:[/yellow] {number:,} {escape(reason)}", soft_wrap=True)
    for note in summary.notes:
        console.print(f"  [yellow]note:[/yellow] {escape(note)}", soft_wrap=True)
    console.print("Next:")
    console.print(summary.train_command, markup=False, soft_wrap=True)
