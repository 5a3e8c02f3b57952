"""The processes of a server's Python models, as Linux tells of them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ZOMBIE = "Z"
_STOPPED = "T"
_UNLOADING_S = 3.0
"""For so long a process that ended with its model may be a zombie, on a busy machine."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """A process of a model that lives."""

    model: str
    is_stopped: bool
    """By a signal, so that it does nothing until another one comes."""
    cpu_s: float
    """Processor time that it has used, seconds."""


class ModelProcesses:
    """The processes of one server's Python models. Triton never collects dead ones, so they stay as zombies."""

    def __init__(self, server_pid: int) -> None:
        """Looks at the processes.

        Args:
            server_pid: Process id of tritonserver.
        """
        self._server_pid = server_pid
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
                if _stat(child)[0] == _ZOMBIE:
                    zombies[child] = self._zombies.get(child, now)
                else:
                    self._model(child)
        self._zombies = zombies
        dead = [child for child, since in zombies.items() if now - since >= _UNLOADING_S]
        return sorted({self._models.get(child, "a model") for child in dead})

    def living(self) -> dict[int, Process]:
        """The processes that live, by id."""
        found = {}
        for child in self._children():
            with contextlib.suppress(OSError):
                state, cpu_s = _stat(child)
                if state != _ZOMBIE:
                    found[child] = Process(self._model(child), state == _STOPPED, cpu_s)
        return found

    def server_cpu_s(self) -> float:
        """Processor time that the server itself has used, without its models' processes, seconds.

        Raises:
            OSError: It is gone.
        """
        return _stat(self._server_pid)[1]

    def _model(self, pid: int) -> str:
        if pid not in self._models:
            self._models[pid] = _model(pid)
        return self._models[pid]

    def _children(self) -> Iterator[int]:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{self._server_pid}/task").iterdir():
                with contextlib.suppress(OSError):
                    yield from map(int, (thread / "children").read_text().split())


def _stat(pid: int) -> tuple[str, float]:
    """The state of a process, and the processor time of its threads, seconds."""
    # The name of the program may have spaces and parentheses of its own.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[0], (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def _model(pid: int) -> str:
    """The model that a stub runs, from the path of its file: ``MODEL/VERSION/model.py``."""
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return Path(arguments[1].decode(errors="replace")).parent.parent.name if len(arguments) > 1 else "a model"
