"""One trace from the caller through the gateway to every model of a real Triton, as collectors get it."""

import asyncio
import json
import threading
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ebbtide.cli.gateway import _tracer_provider
from ebbtide.gateway import Gateway, GatewayConfig
from ebbtide.serve import ServerConfig
from ebbtide.v1 import interest_pb2, interest_pb2_grpc
from servers import only, serving

CALLER, CALLERS_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OVER_HTTP, HTTP_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
_TRIES, _PATIENCE_S = 4, 60


@dataclass(frozen=True)
class Span:
    """What a trace is put together from."""

    name: str
    trace: str
    own: str
    parent: str
    is_failed: bool


@contextmanager
def collector():
    """Address of a collector of traces (OTLP over HTTP, protobuf and JSON), and the spans that it has."""
    spans = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers["content-type"] == "application/json":
                spans.extend(
                    Span(one["name"], one["traceId"], one["spanId"], one.get("parentSpanId", ""), False)
                    for resource in json.loads(body)["resourceSpans"]
                    for scope in resource["scopeSpans"]
                    for one in scope["spans"]
                )
            else:
                spans.extend(
                    Span(
                        one.name, one.trace_id.hex(), one.span_id.hex(), one.parent_span_id.hex(), one.status.code == 2
                    )
                    for resource in ExportTraceServiceRequest.FromString(body).resource_spans
                    for scope in resource.scope_spans
                    for one in scope.spans
                )
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", spans
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def has_both(found):
    """Whether Triton sends its spans of both calls: that of the request ends last.

    It sends them every few seconds, and not when it stops. Once, those of a call never came.
    """
    ends_s = time.monotonic() + _PATIENCE_S
    while time.monotonic() < ends_s:
        if {CALLER, OVER_HTTP} <= {span.trace for span in found if span.name == "InferRequest"}:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(scope="module")
def spans(repository):
    """Those of a call over gRPC, of one over HTTP, and of one that is refused, after all were sent."""

    async def ask(triton, provider):
        config = GatewayConfig(triton, http_port=0)
        async with Gateway(config, tracer_provider=provider) as gateway:
            async with grpc.aio.insecure_channel(gateway.url) as channel:
                stub = interest_pb2_grpc.InterestServiceStub(channel)
                metadata = (("traceparent", f"00-{CALLER}-{CALLERS_SPAN}-01"),)
                await stub.Recommend(interest_pb2.RecommendRequest(), metadata=metadata, timeout=60)
                with pytest.raises(grpc.aio.AioRpcError):
                    await stub.Recommend(interest_pb2.RecommendRequest(alpha=7), metadata=metadata, timeout=60)
            headers = {
                "traceparent": f"00-{OVER_HTTP}-{HTTP_SPAN}-01",
                "content-type": "application/json",
                "x-timeout-ms": "60000",
            }
            request = urllib.request.Request(f"{gateway.http_url}/v1/recommend", b"{}", headers)  # noqa: S310
            answer = await asyncio.to_thread(urllib.request.urlopen, request, timeout=60)
            answer.close()

    with collector() as (address, found):
        with (
            serving(ServerConfig(repository, traces=address, **only("recommend"))) as server,
            _tracer_provider(address) as provider,
        ):
            for _ in range(_TRIES):
                found.clear()
                asyncio.run(ask(server.grpc_url, provider))
                if has_both(found):
                    break
            else:
                pytest.fail(f"Triton's spans of a call did not come in {_TRIES} tries")
        yield found


@pytest.mark.parametrize(("trace", "caller"), [(CALLER, CALLERS_SPAN), (OVER_HTTP, HTTP_SPAN)])
def test_trace_goes_on_from_the_caller_to_every_model(spans, trace, caller):
    of_trace = [span for span in spans if span.trace == trace]
    (gateway,) = [span for span in of_trace if span.name.endswith("InterestService/Recommend") and not span.is_failed]
    assert gateway.parent == caller
    (client,) = [span for span in of_trace if (span.parent, span.name) == (gateway.own, "ebbtide.recommend")]
    (request,) = [span for span in of_trace if span.parent == client.own]
    (ensemble,) = [span for span in of_trace if span.parent == request.own]
    assert ensemble.name == "recommend"
    steps = {span.name for span in of_trace if span.parent == ensemble.own}
    assert {"adaptive_weights", "scoring_head"} <= steps


def test_call_that_was_refused_is_a_failed_span(spans):
    (failed,) = [span for span in spans if span.is_failed and span.name.endswith("/Recommend")]
    assert failed.trace == CALLER


def test_probes_of_health_are_in_no_trace(spans):
    ours = [span for span in spans if span.name.startswith(("ebbtide.", "/"))]
    assert {span.trace for span in ours} <= {CALLER, OVER_HTTP}
    assert sum(span.name == "ebbtide.recommend" for span in ours) <= 3
