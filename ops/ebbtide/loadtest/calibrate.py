"""What the generator can send: measured by a short closed run against a server that does nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from ebbtide.loadtest.arrivals import Floats
from ebbtide.loadtest.errors import LoadTestError
from ebbtide.loadtest.samples import Phase

MARGIN = 2.0
"""A limit is the server's only where the generator could send this many times as much."""

_CONCURRENCY = 16
_WARM_UP_S, _DURATION_S = 0.3, 1.5
_BUSY_SHARE = 0.85
_LATE_SHARE = 0.2


class Generates(Protocol):
    """Sends the requests: `Generator` in one process, or `Workers` in several."""

    @property
    def sink_host(self) -> str:
        """Where a server that does nothing must listen, to be reached."""
        ...

    def aim(self, target: str, *, plain: bool = False) -> None:
        """See `Generator.aim`."""
        ...

    def open_model(self, send_s: Floats, duration_s: float) -> Phase:
        """See `Generator.open_model`."""
        ...

    def closed_model(self, concurrency: int, duration_s: float) -> Phase:
        """See `Generator.closed_model`."""
        ...


@dataclass(frozen=True)
class Calibration:
    """The generator against a server that does nothing, on this machine."""

    throughput: float
    """Answers per second."""
    cpu_us_per_request: float
    """Processor time of the generator."""


def calibrate(generator: Generates, target: str) -> Calibration:
    """Measures a generator, then points it back at its target.

    Raises:
        LoadTestError: The server that does nothing does not start, or loses requests.
    """
    with do_nothing_server(generator.sink_host) as sink:
        generator.aim(sink, plain=True)
        generator.closed_model(_CONCURRENCY, _WARM_UP_S)
        phase = generator.closed_model(_CONCURRENCY, _DURATION_S)
        generator.aim(target)
    answered = phase.counts.answered
    if not answered or answered != phase.sent:
        raise LoadTestError(f"calibration: {answered} of {phase.sent} requests were answered; expected all of them")
    return Calibration(phase.throughput, 1e6 * phase.cpu_s / answered)


@contextmanager
def do_nothing_server(host: str) -> Iterator[str]:
    """The address of a server that does nothing, in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ebbtide.loadtest.sink", host],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None  # noqa: S101 - asked for a pipe
        assert process.stdin is not None  # noqa: S101 - asked for a pipe
        port = process.stdout.readline().strip()
        if not port:
            raise LoadTestError("calibration: the server that does nothing did not start")
        try:
            yield f"{host}:{port}"
        finally:
            process.stdin.close()


def generator_limit(phase: Phase, calibration: Calibration) -> str | None:
    """Why a figure may be the generator's limit and not the server's, in words; None where it is the server's.

    Args:
        phase: A run.
        calibration: What the generator can do.
    """
    if calibration.throughput < MARGIN * phase.throughput:
        return (
            f"it sends at most {calibration.throughput:,.0f} requests per second to a server that does nothing, less "
            f"than {MARGIN:g} times the {phase.throughput:,.0f} measured"
        )
    busy = phase.cpu_s / max(phase.duration_s, 1e-9)
    if busy > _BUSY_SHARE:
        return f"it was busy for {100 * busy:.0f} % of the time"
    if len(phase.records):
        late_s, took_s = float(phase.records["late_s"].mean()), float(phase.records["took_s"].mean())
        if late_s > _LATE_SHARE * took_s:
            return (
                f"it sent requests {1e3 * late_s:.1f} ms late on average, and their latency was {1e3 * took_s:.1f} ms"
            )
    return None
