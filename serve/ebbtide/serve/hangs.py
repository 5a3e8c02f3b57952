"""Notices a server, or a model of it, that hangs: it takes requests and never answers them.

A busy server answers late, and one that loads a model may do so for minutes: neither hangs. So it takes several signs
at once, at six looks in a row, ten seconds apart:

- The server hangs: it answered no canary, ended no request of any model, and worked on none, by its processor time.
- A model hangs: requests wait for it, none ended, and none of its processes worked, by their processor time.
- A process of a model hangs: it is stopped. Triton refuses its requests, and calls the model ready.
"""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from ebbtide.interest import served_models
from ebbtide.serve import startup
from ebbtide.serve.canary import Canary
from ebbtide.serve.model_processes import ModelProcesses, Process
from ebbtide.serve.server import TritonServer

_LOOK_S = 10.0
"""From one look to the next, by which a canary has to be answered."""
_LOOKS = 6
_IDLE = 0.01
"""Share of a core below which a process does no work: one that waits still looks at its queue and at the store."""
_WAITING = "pending_request_count"
_COUNT = re.compile(
    rf'^nv_inference_({_WAITING}|request_success|request_failure)\{{.*?model="([^"]*)".*\}} (\S+)$', re.MULTILINE
)


@dataclass(frozen=True)
class _Requests:
    """What the server counts of one model, all versions together."""

    waiting: int
    """Those that no process has taken."""
    ended: int
    """Those that were answered, refused, or given up since the model was loaded."""


@dataclass(frozen=True)
class _Look:
    at_s: float
    requests: Mapping[str, _Requests] | None
    """By model; None where the server did not say."""
    processes: Mapping[int, Process]
    server_cpu_s: float

    def working_models(self, before: _Look) -> set[str]:
        """The models of which a process has worked since a look, or is new."""
        found = set()
        for pid, process in self.processes.items():
            earlier = before.processes.get(pid)
            if earlier is None or not self._is_little(process.cpu_s - earlier.cpu_s, before):
                found.add(process.model)
        return found

    def waiting_models(self, before: _Look) -> set[str]:
        """The models that have had requests to work on since a look, and ended none."""
        if self.requests is None or before.requests is None:
            return set()
        both = self.requests.keys() & before.requests.keys()
        found = {name: (before.requests[name], self.requests[name]) for name in both}
        return {name for name, (then, now) in found.items() if then.waiting and now.waiting and then.ended == now.ended}

    def has_ended(self, before: _Look) -> bool:
        """Whether requests are known to have ended since a look."""
        if self.requests is None or before.requests is None:
            return False
        then, now = ({name: one.ended for name, one in look.items()} for look in (before.requests, self.requests))
        return then != now

    def is_idle(self, before: _Look) -> bool:
        """Whether the server has done nothing since a look, as far as it says."""
        # A server that does say something may wait for a model that works. When it is stopped, its models still follow
        # the store in threads of their own.
        may_wait = self.requests is not None and bool(self.working_models(before))
        is_little = self._is_little(self.server_cpu_s - before.server_cpu_s, before)
        return is_little and not may_wait and not self.has_ended(before)

    def _is_little(self, used_s: float, before: _Look) -> bool:
        return used_s < _IDLE * (self.at_s - before.at_s)


class HangWatch:
    """Looks at a server again and again."""

    def __init__(self, server: TritonServer) -> None:
        """Prepares to look at a server; `follow` begins."""
        self._server = server
        self._canary: Canary | None = None
        self._answers = False
        """Whether it has ever answered a canary. One that takes no plain gRPC never does."""

    def follow(self, models: ModelProcesses) -> None:
        """Begins anew, with the server as it has just been started.

        Args:
            models: Its processes.
        """
        self.close()
        self._models = models
        of_store = {model.name for model in served_models.MODELS.values() if model.needs_store}
        exported = startup.exported_models(self._server.config.model_repository)
        # What is not exported may work for any time. What needs the store may wait for another process that writes to
        # it, which no restart changes.
        self._bounded = exported - of_store
        self._canary = Canary(self._server.grpc_url, recommends=served_models.RECOMMEND.name in exported)
        self._last: _Look | None = None
        self._next_s = time.monotonic()
        self._in_a_row: dict[str, int] = {}

    def close(self) -> None:
        """Closes the connection to the server."""
        if self._canary is not None:
            self._canary.close()
            self._canary = None

    def look(self) -> str | None:
        """What hangs, or None. Looks only if the last look is long enough ago."""
        assert self._canary is not None  # noqa: S101 - between `follow` and `close`
        if time.monotonic() < self._next_s:
            return None
        self._next_s = time.monotonic() + _LOOK_S
        try:
            seen = self._seen()
        except (OSError, http.client.HTTPException):
            # It has ended, or cannot be reached, say because its address is gone: that is no hang.
            seen = None
        before, self._last = self._last, seen
        signs = [] if seen is None or before is None else list(self._signs(self._canary, before, seen))
        self._in_a_row = {sign: self._in_a_row.get(sign, 0) + 1 for sign in signs}
        if seen is None or before is None or not seen.has_ended(before):
            # Where requests end nobody needs to ask, and what models count is of users.
            self._canary.send(self._next_s - time.monotonic())
        return next((sign for sign, looks in self._in_a_row.items() if looks >= _LOOKS), None)

    def _signs(self, canary: Canary, before: _Look, seen: _Look) -> Iterator[str]:
        """What may hang, as it is told when it does; what explains more comes first."""
        time_s = f"{_LOOKS * _LOOK_S:g} s"
        for model in sorted({one.model for one in seen.processes.values() if one.is_stopped}):
            yield f"a process of {model} hangs: it has been stopped for {time_s}"
        for model in sorted(self._bounded & self._idle_models(before, seen) & seen.waiting_models(before)):
            yield f"{model} hangs: requests have waited for {time_s}, none ended, and none is worked on"
        is_overdue = canary.is_overdue()
        self._answers |= canary.was_answered
        if self._answers and is_overdue and seen.is_idle(before):
            yield f"the server hangs: for {time_s} it has answered no canary and ended no request"

    def _idle_models(self, before: _Look, seen: _Look) -> set[str]:
        working = seen.working_models(before)
        if working and self._server.config.rate_limit_cores is not None:
            # One that works may have the cores that another one waits for.
            return set()
        return {process.model for process in seen.processes.values()} - working

    def _seen(self) -> _Look:
        """Looks.

        Raises:
            OSError: The server has ended, or cannot be reached.
            HTTPException: So it seems.
        """
        url = urlsplit(self._server.metrics_url)
        requests = None
        try:
            _, body = startup.request(str(url.hostname), int(url.port or 0), "GET", url.path)
            requests = _counted(body.decode(errors="replace"))
        except TimeoutError:
            pass
        return _Look(time.monotonic(), requests, self._models.living(), self._models.server_cpu_s())


def _counted(metrics: str) -> dict[str, _Requests]:
    waiting: dict[str, int] = {}
    ended: dict[str, int] = {}
    for name, model, number in _COUNT.findall(metrics):
        counts = waiting if name == _WAITING else ended
        counts[model] = counts.get(model, 0) + int(float(number))
    return {model: _Requests(waiting.get(model, 0), count) for model, count in ended.items()}
