"""The times at which requests are due: a process of arrivals, stretched to a rate that may change over the run.

The rate over the run, integrated, says how many arrivals are due by each time; its inverse turns an arrival's number
into its time. So every process combines with ramps and spikes; for the log's own sessions the rate is that of their
beginnings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ebbtide.loadtest.errors import LoadTestError

Floats = npt.NDArray[np.float64]

Process = Literal["constant", "poisson", "log"]
"""Evenly spaced; independent of each other; or in sessions with the log's own pauses."""

_STEPS = 10_000


@dataclass(frozen=True)
class RateProfile:
    """Requests per second over a run."""

    rate: float
    """At the start."""
    ramp_to: float | None = None
    """At the end, reached in a straight line; None stays at `rate`."""
    spike_factor: float = 1.0
    """The rate is multiplied by this during the spike, in the middle of the run."""
    spike_s: float = 0.0
    """How long the spike lasts; 0 for none."""

    def __post_init__(self) -> None:
        for name in ("rate", "spike_factor"):
            if not 0 < getattr(self, name) < 1e6:
                raise LoadTestError.of_field(name, getattr(self, name), "a number above 0 and below a million")
        if self.ramp_to is not None and not 0 < self.ramp_to < 1e6:
            raise LoadTestError.of_field("ramp_to", self.ramp_to, "a rate above 0 and below a million")

    def at(self, seconds: Floats, duration_s: float) -> Floats:
        """The rate at each time, ``[len(seconds)]``."""
        end = self.rate if self.ramp_to is None else self.ramp_to
        rate = self.rate + (end - self.rate) * seconds / duration_s
        in_spike = np.abs(seconds - duration_s / 2) < self.spike_s / 2
        return np.where(in_spike, rate * self.spike_factor, rate)

    def __str__(self) -> str:
        ramp = "" if self.ramp_to is None else f" rising to {self.ramp_to:g}/s"
        if self.ramp_to is not None and self.ramp_to < self.rate:
            ramp = ramp.replace("rising", "falling")
        spike = f", {self.spike_factor:g} times that for {self.spike_s:g} s in the middle" if self.spike_s else ""
        return f"{self.rate:g}/s{ramp}{spike}"


def send_times(
    profile: RateProfile,
    process: Process,
    duration_s: float,
    random: np.random.Generator,
    sessions: Sequence[Floats] = (),
) -> Floats:
    """The due times of all requests of a run, in seconds from its start, ascending and below `duration_s`.

    Args:
        profile: The rate.
        process: How arrivals scatter around it.
        duration_s: Length of the run.
        random: Draws the Poisson process, and the sessions.
        sessions: For ``log``: the requests of each session, seconds from its first, which is 0.

    Raises:
        LoadTestError: The process is ``log``, and there are no sessions.
    """
    if process == "log":
        return _sessions(profile, duration_s, random, sessions)
    edges = np.linspace(0, duration_s, _STEPS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    due = np.concatenate([[0.0], np.cumsum(profile.at(middles, duration_s) * duration_s / _STEPS)])
    total = float(due[-1])
    if process == "constant":
        units = np.arange(0, np.ceil(total - 1e-9), dtype=np.float64)
    else:
        # Conditional on how many there are, the arrivals of a Poisson process are uniform.
        units = np.sort(random.uniform(0, total, random.poisson(total)))
    return np.asarray(np.interp(units, due, edges), dtype=np.float64)


def _sessions(
    profile: RateProfile, duration_s: float, random: np.random.Generator, sessions: Sequence[Floats]
) -> Floats:
    """Sessions that begin independently of each other; within them the log's own pauses, in real time."""
    if not sessions:
        raise LoadTestError("arrivals: got 'log', but there are no sessions to take pauses from")
    lengths = np.array([len(session) for session in sessions])
    # Those that began before the run are under way when it starts.
    lead_s = max(float(session[-1]) for session in sessions)
    edges = np.linspace(-lead_s, duration_s, _STEPS + 1)
    middles = np.clip((edges[1:] + edges[:-1]) / 2, 0, duration_s)
    begun = profile.at(middles, duration_s) / lengths.mean() * (edges[1] - edges[0])
    due = np.concatenate([[0.0], np.cumsum(begun)])
    starts = np.interp(random.uniform(0, due[-1], random.poisson(due[-1])), due, edges)
    chosen = random.integers(len(sessions), size=len(starts))
    offsets = np.concatenate([np.zeros(0), *(sessions[index] for index in chosen)])
    timestamps = np.repeat(starts, lengths[chosen]) + offsets
    return np.sort(timestamps[(timestamps >= 0) & (timestamps < duration_s)])
