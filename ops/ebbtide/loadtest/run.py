"""Runs of load against one server, each with Triton's statistics and the use of resources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ebbtide.loadtest._triton import Inspector, output_names
from ebbtide.loadtest.access import Access
from ebbtide.loadtest.arrivals import Process, RateProfile, send_times
from ebbtide.loadtest.calibrate import Calibration, Generates, calibrate, generator_limit
from ebbtide.loadtest.errors import LoadTestError
from ebbtide.loadtest.replay import Workload
from ebbtide.loadtest.resources import Usage, Watch, is_on_this_machine
from ebbtide.loadtest.samples import Phase
from ebbtide.loadtest.server_time import ModelTime, Snapshot, ensemble_steps, server_time


@dataclass(frozen=True)
class Load:
    """One run to make: either an open model's rate or a closed model's concurrency."""

    duration_s: float
    profile: RateProfile | None = None
    process: Process = "poisson"
    concurrency: int | None = None

    def __post_init__(self) -> None:
        if (self.profile is None) == (self.concurrency is None):
            raise LoadTestError("load: expected either a rate or a concurrency")
        if self.concurrency is not None and self.concurrency < 1:
            raise LoadTestError.of_field("concurrency", self.concurrency, "at least 1")

    def __str__(self) -> str:
        if self.concurrency is not None:
            return f"{self.concurrency} at a time"
        return f"{self.profile}, {_PROCESS[self.process]}"


_PROCESS = {"constant": "evenly spaced", "poisson": "Poisson arrivals", "log": "in sessions with the log's own pauses"}


@dataclass(frozen=True)
class Run:
    """One run that was made."""

    load: Load
    phase: Phase
    models: list[ModelTime]
    usage: Usage
    generator_limit: str | None
    """Why the figures may be limited by the generator; None where they are the server's."""
    note: str = ""
    """Why something is missing."""


@dataclass
class Bench:
    """A server under test, with what every run of it needs."""

    target: str
    workload: Workload
    generator: Generates
    timeout_s: float = 5.0
    """Deadline of each request."""
    seed: int = 0
    access: Access = field(default_factory=Access)
    """Encryption and token, for the bench's own questions to the server."""
    on_run: Callable[[Run], None] = lambda _: None
    """Called with each run when it ends."""
    runs: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Reads the server's metadata, calls each endpoint once, and calibrates the generator.

        Raises:
            LoadTestError: No Triton answers at the address, or not as it should.
        """
        self._inspector = Inspector(self.target, self.access)
        self._random = np.random.default_rng(self.seed)
        server = self._inspector.server()
        self.server: dict[str, Any] = {
            "name": str(server.name),
            "version": str(server.version),
            "address": self.target,
            "is_on_this_machine": is_on_this_machine(self.target),
        }
        names = sorted({model.name for model in self._inspector.statistics()})
        self._steps = ensemble_steps(self._inspector, names)
        self._preflight()
        self.calibration: Calibration = calibrate(self.generator, self.target)

    def close(self) -> None:
        """Closes the bench's own connection."""
        self._inspector.close()

    def _preflight(self) -> None:
        for endpoint in self.workload.endpoints:
            if not output_names(self._inspector.infer(self.workload.messages[endpoint][0], self.timeout_s)):
                raise LoadTestError(f"{endpoint} at {self.target}: got an answer without tensors; expected some")

    def warm_up(self, load: Load, duration_s: float) -> Phase:
        """Sends the load for so long and reports nothing of it."""
        return self._send(load, duration_s)

    def run(self, load: Load) -> Run:
        """Makes one run and keeps it."""
        watch = Watch(self.target)
        before = self._snapshot(Snapshot.take)
        with watch as usage:
            phase = self._send(load, load.duration_s)
        after = self._snapshot(Snapshot.take_settled)
        models = [] if before is None or after is None else server_time(before, after, self._steps)
        note = "" if after is not None else "the server no longer answers, so its own statistics are missing"
        made = Run(load, phase, models, usage, generator_limit(phase, self.calibration), note)
        self.runs.append(made)
        self.on_run(made)
        return made

    def _send(self, load: Load, duration_s: float) -> Phase:
        if load.concurrency is not None:
            return self.generator.closed_model(load.concurrency, duration_s)
        assert load.profile is not None  # noqa: S101 - Load has one or the other
        times = send_times(load.profile, load.process, duration_s, self._random, self.workload.sessions)
        return self.generator.open_model(times, duration_s)

    def _snapshot(self, take: Callable[[Inspector], Snapshot]) -> Snapshot | None:
        try:
            return take(self._inspector)
        except LoadTestError:
            return None
