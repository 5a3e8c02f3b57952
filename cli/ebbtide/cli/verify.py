"""``ebbtide verify``: compares torch, the exported files and a running Triton, stage by stage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from ebbtide.cli.console import console, counting_progress, errors, escape, working
from ebbtide.cli.outputs import require_file

if TYPE_CHECKING:
    from ebbtide.export.inprocess import InProcessPipeline
    from ebbtide.v1 import RecommendRequest
    from ebbtide.verify import StageDifference

_DIFFERS, _NOT_COMPARED = 1, 2


def command(
    repository: Annotated[Path, typer.Argument(help="Model repository written by `ebbtide export`.")],
    bundle: Annotated[
        Path | None,
        typer.Option(help="Bundle that was exported: compare torch and the formulas with the exported files."),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="gRPC address (host:port) of a Triton that serves the repository: compare its answers with the "
            "exported files."
        ),
    ] = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="Version to compare. Default: the version in service.")
    ] = None,
    requests: Annotated[
        Path | None,
        typer.Option(help="File with recorded requests, one JSON object per line. Default: random requests."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Number of random requests; the first seven are edge cases.")] = 200,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the requests.")] = 0,
    save_requests: Annotated[Path | None, typer.Option(help="Write the requests to this file.")] = None,
) -> None:
    """Compare every stage of the pipeline between torch, the exported files in this process, and a running Triton.

    Each stage gets the same inputs in both implementations, so that a difference is found at the stage that causes it;
    whole requests are compared too. Exit status: 0 all within the tolerances, 1 a difference, 2 nothing was compared.

    **Examples**

    ebbtide verify artifacts/repository --bundle artifacts/bundle

    ebbtide verify artifacts/repository --bundle artifacts/bundle --server localhost:8001

    ebbtide verify artifacts/repository --server localhost:8001 --requests recorded.jsonl
    """
    if bundle is None and server is None:
        raise typer.BadParameter(
            "nothing to compare the repository with: give the --bundle that was exported, the --server that "
            "serves it, or both"
        )
    require_file("--save-requests", save_requests)
    with _reported_errors():
        found = _compare(repository, bundle, server, version, requests, count, seed, save_requests)
    if not _print(found):
        raise typer.Exit(_DIFFERS)


def _compare(
    repository: Path,
    bundle: Path | None,
    server: str | None,
    version: int | None,
    recorded: Path | None,
    count: int,
    seed: int,
    save_requests: Path | None,
) -> list[StageDifference]:
    with working("Loading"):
        from ebbtide.export.inprocess import InProcessPipeline
        from ebbtide.train.bundle import InterestBundle
        from ebbtide.verify import (
            NoneByUserError,
            NoStatesError,
            compare_bundle,
            compare_fidelity,
            compare_server,
            compare_states,
            write_requests,
        )

        pipeline = InProcessPipeline(repository, version)
        loaded = None if bundle is None else InterestBundle.load(bundle)
        texts = () if loaded is None else loaded.catalog.text
        asked = _requests(pipeline, recorded, count, seed, list(texts))
    if save_requests is not None:
        write_requests(save_requests, asked)
    console.print(f"{repository}, version {pipeline.version}, export {pipeline.fingerprint}; requests: {len(asked):,}")
    found: list[StageDifference] = []
    with counting_progress() as progress:
        if loaded is not None:
            task = progress.add_task("Against torch", total=len(asked))
            found += compare_bundle(loaded, pipeline, asked, progress=lambda done: progress.advance(task, done))
        if server is not None:
            on_server = progress.add_task("Against Triton", total=len(asked))
            found += compare_server(pipeline, server, asked, progress=lambda done: progress.advance(on_server, done))
        by_user = progress.add_task("By user", total=len(asked))
        compare = partial(
            compare_states, pipeline, asked, bundle=loaded, progress=lambda done: progress.advance(by_user, done)
        )
        try:
            try:
                found += compare(server=server)
            except NoStatesError as error:
                console.print(
                    f"Not compared on the server, which has no store: requests by user ({escape(str(error))})"
                )
                progress.reset(by_user)
                found += compare()
        except NoneByUserError as error:
            console.print(f"Not compared: answers by user ({escape(str(error))})")
    if loaded is not None:
        # By the processor that serves, where there is a server.
        found.append(compare_fidelity(loaded, pipeline, server))
    return found


def _requests(
    pipeline: InProcessPipeline, recorded: Path | None, count: int, seed: int, texts: list[str]
) -> list[RecommendRequest]:
    from ebbtide.verify import random_requests, read_requests

    if recorded is not None:
        return read_requests(recorded)
    return random_requests(pipeline.repository, pipeline.version, count, seed, texts=texts)


def _print(found: list[StageDifference]) -> bool:
    """Prints a table for each pair of implementations and the first difference; true if there is none."""
    from ebbtide.verify import first_failure

    for pair in dict.fromkeys(one.between for one in found):
        of_pair = [one for one in found if one.between == pair]
        # Without lines between columns it fits 80 characters.
        table = Table(title=pair, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for heading in ("stage", "field", "differs by", "allowed", "", "request", "item"):
            right = heading in ("differs by", "allowed", "request")
            table.add_column(heading, justify="right" if right else "left", no_wrap=heading != "item")
        for one in of_pair:
            table.add_row(
                one.stage,
                one.field,
                f"{one.difference:.1e}",
                f"{one.tolerance:.0e}" if one.tolerance else "equal",
                "[green]✓[/green]" if one.passed else "[red]✗[/red]",
                "" if one.request is None else str(one.request),
                escape(one.item or ""),
            )
        console.print(table)
        failed = first_failure(of_pair)
        if failed is None:
            console.print(f"[green]✓[/green] {pair}: the same")
            continue
        where = "" if failed.request is None else f"request {failed.request}, "
        item = "" if failed.item is None else f", item {failed.item}"
        console.print(
            f"[red]✗[/red] {pair}: differs first at [bold]{failed.stage}[/bold], {failed.field}: "
            f"{where}for {failed.kind}{escape(item)}: {escape(failed.detail)}"
        )
    return all(one.passed for one in found)


@contextmanager
def _reported_errors() -> Iterator[None]:
    """Prints the error that prevented the comparison, and exits with a status of its own."""
    with working("Loading"):
        from ebbtide.data.errors import DataError
        from ebbtide.export.errors import ExportError
        from ebbtide.train.errors import TrainError
        from ebbtide.verify.errors import VerifyError

    try:
        yield
    except (DataError, ExportError, TrainError, VerifyError, OSError) as error:
        errors.print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True)
        raise typer.Exit(_NOT_COMPARED) from error
