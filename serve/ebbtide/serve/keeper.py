"""Keeps a server in service: notices a server or a Python model's process that died, and starts the server again.

Triton restarts no process of a Python model that dies, by a fault or because memory ran out. It says that the model is
ready, and refuses every request that this process would have answered; no health check tells.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ebbtide.serve.errors import ServeError, ServerStartError
from ebbtide.serve.server import TritonServer

_POLL_S = 1.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_HEALTHY_S = 600.0
"""After so long in service a fault counts as the first one again."""
_MOST_FAULTS = 8
_ZOMBIE = "Z"
_UNLOADING_S = 3.0
"""For so long a process that ended with its model may be a zombie, on a busy machine."""


def keep(server: TritonServer, *, on_fault: Callable[[str, float], None], on_restart: Callable[[float], None]) -> None:
    """Watches a running server, and starts it again at the same ports when it or a process of a model died.

    The pauses before a start double, from one second to a minute. Returns only by an exception; the server's owner
    stops it.

    Args:
        server: A running server.
        on_fault: Told what died, and the seconds until the start.
        on_restart: Told that the server is ready again, and how many seconds its start took.

    Raises:
        ServerStartError: It died again and again, or does not start any more.
    """
    server.hold_ports()
    faults, began, models = 0, time.monotonic(), ModelProcesses(server.pid)
    while True:
        fault = _fault_of(server, models)
        if fault is None:
            continue
        if time.monotonic() - began > _HEALTHY_S:
            faults = 0
        while fault is not None:
            faults += 1
            if faults > _MOST_FAULTS:
                raise ServerStartError(f"{fault}; the server was started {_MOST_FAULTS} times in vain")
            pause_s = min(_FIRST_PAUSE_S * 2 ** (faults - 1), _LONGEST_PAUSE_S)
            on_fault(fault, pause_s)
            server.stop()
            time.sleep(pause_s)
            fault = _start(server)
        began, models = time.monotonic(), ModelProcesses(server.pid)
        on_restart(server.startup_s)


def _fault_of(server: TritonServer, models: ModelProcesses) -> str | None:
    """Waits a little; what died, or None."""
    status = server.wait(_POLL_S)
    if status is not None:
        return f"the server ended with status {status}"
    dead = models.dead()
    return f"a process of {', '.join(dead)} died" if dead else None


def _start(server: TritonServer) -> str | None:
    try:
        server.start()
    except ServeError as error:
        return str(error).partition("\n")[0]
    return None


class ModelProcesses:
    """The processes of one server's Python models. Triton never collects dead ones, so they stay as zombies."""

    def __init__(self, server_pid: int) -> None:
        """Looks at the processes.

        Args:
            server_pid: Process id of tritonserver.
        """
        self._server = Path("/proc") / str(server_pid)
        self._models: dict[int, str] = {}
        self._zombies: dict[int, float] = {}
        self.dead()

    def dead(self) -> list[str]:
        """The models of which a process has been seen dead for three seconds.

        A model that is unloaded ends its process, which is a zombie for a moment.
        """
        zombies, now = {}, time.monotonic()
        for child in self._children():
            with contextlib.suppress(OSError):
                if _state(child) == _ZOMBIE:
                    zombies[child] = self._zombies.get(child, now)
                elif child not in self._models:
                    self._models[child] = _model(child)
        self._zombies = zombies
        dead = [child for child, since in zombies.items() if now - since >= _UNLOADING_S]
        return sorted({self._models.get(child, "a model") for child in dead})

    def _children(self) -> Iterator[int]:
        with contextlib.suppress(OSError):
            for thread in (self._server / "task").iterdir():
                with contextlib.suppress(OSError):
                    yield from map(int, (thread / "children").read_text().split())


def _state(pid: int) -> str:
    # The name of the program may have spaces and parentheses of its own.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _model(pid: int) -> str:
    """The model that a stub runs, from the path of its file: ``MODEL/VERSION/model.py``."""
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return Path(arguments[1].decode(errors="replace")).parent.parent.name if len(arguments) > 1 else "a model"
