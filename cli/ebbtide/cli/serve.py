"""``ebbtide serve``: serves an exported repository with a real Triton on this machine."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebbtide.cli import administration
from ebbtide.cli.console import console, escape, percentage_progress, working
from ebbtide.cli.errors import CommandError
from ebbtide.cli.modules import warn_of_two_runtimes
from ebbtide.cli.outputs import require_file
from ebbtide.cli.stores import store_address

if TYPE_CHECKING:
    from ebbtide.serve import Progress, ServerConfig, TritonServer


def command(
    repository: Annotated[
        Path | None, typer.Argument(help="Model repository written by `ebbtide export`; not needed with --server.")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="gRPC address (host:port) of a running Triton. No server is started; the command waits until "
            "it is ready."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. The default accepts connections from this machine only.")
    ] = "127.0.0.1",
    grpc_port: Annotated[int | None, typer.Option(help="gRPC port. Default: a free one.")] = None,
    http_port: Annotated[int | None, typer.Option(help="HTTP port. Default: a free one.")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Metrics port. Default: a free one.")] = None,
    model_config_name: Annotated[
        str | None,
        typer.Option(help="Name of the configs to use, as written by `ebbtide export --machine`, such as gpu-1."),
    ] = None,
    response_cache_mb: Annotated[
        int | None,
        typer.Option(
            min=1, help="Size of the response cache in MiB, for models exported with `ebbtide export --response-cache`."
        ),
    ] = None,
    rate_limiter: Annotated[
        bool,
        typer.Option(
            "--rate-limiter",
            help="Let Triton's rate limiter share the cores, for models exported with `ebbtide export --rate-limiter`.",
        ),
    ] = False,
    state: Annotated[
        str | None,
        typer.Option(
            help="Address of the store of the users' states: embedded:FOLDER, redis://HOST, rediss://HOST "
            "(TLS), or a cluster (see the docs on the state store); none for no store. Default: the variable "
            "EBBTIDE_STATE, or else a folder beside the repository, REPOSITORY.state.",
        ),
    ] = None,
    traces: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Address of an OpenTelemetry collector (OTLP over HTTP, usually port 4318). It gets a span of each "
            "model on a request's way, in the caller's trace if there is one.",
        ),
    ] = None,
    trace_rate: Annotated[int, typer.Option(min=1, help="With --traces: trace one request in so many.")] = 1,
    log_file: Annotated[Path | None, typer.Option(help="File for the server's log.")] = None,
    startup_timeout_s: Annotated[float, typer.Option(help="Seconds to wait for the server to become ready.")] = 120.0,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Bundle that supplies titles for --show-user, and the events of a user whom the server does not know."
        ),
    ] = None,
    show_user: Annotated[
        str | None,
        typer.Option(help="When the server is ready, print recommendations for this user, asked for by id."),
    ] = None,
    show_change: Annotated[
        bool,
        typer.Option(
            "--show-change",
            help="With --show-user: observe that the user takes the first item, and print how the list changes. This "
            "adds an event to the store.",
        ),
    ] = False,
    studio_port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="With --bundle: serve the page of `ebbtide studio` at this port, too."),
    ] = None,
    allow_deploy: Annotated[
        bool,
        typer.Option(
            "--allow-deploy",
            help="Let `ebbtide deploy` load other versions. Whoever has the administration's key (see "
            "--admin-key-file) and reaches a port can then load models, and run code with them.",
        ),
    ] = False,
    admin_key_file: administration.KeyToAskFor = None,
    once: Annotated[
        bool, typer.Option("--once", help="Stop after start-up and --show-user, instead of serving.")
    ] = False,
) -> None:
    """Serve a model repository until stopped with Ctrl-C.

    The server is a real Triton from the nvidia-pytriton wheel, without a container. It listens on loopback (see
    --host), and stops when this process stops. If it or a process of a model dies or hangs, it is started again.

    **Example**

    ebbtide serve artifacts/repository --grpc-port 8001
    """
    if show_user is not None and bundle is None:
        raise typer.BadParameter("--show-user needs the --bundle that the repository was exported from")
    if studio_port is not None and (bundle is None or server is not None):
        raise typer.BadParameter("--studio-port needs a REPOSITORY and the --bundle that it was exported from")
    if server is not None and repository is None:
        _await_running(server, startup_timeout_s)
        _show(server, bundle, show_user, changes=show_change)
        return
    if repository is None or server is not None:
        raise typer.BadParameter(
            "give either a REPOSITORY to start a server with, or the --server address of a running one"
        )
    require_file("--log-file", log_file)
    warn_of_two_runtimes()
    from ebbtide.serve import ServerConfig
    from ebbtide.serve.ports import require_free

    state = store_address(state, repository)
    key, where = administration.key_to_ask_for(repository, admin_key_file)
    try:
        config = ServerConfig(
            model_repository=repository,
            host=host,
            grpc_port=grpc_port,
            http_port=http_port,
            metrics_port=metrics_port,
            model_config_name=model_config_name,
            response_cache_mb=response_cache_mb,
            rate_limit_cores=len(os.sched_getaffinity(0)) if rate_limiter else None,
            state=state,
            traces=traces,
            trace_rate=trace_rate,
            log_file=log_file,
            admin_key=key,
            startup_timeout_s=startup_timeout_s,
            model_control="explicit" if allow_deploy else "none",
            load_models=("*",) if allow_deploy else (),
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not any(repository.glob("*/config.pbtxt")) and not any(repository.glob("*/[0-9]*/model.*")):
        raise CommandError(
            f"{repository}: got a folder without models; expected a repository written by `ebbtide export`, the folder "
            "with one folder for each model"
        )
    require_free(host, grpc=grpc_port, http=http_port, metrics=metrics_port, studio=studio_port)
    _settle_deployment(repository)
    store = _store_name(state)
    with _started(config) as triton:
        console.print(f"  gRPC     {administration.bound(host, triton.grpc_url)}")
        console.print(f"  HTTP     {administration.bound(host, triton.http_url)}")
        console.print(f"  metrics  {administration.bound(host, triton.metrics_url)}")
        console.print(f"  state    {store}")
        console.print(f"  admin    {escape(where)}", soft_wrap=True)
        administration.warn_of_open_ports(host, allows_deploy=allow_deploy)
        _show(triton.grpc_url, bundle, show_user, changes=show_change)
        if once:
            return
        with _studio(triton.grpc_url, bundle, host, studio_port):
            console.print("Serving; Ctrl-C stops.")
            _keep(triton)


@contextmanager
def _studio(url: str, bundle: Path | None, host: str, port: int | None) -> Iterator[None]:
    if bundle is None or port is None:
        yield
        return
    from ebbtide.cli.studio import running_studio

    with running_studio(url, bundle, host, port) as page:
        console.print(f"  studio   {page}  [dim]watch interests fade[/dim]")
        yield


def _settle_deployment(repository: Path) -> None:
    """Finishes or undoes a deployment that was cut off, so that all ensembles answer with one version."""
    from ebbtide.interest import contract

    if not (repository / contract.JOURNAL_FILE).is_file():
        return
    from ebbtide.export import transition

    change = transition.read(repository)
    goal = transition.settle_interrupted(repository)
    if goal is not None and change is not None and change.is_shadow:
        console.print(
            f"Version {change.after.version} was in shadow: it is not loaded again, and version {goal.version} is "
            "served. `ebbtide deploy --shadow` loads it.",
            soft_wrap=True,
        )
    elif goal is not None:
        console.print(
            f"An earlier deployment was cut off: version {goal.version} is served. The next `ebbtide deploy` brings "
            "other servers that read this folder to the same version.",
            soft_wrap=True,
        )


def _keep(triton: TritonServer) -> None:
    """Serves until Ctrl-C or SIGTERM; starts the server again when it or a process of a model died or hangs."""
    from ebbtide.serve import keep

    def tell_fault(fault: str, pause_s: float) -> None:
        console.print(escape(triton.log_tail()), style="dim", soft_wrap=True)
        console.print(f"[red]{escape(fault)}[/red]: the server is started again in {pause_s:g} s", soft_wrap=True)

    def tell_restart(startup_s: float) -> None:
        console.print(f"[green]✓[/green] Triton is ready again [dim]({startup_s:.1f} s)[/dim]")

    keep(triton, on_fault=tell_fault, on_restart=tell_restart)


def _store_name(state: str) -> str:
    """The store's address without user name and password.

    Raises:
        CommandError: The address or a setting of the store is not usable.
    """
    from ebbtide.serve import NO_STATE
    from ebbtide.store import StoreError, config_from_environment, open_store

    if state == NO_STATE:
        return "none: requests cannot name a user"
    try:
        with open_store(state, config_from_environment(os.environ)) as store:
            return store.name
    except StoreError as error:
        raise CommandError(f"{error}; `--state` names another store, and `--state none` does without") from None


@contextmanager
def _started(config: ServerConfig) -> Iterator[TritonServer]:
    """Starts the server with a progress bar over its models; stops it at the end, and on Ctrl-C."""
    from ebbtide.serve import TritonServer

    progress = percentage_progress()
    task = progress.add_task("Starting Triton", total=None)

    def on_progress(state: Progress) -> None:
        loaded = len(state.loaded)
        progress.update(task, total=state.expected, completed=loaded, description=f"Loading models ({loaded} ready)")

    # A manager's SIGTERM ends the server as Ctrl-C does, so that its ports are free when this process is gone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    began = time.monotonic()
    triton = TritonServer(config, on_progress=on_progress)
    with progress:
        triton.start()
    try:
        console.print(f"[green]✓[/green] Triton is ready [dim]({time.monotonic() - began:.1f} s)[/dim]")
        yield triton
    except KeyboardInterrupt:
        console.print("stopping")
    finally:
        triton.stop()


def _await_running(url: str, timeout_s: float) -> None:
    from ebbtide.client import InterestClient

    with InterestClient(url) as client, working(f"Waiting for {url}"):
        client.wait_until_ready(timeout_s)
    console.print(f"[green]✓[/green] Triton at {url} is ready")


def _show(url: str, bundle: Path | None, user: str | None, *, changes: bool) -> None:
    if bundle is None or user is None:
        return
    from ebbtide.cli.show_user import show_user

    show_user(url, bundle, user, changes=changes)
