"""Tells whether a start has stalled: a process of a model hangs, and Triton would wait for it for ever.

Triton forks a process for each instance of a Python model while its other threads load theirs, and both sides wait for
each other through locks in shared memory: others have reported such hangs (issue 5211 of Triton's server). Seen here
once, on a quiet machine: all models but one were loaded in ten seconds, and the process of that one was never ready.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

from ebbtide.serve.model_processes import ModelProcesses

STALLED_S = 30.0
"""A start in which nothing has happened for so long has stalled."""
_IDLE = 0.02
"""Share of a processor up to which a process does nothing: models that are loaded follow the store."""
_LOOK_S = 1.0


@dataclass(frozen=True)
class _Look:
    at_s: float
    loaded: int
    cpu_s: Mapping[int, float]
    """Processor time of each process, by id."""

    def differs_from(self, before: _Look) -> bool:
        """Whether a model was loaded, a process is new, or one has worked."""
        most = _IDLE * STALLED_S
        worked = any(pid not in before.cpu_s or cpu_s - before.cpu_s[pid] > most for pid, cpu_s in self.cpu_s.items())
        return worked or self.loaded != before.loaded


class StallWatch:
    """Looks at a server that starts, once a second at most."""

    def __init__(self, server_pid: int) -> None:
        self._server_pid = server_pid
        self._processes = ModelProcesses(server_pid)
        self._last_s = 0.0
        self._since: _Look | None = None
        """Since then nothing has happened."""

    def has_stalled(self, loaded: int) -> bool:
        """Whether nothing has happened for `STALLED_S`.

        Args:
            loaded: Number of models that are loaded.
        """
        now = time.monotonic()
        if now - self._last_s < _LOOK_S:
            return False
        self._last_s = now
        cpu_s = {pid: process.cpu_s for pid, process in self._processes.living().items()}
        with contextlib.suppress(OSError):
            cpu_s[self._server_pid] = self._processes.server_cpu_s()
        look = _Look(now, loaded, cpu_s)
        if self._since is None or look.differs_from(self._since):
            self._since = look
        return now - self._since.at_s >= STALLED_S
