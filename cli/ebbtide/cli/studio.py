"""``ebbtide studio``: a page on which a person watches interests fade, in front of a running Triton."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from ebbtide.cli.bundle_data import absolute
from ebbtide.cli.console import console, working


def command(
    server: Annotated[str, typer.Argument(help="gRPC address of Triton (host:port).")],
    bundle: Annotated[
        Path, typer.Option(help="Bundle that supplies the titles, and the path of the event log with the users.")
    ],
    events: Annotated[str | None, typer.Option(help="Event log, if it is not where the training read it.")] = None,
    catalog: Annotated[str | None, typer.Option(help="Catalog file, if it is not where the training read it.")] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. The default accepts connections from this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the page.")] = 9003,
) -> None:
    """Show interests fading on a web page until stopped with Ctrl-C or SIGTERM.

    Choose a user of the log or start empty, click items as events, drag the time forward, and see what is left of each
    event and why each item is in the list. Whoever reaches the page sees the events of all users of the log.

    **Example**

    ebbtide studio localhost:8001 --bundle artifacts/bundle
    """
    from ebbtide.serve.ports import require_free

    require_free(host, studio=port)
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with running_studio(server, bundle, host, port, events=events, catalog=catalog) as url:
        console.print(f"[green]✓[/green] studio at {url}, in front of {server}")
        console.print("Serving; Ctrl-C stops.")
        stopped.wait()


@contextmanager
def running_studio(
    server: str, bundle: Path, host: str, port: int, *, events: str | None = None, catalog: str | None = None
) -> Iterator[str]:
    """The page with a gateway of its own, served from another thread; gives its address.

    Args:
        server: gRPC address of Triton.
        bundle: For titles and users.
        host: Address to bind.
        port: Port of the page; 0 uses a free one.
        events: The log's path; None for the one in the bundle.
        catalog: The catalog's path; likewise.

    Raises:
        DataError: The bundle, its log or its catalog cannot be read.
        EbbtideError: The address cannot be bound.
    """
    from ebbtide.data.dataset import DataReference, read_dataset
    from ebbtide.gateway import Gateway, GatewayConfig
    from ebbtide.studio import StudioData, pages

    with working("Reading titles and users"):
        given = {"events": events, "catalog": catalog}
        reference = DataReference.of_bundle(bundle).model_copy(
            update={name: absolute(path) for name, path in given.items() if path is not None}
        )
        data = StudioData(read_dataset(reference), weighted=reference.weight_column is not None)
    gateway = Gateway(GatewayConfig(triton=server, host=host, http_port=port, drain_s=1), pages=pages(data))
    loop = asyncio.new_event_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="ebbtide-studio") as pool:
        serving = pool.submit(loop.run_forever)
        try:
            asyncio.run_coroutine_threadsafe(gateway.start(), loop).result()
            yield gateway.http_url or ""
        finally:
            asyncio.run_coroutine_threadsafe(gateway.stop(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            serving.result()
            loop.close()
