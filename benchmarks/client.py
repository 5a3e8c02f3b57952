"""What the client adds to a hand-written tritonclient call, and what several people in one call and shared memory gain.

Variants take turns on one server, so that the machine's moods hit all alike. Prints a table of medians and ratios, and
writes JSON. Client and server share the machine's cores: at 64 calls in flight the Python of the client is the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import InferenceServerClient
from tritonclient.grpc.aio import InferenceServerClient as AsyncInferenceServerClient

from benchmarks.client_shared_memory import measure_shared_memory
from benchmarks.client_tensors import medians_ms, outputs_of, tensors_of
from ebbtide.client import AsyncInterestClient, InterestClient, RecommendRequest, event, recommend_request
from ebbtide.client.codec import EncodedRequest, decode, encode
from ebbtide.interest import contract
from ebbtide.serve import ServerConfig, TritonServer

ROOT = Path(__file__).parents[1]
EVENTS = (1, 60, 512)
IN_FLIGHT = 64
PEOPLE = 512
TOGETHER = (1, 4, 16, 64)
"""People in one call."""
NOW_MS = 1_700_000_000_000

Results = dict[str, Any]


def a_request(events: int, item_ids: list[str]) -> RecommendRequest:
    """Events of known items, a minute apart."""
    return recommend_request(
        history=[
            event(item_id=item_ids[index % len(item_ids)], time_ms=NOW_MS - 60_000 * (index + 1), weight=1)
            for index in range(events)
        ]
    )


def measure_latency(url: str, item_ids: list[str], rounds: int) -> list[Results]:
    """One call at a time: tritonclient with tensors at hand, tritonclient with this package's codec, and the client."""
    found = []
    with InterestClient(url) as client, InferenceServerClient(url) as plain:
        for events in EVENTS:
            request = a_request(events, item_ids)
            encoded = encode(request, NOW_MS)

            def by_hand(encoded: EncodedRequest = encoded) -> object:
                return outputs_of(plain.infer(encoded.model_name, tensors_of(encoded), client_timeout=5))

            def with_codec(request: RecommendRequest = request) -> object:
                inputs = tensors_of(encode(request, NOW_MS))
                return decode(outputs_of(plain.infer(contract.RECOMMEND.name, inputs, client_timeout=5)))

            def by_client(request: RecommendRequest = request) -> object:
                return client.recommend(request)

            medians = medians_ms(
                {"tritonclient": by_hand, "tritonclient and codec": with_codec, "client": by_client}, rounds
            )
            found.append(
                {
                    "events": events,
                    "p50_ms": medians,
                    "p50_over_tritonclient": round(medians["client"] / medians["tritonclient"], 3),
                }
            )
    return found


async def _throughput(call: Callable[[], Any], seconds: float) -> float:
    end = time.perf_counter() + seconds
    done = 0

    async def worker() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await call()
            done += 1

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return done / seconds


async def measure_throughput(url: str, item_ids: list[str], seconds: float) -> dict[str, float]:
    """Calls per second with 64 in flight; medians of three turns."""
    request = a_request(60, item_ids)
    encoded = encode(request, NOW_MS)
    turns: dict[str, list[float]] = {"tritonclient.aio": [], "client": []}
    async with AsyncInterestClient(url) as client, AsyncInferenceServerClient(url) as plain:

        async def by_hand() -> None:
            outputs_of(await plain.infer(encoded.model_name, tensors_of(encoded), client_timeout=30))

        for _ in range(3):
            turns["tritonclient.aio"].append(await _throughput(by_hand, seconds))
            turns["client"].append(await _throughput(lambda: client.recommend(request, timeout_s=30), seconds))
    return {name: round(float(np.median(rates)), 1) for name, rates in turns.items()}


