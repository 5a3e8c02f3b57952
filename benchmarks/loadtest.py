"""The load generator and NVIDIA's perf_analyzer at equal concurrency, and the generator on a do-nothing server.

The two take turns on one server with the same requests of real users, so that noise of the machine affects both alike.
They run on a core that the server does not use: on a shared one the server gets what a generator leaves. Prints
medians, ratios and the spread of each generator's turns, and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.serving.load import PerfAnalyzer, Turn
from benchmarks.serving.machine import facts, load_average
from benchmarks.serving.turns import medians, take_turns
from ebbtide.cli.session_log import read_session_log
from ebbtide.loadtest import Generator, Workload, build_workload
from ebbtide.loadtest.calibrate import Calibration, calibrate
from ebbtide.loadtest.perf_analyzer import write_input
from ebbtide.loadtest.samples import histogram, percentiles_ms
from ebbtide.serve import ServerConfig, TritonServer

ROOT = Path(__file__).parents[1]
MODELS = ("recommend", "recommend_text")
CONCURRENCY = (1, 4, 8, 16)
OURS, THEIRS = "ebbtide", "perf_analyzer"
_REQUESTS = 1_000
_TIMEOUT_S = 30.0
_WARM_UP_S = 1.0

Results = dict[str, Any]


def workloads() -> dict[str, Workload]:
    """Requests of the shipped log's users, one model each."""
    replayed, _ = read_session_log(None, None, None, None, "", ("", "", "", None, None))
    return {model: build_workload(replayed, {model: 1.0}, requests=_REQUESTS) for model in MODELS}


@contextmanager
def server_apart(repository: Path) -> Iterator[tuple[TritonServer, dict[str, list[int]]]]:
    """A server, and the cores that it and the generators have to themselves: the last core is the generators'."""
    cores = sorted(os.sched_getaffinity(0))
    # What is started takes the cores of who starts it.
    apart = {"server": cores[:-1] or cores, "generators": cores[-1:]}
    os.sched_setaffinity(0, apart["server"])
    try:
        with TritonServer(ServerConfig(repository)) as server:
            os.sched_setaffinity(0, apart["generators"])
            yield server, apart
    finally:
        os.sched_setaffinity(0, cores)


def agreement(
    url: str, model: str, generator: Generator, data: Path, program: PerfAnalyzer, rounds: int, seconds: float
) -> list[Results]:
    """Both generators at each concurrency in turns; medians."""
    found = []
    for concurrency in CONCURRENCY:
        generator.closed_model(concurrency, _WARM_UP_S)
        turns = take_turns(
            {
                OURS: partial(_own_turn, generator, concurrency, seconds),
                THEIRS: partial(program.turn, url, model, data, concurrency, seconds),
            },
            rounds,
        )
        ours, theirs = (medians(turns[name]) for name in (OURS, THEIRS))
        found.append(
            {
                "model": model,
                "in_flight": concurrency,
                "requests_per_s": ours["requests_per_s"],
                "perf_analyzer_requests_per_s": theirs["requests_per_s"],
                "p50_ms": ours["p50_ms"],
                "perf_analyzer_p50_ms": theirs["p50_ms"],
                "throughput_spread": _spread(turns[OURS]),
                "perf_analyzer_throughput_spread": _spread(turns[THEIRS]),
                "throughput_ratio": round(ours["requests_per_s"] / theirs["requests_per_s"], 3),
                "p50_ratio": round(ours["p50_ms"] / theirs["p50_ms"], 3),
            }
        )
    return found


def _own_turn(generator: Generator, concurrency: int, seconds: float) -> Turn:
    phase = generator.closed_model(concurrency, seconds)
    if phase.counts.answered != phase.sent:
        raise RuntimeError(f"got {phase.counts.answered} answers to {phase.sent} requests; expected as many")
    latency = percentiles_ms(histogram(phase.records))
    return Turn(round(phase.throughput, 1), round(latency["p50"], 4), round(latency["p99"], 4))


def _spread(turns: Sequence[Turn]) -> float:
    """The fastest turn over the slowest."""
    rates = [turn.requests_per_s for turn in turns]
    return round(max(rates) / min(rates), 2)


def _calibration(found: Calibration, busiest: float) -> Results:
    return {
        "requests_per_s": round(found.throughput, 1),
        "cpu_us_per_request": round(found.cpu_us_per_request, 1),
        "over_recommend": round(found.throughput / busiest, 2),
    }


def report(console: Console, content: Results) -> None:
    """Prints what was measured."""
    table = Table(
        title="throughput in requests/s, p50 in ms; spread: the fastest turn over the slowest",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for title in ("model", "in flight", "ours", "spread", "theirs", "spread", "ratio", "p50", "its", "ratio"):
        table.add_column(title)
    for row in content["agreement"]:
        table.add_row(
            row["model"],
            str(row["in_flight"]),
            f"{row['requests_per_s']:,.0f}",
            f"{row['throughput_spread']:.2f}",
            f"{row['perf_analyzer_requests_per_s']:,.0f}",
            f"{row['perf_analyzer_throughput_spread']:.2f}",
            f"{row['throughput_ratio']:.2f}",
            f"{row['p50_ms']:.3f}",
            f"{row['perf_analyzer_p50_ms']:.3f}",
            f"{row['p50_ratio']:.2f}",
        )
    console.print(table)
    found = content["do_nothing_server"]
    console.print(
        f"a server that does nothing gets {found['requests_per_s']:,.0f} requests/s, {found['over_recommend']} times "
        f"what recommend takes, at {found['cpu_us_per_request']} us of processor time each"
    )


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loadtest", description=__doc__)
    parser.add_argument("--repository", type=Path, default=ROOT / "artifacts" / "repository")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each generator at each concurrency")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a turn")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "loadtest.json")
    arguments = parser.parse_args()
    console = Console()
    busy, began = load_average(), time.perf_counter()
    program, requests = PerfAnalyzer.set_up(), workloads()
    rows: list[Results] = []
    with tempfile.TemporaryDirectory() as folder, server_apart(arguments.repository) as (server, cores):
        url = server.grpc_url
        for model, workload in requests.items():
            data = write_input(Path(folder), workload)[model]
            with console.status(model), Generator(url, workload, timeout_s=_TIMEOUT_S) as generator:
                rows += agreement(url, model, generator, data, program, arguments.rounds, arguments.seconds)
                if model == MODELS[0]:
                    nothing = calibrate(generator, url)
    busiest = max(row["requests_per_s"] for row in rows if row["model"] == MODELS[0])
    content: Results = {
        "machine": facts(),
        "run": {"load_average_before": busy, "seconds": round(time.perf_counter() - began, 1)},
        "rounds": arguments.rounds,
        "cores": cores,
        "agreement": rows,
        "do_nothing_server": _calibration(nothing, busiest),
    }
    report(console, content)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
