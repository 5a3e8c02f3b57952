"""``ebbtide deploy``: puts a version into service on a running server, or rolls back to the previous one."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebbtide.cli import administration
from ebbtide.cli.console import console, working
from ebbtide.cli.stores import Store, store_address

if TYPE_CHECKING:
    from ebbtide.deploy import Deployment

_STORE_TIMEOUT_MS = 10_000
"""Of a call that reads more users than a request does."""


def command(
    repository: Annotated[Path, typer.Argument(help="The model repository that the server reads.")],
    server: Annotated[
        list[str],
        typer.Option(help="gRPC address (host:port). Repeat the option for each server that reads the folder."),
    ],
    version: Annotated[
        int | None,
        typer.Option(
            min=1, help="Version to put into service. Default: the one in shadow, or else the newest in the folder."
        ),
    ] = None,
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="Return to the previous version, which is still loaded.")
    ] = False,
    shadow: Annotated[
        bool,
        typer.Option(
            "--shadow",
            help="Load and check the version, but do not switch: `ebbtide gateway --shadow` then compares it on live "
            "requests. `ebbtide deploy` switches to it, --roll-back unloads it.",
        ),
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
    state: Store = None,
    admin_key_file: administration.KeyToSend = None,
    without_states: Annotated[
        bool,
        typer.Option(
            "--without-states", help="Deploy the version although the store does not know the users for it (yet)."
        ),
    ] = False,
    keep_previous: Annotated[
        bool,
        typer.Option(
            "--keep-previous/--drop-previous",
            help="Keep the previous version loaded, so that a roll-back is immediate. --drop-previous also unloads it "
            "later, when the new version is in service already.",
        ),
    ] = True,
) -> None:
    """Switch a running server to another version of an export, without a failed request.

    The new version is loaded next to the one in service. Its answers are compared with the in-process pipeline of the
    same files and with the answers of the version in service. Only then do the ensembles switch to it; running requests
    finish with the version that they started with. If a step fails, the version in service keeps answering. If the
    command is killed, the next one finishes what had passed its checks, and undoes what had not; --roll-back returns
    to the version from before.

    A server that keeps states of users needs them for the new version too. A version of `ebbtide refresh` shares them
    with the version in service; for a version of another training, `ebbtide backfill` builds them from the event log.
    Without them the command refuses the version. From the backfill on, both versions get all events that
    are observed, so that a roll-back loses none; `ebbtide retire` ends that.

    The server must allow loading of models: `ebbtide serve --allow-deploy`, or tritonserver with
    --model-control-mode=explicit --load-model=*.

    **Examples**

    ebbtide export artifacts/bundle --out artifacts/repository --version 2

    ebbtide backfill artifacts/repository --bundle artifacts/bundle

    ebbtide deploy artifacts/repository --server localhost:8001

    ebbtide deploy artifacts/repository --server localhost:8001 --roll-back

    ebbtide deploy artifacts/repository --server localhost:8001 --drop-previous

    ebbtide deploy artifacts/repository --server localhost:8001 --shadow
    """
    if shadow and (roll_back or not keep_previous):
        raise typer.BadParameter(
            "--shadow leaves the version in service and the version for a roll-back as they are: give neither "
            "--roll-back nor --drop-previous with it"
        )
    if roll_back and (version is not None or requests is not None):
        raise typer.BadParameter(
            "--roll-back returns to the previous version, which is still loaded; to choose another, use --version alone"
        )
    with working("Loading onnx"):
        from ebbtide import deploy as deployment
        from ebbtide.store import config_from_environment, open_store
        from ebbtide.verify import read_requests

    key = administration.key_to_send(repository, admin_key_file)
    recorded = None if requests is None else read_requests(requests)
    with ExitStack() as stack:
        status = stack.enter_context(working("Deploying"))
        address = _address(state, repository)
        store = None
        if address is not None and not roll_back:
            config = config_from_environment(os.environ)
            config = replace(config, timeout_ms=max(config.timeout_ms, _STORE_TIMEOUT_MS))
            store = stack.enter_context(open_store(address, config))

        def report(part: str) -> None:
            status.update(f"Deploying: {part}")

        if roll_back:
            result = deployment.roll_back(repository, server, key=key, report=report)
        else:
            result = deployment.deploy(
                repository,
                server,
                version,
                requests=recorded,
                min_overlap=min_overlap,
                keep_previous=keep_previous,
                shadow=shadow,
                store=store,
                without_states=without_states,
                key=key,
                report=report,
            )
    if result.shadow is None:
        _print(result)
    else:
        _print_shadow(result, f"ebbtide deploy {repository} {' '.join(f'--server {one}' for one in server)}")


def _address(given: str | None, repository: Path) -> str | None:
    """The store to look at; None for no store, as beside a repository whose server keeps no states."""
    if given is None and not Path(f"{repository.absolute()}.state").is_dir():
        return None
    return None if given == "none" else store_address(given, repository)


def _print(result: Deployment) -> None:
    parts = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in result.seconds.items())
    console.print(
        f"[green]✓[/green] version {result.version} ({result.fingerprint}) is in service"
        f"{'' if result.has_ended_shadow else f'; previous version: {result.previous}'}"
        f"{f' [dim]({parts})[/dim]' if parts else ''}"
    )
    if result.has_ended_shadow:
        console.print(f"  version {result.previous} was in shadow and no longer is; nothing else was done")
    elif result.is_recovery:
        console.print("  an earlier deployment had been cut off: this is how it ends; nothing else was done")
    _print_comparison(result)
    if result.states is None or not result.states.users:
        return
    if result.states.shared:
        console.print("  states: both versions have the same ones, so that there is nothing to backfill or to retire")
        return
    console.print(
        f"  states: the new version knows {result.states.known:,} of {result.states.users:,} users of a sample; "
        f"when the previous version is no longer needed: ebbtide retire {result.previous_states}",
        soft_wrap=True,
    )


def _print_comparison(result: Deployment) -> None:
    if result.comparison is not None:
        console.print(
            f"  {result.comparison.requests} requests: equal to the in-process pipeline; both versions have "
            f"{result.comparison.mean_overlap_at_10:.0%} of their top ten items in common, on average"
        )


def _print_shadow(result: Deployment, command_again: str) -> None:
    parts = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in result.seconds.items())
    console.print(
        f"[green]✓[/green] version {result.shadow} is in shadow [dim]({parts})[/dim]; version {result.version} "
        f"({result.fingerprint}) answers, as before"
    )
    _print_comparison(result)
    console.print("  compare on live requests: ebbtide gateway --shadow 0.1", soft_wrap=True)
    console.print(f"  switch to it:             {command_again}", soft_wrap=True)
    console.print(f"  unload it:                {command_again} --roll-back", soft_wrap=True)
