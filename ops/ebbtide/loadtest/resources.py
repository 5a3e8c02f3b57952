"""Processor and memory use of the server, the generator and the machine during a run."""

from __future__ import annotations

import ipaddress
import os
import threading
import time
from dataclasses import dataclass, field

import psutil

_INTERVAL_S = 0.5
_MIB = 1024 * 1024


@dataclass
class Usage:
    """Values over time."""

    at_s: list[float] = field(default_factory=list)
    """From the start of the run."""
    generator_cores: list[float] = field(default_factory=list)
    """Cores that the generator kept busy."""
    machine_cores: list[float] = field(default_factory=list)
    """Cores that anything on the generator's machine kept busy."""
    server_cores: list[float] = field(default_factory=list)
    """Cores that the server kept busy; empty where it cannot be seen."""
    server_memory_mib: list[float] = field(default_factory=list)
    """Memory of its processes. What they share counts once for each."""
    note: str = ""
    """Why the server is not among them."""


class Watch:
    """Samples usage in a thread of its own, from entering to leaving its ``with`` block."""

    def __init__(self, target: str) -> None:
        """Looks for the server's process.

        Args:
            target: The server's address, as ``host:port``.
        """
        self.usage = Usage()
        self._server, self.usage.note = _find_server(target)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def server_pid(self) -> int | None:
        """The server's process, where it is on this machine."""
        return None if self._server is None else self._server.pid

    def __enter__(self) -> Usage:
        self._thread.start()
        return self.usage

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        began = last = time.monotonic()
        generator, server = _tree_cpu_s(psutil.Process()), _tree_cpu_s(self._server)
        psutil.cpu_percent()
        while not self._stop.wait(_INTERVAL_S):
            now = time.monotonic()
            passed = now - last
            usage = self.usage
            usage.at_s.append(round(now - began, 3))
            usage.machine_cores.append(round(psutil.cpu_percent() / 100 * (os.cpu_count() or 1), 3))
            now_generator = _tree_cpu_s(psutil.Process(), exclude=self._server)
            usage.generator_cores.append(_rate(generator, now_generator, passed))
            generator = now_generator
            if self._server is not None:
                now_server = _tree_cpu_s(self._server)
                usage.server_cores.append(_rate(server, now_server, passed))
                usage.server_memory_mib.append(round(_memory(self._server) / _MIB, 1))
                server = now_server
            last = now


def is_on_this_machine(target: str) -> bool:
    """Whether an address, ``host:port``, is one of this machine."""
    return _is_this_machine(target.rpartition(":")[0].strip("[]"))


def _find_server(target: str) -> tuple[psutil.Process | None, str]:
    """The process that listens at an address, or why there is none to see."""
    port = target.rpartition(":")[2]
    if not is_on_this_machine(target) or not port.isdigit():
        return None, "the server is on another machine: see its metrics for processor and memory"
    try:
        listening = [
            connection.pid
            for connection in psutil.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == int(port)
        ]
        pids = [pid for pid in listening if pid is not None]
        if pids:
            return psutil.Process(pids[0]), ""
    except psutil.Error:
        pass
    return None, "the server's process cannot be seen: it is another user's, or in a container"


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    own = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
    return address.is_loopback or address.is_unspecified or host in own


def _tree(root: psutil.Process | None, exclude: psutil.Process | None = None) -> list[psutil.Process]:
    """A process and its descendants, those of another one left out."""
    if root is None:
        return []
    try:
        tree = [root, *root.children(recursive=True)]
        left_out = set() if exclude is None else {exclude, *exclude.children(recursive=True)}
    except psutil.Error:
        return []
    return [process for process in tree if process not in left_out]


def _tree_cpu_s(root: psutil.Process | None, exclude: psutil.Process | None = None) -> dict[int, float]:
    used = {}
    for process in _tree(root, exclude):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        used[process.pid] = times.user + times.system
    return used


def _rate(before: dict[int, float], after: dict[int, float], passed_s: float) -> float:
    return round(sum(max(0.0, used - before.get(pid, 0.0)) for pid, used in after.items()) / passed_s, 3)


def _memory(root: psutil.Process) -> int:
    total = 0
    for process in _tree(root):
        try:
            total += int(process.memory_info().rss)
        except psutil.Error:
            continue
    return total
