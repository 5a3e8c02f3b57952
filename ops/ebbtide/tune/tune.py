"""A whole tuning: two servers, the search, the verdict under an open model, and the result."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ebbtide.export import versions
from ebbtide.export.manifest import read_manifest
from ebbtide.loadtest import Slo, Workload
from ebbtide.loadtest.machine import machine_facts
from ebbtide.tune.arena import ArenaOptions, LiveArena, Server
from ebbtide.tune.errors import TuneError
from ebbtide.tune.result import Outcome, result_of
from ebbtide.tune.search import Rules, Search, Trial
from ebbtide.tune.space import Settings, changes, read_settings
from ebbtide.tune.verdict import FEWEST_REPEATS, Holds, Verdict, compare

_VERDICT_SHARE = 0.4
"""Share of the time that is kept for the verdict."""
_GUESS_SHARE = 0.8
"""A first rate for the open model, as a share of the closed model's throughput."""


@dataclass(frozen=True)
class TuneOptions:
    """What to tune for, and how long."""

    slo: Slo
    minutes: float = 10.0
    """For the search and the verdict, without the start of the servers."""
    turn_s: float = 1.5
    """Length of one measurement of one of a pair of settings."""
    repeats: int = 12
    """Of the verdict's bisections."""
    timeout_s: float = 5.0
    """Deadline of each request."""
    seed: int = 0
    """Draws the arrivals."""
    rules: Rules = field(default_factory=Rules)
    command: str = ""
    """How to run it again."""
    on_trial: Callable[[Trial], None] = field(default=lambda _: None)
    """Called with each comparison of the search."""
    on_stage: Callable[[str], None] = field(default=lambda _: None)
    """Called with the name of each stage when it starts."""

    def __post_init__(self) -> None:
        for name in ("minutes", "turn_s", "timeout_s"):
            if not getattr(self, name) > 0:
                raise TuneError(f"{name}: got {getattr(self, name)}; expected more than 0")
        if self.repeats < FEWEST_REPEATS:
            raise TuneError(f"repeats: got {self.repeats}; expected at least {FEWEST_REPEATS}")


def tune(repository: Path, workload: Workload, options: TuneOptions) -> dict[str, Any]:
    """Searches the best settings for the ensembles of a workload, and gives the result, ready for JSON.

    Nothing in the repository is changed; see `ebbtide.tune.write`.

    Args:
        repository: An exported repository with CPU configs.
        workload: What is sent, and so which ensembles count, and how much.
        options: The objective and the time.

    Raises:
        TuneError: The repository cannot be tuned, or its own settings cannot hold the objective.
        RepositoryError: It is no export.
    """
    began_unix_s, began = time.time(), time.monotonic()
    read_manifest(repository)
    ensembles, cores = workload.endpoints, len(os.sched_getaffinity(0))
    start = read_settings(repository, ensembles)
    settings = ArenaOptions(
        repository,
        ensembles,
        options.slo,
        options.turn_s,
        options.timeout_s,
        rate_limit_cores=cores if _is_rate_limited(repository, start) else None,
    )
    options.on_stage("starting two servers")
    with LiveArena(settings, workload, start) as arena:
        options.on_stage("searching")
        ready = time.monotonic()
        ends = ready + 60 * options.minutes
        search_ends = ends - 60 * options.minutes * _VERDICT_SHARE
        search = Search(
            start,
            arena,
            cores,
            options.rules,
            time_is_up=lambda: time.monotonic() > search_ends,
            on_trial=options.on_trial,
        )
        winner = search.run()
        verdict: Verdict | None = None
        if winner != start:
            options.on_stage("comparing the winner with the default")
            verdict = _verdict(arena, start, winner, options, lambda: time.monotonic() > ends)
        assert arena.calibration is not None  # noqa: S101 - set on entering
        return result_of(
            Outcome(
                repository=repository,
                start=start,
                found=winner,
                search=search,
                verdict=verdict,
                slo=options.slo,
                workload=workload,
                calibration=arena.calibration,
                limited_turns=arena.limited_turns,
                turns=arena.turns,
                server_version=arena.server_version,
                machine=machine_facts(),
                command=options.command,
                began_unix_s=began_unix_s,
                seconds=time.monotonic() - began,
            )
        )


def _verdict(
    arena: LiveArena, start: Settings, winner: Settings, options: TuneOptions, time_is_up: Callable[[], bool]
) -> Verdict:
    first, second = arena.seat(start, winner)
    if second is None:
        raise TuneError(f"{'; '.join(map(str, changes(start, winner)))}: refused by Triton, which loaded it before")

    def trial(server: Server) -> Holds:
        return lambda rate, draw: server.holds(rate, "poisson", np.random.default_rng((options.seed, draw)))

    guesses = (_GUESS_SHARE * first.capacity(), _GUESS_SHARE * second.capacity())
    return compare(trial(first), trial(second), guesses, repeats=options.repeats, time_is_up=time_is_up)


def _is_rate_limited(repository: Path, start: Settings) -> bool:
    return any(
        group.rate_limiter.resources
        for one in start
        for group in versions.read_model_config(repository, one.model).instance_group
    )
