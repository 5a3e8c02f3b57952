"""A whole load test: preflight, warm-up, the runs or the search, and the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from ebbtide.loadtest.access import Access
from ebbtide.loadtest.arrivals import RateProfile
from ebbtide.loadtest.calibrate import Generates
from ebbtide.loadtest.engine import ENGINE
from ebbtide.loadtest.errors import LoadTestError
from ebbtide.loadtest.replay import Workload
from ebbtide.loadtest.run import Bench, Load, Run
from ebbtide.loadtest.samples import Phase
from ebbtide.loadtest.search import Search, enough_s, find_highest_rate
from ebbtide.loadtest.settings import Slo
from ebbtide.loadtest.summary import Session, summarise

_GUESS_CONCURRENCY = 16
_GUESS_S = 3.0
_GUESS_SHARE = 0.6
"""A first rate to try, as a share of what a closed run reaches: objectives break before the server is full."""


@dataclass(frozen=True)
class Options:
    """What to run."""

    loads: Sequence[Load]
    """Runs to make, one after the other; for a search the first one says what a trial is."""
    warm_up_s: float = 3.0
    """Load before the first run, of which nothing is reported."""
    timeout_s: float = 5.0
    """Deadline of each request."""
    slo: Slo | None = None
    """The objective to judge by."""
    search: bool = False
    """Whether to look for the highest rate that holds the objective."""
    seed: int = 0
    access: Access = field(default_factory=Access)
    """Encryption and token."""
    command: str = ""
    """How to run it again."""
    engine: str = ENGINE
    """What generates the load."""
    notes: tuple[str, ...] = ()
    """What a reader must know about the requests."""
    on_run: Callable[[Run], None] = field(default=lambda _: None)
    """Called with each run when it ends."""

    def __post_init__(self) -> None:
        if not self.loads:
            raise LoadTestError("loads: got none; expected at least one")
        if self.search and self.slo is None:
            raise LoadTestError("slo: got none; expected an objective to search with, such as p99<20ms")
        if self.search and self.loads[0].profile is None:
            raise LoadTestError("concurrency: a search looks for a rate; give --rate, or nothing")


def load_test(
    target: str,
    workload: Workload,
    generator: Generates,
    options: Options,
    *,
    compare_with: Callable[[Sequence[Run]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Runs a load test and gives its result, ready for JSON and for the reports.

    Args:
        target: ``host:port`` of Triton's gRPC endpoint.
        workload: What to send.
        generator: What sends it.
        options: The runs.
        compare_with: Repeats the runs with perf_analyzer, and gives that part of the result.

    Raises:
        LoadTestError: The server does not answer as it should.
    """
    bench = Bench(target, workload, generator, options.timeout_s, options.seed, options.access, options.on_run)
    with closing(bench):
        warm_up: list[Phase] = []
        if options.warm_up_s:
            warm_up.append(bench.warm_up(options.loads[0], options.warm_up_s))
        found: Search | None = None
        if options.search:
            assert options.slo is not None  # noqa: S101 - checked by Options
            found = _search(
                bench.run, options.loads[0], options.slo, lambda load: bench.warm_up(load, _GUESS_S), warm_up
            )
        else:
            for load in options.loads:
                if bench.run(load).phase.interrupted:
                    break
        notes = list(options.notes)
        if options.access.tls is not None:
            notes.append("what the generator can send was measured without TLS, what the server answers with it")
        if any(run.phase.interrupted for run in bench.runs):
            notes.append("the test was interrupted: what was under way counts as cancelled")
        return summarise(
            Session(
                bench=bench,
                warm_up=warm_up,
                engine=options.engine,
                command=options.command,
                slo=options.slo,
                search=found,
                perf_analyzer=None if compare_with is None else compare_with(bench.runs),
                notes=notes,
            )
        )


def _search(
    run: Callable[[Load], Run], load: Load, slo: Slo, warm_up: Callable[[Load], Phase], kept: list[Phase]
) -> Search:
    guess = warm_up(Load(_GUESS_S, concurrency=_GUESS_CONCURRENCY))
    kept.append(guess)
    if not guess.counts.answered:
        raise LoadTestError("search: the server answered nothing at all; see its log")

    def trial(rate: float) -> Run:
        return run(replace(load, profile=RateProfile(rate), duration_s=enough_s(slo, rate, load.duration_s)))

    return find_highest_rate(slo, trial, max(1.0, _GUESS_SHARE * guess.throughput))
