"""Two real servers, one with the incumbent's settings and one with the challenger's, that are measured in turn.

Only models whose settings changed are reloaded: half a second for other instances, two to four for other threads. A
turn is a closed model that keeps as many requests under way as the objective allows; its figure is the answers per
second. It finds a server's capacity in a second or two and cannot overload it. The open model decides at the end
(`ebbtide.tune.verdict`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from ebbtide.deploy import LoadRefusedError, ModelControl
from ebbtide.export import versions
from ebbtide.loadtest import Generator, RateProfile, Slo, Workload
from ebbtide.loadtest.arrivals import Process, send_times
from ebbtide.loadtest.calibrate import Calibration, calibrate, generator_limit
from ebbtide.loadtest.samples import OK, Phase
from ebbtide.loadtest.search import enough_s
from ebbtide.loadtest.server_time import time_shares
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.tune.errors import TuneError
from ebbtide.tune.space import Settings

_FIRST_CONCURRENCY, _MOST_CONCURRENCY = 8, 256
_AIM = 0.9
"""Share of the objective's limit that the concurrency of a turn aims at."""
_STEP = 2.0
"""Largest factor between the concurrency of one turn and the next."""
_CALM = 0.5
"""Exponent of that factor once the concurrency is settled, since the percentile of one turn is noisy."""
_TRIES = 3
"""Pairs in a row without an answer of the incumbent within the objective before that is an error."""
_SETTLE_SHARE = 0.4
"""Length of the load after a reload, as a share of a turn: it finds the concurrency, and is not counted."""


@dataclass(frozen=True)
class ArenaOptions:
    """How to measure."""

    repository: Path
    ensembles: tuple[str, ...]
    """Loaded at the start, with the models that they run."""
    slo: Slo
    turn_s: float = 1.5
    """Length of a turn."""
    timeout_s: float = 5.0
    """Deadline of each request."""
    rate_limit_cores: int | None = None
    """Cores for Triton's rate limiter, where the configs claim some."""


class LiveArena(AbstractContextManager["LiveArena"]):
    """The two servers, as a context manager; both start with the repository's own configs."""

    def __init__(self, options: ArenaOptions, workload: Workload, start: Settings) -> None:
        """Prepares the servers without starting them.

        Args:
            options: How to measure.
            workload: Requests to send.
            start: What the repository's configs say.
        """
        self._options, self._workload, self._start = options, workload, start
        self._stack = ExitStack()
        self._servers: list[Server] = []
        self._pairs = 0
        self.calibration: Calibration | None = None
        """What the generator can send to a server that does nothing."""
        self.limited_turns = 0
        """Turns that may have measured the generator."""
        self.turns = 0
        """Turns that were measured."""

    def __enter__(self) -> LiveArena:
        with ExitStack() as started:
            for _ in range(2):
                self._servers.append(started.enter_context(Server(self._options, self._workload, self._start)))
            self.calibration = calibrate(self._servers[0].generator, self._servers[0].address)
            self._stack = started.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def server_version(self) -> str:
        """Triton's."""
        return self._servers[0].version

    def pair(self, incumbent: Settings, challenger: Settings) -> tuple[float, float]:
        """Measures both in turn, every other time in the opposite order; see `ebbtide.tune.search.Arena`.

        Raises:
            TuneError: The incumbent no longer serves.
        """
        first, second = self.seat(incumbent, challenger)
        if second is None:
            return 1.0, 0.0
        for _ in range(_TRIES):
            self._pairs += 1
            order = (first, second) if self._pairs % 2 else (second, first)
            found = {server: self._measured(server) for server in order}
            if found[first]:
                return found[first], found[second]
        raise TuneError(
            f"slo: got {self._options.slo}, within which the server of {'; '.join(map(str, incumbent))} answered "
            f"nothing in {_TRIES} turns; expected an objective that it can hold, and a machine that is not overloaded"
        )

    def time_shares(self) -> dict[str, float]:
        """See `ebbtide.tune.search.Arena`."""
        return time_shares(self._servers[0].address, self._options.ensembles)

    def seat(self, incumbent: Settings, challenger: Settings) -> tuple[Server, Server | None]:
        """Servers that have these settings: the second is None where Triton refuses to load the challenger's.

        Raises:
            LoadRefusedError: Triton refuses to load the incumbent's.
        """
        first = next((server for server in self._servers if server.settings == incumbent), None)
        if first is None:
            # The server that has the challenger already keeps it.
            first = next((server for server in self._servers if server.settings != challenger), self._servers[0])
            first.load(incumbent)
        (second,) = (server for server in self._servers if server is not first)
        try:
            second.load(challenger)
        except LoadRefusedError:
            return first, None
        return first, second

    def _measured(self, server: Server) -> float:
        phase, score = server.turn()
        self.turns += 1
        if self.calibration is not None and generator_limit(phase, self.calibration) is not None:
            self.limited_turns += 1
        return score


