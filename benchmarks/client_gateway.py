"""What the gateway adds to a call: a stub's call to it against the client's own to Triton."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from benchmarks.client_tensors import medians_ms
from ebbtide.client import InterestClient, RecommendRequest
from ebbtide.v1 import interest_pb2_grpc

_START_S = 60


@contextmanager
def running_gateway(url: str) -> Iterator[str]:
    """The gateway as its command runs it, in a process of its own; gives its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = "from ebbtide.cli.main import main; main()"
    arguments = [sys.executable, "-c", command, "gateway", url, "--port", str(port)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def measure_gateway(url: str, request: RecommendRequest, rounds: int) -> dict[str, Any]:
    """One call at a time, the two ways taking turns."""
    with InterestClient(url) as client, running_gateway(url) as gateway, grpc.insecure_channel(gateway) as channel:
        grpc.channel_ready_future(channel).result(_START_S)
        stub = interest_pb2_grpc.InterestServiceStub(channel)
        calls: dict[str, Callable[[], object]] = {
            "client": lambda: client.recommend(request),
            "gateway": lambda: stub.Recommend(request, timeout=5),
        }
        medians = medians_ms(calls, rounds)
    return {"p50_ms": medians, "added_p50_ms": round(medians["gateway"] - medians["client"], 3)}
