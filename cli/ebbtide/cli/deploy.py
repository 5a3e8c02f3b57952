"""``ebbtide deploy``: puts a version into service on a running server, or rolls back to the previous one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebbtide.cli.console import console, working

if TYPE_CHECKING:
    from ebbtide.deploy import Deployment


def command(
    repository: Annotated[Path, typer.Argument(help="The model repository that the server reads.")],
    server: Annotated[
        list[str],
        typer.Option(help="gRPC address (host:port). Repeat the option for each server that reads the folder."),
    ],
    version: Annotated[
        int | None, typer.Option(min=1, help="Version to put into service. Default: the newest in the folder.")
    ] = None,
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="Return to the previous version, which is still loaded.")
    ] = False,
    requests: Annotated[
        Path | None,
        typer.Option(
            help="File with recorded requests to check with, one JSON object per line. Default: random requests."
        ),
    ] = None,
    min_overlap: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Minimum share of the top ten items that both versions have in common, on average."
        ),
    ] = 0.0,
    keep_previous: Annotated[
        bool,
        typer.Option(
            "--keep-previous/--drop-previous",
            help="Keep the previous version loaded, so that a roll-back is immediate.",
        ),
    ] = True,
) -> None:
    """Switch a running server to another version of an export, without a failed request.

    The new version is loaded next to the one in service. Its answers are compared with the in-process pipeline of the
    same files and with the answers of the version in service. Only then do the ensembles switch to it; running requests
    finish with the version that they started with. If a step fails, the version in service keeps answering.

    The server must allow loading of models: `ebbtide serve --allow-deploy`, or tritonserver with
    --model-control-mode=explicit --load-model=*.

    **Examples**

    ebbtide export artifacts/bundle --out artifacts/repository --version 2

    ebbtide deploy artifacts/repository --server localhost:8001

    ebbtide deploy artifacts/repository --server localhost:8001 --roll-back
    """
    if roll_back and (version is not None or requests is not None):
        raise typer.BadParameter(
            "--roll-back returns to the previous version, which is still loaded; to choose another, use --version alone"
        )
    with working("Loading onnx"):
        from ebbtide import deploy as deployment
        from ebbtide.verify import read_requests

    recorded = None if requests is None else read_requests(requests)
    with working("Deploying") as status:

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
        f"[green]✓[/green] version {result.version} ({result.fingerprint}) is in service; previous version: "
        f"{result.previous} "
        f"[dim]({parts})[/dim]"
    )
    if result.comparison is not None:
        console.print(
            f"  {result.comparison.requests} requests: equal to the in-process pipeline; both versions have "
            f"{result.comparison.mean_overlap_at_10:.0%} of their top ten items in common, on average"
        )
