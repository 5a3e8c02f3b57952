"""Where the server spent its time: Triton's own statistics of each model, before and after a run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ebbtide.loadtest._triton import Inspector, Untyped
from ebbtide.loadtest.access import Access

_SETTLE_S = 1.0
_SETTLE_PAUSE_S = 0.02

PARTS = ("queue", "input", "infer", "output")
"""Parts of a request's time in a model: waiting, reading tensors, running, writing tensors."""


@dataclass(frozen=True)
class ModelTime:
    """What one model did during a run. Times are means over its requests."""

    name: str
    requests: int
    """Answered."""
    failed: int
    executions: int
    """Batches run; 0 for an ensemble."""
    mean_batch: float
    """Requests that were run together, on average."""
    total_ms: float
    """From the model's queue to its answer."""
    parts_ms: dict[str, float]
    """The same by `PARTS`. An ensemble has none of its own: its steps are models of the list."""
    cache_hits: int
    steps: tuple[str, ...] = ()
    """The models of an ensemble, in order."""

    @property
    def is_ensemble(self) -> bool:
        """Whether it only passes tensors between other models."""
        return bool(self.steps)


@dataclass(frozen=True)
class Snapshot:
    """The statistics of all models at one time."""

    models: dict[str, Untyped]

    @classmethod
    def take(cls, inspector: Inspector) -> Snapshot:
        """Reads the server's statistics; versions of one model are kept apart by name and version.

        Raises:
            LoadTestError: It does not answer.
        """
        return cls({f"{model.name}/{model.version}": model for model in inspector.statistics()})

    @classmethod
    def take_settled(cls, inspector: Inspector) -> Snapshot:
        """Reads the statistics once they stand still: Triton answers a call a little before it counts it.

        Where other clients keep the server at work, the statistics of a second later are taken as they are.

        Raises:
            LoadTestError: It does not answer.
        """
        end = time.monotonic() + _SETTLE_S
        found = cls.take(inspector)
        while time.monotonic() < end:
            time.sleep(_SETTLE_PAUSE_S)
            earlier, found = found, cls.take(inspector)
            if found == earlier:
                break
        return found


def server_time(before: Snapshot, after: Snapshot, steps: dict[str, tuple[str, ...]]) -> list[ModelTime]:
    """What each model did between two snapshots; models that did nothing are left out.

    Args:
        before: At the start.
        after: At the end, of the same server.
        steps: The steps of each ensemble.
    """
    found: dict[str, list[tuple[Untyped | None, Untyped]]] = {}
    for key, model in after.models.items():
        found.setdefault(model.name, []).append((before.models.get(key), model))
    times = [_model_time(name, versions, steps.get(name, ())) for name, versions in found.items()]
    return [time for time in times if time.requests or time.failed]


def ensemble_steps(inspector: Inspector, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The steps of those of the models that are ensembles.

    Raises:
        LoadTestError: The server lacks one of the models.
    """
    configs = {name: inspector.config(name) for name in names}
    return {
        name: tuple(step.model_name for step in config.ensemble_scheduling.step)
        for name, config in configs.items()
        if config.platform == "ensemble"
    }


def time_shares(target: str, ensembles: Sequence[str]) -> dict[str, float]:
    """The part that each step took of an ensemble's time since the server started, the largest over the ensembles.

    Args:
        target: ``host:port`` of Triton's gRPC endpoint.
        ensembles: Names of models.

    Raises:
        LoadTestError: No Triton answers there, or it lacks one of the models.
    """
    inspector = Inspector(target, Access())
    try:
        steps = ensemble_steps(inspector, ensembles)
        times = {time.name: time for time in server_time(Snapshot({}), Snapshot.take(inspector), steps)}
    finally:
        inspector.close()
    shares: dict[str, float] = {}
    for ensemble, names in steps.items():
        for name in names:
            if ensemble in times and name in times and times[ensemble].total_ms:
                share = times[name].total_ms / times[ensemble].total_ms
                shares[name] = max(share, shares.get(name, 0.0))
    return shares


def slowest_steps(times: Sequence[ModelTime]) -> list[str]:
    """For each ensemble, in words, the step that took most of its time, and what in it did."""
    by_name = {time.name: time for time in times}
    sentences = []
    for ensemble in times:
        steps = [by_name[name] for name in ensemble.steps if name in by_name]
        if not steps or not ensemble.requests:
            continue
        slowest = max(steps, key=lambda step: step.total_ms)
        part = max(slowest.parts_ms, key=lambda name: slowest.parts_ms[name])
        sentences.append(
            f"{ensemble.name}: {slowest.name} takes {slowest.total_ms:.1f} of {ensemble.total_ms:.1f} ms on the server"
            f", {slowest.parts_ms[part]:.1f} of them {_DOING[part]}"
        )
    return sentences


_DOING = {
    "queue": "waiting in its queue",
    "input": "reading its inputs",
    "infer": "running",
    "output": "writing its outputs",
}


def _model_time(name: str, versions: list[tuple[Untyped | None, Untyped]], steps: tuple[str, ...]) -> ModelTime:
    def delta(kind: str, field: str) -> int:
        return sum(
            getattr(getattr(after.inference_stats, kind), field)
            - (getattr(getattr(before.inference_stats, kind), field) if before is not None else 0)
            for before, after in versions
        )

    def moved(field: str) -> int:
        return sum(getattr(after, field) - (getattr(before, field) if before else 0) for before, after in versions)

    def mean_ms(kind: str) -> float:
        return delta(kind, "ns") / 1e6 / max(1, delta(kind, "count"))

    executions = 0 if steps else moved("execution_count")
    kinds = ("queue", "compute_input", "compute_infer", "compute_output")
    return ModelTime(
        name=name,
        requests=delta("success", "count"),
        failed=delta("fail", "count"),
        executions=executions,
        mean_batch=moved("inference_count") / executions if executions else 0.0,
        total_ms=mean_ms("success"),
        parts_ms={} if steps else {part: mean_ms(kind) for part, kind in zip(PARTS, kinds, strict=True)},
        cache_hits=delta("cache_hit", "count"),
        steps=steps,
    )
