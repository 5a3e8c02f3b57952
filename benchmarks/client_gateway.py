"""What the gateway adds to a call: calls over gRPC and HTTP against the client's own to Triton."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any

import grpc
from google.protobuf import json_format

from benchmarks.client_tensors import medians_ms
from ebbtide.client import InterestClient, RecommendRequest
from ebbtide.v1 import interest_pb2_grpc

_START_S = 60


@contextmanager
def running_gateway(url: str) -> Iterator[tuple[str, int]]:
    """The gateway as its command runs it, in a process of its own; gives its gRPC address and its HTTP port."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        port, http_port = (probe.getsockname()[1] for probe in probes)
    command = "from ebbtide.cli.main import main; main()"
    arguments = [sys.executable, "-c", command, "gateway", url, "--port", str(port), "--http-port", str(http_port)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    try:
        yield f"127.0.0.1:{port}", http_port
    finally:
        process.terminate()
        process.wait()


def measure_gateway(url: str, request: RecommendRequest, rounds: int) -> dict[str, Any]:
    """One call at a time, the three ways taking turns."""
    body = json.dumps(json_format.MessageToDict(request, preserving_proto_field_name=True))
    with (
        InterestClient(url) as client,
        running_gateway(url) as (address, http_port),
        grpc.insecure_channel(address) as channel,
        closing(http.client.HTTPConnection("127.0.0.1", http_port, timeout=_START_S)) as connection,
    ):
        grpc.channel_ready_future(channel).result(_START_S)
        stub = interest_pb2_grpc.InterestServiceStub(channel)

        def over_http() -> object:
            connection.request("POST", "/v1/recommend", body, {"content-type": "application/json"})
            with connection.getresponse() as answer:
                items = json.loads(answer.read())["items"]
            if answer.status != http.client.OK or not items:
                raise RuntimeError(f"the gateway answered {answer.status} with {len(items)} items")
            return items

        calls: dict[str, Callable[[], object]] = {
            "client": lambda: client.recommend(request),
            "gateway": lambda: stub.Recommend(request, timeout=5),
            "http": over_http,
        }
        medians = medians_ms(calls, rounds)
    return {
        "p50_ms": medians,
        "added_p50_ms": round(medians["gateway"] - medians["client"], 3),
        "http_over_grpc_p50_ms": round(medians["http"] - medians["gateway"], 3),
    }
