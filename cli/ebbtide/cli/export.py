"""``ebbtide export``: an interest bundle becomes a Triton model repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ebbtide.cli.console import console, timed
from ebbtide.interest.contract import Limits

if TYPE_CHECKING:
    from ebbtide.export.repository import ExportReport

_DEFAULTS = Limits()


def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle written by `ebbtide train`.")],
    out: Annotated[Path, typer.Option(help="Model repository to write; see --version for one that is there.")],
    top_n: Annotated[int, typer.Option(min=1, help="Items of an answer; clients may ask for fewer.")] = 50,
    max_events: Annotated[
        int, typer.Option(min=1, help="Events of a request, history and session together.")
    ] = _DEFAULTS.max_events,
    max_exclude_items: Annotated[
        int, typer.Option(min=0, help="Items that a request may exclude by name.")
    ] = _DEFAULTS.max_exclude_items,
    version: Annotated[
        int | None,
        typer.Option(min=1, help="Add this version to those in the folder; without it the folder is written anew."),
    ] = None,
    encoder_threads: Annotated[int, typer.Option(min=1, help="ONNX Runtime threads of the encoder.")] = 2,
) -> None:
    """Export a bundle as a Triton model repository: ONNX graphs, Python models and every config.pbtxt.

    The graphs are checked against torch on several batch sizes and lengths before anything is written. The folder is
    self-contained: copied into any Triton's model repository it needs NumPy and tokenizers there, and no edit.

    **Example**

    ebbtide export artifacts/bundle --out artifacts/repository
    """
    with console.status("Loading torch and onnx"):
        from ebbtide.export.options import ExportOptions
        from ebbtide.export.repository import export_repository
        from ebbtide.train.bundle import InterestBundle

        loaded = InterestBundle.load(bundle)
    options = ExportOptions(
        top_n=top_n,
        limits=Limits(max_events=max_events, max_exclude_items=max_exclude_items),
        encoder_threads=encoder_threads,
    )
    with timed(f"exported {out}"), console.status("Exporting") as status:
        report = export_repository(
            loaded,
            out,
            options,
            version=version,
            report=lambda part: status.update(f"Exporting: {part}"),
        )
    _print_report(report)


def _print_report(report: ExportReport) -> None:
    table = Table(
        title=f"{report.items:,} items, answers of {report.top_n}, {report.size_bytes / 2**20:,.0f} MiB in all",
        title_justify="left",
    )
    table.add_column("checked against torch")
    table.add_column("largest difference", justify="right")
    table.add_column("allowed", justify="right")
    for name, difference in (
        ("encoder", report.encoder_difference),
        ("scoring head", report.head_difference),
        ("whole requests", report.pipeline_difference),
    ):
        table.add_row(name, f"{difference:.1e}", f"{report.tolerance:.0e}")
    console.print(table)