def measure_perf_analyzer(program: Path, url: str, item_ids: list[str]) -> float:
    """Calls per second by NVIDIA's perf_analyzer, with the same request and as many in flight."""
    encoded = encode(a_request(60, item_ids), NOW_MS)
    content = {
        name: {"content": array.reshape(-1).tolist(), "shape": list(array.shape[1:])}
        for name, array in encoded.tensors.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        data, report = Path(folder) / "data.json", Path(folder) / "report.csv"
        data.write_text(json.dumps({"data": [content]}))
        shapes = [f"--shape={name}:{array.shape[1]}" for name, array in encoded.tensors.items()]
        load = ("-i", "grpc", "--async", "--concurrency-range", str(IN_FLIGHT))
        command = [program, "-m", encoded.model_name, "-u", url, *load, "--input-data", data, "-f", report, *shapes]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        with report.open() as lines:
            (row,) = csv.DictReader(lines)
    return float(row["Inferences/Second"])


def measure_people(url: str, item_ids: list[str], seconds: float) -> list[Results]:
    """People per second of `recommend_many`, one to a call against several; medians of five turns."""
    found = []
    for events in EVENTS:
        requests = [a_request(events, item_ids)] * PEOPLE
        people_per_s = asyncio.run(_people_per_s(url, requests, seconds / 5))
        alone = people_per_s[1]
        found.append(
            {
                "events": events,
                "people_per_s": {str(together): round(rate, 1) for together, rate in people_per_s.items()},
                "over_one_by_one": {str(together): round(rate / alone, 2) for together, rate in people_per_s.items()},
            }
        )
    return found


async def _people_per_s(url: str, requests: list[RecommendRequest], seconds: float) -> dict[int, float]:
    turns: dict[int, list[float]] = {together: [] for together in TOGETHER}
    async with AsyncInterestClient(url) as client:
        for _ in range(5):
            for together, rates in turns.items():
                began = time.perf_counter()
                done = 0
                while time.perf_counter() < began + seconds:
                    results = await client.recommend_many(requests, people_per_request=together, timeout_s=30)
                    assert all(result.error is None for result in results)
                    done += len(results)
                rates.append(done / (time.perf_counter() - began))
    return {together: float(np.median(rates)) for together, rates in turns.items()}


def import_seconds(module: str) -> float:
    """The quickest of nine fresh interpreters."""
    times = []
    for _ in range(9):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
        times.append(time.perf_counter() - began)
    return min(times)


def measure_import() -> Results:
    """Import of the client against that of what it stands on."""
    bare, triton, ours = import_seconds("sys"), import_seconds("tritonclient.grpc"), import_seconds("ebbtide.client")
    return {
        "tritonclient_s": round(triton - bare, 4),
        "client_s": round(ours - bare, 4),
        "time_over_tritonclient": round((ours - bare) / (triton - bare), 3),
    }


def report(console: Console, content: Results) -> None:
    """Prints what was measured."""
    table = Table("case", "variant", "p50, ms", "ratio", title="One call at a time")
    for case in content["sync"]["cases"]:
        for name, median in case["p50_ms"].items():
            table.add_row(
                f"{case['events']} events", name, f"{median:.3f}", f"{median / case['p50_ms']['tritonclient']:.3f}"
            )
    console.print(table)
    table = Table("variant", "calls per second", title=f"{IN_FLIGHT} calls in flight, 60 events")
    for name, rate in content["async"]["calls_per_s"].items():
        table.add_row(name, f"{rate:,.0f}")
    console.print(table)
    table = Table("case", "people in a call", "people per second", "ratio", title=f"recommend_many, {PEOPLE} people")
    for case in content["people"]:
        for together, rate in case["people_per_s"].items():
            table.add_row(f"{case['events']} events", together, f"{rate:,.0f}", f"{case['over_one_by_one'][together]}")
    console.print(table)
    table = Table("case", "plain, ms", "shared, ms", "ratio", title="Shared memory")
    for case in content["shared_memory"]:
        medians = case["p50_ms"]
        table.add_row(
            case["case"], f"{medians['plain']:.3f}", f"{medians['shared']:.3f}", f"{case['shared_over_plain']:.3f}"
        )
    console.print(table)
    console.print(f"import: {content['import']['time_over_tritonclient']} times tritonclient.grpc")


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=ROOT / "artifacts" / "repository")
    parser.add_argument("--rounds", type=int, default=1_000, help="Calls of each variant in each case.")
    parser.add_argument("--seconds", type=float, default=10.0, help="Length of one turn of the throughput measurement.")
    parser.add_argument("--perf-analyzer", type=Path, help="NVIDIA's perf_analyzer; without it, no ratio to it.")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "client.json")
    arguments = parser.parse_args()
    console = Console()
    with console.status("Measuring"), TritonServer(ServerConfig(arguments.repository)) as server:
        url = server.grpc_url
        with InterestClient(url) as client:
            item_ids = [item.item_id for item in client.recommend().items]
        latency = measure_latency(url, item_ids, arguments.rounds)
        rates = asyncio.run(measure_throughput(url, item_ids, arguments.seconds))
        throughput: Results = {
            "calls_per_s": rates,
            "throughput_over_tritonclient_aio": round(rates["client"] / rates["tritonclient.aio"], 3),
        }
        if arguments.perf_analyzer is not None:
            rate = measure_perf_analyzer(arguments.perf_analyzer, url, item_ids)
            throughput["calls_per_s"]["perf_analyzer"] = round(rate, 1)
            throughput["throughput_over_perf_analyzer"] = round(rates["client"] / rate, 3)
        people = measure_people(url, item_ids, arguments.seconds)
        requests = {events: a_request(events, item_ids) for events in EVENTS}
        shared = measure_shared_memory(url, requests, NOW_MS, arguments.rounds)
    content: Results = {
        "machine": {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()},
        "sync": {"p50_over_tritonclient": latency[1]["p50_over_tritonclient"], "cases": latency},
        "async": throughput,
        "people": people,
        "import": measure_import(),
        "shared_memory": shared,
    }
    report(console, content)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
