"""Runs the benchmark of users' states with each store, writes JSON after each, and prints tables."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.serving import machine
from benchmarks.state import asking, filling, observing, report
from benchmarks.state.histories import Log, write_log
from benchmarks.state.stores import STORES, TIMEOUT_MS, MeasuredStore
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.train.bundle import InterestBundle

ROOT = Path(__file__).parents[2]
_QUICK_EVENTS = 1_500_000

Results = dict[str, Any]


def measure(repository: Path, log: Log, store: MeasuredStore, console: Console, *, quick: bool) -> Results:
    """All figures of one store; what is compared takes turns on one server."""
    repeats, seconds, rounds = (3, 1.0, 100) if quick else (7, 4.0, 300)
    with console.status("backfill"):
        backfilled = filling.measure_backfill(repository, log, store)
        sizes = filling.measure_sizes(repository, store)
    environment = {"EBBTIDE_STATE_TIMEOUT_MS": f"{TIMEOUT_MS:g}"}
    config = ServerConfig(repository, state=store.address, environment=environment)
    with TritonServer(config) as server:
        with console.status("recommend"):
            asked = asking.measure(server.grpc_url, log, repeats, seconds, rounds)
        with console.status("observe"):
            pids = [server.pid, *([] if store.pid is None else [store.pid])]
            observed = observing.measure(server.grpc_url, pids, log, repeats, seconds)
    return {"recommend_by_user": asked, "observe": observed, "backfill": backfilled, "state": sizes}


def main() -> None:
    """Parses the command line, measures and reports."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.state", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a shorter log, fewer and shorter turns")
    parser.add_argument("--bundle", type=Path, default=ROOT / "artifacts" / "bundle", help="for catalog and log")
    parser.add_argument("--repository", type=Path, default=ROOT / "artifacts" / "repository", help="its export")
    parser.add_argument("--events", type=int, default=None, help="events of the generated log")
    parser.add_argument("--only", choices=STORES, help="measure this store, and keep the results of the other")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "state.json")
    arguments = parser.parse_args()
    console = Console()
    busy, began = machine.load_average(), time.perf_counter()
    content: Results = {}
    if arguments.only and arguments.json.is_file():
        content = json.loads(arguments.json.read_text())
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    scratch = ROOT / "artifacts"
    with tempfile.TemporaryDirectory(prefix="bench-state-", dir=scratch) as work:
        with console.status("log"):
            events = arguments.events or (_QUICK_EVENTS if arguments.quick else filling.FULL_EVENTS)
            log = write_log(InterestBundle.load(arguments.bundle), Path(work) / "log.parquet", events)
        for name in (arguments.only,) if arguments.only else STORES:
            with STORES[name](Path(work)) as store:
                content[name] = measure(arguments.repository, log, store, console, quick=arguments.quick)
            content["machine"] = machine.facts()
            content["run"] = {
                "quick": arguments.quick,
                "load_average_before": busy,
                "seconds": round(time.perf_counter() - began, 1),
            }
            arguments.json.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    report.show(console, content)


if __name__ == "__main__":
    main()
