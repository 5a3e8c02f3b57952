"""Starts the measured servers, waits until they are ready, and stops them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from ebbtide.interest import served_models
from ebbtide.serve import ServerConfig, TritonServer, embedded_server
from ebbtide.serve.ports import Ports, choose_ports

ROOT = Path(__file__).parents[2]
HOST = "127.0.0.1"
_START_S, _STOP_S, _POLL_S = 120.0, 20.0, 0.1


class StartError(RuntimeError):
    """A server did not start."""


@contextmanager
def triton(repository: Path) -> Iterator[str]:
    """Runs the embedded Triton with `recommend` and its steps only; yields its gRPC address."""
    config = ServerConfig(repository, model_control="explicit", load_models=(served_models.RECOMMEND.name,))
    with TritonServer(config) as server:
        yield server.grpc_url


@contextmanager
def service(module: str, arguments: list[str], ports: Ports) -> Iterator[str]:
    """Runs a module of `benchmarks.serving.peers` as a server of `recommend`; yields its gRPC address.

    Raises:
        StartError: The process ended or was not ready in time; the message ends with its output.
    """
    url = f"{HOST}:{ports.grpc}"
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, "-m", f"benchmarks.serving.peers.{module}", *arguments]
        # PyTriton's stub loads the first libpython on the path, and crashes with one of another patch release.
        libraries = os.pathsep.join(str(folder) for folder in embedded_server().library_path)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=log,
            stderr=log,
            env={**os.environ, "LD_LIBRARY_PATH": libraries},
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + _START_S
            while not _is_ready(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    output = log.read().decode(errors="replace")[-3_000:]
                    state = "still running" if process.poll() is None else f"exit status {process.returncode}"
                    raise StartError(
                        f"{module}: got no answer at {url} ({state}); expected a server that is ready within "
                        f"{_START_S:.0f} s. Output:\n{output}"
                    )
                # Only its answer tells that another process is ready, so it is polled.
                time.sleep(_POLL_S)
            yield url
        finally:
            _stop(process)


def free_ports() -> Ports:
    """Free ports for gRPC, HTTP and metrics."""
    return choose_ports(HOST, None, None, None)


def _is_ready(url: str) -> bool:
    with InferenceServerClient(url) as client:
        try:
            return bool(client.is_model_ready(served_models.RECOMMEND.name, client_timeout=1))
        except InferenceServerException:
            return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stops a process; if it does not end in time, kills it and the processes of its session."""
    process.send_signal(signal.SIGINT)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
