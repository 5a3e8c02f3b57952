"""Processor time of the NumPy code of `adaptive_weights` for real requests, without a server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import cycle
from statistics import median
from typing import Any

from benchmarks.serving.exported import exported
from benchmarks.serving.settings import Settings
from benchmarks.serving.users import CURRENT, HISTORY, real_requests
from ebbtide.export import versions
from ebbtide.interest import served_models
from ebbtide.interest.checks import RequestTensors
from ebbtide.interest.exported import read_pipeline
from ebbtide.interest.pipeline import InterestPipeline
from ebbtide.train.bundle import InterestBundle

BATCHES = (1, 16, 64)
"""Batch sizes, in requests."""
_TURN_S, _WARMING_RUNS = 0.3, 10


def measure(settings: Settings) -> dict[str, Any]:
    """Microseconds of processor time per request, by batch size; the sizes take turns."""
    repository = exported(settings)
    version = str(versions.served_version(repository))
    pipeline = read_pipeline(repository / served_models.ADAPTIVE_WEIGHTS.name / version)
    requests = list(real_requests(InterestBundle.load(settings.bundle)))
    turns: dict[int, list[float]] = {size: [] for size in BATCHES}
    for _ in range(settings.repeats):
        for size, found in turns.items():
            found.append(_turn(pipeline, requests, size))
    return {
        "cpu_us_per_request": {str(size): round(median(found), 2) for size, found in turns.items()},
        "turns": {str(size): [round(one, 2) for one in found] for size, found in turns.items()},
        "history_events": HISTORY,
        "current_events": CURRENT,
    }


def _turn(pipeline: InterestPipeline, requests: Sequence[RequestTensors], size: int) -> float:
    """Microseconds per request; every batch has other users, and the first runs are not counted."""
    batches = _batches(requests, size)
    for _ in range(_WARMING_RUNS):
        pipeline.run_requests(next(batches))
    served = 0
    began = now = time.process_time()
    while now - began < _TURN_S:
        pipeline.run_requests(next(batches))
        served += size
        now = time.process_time()
    return (now - began) / served * 1e6


def _batches(requests: Sequence[RequestTensors], size: int) -> Iterator[list[RequestTensors]]:
    endless = cycle(requests)
    while True:
        yield [next(endless) for _ in range(size)]
