"""How soon a change of the catalog is seen, on two running servers of one store that answer requests meanwhile.

    python -m benchmarks.living_catalog [--store embedded] [--json FILE]

With the shipped films, the settings that servers have by default, and 50 requests a second for the lists of known
users: a film that is new, one that becomes popular, one that is removed, one that is out of stock and in stock again,
and what a server knows that starts later. Each time is from the acknowledgement until both servers' lists show it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.serving import machine
from benchmarks.state.stores import STORES, MeasuredStore
from benchmarks.steady import Load
from ebbtide.backfill import LogFiles, backfill
from ebbtide.client import InterestClient, event, new_item, observe_request
from ebbtide.data.dataset import read_dataset
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.train.bundle import InterestBundle

ROOT = Path(__file__).parents[1]
REQUESTS_PER_S = 50
_PATIENCE_S = 60.0
_WATCHERS = 200
"""Users who see the film that becomes popular."""
_ASKED_USERS = 150
LABELS = {
    "new_item_s": "new film has a score",
    "new_item_top10_s": "new film in a fitting user's top 10",
    "trend_s": "trend at the head of a new user's list",
    "removed_s": "removed film has no score",
    "out_of_stock_s": "film out of stock in no list",
    "in_stock_s": "film in stock again",
    "later_trend_s": "a server that starts later knows the trend",
    "later_new_item_s": "a server that starts later has a score of the new film",
}
_SEQUELS = {
    "a new film": "Pitch Perfect 3 (2017). Comedy",
    "another new film": "The Conjuring: The Devil Made Me Do It (2021). Horror",
    "a third new film": "Daddy's Home 2 (2017). Comedy",
}
"""Films that came after the log."""
_NEW, _KEPT, _ = _SEQUELS


def main() -> None:
    """Parses the command line, measures with each store, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.living_catalog", description=__doc__)
    parser.add_argument("--store", choices=STORES, action="append", help="measure this one only; can be repeated")
    parser.add_argument("--bundle", type=Path, default=ROOT / "artifacts" / "bundle", help="for catalog and log")
    parser.add_argument("--repository", type=Path, default=ROOT / "artifacts" / "repository", help="its export")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "living_catalog.json")
    arguments = parser.parse_args()
    console, busy = Console(), machine.load_average()
    bundle = InterestBundle.load(arguments.bundle)
    data = bundle.config.data
    log = LogFiles([data.events], data.columns, max_bad_rows=data.max_bad_rows)
    results: dict[str, dict[str, Any]] = {}
    for name in arguments.store or STORES:
        with tempfile.TemporaryDirectory(dir=ROOT / "artifacts") as folder, STORES[name](Path(folder)) as store:
            with console.status(f"{name}: states of the users"):
                backfill(arguments.repository, log, store.address)
            with console.status(f"{name}: changes of the catalog"):
                results[name] = measure(bundle, arguments.repository, store)
    console.print(table(results))
    report = {"machine": machine.facts(), "load_average_before": busy, "requests_per_s": REQUESTS_PER_S, **results}
    arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def measure(bundle: InterestBundle, repository: Path, store: MeasuredStore) -> dict[str, Any]:
    """Seconds until each change is seen, and the load meanwhile."""
    log = read_dataset(bundle.config.data).log
    now = datetime.fromtimestamp(int(log.time_ms.max()) / 1000, timezone.utc) + timedelta(hours=1)
    config = ServerConfig(repository, state=store.address)
    user_ids = [str(user) for user in log.users[-_ASKED_USERS:]]
    seconds: dict[str, float | None] = {}
    with ExitStack() as stack:
        servers = [stack.enter_context(TritonServer(config)) for _ in range(2)]
        clients = [stack.enter_context(InterestClient(server.grpc_url)) for server in servers]

        def lists(user_id: str | None = None, top_n: int = 10) -> list[list[str]]:
            later = now + timedelta(minutes=10)
            answers = [client.recommend(user_id=user_id, now=later, top_n=top_n) for client in clients]
            return [[item.item_id for item in answer.items] for answer in answers]

        def scored(item_id: str) -> int:
            """How many servers have a score of an item."""
            return sum(bool(client.rank(candidates=[item_id], now=now).items) for client in clients)

        def ask(client: InterestClient, number: int) -> object:
            return client.recommend(user_id=user_ids[number % len(user_ids)], now=now)

        load = Load([server.grpc_url for server in servers], ask, REQUESTS_PER_S)
        stack.enter_context(load.running())
        sequels = [new_item(item_id, text) for item_id, text in _SEQUELS.items()]

        def recommended(user_id: str | None) -> bool:
            """Whether both servers recommend a new film to a user."""
            return all(_SEQUELS.keys() & set(found) for found in lists(user_id))

        clients[0].add_items(sequels)
        seconds["new_item_s"] = until(lambda: scored(_NEW) == len(clients))
        # Who is a user that one of them suits; then they are new again.
        until(lambda: all(scored(item_id) == len(clients) for item_id in _SEQUELS))
        fitting = next(filter(recommended, map(str, log.users)), None)
        clients[0].remove_items(list(_SEQUELS))
        until(lambda: not any(scored(item_id) for item_id in _SEQUELS))
        clients[0].add_items(sequels)
        seconds["new_item_top10_s"] = until(lambda: recommended(fitting))

        popular = {item for found in lists(top_n=50) for item in found}
        trend = next(str(item) for item in bundle.catalog.item_id if item not in popular)
        watched = [
            observe_request(f"watcher {number}", [event(item_id=trend, time=now + timedelta(seconds=number))])
            for number in range(_WATCHERS)
        ]
        clients[1].observe_many(watched)
        seconds["trend_s"] = until(lambda: all(found[0] == trend for found in lists()))

        clients[1].remove_items([_NEW])
        seconds["removed_s"] = until(lambda: scored(_NEW) == 0)
        clients[0].set_stock(out_of_stock=[trend])
        seconds["out_of_stock_s"] = until(lambda: all(trend not in found for found in lists()))
        clients[1].set_stock(in_stock=[trend])
        seconds["in_stock_s"] = until(lambda: all(found[0] == trend for found in lists()))

        with TritonServer(config) as later, InterestClient(later.grpc_url) as client:
            clients = [client]
            seconds["later_trend_s"] = until(lambda: lists()[0][0] == trend)
            seconds["later_new_item_s"] = until(lambda: scored(_KEPT) == 1)
    latencies = np.array(load.latencies_ms)
    return {
        **seconds,
        "requests": latencies.size,
        "failed": len(load.failures),
        "first_failures": load.failures[:3],
        "p50_ms": round(float(np.median(latencies)), 2),
        "p99_ms": round(float(np.quantile(latencies, 0.99)), 2),
    }


def until(is_so: Callable[[], bool]) -> float | None:
    """Seconds until something is so; None if it is not within a minute."""
    began = time.perf_counter()
    while time.perf_counter() - began < _PATIENCE_S:
        if is_so():
            return round(time.perf_counter() - began, 2)
        time.sleep(0.02)
    return None


def table(results: dict[str, dict[str, Any]]) -> Table:
    """The figures of each store."""
    found = Table(
        "change of the catalog", *(f"{name}, s" for name in results), title="Seconds until both servers show it"
    )
    for change, label in LABELS.items():
        found.add_row(label, *(_shown(of_store[change]) for of_store in results.values()))
    found.add_section()
    for name, key in (
        ("requests meanwhile", "requests"),
        ("failed", "failed"),
        ("p50, ms", "p50_ms"),
        ("p99, ms", "p99_ms"),
    ):
        found.add_row(name, *(str(of_store[key]) for of_store in results.values()))
    return found


def _shown(seconds: float | None) -> str:
    return f"over {_PATIENCE_S:g}" if seconds is None else f"{seconds:.2f}"


if __name__ == "__main__":
    main()
