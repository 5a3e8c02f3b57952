"""Compares `recommend` with a do-nothing ensemble: the cost of the answer on top of Triton, its stubs and gRPC."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.serving.exported import exported
from benchmarks.serving.floor import write_floor
from benchmarks.serving.load import PerfAnalyzer
from benchmarks.serving.settings import Settings
from benchmarks.serving.systems import triton
from benchmarks.serving.turns import Rounds, ratio, raw, take_turns
from benchmarks.serving.users import CURRENT, HISTORY, real_requests
from ebbtide.interest import served_models
from ebbtide.train.bundle import InterestBundle

IN_FLIGHT = 16
OURS, FLOOR = "ebbtide", "do_nothing"


def measure(settings: Settings) -> dict[str, Any]:
    """Latency with one request in flight, and throughput with `IN_FLIGHT`."""
    load = PerfAnalyzer.set_up()
    bundle = InterestBundle.load(settings.bundle)
    requests = real_requests(bundle)
    data = requests.write_json(settings.work / "requests.json")
    repository = exported(settings)
    floor = write_floor(repository, settings.work / "floor")
    seconds = turn_seconds(settings)
    with triton(repository) as ours, triton(floor) as nothing:
        urls = {OURS: ours, FLOOR: nothing}
        for url in urls.values():
            load.warm_up(url, served_models.RECOMMEND.name, data, IN_FLIGHT)

        def rounds(concurrency: int) -> Rounds:
            turn = partial(
                load.turn, model=served_models.RECOMMEND.name, data=data, concurrency=concurrency, seconds=seconds
            )
            return take_turns({name: partial(turn, url) for name, url in urls.items()}, settings.repeats)

        alone, together = rounds(1), rounds(IN_FLIGHT)
    return {
        "p50_over_floor": ratio([turn.p50_ms for turn in alone[OURS]], [turn.p50_ms for turn in alone[FLOOR]]),
        "throughput_over_floor": ratio(
            [turn.requests_per_s for turn in together[OURS]], [turn.requests_per_s for turn in together[FLOOR]]
        ),
        "history_events": HISTORY,
        "current_events": CURRENT,
        "items": len(bundle.catalog),
        "users": len(requests),
        "turn_s": seconds,
        "concurrency_1": raw(alone),
        f"concurrency_{IN_FLIGHT}": raw(together),
    }


def turn_seconds(settings: Settings) -> float:
    """Seconds of one turn."""
    return 3.0 if settings.quick else 6.0
