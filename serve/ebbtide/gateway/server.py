"""Starts and stops the gateway: binds, serves gRPC and HTTP with health, drains before it stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ebbtide.client import AsyncInterestClient
from ebbtide.client.errors import (
    DeadlineExceededError,
    EbbtideError,
    InvalidArgumentError,
    OverloadedError,
    Status,
)
from ebbtide.gateway.calls import Calls
from ebbtide.gateway.config import GatewayConfig, ServerTls
from ebbtide.gateway.malformed import ReadMalformed
from ebbtide.gateway.metrics import Metrics, ShadowMetrics
from ebbtide.gateway.service import InterestService
from ebbtide.gateway.shadow import Shadow
from ebbtide.v1 import interest_pb2, interest_pb2_grpc

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider
    from starlette.routing import BaseRoute

    from ebbtide.gateway.http import HttpServer

logger = logging.getLogger("ebbtide.gateway")

SERVICE = interest_pb2.DESCRIPTOR.services_by_name["InterestService"].full_name
_PROBE_INTERVAL_S = 1.0
_PROBE_TIMEOUT_S = 1.0
_GOOD_ANSWERS = 5
"""Of so many probes in a row, after one that failed, until Triton counts as ready again."""
_CANARY = interest_pb2.RecommendRequest(top_n=1)


class Gateway:
    """One gateway; an async context manager that serves from entry to exit.

        async with Gateway(GatewayConfig(triton="localhost:8001", port=9001)) as gateway:
            await gateway.wait()

    The standard health service answers SERVING, for the whole server ("") and for `InterestService`, while Triton
    answers a request for recommendations once a second.
    """

    def __init__(
        self,
        config: GatewayConfig,
        *,
        pages: Sequence[BaseRoute] = (),
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        """Prepares a gateway, which `start` opens.

        Args:
            config: Its settings.
            pages: Routes that its HTTP side has beside its own.
            tracer_provider: Where the spans of calls go, OpenTelemetry's; None makes no spans.

        Raises:
            InvalidArgumentError: The address of Triton is not valid, or a PEM file cannot be read.
        """
        self.config = config
        self._pages = pages
        target = config.triton if isinstance(config.triton, str) else list(config.triton)
        self._probing = self._client = AsyncInterestClient(target, config=config.client)
        traced = {}
        if tracer_provider is not None:
            from ebbtide.client.otel import tracing
            from ebbtide.gateway.spans import spans_of

            # The probes, one a second, are no calls that anybody wants to see.
            with_spans = replace(config.client, hooks=(*config.client.hooks, tracing(tracer_provider)))
            self._client = AsyncInterestClient(target, config=with_spans)
            traced["span_of"] = spans_of(tracer_provider, SERVICE)
        self._credentials = None if config.tls is None else _credentials(config.tls)
        self._health: Any = health.aio.HealthServicer()  # type: ignore[attr-defined]  # the stubs lack the module
        self._server: grpc.aio.Server | None = None
        self._http: HttpServer | None = None
        self._watch: asyncio.Task[None] | None = None
        self._port = 0
        self._metrics = Metrics()
        self._shadow: Shadow | None = None
        if config.shadow_share > 0:
            shadow_metrics = ShadowMetrics(self._metrics.registry)
            share, summary_s = config.shadow_share, config.shadow_summary_s
            self._shadow = Shadow(target, config.client, share, summary_s, shadow_metrics)
        self._calls = Calls(self._client, config, self._metrics, self._shadow, **traced)
        self._recommended = 0
        self._is_serving = False

    @property
    def url(self) -> str:
        """Where it listens for gRPC, ``host:port``."""
        return self._address(self._port)

    @property
    def http_url(self) -> str | None:
        """Where it listens for HTTP, ``http://host:port``; None if it does not."""
        if self._http is None:
            return None
        return f"{'http' if self.config.tls is None else 'https'}://{self._address(self._http.port)}"

    async def start(self) -> None:
        """Binds and serves.

        Raises:
            EbbtideError: The address cannot be bound.
        """
        config = self.config
        server = grpc.aio.server(
            interceptors=[ReadMalformed()],
            options=[
                ("grpc.max_receive_message_length", config.max_message_bytes),
                ("grpc.so_reuseport", 0),
            ],
        )
        interest_pb2_grpc.add_InterestServiceServicer_to_server(InterestService(self._calls), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if config.reflection:
            reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        address = self._address(config.port or 0)
        try:
            if self._credentials is None:
                self._port = server.add_insecure_port(address)
            else:
                self._port = server.add_secure_port(address, self._credentials)
        except RuntimeError as error:
            raise _not_bound(address) from error
        if config.http_port is not None:
            self._http = self._bound_http()
        await self._set_health(serving=await self._is_ready())
        await server.start()
        if self._http is not None:
            await self._http.start()
        self._server = server
        self._watch = asyncio.create_task(self._watch_triton())
        if self._shadow is not None:
            self._shadow.start()

    async def stop(self) -> None:
        """Refuses new calls, lets calls in flight end, and closes the connections. A second call does nothing."""
        server, self._server = self._server, None
        if server is None:
            return
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        self._is_serving = False
        await self._health.enter_graceful_shutdown()
        http, self._http = self._http, None
        await asyncio.gather(server.stop(self.config.drain_s), *([] if http is None else [http.stop()]))
        if self._shadow is not None:
            await self._shadow.stop()
        await self._client.close()
        await self._probing.close()

    async def wait(self) -> None:
        """Returns when the gateway has stopped."""
        if self._server is not None:
            await self._server.wait_for_termination()

    async def __aenter__(self) -> Gateway:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    def _address(self, port: int) -> str:
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        return f"{host}:{port}"

    def _bound_http(self) -> HttpServer:
        from ebbtide.gateway.http import HttpServer, application

        app = application(self._calls, self._metrics, lambda: self._is_serving, self._pages)
        try:
            return HttpServer(app, self.config)
        except OSError as error:
            raise _not_bound(self._address(self.config.http_port or 0)) from error

    async def _watch_triton(self) -> None:
        """Keeps the health service in step with Triton."""
        serving, good = None, _GOOD_ANSWERS
        while True:
            good = good + 1 if await self._is_ready() else 0
            # One good answer after bad ones may come from the instance that is left.
            ready = good >= (1 if serving else _GOOD_ANSWERS)
            if ready is not serving:
                logger.info("Triton at %s is %s", self.config.triton, "ready" if ready else "not ready")
                await self._set_health(serving=ready)
                serving = ready
            await asyncio.sleep(_PROBE_INTERVAL_S)

    async def _is_ready(self) -> bool:
        """Whether Triton says that `recommend` is ready, and a request of no events does not fail.

        The request is left out if one of a caller was answered since the last time: the models count each.
        Triton calls a model ready whose Python process is dead. A late answer or a full queue is no failure: a busy
        server must not be taken out of service.
        """
        try:
            if not await self._probing.is_ready(timeout_s=_PROBE_TIMEOUT_S):
                return False
            before, self._recommended = self._recommended, self._calls.recommended
            if self._recommended != before:
                return True
            await self._probing.recommend(_CANARY, timeout_s=_PROBE_TIMEOUT_S)
        except (DeadlineExceededError, OverloadedError):
            return True
        except EbbtideError as error:
            logger.warning("Triton at %s does not answer as it should: %s", self.config.triton, error)
            return False
        return True

    async def _set_health(self, *, serving: bool) -> None:
        kinds = health_pb2.HealthCheckResponse
        status = kinds.SERVING if serving else kinds.NOT_SERVING
        self._is_serving = serving
        self._metrics.triton_ready.set(serving)
        for service in ("", SERVICE):
            await self._health.set(service, status)


def _not_bound(address: str) -> EbbtideError:
    return EbbtideError(
        f"{address}: cannot be bound; expected an address of this machine and a free port",
        status=Status.FAILED_PRECONDITION,
    )


def _credentials(tls: ServerTls) -> grpc.ServerCredentials:
    pair = (_pem("key", tls.key), _pem("certificate", tls.certificate))
    client_ca = None if tls.client_ca is None else _pem("client_ca", tls.client_ca)
    return grpc.ssl_server_credentials([pair], root_certificates=client_ca, require_client_auth=client_ca is not None)


def _pem(name: str, source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise InvalidArgumentError.of_field(name, f"{source} ({error.strerror})", "a readable PEM file") from error
