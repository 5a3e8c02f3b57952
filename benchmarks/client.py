"""What the client and the gateway add to a hand-written call, and what packs of users and shared memory gain.

Variants take turns on one server, so that the machine's moods hit all alike. Prints a table of medians and ratios, and
writes JSON. Client and server share the machine's cores: at 64 calls in flight the Python of the client is the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import InferenceServerClient
from tritonclient.grpc.aio import InferenceServerClient as AsyncInferenceServerClient

from benchmarks.client_gateway import measure_gateway
from benchmarks.client_install import measure_install
from benchmarks.client_shared_memory import measure_shared_memory
from benchmarks.client_tensors import medians_ms, outputs_of, tensors_of
from benchmarks.serving.load import PerfAnalyzer
from benchmarks.serving.machine import facts, load_average
from ebbtide.client import AsyncInterestClient, ClientConfig, InterestClient, RecommendRequest, event, recommend_request
from ebbtide.client.codec import EncodedRequest, decode, encode
from ebbtide.interest import served_models
from ebbtide.serve import ServerConfig, TritonServer

ROOT = Path(__file__).parents[1]
EVENTS = (1, 60, 512)
IN_FLIGHT = 64
ALONE = "client, each call alone"
TURNS = 3
USERS = 512
TOGETHER = (1, 4, 16, 64)
"""Users in one call."""
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
                return decode(outputs_of(plain.infer(served_models.RECOMMEND.name, inputs, client_timeout=5)))

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


def measure_throughput(url: str, item_ids: list[str], seconds: float) -> Results:
    """Calls per second with 64 in flight; medians of turns, perf_analyzer's among them."""
    request = a_request(60, item_ids)
    program = PerfAnalyzer.set_up()
    turns: dict[str, list[float]] = {"perf_analyzer": [], "tritonclient.aio": [], ALONE: [], "client": []}
    with tempfile.TemporaryDirectory() as folder:
        data = write_perf_analyzer_input(request, Path(folder) / "data.json")
        for _ in range(TURNS):
            theirs = program.turn(url, served_models.RECOMMEND.name, data, IN_FLIGHT, seconds)
            turns["perf_analyzer"].append(theirs.requests_per_s)
            for name, rate in asyncio.run(_turns(url, request, seconds)).items():
                turns[name].append(rate)
    rates = {name: round(float(np.median(found)), 1) for name, found in turns.items()}
    return {
        "calls_per_s": rates,
        "throughput_over_perf_analyzer": round(rates["client"] / rates["perf_analyzer"], 3),
        "throughput_over_tritonclient_aio": round(rates["client"] / rates["tritonclient.aio"], 3),
        "alone_over_perf_analyzer": round(rates[ALONE] / rates["perf_analyzer"], 3),
        "turns": turns,
    }


async def _turns(url: str, request: RecommendRequest, seconds: float) -> dict[str, float]:
    encoded = encode(request, NOW_MS)
    alone = ClientConfig(users_per_request=1)
    async with (
        AsyncInterestClient(url) as client,
        AsyncInterestClient(url, config=alone) as client_alone,
        AsyncInferenceServerClient(url) as plain,
    ):

        async def by_hand() -> None:
            outputs_of(await plain.infer(encoded.model_name, tensors_of(encoded), client_timeout=30))

        async def by_client(one: AsyncInterestClient) -> None:
            await one.recommend(request, timeout_s=30)

        calls: dict[str, Callable[[], Any]] = {
            "tritonclient.aio": by_hand,
            ALONE: partial(by_client, client_alone),
            "client": partial(by_client, client),
        }
        return {name: await _throughput(call, seconds) for name, call in calls.items()}


def write_perf_analyzer_input(request: RecommendRequest, path: Path) -> Path:
    """The same request as perf_analyzer's ``--input-data``."""
    content = {
        name: {"content": array.reshape(-1).tolist(), "shape": list(array.shape[1:])}
        for name, array in encode(request, NOW_MS).tensors.items()
    }
    path.write_text(json.dumps({"data": [content]}))
    return path


