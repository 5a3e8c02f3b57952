"""The schema over HTTP/JSON: one POST route for each unary method, problems of RFC 9457, health, metrics, OpenAPI."""

from __future__ import annotations

import asyncio
import importlib.resources
import math
import re
import socket
import ssl
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import uvicorn
from google.protobuf.descriptor import MethodDescriptor
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from ebbtide.client.errors import (
    CallCancelledError,
    DeadlineExceededError,
    EbbtideError,
    InvalidArgumentError,
    Status,
)
from ebbtide.gateway.calls import Calls
from ebbtide.gateway.config import GatewayConfig, ServerTls
from ebbtide.gateway.failures import reason_of, shown
from ebbtide.gateway.json_messages import json_message
from ebbtide.gateway.metrics import Metrics
from ebbtide.v1 import interest_pb2

SERVICE = interest_pb2.DESCRIPTOR.services_by_name["InterestService"]
TIMEOUT_HEADER = "x-timeout-ms"
OPENAPI_FILE = "openapi.json"
"""Beside this module; `scripts/generate_stubs.py` writes it."""

HTTP_STATUS = {
    Status.CANCELLED: 499,
    Status.INVALID_ARGUMENT: 400,
    Status.DEADLINE_EXCEEDED: 504,
    Status.NOT_FOUND: 404,
    Status.ALREADY_EXISTS: 409,
    Status.PERMISSION_DENIED: 403,
    Status.RESOURCE_EXHAUSTED: 429,
    Status.FAILED_PRECONDITION: 412,
    Status.ABORTED: 409,
    Status.OUT_OF_RANGE: 400,
    Status.UNIMPLEMENTED: 501,
    Status.UNAVAILABLE: 503,
    Status.UNAUTHENTICATED: 401,
}
"""The HTTP status of a call's status; any other is 500."""

_RETRY_AFTER_S = {429: "1", 503: "1"}
_JSON = "application/json"
_PROBLEM = "application/problem+json"
_PROTOCOL = "http"
_CONNECTIONS_PER_CALL = 4
_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")

T = TypeVar("T")


def path_of(method: str) -> str:
    """The path of a method: ``/v1/recommend``."""
    return f"/v1/{_CAPITAL.sub('-', method).lower()}"


def application(
    calls: Calls, metrics: Metrics, is_serving: Callable[[], bool], pages: Sequence[BaseRoute] = ()
) -> Starlette:
    """The HTTP side of one gateway.

    Args:
        calls: The gateway's methods.
        metrics: What ``/metrics`` shows.
        is_serving: Whether Triton is ready.
        pages: Routes beside these; they find the client to Triton as ``request.app.state.client``.
    """
    config = calls.config
    openapi = importlib.resources.files("ebbtide.gateway").joinpath(OPENAPI_FILE).read_bytes()

    async def ready(_: Request) -> Response:
        serving = is_serving()
        return Response(b'{"ready":%s}' % (b"true" if serving else b"false"), 200 if serving else 503, None, _JSON)

    async def live(_: Request) -> Response:
        return Response(b'{"live":true}', media_type=_JSON)

    async def describe(_: Request) -> Response:
        return Response(openapi, media_type=_JSON)

    async def show_metrics(_: Request) -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    routes: list[BaseRoute] = [
        Route(path_of(method.name), _endpoint(calls, method), methods=["POST"])
        for method in SERVICE.methods
        if not method.client_streaming
    ]
    routes += [
        Route("/health/ready", ready),
        Route("/health/live", live),
        Route("/metrics", show_metrics),
        Route("/openapi.json", describe),
        *pages,
    ]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=list(config.cors_origins),
        allow_methods=["POST"],
        allow_headers=["authorization", "content-type", TIMEOUT_HEADER, *config.forward_metadata],
    )
    app = Starlette(
        routes=routes,
        middleware=[cors] if config.cors_origins else [],
        exception_handlers={HTTPException: _refused},
    )
    app.state.client = calls.client
    return app


class HttpServer:
    """The HTTP side of a gateway, listening."""

    def __init__(self, app: Starlette, config: GatewayConfig) -> None:
        """Binds the port.

        Raises:
            OSError: The address cannot be bound.
            InvalidArgumentError: A PEM file cannot be used.
        """
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        self._socket = socket.create_server((config.host, config.http_port or 0), family=family, backlog=1024)
        # An answer is written in two parts. Without this, which connections inherit, the second part waits for the
        # caller's delayed acknowledgement of the first: 40 ms. asyncio sets it only on sockets with an explicit
        # protocol, which `create_server` does not give.
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        settings = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            lifespan="off",
            ws="none",
            limit_concurrency=_CONNECTIONS_PER_CALL * config.max_concurrency,
            timeout_graceful_shutdown=max(1, math.ceil(config.drain_s)),
        )
        settings.load()
        if config.tls is not None:
            settings.ssl = _tls(config.tls)
        self._server = _Server(settings)
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    async def start(self) -> None:
        """Serves until `stop`."""
        self._task = asyncio.create_task(self._server.serve([self._socket]))
        while not self._server.started and not self._task.done():
            await asyncio.sleep(0.005)
        if self._task.done():
            await self._task

    async def stop(self) -> None:
        """Lets calls in flight end, and closes the connections."""
        self._server.should_exit = True
        if self._task is not None:
            await self._task
        self._socket.close()


