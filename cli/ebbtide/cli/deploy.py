"""``ebbtide deploy``: a version of an export comes into service on a running server, or an earlier one comes back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebbtide.cli.console import console

if TYPE_CHECKING:
    from ebbtide.deploy import Deployment


def command(
    repository: Annotated[Path, typer.Argument(help="The model repository that the server reads.")],
    server: Annotated[
        list[str],
        typer.Option(help="gRPC address, as printed by `ebbtide serve`; once for each server that reads the folder."),
    ],
    version: Annotated[
        int | None, typer.Option(min=1, help="Version to bring into service; the newest in the folder unless given.")
    ] = None,
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="Bring the version back that answered before, which is still loaded.")
    ] = False,
    requests: Annotated[
        Path | None,
        typer.Option(help="Recorded requests to check with, one as JSON in each line, in place of random ones."),
    ] = None,
    min_overlap: Annotated[
        float,
        typer.Option(min=0, max=1, help="Share of the first ten items that both versions must name, on average."),
    ] = 0.0,
    keep_previous: Annotated[
        bool,
        typer.Option(
            "--keep-previous/--drop-previous", help="Keep the version before loaded, so that a roll-back takes no time."
        ),
    ] = True,
) -> None:
    """Switch a running server to another version of an export, without a failed request.

    The new version is loaded beside the one that answers. Its answers are compared with the in-process pipeline of the
    same files, and with those of the version in service. Only then are the ensembles pointed at it; requests under way
    end with the version they began with. Whatever fails on the way, the version in service goes on answering.

    The server must let models be loaded: `ebbtide serve --allow-deploy`, or tritonserver with
    --model-control-mode=explicit --load-model=*.

    **Examples**

    ebbtide export artifacts/bundle --out artifacts/repository --version 2

    ebbtide deploy artifacts/repository --server localhost:8001

    ebbtide deploy artifacts/repository --server localhost:8001 --roll-back
    """
    if roll_back and (version is not None or requests is not None):
        raise typer.BadParameter("--roll-back takes the version that is still loaded; use --version in its place")
    with console.status("Loading onnx"):
        from ebbtide import deploy as deployment
        from ebbtide.verify import read_requests

    recorded = None if requests is None else read_requests(requests)
    with console.status("Deploying") as status:

        def report(part: str) -> None:
            status.update(f"Deploying: {part}")

        if roll_back:
            result = deployment.roll_back(repository, server, report=report)
        else:
            result = deployment.deploy(
                repository,
                server,
                version,
                requests=recorded,
                min_overlap=min_overlap,
                keep_previous=keep_previous,
                report=report,
            )
    _print(result)


def _print(result: Deployment) -> None:
    parts = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in result.seconds.items())
    console.print(
        f"[green]✓[/green] version {result.version} ({result.fingerprint}) answers; before, {result.previous} did "
        f"[dim]({parts})[/dim]"
    )
    if result.comparison is not None:
        console.print(
            f"  {result.comparison.requests} requests: equal to the in-process pipeline; both versions name "
            f"{result.comparison.mean_overlap_at_10:.0%} of their first ten items, on average"
        )