class Server(AbstractContextManager["Server"]):
    """One server with its connections and the settings that it has now."""

    def __init__(self, options: ArenaOptions, workload: Workload, start: Settings) -> None:
        self._options, self._workload = options, workload
        self._stack = ExitStack()
        self.settings = start
        self._concurrency = _FIRST_CONCURRENCY
        self._is_settled = False
        self.version = ""

    def __enter__(self) -> Server:
        options = self._options
        config = ServerConfig(
            options.repository,
            model_control="explicit",
            load_models=options.ensembles,
            rate_limit_cores=options.rate_limit_cores,
        )
        with ExitStack() as opened:
            server = opened.enter_context(TritonServer(config))
            self.address = server.grpc_url
            self._control = opened.enter_context(ModelControl(self.address))
            self.version = self._control.server_version()
            self.generator = opened.enter_context(Generator(self.address, self._workload, timeout_s=options.timeout_s))
            self._stack = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def load(self, settings: Settings) -> None:
        """Reloads the models whose settings are others; does nothing where all are the same.

        Raises:
            LoadRefusedError: Triton refused one; the others are as before.
        """
        for old, new in zip(self.settings, settings, strict=True):
            if new == old:
                continue
            config = versions.read_model_config(self._options.repository, new.model)
            new.apply(config)
            self._control.load_as(config)
            self.settings = tuple(new if one.model == new.model else one for one in self.settings)
            self._is_settled = False

    def turn(self) -> tuple[Phase, float]:
        """One turn, and the answers per second in it that the objective lets count."""
        seconds = self._options.turn_s
        if not self._is_settled:
            # Twice: the first one sets the concurrency of the second.
            for _ in range(2):
                self._follow(_whole(self.generator.closed_model(self._concurrency, _SETTLE_SHARE * seconds)))
            self._is_settled = True
        phase = _whole(self.generator.closed_model(self._concurrency, seconds))
        return phase, phase.throughput * min(1.0, 1 / self._follow(phase)) if phase.counts.answered else 0.0

    def holds(self, rate: float, process: Process, random: np.random.Generator) -> bool:
        """Whether one trial of the open model at a rate, per second, holds the objective."""
        options = self._options
        seconds = enough_s(options.slo, rate, options.turn_s)
        times = send_times(RateProfile(rate), process, seconds, random, self._workload.sessions)
        return limit_share(options.slo, [_whole(self.generator.open_model(times, seconds))]) < 1

    def capacity(self) -> float:
        """What one settled turn gives, answers per second."""
        return self.turn()[1]

    def _follow(self, phase: Phase) -> float:
        """How the phase stood to the limits, above 1 where one is broken; the next turn aims below 1."""
        used = limit_share(self._options.slo, [phase])
        change = float(np.clip(_AIM / max(used, 1e-3), 1 / _STEP, _STEP))
        wanted = self._concurrency * change ** (_CALM if self._is_settled else 1)
        self._concurrency = int(np.clip(round(wanted), 1, _MOST_CONCURRENCY))
        return used


def _whole(phase: Phase) -> Phase:
    """The phase, unless Ctrl-C ended it: the generator then ends its phase in order, which here ends everything."""
    if phase.interrupted:
        raise KeyboardInterrupt
    return phase


def limit_share(slo: Slo, phases: Sequence[Phase]) -> float:
    """The largest of what phases used of the objective's limits: 1 at a limit; infinite where answers are missing.

    Args:
        slo: The objective.
        phases: At least one.
    """
    due = sum(phase.due for phase in phases)
    took = np.concatenate([phase.records["took_s"][phase.records["code"] == OK] for phase in phases])
    if not len(took) or 1 - len(took) / due > slo.error_share:
        return float("inf")
    limits = slo.latency_limit_ms
    reached = np.percentile(took, list(limits)) * 1e3
    return float(max(value / limit for value, limit in zip(reached, limits.values(), strict=True)))
