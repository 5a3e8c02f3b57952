"""``ebbtide gateway``: serves the typed schema over gRPC and HTTP/JSON, in front of one or more Tritons."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebbtide.cli.console import console
from ebbtide.cli.modules import require_modules

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from ebbtide.gateway import GatewayConfig


def command(
    triton: Annotated[
        list[str] | None,
        typer.Argument(
            help="gRPC address of Triton (host:port), a DNS name of several servers (dns:///triton:8001), or IP "
            "addresses."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on. The default accepts connections from this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of gRPC.")] = 9001,
    http_port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of HTTP/JSON. Not given: no HTTP.")
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with the token that callers must send (authorization: Bearer TOKEN). Not given: everyone who "
            "reaches the gateway may call it."
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            help="Origin (scheme, host and port) whose web pages may call over HTTP; may be given several times.",
        ),
    ] = None,
    timeout_s: Annotated[
        float, typer.Option(help="Deadline in seconds for calls without one; includes retries and waits.")
    ] = 5.0,
    max_timeout_s: Annotated[float, typer.Option(help="Longest deadline that a caller may set, in seconds.")] = 30.0,
    max_concurrency: Annotated[
        int, typer.Option(min=1, help="Maximum number of concurrent calls; more are refused (gRPC status 8).")
    ] = 256,
    max_streams: Annotated[
        int,
        typer.Option(
            min=1,
            help="Maximum number of open streams, counted apart from other calls; more are refused (gRPC status 8).",
        ),
    ] = 64,
    stream_idle_s: Annotated[
        float, typer.Option(help="Seconds without a request after which a stream is ended (gRPC status 4).")
    ] = 60.0,
    drain_s: Annotated[
        float, typer.Option(help="Seconds that running calls get to finish when the gateway stops.")
    ] = 10.0,
    tls_certificate: Annotated[Path | None, typer.Option(help="PEM file with the gateway's certificate.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="PEM file with its private key.")] = None,
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            help="PEM file with the authority for client certificates; callers without a certificate are refused."
        ),
    ] = None,
    triton_ca: Annotated[
        Path | None, typer.Option(help="PEM file with the authority for Triton's certificate; turns TLS to Triton on.")
    ] = None,
    traces: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Address of an OpenTelemetry collector (OTLP over HTTP, usually port 4318). It gets a span of each "
            "call, between the caller's and Triton's (`ebbtide serve --traces`). Needs the extra [observability].",
        ),
    ] = None,
    shadow: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="Share of the answered recommendations that a version in shadow (`ebbtide deploy --shadow`) gets too: "
            "its answers are compared, not returned. A summary is logged every minute.",
        ),
    ] = 0.0,
    reflection: Annotated[
        bool, typer.Option(help="Serve gRPC reflection, so that tools such as grpcurl can read the schema.")
    ] = True,
) -> None:
    """Serve the typed schema (proto/ebbtide/v1) in front of Triton until stopped with Ctrl-C or SIGTERM.

    gRPC callers need only stubs of the schema, in any language. The standard health service answers SERVING while
    Triton is ready. With --http-port, the same methods answer JSON; GET /openapi.json describes them.

    **Examples**

    ebbtide gateway localhost:8001 --port 9001

    ebbtide gateway localhost:8001 --http-port 9002

    curl -s localhost:9002/v1/recommend -H 'content-type: application/json' -d '{"user_id": "648", "top_n": 3}'
    """
    from ebbtide.client import ClientConfig, TlsConfig
    from ebbtide.gateway import GatewayConfig, ServerTls

    if (tls_certificate is None) != (tls_key is None):
        raise typer.BadParameter("give both --tls-certificate and --tls-key, or neither")
    if tls_client_ca is not None and tls_certificate is None:
        raise typer.BadParameter("--tls-client-ca needs --tls-certificate and --tls-key")
    if cors_origin and http_port is None:
        raise typer.BadParameter("--cors-origin is for HTTP: give --http-port too")
    addresses = tuple(triton or ("localhost:8001",))
    try:
        config = GatewayConfig(
            triton=addresses[0] if len(addresses) == 1 else addresses,
            client=ClientConfig(
                timeout_s=timeout_s,
                tls=None if triton_ca is None else TlsConfig(root_certificates=triton_ca),
            ),
            host=host,
            port=port,
            http_port=http_port,
            token=None if token_file is None else _token(token_file),
            cors_origins=tuple(cors_origin or ()),
            tls=ServerTls(tls_certificate, tls_key, tls_client_ca) if tls_certificate and tls_key else None,
            max_concurrency=max_concurrency,
            max_streams=max_streams,
            stream_idle_s=stream_idle_s,
            max_timeout_s=max_timeout_s,
            drain_s=drain_s,
            reflection=reflection,
            shadow_share=shadow,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if shadow:
        _show_summaries()
    with _tracer_provider(traces) as tracer_provider:
        asyncio.run(_serve(config, tracer_provider))


def _token(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"--token-file {file} cannot be read ({error})") from None


def _show_summaries() -> None:
    """Writes the summaries of mirrored requests to standard error, also without --verbose."""
    summaries = logging.getLogger("ebbtide.gateway.shadow")
    summaries.setLevel(logging.INFO)
    if not logging.getLogger().handlers:
        summaries.addHandler(logging.StreamHandler())


@contextmanager
def _tracer_provider(collector: str | None) -> Iterator[TracerProvider | None]:
    """What sends spans to a collector, the last ones at the end; None without one."""
    if collector is None:
        yield None
        return
    require_modules("--traces", "observability", "opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "ebbtide-gateway"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{collector.rstrip('/')}/v1/traces")))
    try:
        yield provider
    finally:
        provider.shutdown()


async def _serve(config: GatewayConfig, tracer_provider: TracerProvider | None) -> None:
    """Serves until a signal comes, then drains."""
    from ebbtide.gateway import Gateway

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    async with Gateway(config, tracer_provider=tracer_provider) as gateway:
        shown = config.triton if isinstance(config.triton, str) else ", ".join(config.triton)
        console.print(f"[green]✓[/green] gateway at {gateway.url}, in front of {shown}")
        if gateway.http_url is not None:
            console.print(f"[green]✓[/green] HTTP/JSON at {gateway.http_url}/v1, described at /openapi.json")
        console.print("Serving; Ctrl-C stops.")
        await stopped.wait()
        console.print("draining")
