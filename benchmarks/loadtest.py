"""The load generator beside NVIDIA's perf_analyzer at equal concurrency, and beside a server that does nothing.

The two take turns on one server with the same requests of real users, so that the machine's moods hit both alike, and
on a core that the server does not use: on shared ones the server gets what a generator leaves, which is not the same.
Prints medians, ratios and how far each generator's turns lie apart, and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.serving.load import PerfAnalyzer
from benchmarks.serving.machine import facts, load_average
from ebbtide.cli.session_log import read_session_log
from ebbtide.loadtest import Generator, Workload, build_workload
from ebbtide.loadtest.calibrate import Calibration, calibrate
from ebbtide.loadtest.perf_analyzer import write_input
from ebbtide.loadtest.samples import histogram, percentiles_ms
from ebbtide.serve import ServerConfig, TritonServer

ROOT = Path(__file__).parents[1]
MODELS = ("recommend", "recommend_text")
CONCURRENCY = (1, 4, 8, 16)
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
        ours, theirs = np.empty((rounds, 2)), np.empty((rounds, 2))
        generator.closed_model(concurrency, _WARM_UP_S)
        for index in range(rounds):
            turn = program.turn(url, model, data, concurrency, seconds)
            theirs[index] = turn.requests_per_s, turn.p50_ms
            phase = generator.closed_model(concurrency, seconds)
            if phase.counts.answered != phase.sent:
                raise RuntimeError(f"{model}: {phase.counts.answered} of {phase.sent} requests were answered")
            ours[index] = phase.throughput, percentiles_ms(histogram(phase.records))["p50"]
        mine, other = np.median(ours, axis=0), np.median(theirs, axis=0)
        found.append(
            {
                "model": model,
                "in_flight": concurrency,
                "requests_per_s": round(float(mine[0]), 1),
                "perf_analyzer_requests_per_s": round(float(other[0]), 1),
                "p50_ms": round(float(mine[1]), 3),
                "perf_analyzer_p50_ms": round(float(other[1]), 3),
                "throughput_spread": _spread(ours[:, 0]),
                "perf_analyzer_throughput_spread": _spread(theirs[:, 0]),
                "throughput_ratio": round(float(mine[0] / other[0]), 3),
                "p50_ratio": round(float(mine[1] / other[1]), 3),
            }
        )
    return found


def _spread(throughput: npt.NDArray[np.float64]) -> float:
    """The fastest turn over the slowest."""
    return round(float(throughput.max() / throughput.min()), 2)


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