class _Server(uvicorn.Server):
    """Leaves signals to the command that runs the gateway."""

    def capture_signals(self) -> Any:  # noqa: ANN401 - a context manager, as the parent's
        return nullcontext()


def _endpoint(calls: Calls, method: MethodDescriptor) -> Callable[[Request], Awaitable[Response]]:
    asked, answered = json_message(method.input_type), json_message(method.output_type)
    name = method.name

    async def respond(request: Request) -> Response:
        try:
            began = time.monotonic()
            # Before a body is read that nobody is allowed to send.
            calls.require_token(request.headers.get("authorization"))
            left_s = _left_s(request.headers.get(TIMEOUT_HEADER))
            body = await _within(calls.timeout_s(left_s), _body(request, calls.config.max_message_bytes))
            message = asked.decode(body)
            if left_s is not None:
                left_s -= time.monotonic() - began
            answer = calls.answer(name, message, protocol=_PROTOCOL, left_s=left_s, metadata=dict(request.headers))
            return Response(answered.encode(await _while_connected(request, answer)), media_type=_JSON)
        except EbbtideError as error:
            return problem(error)
        except ClientDisconnect:
            return problem(CallCancelledError("the caller disconnected"))

    return respond


def problem(error: EbbtideError) -> Response:
    """A failed call as a problem of RFC 9457, with the field that is wrong, as in the SDK's errors."""
    status = HTTP_STATUS.get(error.status, 500)
    reason = reason_of(error)
    document: dict[str, Any] = {
        "type": f"urn:ebbtide:problem:{reason.lower().replace('_', '-')}",
        "title": reason.replace("_", " ").capitalize(),
        "status": status,
        "detail": shown(error.message),
        "reason": reason,
    }
    if isinstance(error, InvalidArgumentError) and error.field is not None:
        document |= {"field": error.field, "value": error.value and shown(error.value), "expected": error.expected}
    headers = {"retry-after": _RETRY_AFTER_S[status]} if status in _RETRY_AFTER_S else {}
    if status == HTTP_STATUS[Status.UNAUTHENTICATED]:
        headers["www-authenticate"] = "Bearer"
    return Response(msgspec.json.encode(document), status, headers, _PROBLEM)


async def _refused(_: Request, error: Any) -> Response:  # noqa: ANN401 - an HTTPException; Starlette's type is wider
    """The problem of a request that is none of the schema's."""
    detail = error.detail
    if error.status_code in (404, 405):
        paths = ", ".join(path_of(method.name) for method in SERVICE.methods if not method.client_streaming)
        detail = f"expected POST to one of {paths}; GET /openapi.json describes them"
    document = {
        "type": "about:blank",
        "title": HTTPStatus(error.status_code).phrase,
        "status": error.status_code,
        "detail": detail,
    }
    return Response(msgspec.json.encode(document), error.status_code, dict(error.headers or {}), _PROBLEM)


def _left_s(header: str | None) -> float | None:
    if header is None:
        return None
    try:
        left_s = float(header) / 1000
    except ValueError:
        left_s = math.nan
    if not (math.isfinite(left_s) and left_s > 0):
        raise InvalidArgumentError.of_field(TIMEOUT_HEADER, repr(header[:40]), "milliseconds, more than 0")
    return left_s


async def _within(timeout_s: float, awaited: Awaitable[T]) -> T:
    try:
        return await asyncio.wait_for(awaited, timeout_s)
    except asyncio.TimeoutError:
        raise DeadlineExceededError(f"the request did not arrive within {timeout_s:g} s") from None


async def _body(request: Request, limit: int) -> bytes:
    kind = request.headers.get("content-type", _JSON).partition(";")[0].strip().lower()
    if kind != _JSON:
        raise HTTPException(415, f"got content-type {kind[:80]!r}; expected {_JSON}")
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise HTTPException(413, f"got a request of more than {limit} bytes; expected at most that many")
        parts.append(part)
    return b"".join(parts)


async def _while_connected(request: Request, answer: Awaitable[T]) -> T:
    """Awaits an answer; cancels it if the caller disconnects.

    Raises:
        ClientDisconnect: The caller is gone.
    """
    task = asyncio.ensure_future(answer)
    # The body has been read: what comes next is the end of the connection.
    gone = asyncio.ensure_future(request.receive())
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        with suppress(asyncio.CancelledError, EbbtideError):
            await task


def _tls(tls: ServerTls) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        with _as_file(tls.certificate) as certificate, _as_file(tls.key) as key:
            context.load_cert_chain(certificate, key)
        if tls.client_ca is not None:
            with _as_file(tls.client_ca) as authority:
                context.load_verify_locations(authority)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise InvalidArgumentError.of_field("tls", str(error), "PEM files of a certificate and its key") from None
    return context


@contextmanager
def _as_file(source: Path | bytes) -> Iterator[Path]:
    """A PEM as a file, which is all that Python's `ssl` reads: bytes become one for the time of the block."""
    if isinstance(source, Path):
        yield source
        return
    with tempfile.NamedTemporaryFile() as file:
        file.write(source)
        file.flush()
        yield Path(file.name)