def measure_users(url: str, item_ids: list[str], seconds: float) -> list[Results]:
    """Users per second of `recommend_many`, one to a call against several; medians of three turns."""
    found = []
    for events in EVENTS:
        requests = [a_request(events, item_ids)] * USERS
        users_per_s = asyncio.run(_users_per_s(url, requests, seconds / 5))
        alone = users_per_s[1]
        found.append(
            {
                "events": events,
                "users_per_s": {str(together): round(rate, 1) for together, rate in users_per_s.items()},
                "over_one_by_one": {str(together): round(rate / alone, 2) for together, rate in users_per_s.items()},
            }
        )
    return found


async def _users_per_s(url: str, requests: list[RecommendRequest], seconds: float) -> dict[int, float]:
    turns: dict[int, list[float]] = {together: [] for together in TOGETHER}
    async with AsyncInterestClient(url) as client:
        for _ in range(TURNS):
            for together, rates in turns.items():
                began = time.perf_counter()
                done = 0
                while time.perf_counter() < began + seconds:
                    results = await client.recommend_many(requests, users_per_request=together, timeout_s=30)
                    assert all(result.error is None for result in results)
                    done += len(results)
                rates.append(done / (time.perf_counter() - began))
    return {together: float(np.median(rates)) for together, rates in turns.items()}


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
    table = Table("case", "users in a call", "users per second", "ratio", title=f"recommend_many, {USERS} users")
    for case in content["users"]:
        for together, rate in case["users_per_s"].items():
            table.add_row(f"{case['events']} events", together, f"{rate:,.0f}", f"{case['over_one_by_one'][together]}")
    console.print(table)
    table = Table("case", "plain, ms", "shared, ms", "ratio", title="Shared memory")
    for case in content["shared_memory"]:
        medians = case["p50_ms"]
        table.add_row(
            case["case"], f"{medians['plain']:.3f}", f"{medians['shared']:.3f}", f"{case['shared_over_plain']:.3f}"
        )
    console.print(table)
    install = content["install"]
    gateway = content["gateway"]
    console.print(f"gateway: adds {gateway['added_p50_ms']} ms to the median")
    console.print(f"HTTP/JSON: adds {gateway['http_over_grpc_p50_ms']} ms to that of gRPC through the gateway")
    console.print(f"install: {install['megabytes_over_tritonclient']} MB over tritonclient[grpc]")
    console.print(f"import: {content['import']['time_over_tritonclient']} times tritonclient.grpc")


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=ROOT / "artifacts" / "repository")
    parser.add_argument("--rounds", type=int, default=1_000, help="Calls of each variant in each case.")
    parser.add_argument("--seconds", type=float, default=8.0, help="Length of one turn of the throughput measurement.")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "client.json")
    arguments = parser.parse_args()
    console = Console()
    busy, began = load_average(), time.perf_counter()
    with console.status("Measuring"), TritonServer(ServerConfig(arguments.repository)) as server:
        url = server.grpc_url
        with InterestClient(url) as client:
            item_ids = [item.item_id for item in client.recommend().items]
        latency = measure_latency(url, item_ids, arguments.rounds)
        gateway = measure_gateway(url, a_request(60, item_ids), arguments.rounds)
        throughput = measure_throughput(url, item_ids, arguments.seconds)
        users = measure_users(url, item_ids, arguments.seconds)
        requests = {events: a_request(events, item_ids) for events in EVENTS}
        shared = measure_shared_memory(url, requests, arguments.rounds // 2)
    install, imported = measure_install()
    content: Results = {
        "machine": facts(),
        "run": {"load_average_before": busy, "seconds": round(time.perf_counter() - began, 1)},
        "sync": {"p50_over_tritonclient": latency[1]["p50_over_tritonclient"], "cases": latency},
        "async": throughput,
        "gateway": gateway,
        "install": install,
        "import": imported,
        "users": users,
        "shared_memory": shared,
    }
    report(console, content)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
