"""Keeps a server in service: notices a server or a Python model's process that died or hangs, and starts it again.

Triton restarts no process of a Python model that dies, by a fault or because memory ran out. It says that the model is
ready, and refuses every request that this process would have answered; no health check tells. What counts as a hang
stands in `ebbtide.serve.hangs`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from ebbtide.serve.errors import ServeError, ServerStartError
from ebbtide.serve.hangs import HangWatch
from ebbtide.serve.model_processes import ModelProcesses
from ebbtide.serve.server import TritonServer

_POLL_S = 1.0
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_HEALTHY_S = 600.0
"""After so long in service a fault counts as the first one again."""
_MOST_FAULTS = 8


def keep(server: TritonServer, *, on_fault: Callable[[str, float], None], on_restart: Callable[[float], None]) -> None:
    """Watches a running server, and starts it again at the same ports when it or a process of a model died or hangs.

    A server that hangs is stopped first, as any other: SIGTERM, the grace of its config, SIGKILL. The pauses before a
    start double, from one second to a minute. Returns only by an exception; the server's owner stops it.

    Args:
        server: A running server.
        on_fault: Told what died or hangs, and the seconds until the start.
        on_restart: Told that the server is ready again, and how many seconds its start took.

    Raises:
        ServerStartError: It died again and again, or does not start any more.
    """
    server.hold_ports()
    with contextlib.closing(HangWatch(server)) as hangs:
        _keep(server, hangs, on_fault, on_restart)


def _keep(
    server: TritonServer,
    hangs: HangWatch,
    on_fault: Callable[[str, float], None],
    on_restart: Callable[[float], None],
) -> None:
    faults, began, models = 0, time.monotonic(), ModelProcesses(server.pid)
    hangs.follow(models)
    while True:
        fault = _fault_of(server, models, hangs)
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
        hangs.follow(models)
        on_restart(server.startup_s)


def _fault_of(server: TritonServer, models: ModelProcesses, hangs: HangWatch) -> str | None:
    """Waits a little; what died or hangs, or None."""
    status = server.wait(_POLL_S)
    if status is not None:
        return f"the server ended with status {status}"
    dead = models.dead()
    return f"a process of {', '.join(dead)} died" if dead else hangs.look()


def _start(server: TritonServer) -> str | None:
    try:
        server.start()
    except ServeError as error:
        return str(error).partition("\n")[0]
    return None
