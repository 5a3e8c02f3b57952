"""The result of a load test as one JSON document: everything that the reports show and comparisons need."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram

from ebbtide.loadtest.calibrate import MARGIN, Calibration
from ebbtide.loadtest.machine import machine_facts
from ebbtide.loadtest.replay import Workload
from ebbtide.loadtest.run import Bench, Run
from ebbtide.loadtest.samples import (
    PERCENTILES,
    Counts,
    Phase,
    Records,
    errors_by_code,
    histogram,
    percentile_name,
    percentiles_ms,
    windows,
)
from ebbtide.loadtest.search import Search
from ebbtide.loadtest.server_time import ModelTime, slowest_steps
from ebbtide.loadtest.settings import Slo

FORMAT = 1
"""Version of the document; a number that comparisons check."""

_BUCKETS = 60
_CROWDED_CORES = 0.3


@dataclass(frozen=True)
class Session:
    """Everything that one load test did."""

    bench: Bench
    warm_up: list[Phase]
    engine: str
    """What generated the load."""
    command: str
    """How to run it again."""
    slo: Slo | None = None
    search: Search | None = None
    perf_analyzer: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    """Notes for the reader of the report."""


def summarise(session: Session) -> dict[str, Any]:
    """The result; numbers that are not known are None.

    Raises:
        ValueError: No run was made.
    """
    bench = session.bench
    if not bench.runs:
        raise ValueError("summarise: no run was made")
    headline = _headline(session)
    records = np.concatenate([run.phase.records for run in headline])
    filled = histogram(records)
    models = _pooled([run.models for run in headline])
    counts = _total([run.phase for run in bench.runs])
    limits = [run.generator_limit for run in headline if run.generator_limit]
    limit = session.search.generator_limit if session.search else None
    result: dict[str, Any] = _finite(
        {
            "ebbtide_loadtest": FORMAT,
            "command": session.command,
            "began_unix_s": round(bench.runs[0].phase.began_unix_s, 3),
            **asdict(counts),
            "unaccounted": counts.unaccounted,
            "latency_ms": percentiles_ms(filled),
            "throughput": float(np.mean([run.phase.throughput for run in headline])),
            "headline": str(headline[0].load),
            "slo": None if session.slo is None else _slo(session.slo, filled, headline),
            "search": None if session.search is None else _search(session.search),
            "errors": errors_by_code(np.concatenate([run.phase.records for run in bench.runs])),
            "endpoints": _endpoints(bench.workload, headline),
            "models": [_model(model) for model in models],
            "slowest_steps": slowest_steps(models),
            "runs": [_run(run, any(run is one for one in headline)) for run in bench.runs],
            "warm_up": asdict(_total(session.warm_up)),
            "histogram": _histogram(filled),
            "generator": _generator(session, bench.calibration, limit or (limits[0] if limits else None)),
            "requests": {
                "mix": {name: round(share, 6) for name, share in bench.workload.mix.items()},
                "distinct": {name: len(messages) for name, messages in bench.workload.messages.items()},
                "users": bench.workload.users,
                "by_user": bench.workload.by_user,
                "mean_bytes": {
                    name: round(float(np.mean([len(message) for message in messages])))
                    for name, messages in bench.workload.messages.items()
                },
                "seed": bench.seed,
            },
            "perf_analyzer": session.perf_analyzer,
            "server": bench.server,
            "machine": machine_facts(),
            "notes": [
                *session.notes,
                *dict.fromkeys(run.note for run in bench.runs if run.note),
                *_others(bench.workload, headline, models),
                *_crowd(headline),
            ],
        }
    )
    return result


def holds(slo: Slo, run: Run) -> bool:
    """Whether a run by itself holds the objective."""
    return bool(_slo(slo, histogram(run.phase.records), [run])["held"])


def _headline(session: Session) -> list[Run]:
    """The runs of the headline: those at the rate found, or the last that held the objective, or the last."""
    runs = session.bench.runs
    if session.search is not None:
        best = session.search.highest_held
        return list(best.trials) if best is not None else [runs[-1]]
    held = [run for run in runs if session.slo is not None and holds(session.slo, run)]
    return [(held or runs)[-1]]


def _slo(slo: Slo, filled: HdrHistogram, runs: list[Run]) -> dict[str, Any]:
    counts = _total([run.phase for run in runs])
    due = counts.sent + counts.unsent
    lost = 1 - counts.answered / due if due else 0.0
    found = percentiles_ms(filled, tuple(slo.latency_limit_ms))
    parts = [
        {
            "percentile": percentile,
            "limit_ms": limit,
            "found_ms": found[percentile_name(percentile)],
            "held": bool(found[percentile_name(percentile)] < limit),
        }
        for percentile, limit in sorted(slo.latency_limit_ms.items())
    ]
    held = bool(counts.answered) and lost <= slo.error_share and all(part["held"] for part in parts)
    errors = {"limit": slo.error_share, "found": lost}
    return {"text": str(slo), "held": held, "percentiles": parts, "error_share": errors}


def _search(search: Search) -> dict[str, Any]:
    best, broken = search.highest_held, search.lowest_broken
    return {
        "highest_rate_held": None if best is None else best.rate,
        "lowest_rate_broken": None if broken is None else broken.rate,
        "is_server_limit": search.is_limit,
        "generator_limit": search.generator_limit,
        "confidence": 0.95,
        "levels": [
            {
                "rate": level.rate,
                "held": level.held,
                "why": level.why,
                "trials": len(level.trials),
                "throughput": float(np.mean([run.phase.throughput for run in level.trials])),
                "latency_ms": percentiles_ms(histogram(np.concatenate([run.phase.records for run in level.trials]))),
                "bounds_ms": {
                    percentile_name(percentile): {"mean": mean, "upper": upper}
                    for percentile, (mean, upper) in level.bound_ms.items()
                },
            }
            for level in search.levels
        ],
    }


def _generator(session: Session, calibration: Calibration, limit: str | None) -> dict[str, Any]:
    measured = max(run.phase.throughput for run in session.bench.runs)
    return {
        "engine": session.engine,
        "do_nothing_throughput": calibration.throughput,
        "cpu_us_per_request": calibration.cpu_us_per_request,
        "times_the_highest_throughput": calibration.throughput / measured if measured else None,
        "required_times": MARGIN,
        "limit": limit,
    }


def _endpoints(workload: Workload, runs: list[Run]) -> dict[str, Any]:
    found = {}
    records = np.concatenate([run.phase.records for run in runs])
    for index, name in enumerate(workload.endpoints):
        own: Records = records[records["endpoint"] == index]
        counts = Counts.of(len(own), own)
        found[name] = {
            "sent": counts.sent,
            "answered": counts.answered,
            "failed": counts.failed,
            "cancelled": counts.cancelled,
            "latency_ms": percentiles_ms(histogram(own)),
        }
    return found


def _others(workload: Workload, runs: list[Run], models: list[ModelTime]) -> list[str]:
    """Requests of other clients during the runs, which the server's own times include."""
    records = np.concatenate([run.phase.records for run in runs])
    answered = {model.name: model.requests for model in models}
    notes = []
    for index, name in enumerate(workload.endpoints):
        more = answered.get(name, 0) - int(np.count_nonzero(records["endpoint"] == index))
        if more > 0:
            notes.append(
                f"the server also answered {more:,} requests of {name} from other clients; its own times include them"
            )
    return notes


