"""The stores that are measured, each in a folder of its own, and what they take of memory and disk."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

from ebbtide.store import StoreConfig

EMBEDDED, REDIS = "embedded", "redis"
TIMEOUT_MS = 5_000.0
"""A turn that waits for the machine is no failure of the store."""
CONFIG = StoreConfig(timeout_ms=TIMEOUT_MS)
_STARTS_IN_S = 30.0


@dataclass(frozen=True)
class MeasuredStore:
    """An empty store."""

    address: str
    pid: int | None
    """Of its server; None if it has none."""
    size_bytes: Callable[[], int]
    """What it takes now: of the disk (embedded), of its server's memory (Redis)."""


@contextmanager
def embedded(folder: Path) -> Iterator[MeasuredStore]:
    """The embedded store, with its default durability."""
    store = folder / "states"

    def size() -> int:
        # The file is sparse: what is not yet used takes no space.
        return sum(path.stat().st_blocks * 512 for path in store.iterdir())

    yield MeasuredStore(f"embedded:{store}", None, size)
    shutil.rmtree(store, ignore_errors=True)


@contextmanager
def redis_server(folder: Path) -> Iterator[MeasuredStore]:
    """A Redis of its own, which writes its log to the disk every second.

    Raises:
        RuntimeError: No program was found, or it does not start.
    """
    beside = Path(sys.executable).parent / "redis-server"
    program = shutil.which("redis-server") or shutil.which("valkey-server") or (str(beside) if beside.exists() else "")
    if not program:
        raise RuntimeError("redis-server: found none; expected Debian's redis-server, or another on the PATH")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    home = folder / "redis"
    home.mkdir()
    settings = ("--save", "", "--appendonly", "yes", "--appendfsync", "everysec")
    with (home / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            [program, "--bind", "127.0.0.1", "--port", str(port), "--dir", str(home), *settings],
            stdout=log,
            stderr=log,
        )
    try:
        with redis.Redis(port=port, socket_timeout=60) as client:
            _wait_for(client, process, home / "log.txt")
            yield MeasuredStore(
                f"redis://127.0.0.1:{port}", process.pid, lambda: int(client.info("memory")["used_memory"])
            )
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(home, ignore_errors=True)


def _wait_for(client: redis.Redis, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + _STARTS_IN_S
    while True:
        try:
            client.ping()
            return
        except redis.ConnectionError:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"redis-server: does not start:\n{log.read_text(errors='replace')}") from None
            time.sleep(0.05)


STORES = {EMBEDDED: embedded, REDIS: redis_server}