def _crowd(runs: list[Run]) -> list[str]:
    """A note if other programs kept the machine busy, which makes latencies longer."""
    others = [
        machine - generator - server
        for usage in (run.usage for run in runs if run.usage.server_cores)
        for machine, generator, server in zip(
            usage.machine_cores, usage.generator_cores, usage.server_cores, strict=False
        )
    ]
    busy = float(np.median(others)) if others else 0.0
    if busy < _CROWDED_CORES:
        return []
    return [f"other programs kept {busy:.1f} cores of the machine busy during the run, so the server had less of it"]


def _run(run: Run, headline: bool) -> dict[str, Any]:
    phase = run.phase
    return {
        "load": str(run.load),
        "model": "open" if run.load.concurrency is None else "closed",
        "rate": None if run.load.profile is None else run.load.profile.rate,
        "concurrency": run.load.concurrency,
        "duration_s": phase.duration_s,
        "headline": headline,
        **asdict(phase.counts),
        "unaccounted": phase.counts.unaccounted,
        "throughput": phase.throughput,
        "latency_ms": percentiles_ms(histogram(phase.records), PERCENTILES),
        "late_ms": {
            "mean": 1e3 * float(phase.records["late_s"].mean()) if len(phase.records) else None,
            "max": 1e3 * float(phase.records["late_s"].max()) if len(phase.records) else None,
        },
        "generator_limit": run.generator_limit,
        "interrupted": phase.interrupted,
        "windows": asdict(windows(phase.records, phase.duration_s)),
        "usage": asdict(run.usage),
    }


def _histogram(filled: HdrHistogram) -> dict[str, Any]:
    """Counts in buckets of equal width on a logarithmic scale, and the whole histogram for other programs."""
    values = [(item.value_iterated_to, item.count_added_in_this_iter_step) for item in filled.get_recorded_iterator()]
    empty: dict[str, Any] = {"edges_ms": [], "counts": [], "hdr_base64_us": filled.encode().decode()}
    if not values:
        return empty
    reached, counts = np.array(values, dtype=np.float64).T
    low, high = reached.min() * 0.98, reached.max() * 1.02
    found, edges = np.histogram(reached, bins=np.geomspace(low, high, _BUCKETS + 1), weights=counts)
    return {
        **empty,
        "edges_ms": [round(float(edge) / 1e3, 5) for edge in edges],
        "counts": [int(count) for count in found],
    }


def _model(model: ModelTime) -> dict[str, Any]:
    return {**asdict(model), "steps": list(model.steps)}


def _pooled(runs: list[list[ModelTime]]) -> list[ModelTime]:
    """The times of several runs as if they were one: means weighted by requests."""
    by_name: dict[str, list[ModelTime]] = {}
    for models in runs:
        for model in models:
            by_name.setdefault(model.name, []).append(model)
    return [_mean_of(models) for models in by_name.values()]


def _mean_of(models: list[ModelTime]) -> ModelTime:
    requests = sum(model.requests for model in models)

    def mean(values: list[float]) -> float:
        return sum(value * model.requests for value, model in zip(values, models, strict=True)) / max(1, requests)

    return ModelTime(
        name=models[0].name,
        requests=requests,
        failed=sum(model.failed for model in models),
        executions=sum(model.executions for model in models),
        mean_batch=mean([model.mean_batch for model in models]),
        total_ms=mean([model.total_ms for model in models]),
        parts_ms={part: mean([model.parts_ms[part] for model in models]) for part in models[0].parts_ms},
        cache_hits=sum(model.cache_hits for model in models),
        steps=models[0].steps,
    )


def _total(phases: list[Phase]) -> Counts:
    return sum((phase.counts for phase in phases), Counts(0, 0, 0, 0))


def _finite(value: Any) -> Any:  # noqa: ANN401
    """The same with None for numbers that JSON does not have, and fewer digits."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    if isinstance(value, float):
        return (
            float(f"{value:.6g}")
            if np.isfinite(value) and abs(value) < 1e6
            else (value if np.isfinite(value) else None)
        )
    return value
