"""Lists for all users at once: beside asking a server one by one, killed and resumed, and on workers of Ray.

    python -m benchmarks.batch [--users 40000] [--asked 200] [--turns 3] [--json FILE]

The log is that of the bundle, with its users copied under new ids until there are enough of them. The server and each
worker use one processor at a time; rates are per second of all processor time that client, server or command used.
Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from benchmarks.serving import machine
from benchmarks.state.processes import cpu_s, run_measured
from ebbtide.backfill import LogFiles
from ebbtide.batch import Summary, batch_recommend
from ebbtide.client import InterestClient, event
from ebbtide.data.dataset import read_dataset
from ebbtide.data.events import EventColumns, EventLog
from ebbtide.interest.events import MS_PER_DAY
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.train.bundle import InterestBundle
from ebbtide.v1 import Event

ROOT = Path(__file__).parents[1]
TOP_N = 10
_SCORE_TOLERANCE = 1e-4
_WARM_UP = 10
_POLL_S = 0.01
_RAN = "import sys; from benchmarks.batch import run_timed; run_timed(*sys.argv[1:])"
console = Console(highlight=False)


@dataclass(frozen=True)
class Work:
    """What is ranked."""

    repository: Path
    log: Path
    has_weight: bool
    now_ms: int
    folder: Path
    """For outputs."""

    @property
    def columns(self) -> EventColumns:
        """Of the log."""
        return EventColumns(weight="weight" if self.has_weight else None)

    def command(self, name: str, *more: str) -> list[str]:
        """The command that writes the lists into a folder of that name."""
        weight = ["--weight-col", "weight"] if self.has_weight else []
        now = datetime.fromtimestamp(self.now_ms / 1_000, timezone.utc).isoformat()
        given = [str(self.repository), "--events", str(self.log), *weight, "--now", now, "--top", str(TOP_N)]
        main = [sys.executable, "-c", "from ebbtide.cli.main import main; main()"]
        return [*main, "batch-recommend", *given, "--out", str(self.folder / name), *more]

    def rank(self, name: str, processes: int, ray: str | None = None) -> Summary:
        """Writes the lists with some workers."""
        log = LogFiles([self.log], self.columns)
        return batch_recommend(
            self.repository, log, self.folder / name, now_ms=self.now_ms, top_n=TOP_N, processes=processes, ray=ray
        )


def main() -> None:
    """Parses the command line, measures, prints a table and writes JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batch", description=__doc__)
    parser.add_argument("--users", type=int, default=40_000)
    parser.add_argument("--asked", type=int, default=200, help="users whose lists the server is asked for")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--bundle", type=Path, default=ROOT / "artifacts" / "bundle")
    parser.add_argument("--repository", type=Path, default=ROOT / "artifacts" / "repository")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "batch.json")
    arguments = parser.parse_args()
    busy = machine.load_average()
    bundle = InterestBundle.load(arguments.bundle)
    log = read_dataset(bundle.config.data).log
    if log.event_types is not None:
        parser.error("expected a bundle without event types")
    with tempfile.TemporaryDirectory() as folder:
        work = write_log(log, bundle, arguments.users, arguments.repository.absolute(), Path(folder))
        with console.status("the whole command, and the server"):
            batch, asked = measure_rates(work, log, bundle, arguments.asked, arguments.turns)
        with console.status("kill and resume"):
            resumed = kill_and_resume(work)
        with console.status("workers"):
            workers = measure_workers(work, arguments.turns)
    report = {
        "machine": machine.facts(),
        "load_average_before": busy,
        "users": arguments.users,
        "items": len(bundle.catalog),
        "top_n": TOP_N,
        "batch": batch,
        "asking": asked,
        "rate_per_core_over_asking": round(batch["lists_per_cpu_s"] / asked["lists_per_cpu_s"], 2),
        "resumed": resumed,
        **workers,
    }
    console.print(table(report))
    arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def write_log(log: EventLog, bundle: InterestBundle, users: int, repository: Path, folder: Path) -> Work:
    """Writes a log of so many users; the first ones are those of the given log."""
    ids, has_weight = np.array(bundle.catalog.item_id), bundle.config.data.weight_column is not None
    names = np.array(log.users)
    copies = []
    for copy in range(-(-users // len(names))):
        kept = log.user < users - copy * len(names)
        copies.append(
            pl.DataFrame(
                {
                    "user": [f"{name}-{copy}" for name in names[log.user[kept]]],
                    "item": ids[log.item[kept]],
                    "time": log.time_ms[kept],
                    "weight": log.weight[kept],
                }
            )
        )
    path = folder / "log.parquet"
    pl.concat(copies).write_parquet(path)
    return Work(repository, path, has_weight, int(log.time_ms.max()) + MS_PER_DAY, folder)


def measure_rates(
    work: Work, log: EventLog, bundle: InterestBundle, asked: int, turns: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The whole command, start and reading included, and the server with one request at a time; they take turns."""
    chosen = np.random.default_rng(0).choice(len(log.users), min(asked, len(log.users)), replace=False).tolist()
    requests = [_events(log, bundle, user, has_weight=work.has_weight) for user in chosen]
    now = datetime.fromtimestamp(work.now_ms / 1_000, timezone.utc)
    batch_s: list[float] = []
    asked_s: list[float] = []
    wall_s: list[float] = []
    lists: list[list[tuple[str, float]]] = []
    config = ServerConfig(work.repository, model_control="explicit", load_models=("recommend",))
    with TritonServer(config) as server, InterestClient(server.grpc_url) as client:
        for turn in range(turns):
            began = _children_s()
            run_measured(work.command(f"turn {turn}", "--processes", "1"))
            batch_s.append(_children_s() - began)
            for events in requests[:_WARM_UP]:
                client.recommend(events=events, now=now, top_n=TOP_N)
            pids, before = [os.getpid(), server.pid], time.perf_counter()
            used = cpu_s(pids)
            answers = [client.recommend(events=events, now=now, top_n=TOP_N) for events in requests]
            asked_s.append(cpu_s(pids) - used)
            wall_s.append(time.perf_counter() - before)
            lists = [[(one.item_id, one.score) for one in answer.items] for answer in answers]
    written = pl.read_parquet(work.folder / "turn 0" / "*.parquet")
    users = written["user"].n_unique()
    seconds = statistics.median(asked_s)
    return (
        {
            "lists": users,
            "cpu_s": round(statistics.median(batch_s), 3),
            "lists_per_cpu_s": round(users / statistics.median(batch_s), 1),
        },
        {
            "lists": len(requests),
            "cpu_s": round(seconds, 3),
            "lists_per_cpu_s": round(len(requests) / seconds, 1),
            "lists_per_s": round(len(requests) / statistics.median(wall_s), 1),
            "same_lists": _same(written, [log.users[user] for user in chosen], lists),
        },
    )


def _events(log: EventLog, bundle: InterestBundle, user: int, *, has_weight: bool) -> list[Event]:
    ids, found = bundle.catalog.item_id, []
    for index in range(log.start[user], log.start[user + 1])[-512:]:
        weight = float(log.weight[index]) if has_weight else None
        found.append(event(item_id=ids[log.item[index]], time_ms=int(log.time_ms[index]), weight=weight))
    return found


def _children_s() -> float:
    """Processor time of all programs that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _same(written: pl.DataFrame, users: Sequence[str], answers: Sequence[Sequence[tuple[str, float]]]) -> int:
    """How many lists are those of the server: the same scores, and the same items where no other has the score."""
    by_user = written.sort("rank").partition_by("user", as_dict=True)
    same = 0
    for user, answer in zip(users, answers, strict=True):
        mine = by_user[(f"{user}-0",)]
        scores = np.array([score for _, score in answer])
        close = len(scores) == mine.height and bool(np.abs(mine["score"].to_numpy() - scores).max() <= _SCORE_TOLERANCE)
        same += close and all(
            item == one or np.isclose(scores, score, atol=2 * _SCORE_TOLERANCE).sum() > 1
            for item, (one, score) in zip(mine["item"], answer, strict=True)
        )
    return same


def kill_and_resume(work: Work) -> dict[str, Any]:
    """Kills the command and its processes when half of the parts are there, and runs it again."""
    expected, out = work.folder / "turn 0", work.folder / "killed"
    parts = len(list(expected.glob("*.parquet")))
    # A process group of its own, which is killed as a whole.
    process = subprocess.Popen(work.command("killed", "--processes", "2"), start_new_session=True)
    while process.poll() is None and len(list(out.glob("*.parquet"))) < parts / 2:
        time.sleep(_POLL_S)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    status = process.wait()
    kept = len(list(out.glob("*.parquet")))
    run_measured(work.command("killed", "--processes", "2"))
    return {
        "was_killed": status == -signal.SIGKILL,
        "parts": parts,
        "parts_when_killed": kept,
        "same_bytes": _files(expected) == _files(out),
    }


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run_timed(arguments: str) -> None:
    """Ranks with some workers in a process of its own, and prints the seconds of ranking.

    Args:
        arguments: JSON: the fields of `Work`, and the arguments of `Work.rank`.
    """
    given = json.loads(arguments)
    paths = {name: Path(given.pop(name)) for name in ("repository", "log", "folder")}
    work = Work(**paths, has_weight=given.pop("has_weight"), now_ms=given.pop("now_ms"))
    print(f"ranking_s {work.rank(**given).ranking_s}")


def measure_workers(work: Work, turns: int) -> dict[str, Any]:
    """Seconds of ranking, without reading the log, with one and two workers, in turns."""
    taken: dict[tuple[str, int], list[float]] = {}
    for turn in range(turns):
        for kind, ray in (("processes", None), ("ray", "local")):
            for workers in (1, 2):
                given = {
                    "repository": str(work.repository),
                    "log": str(work.log),
                    "folder": str(work.folder),
                    "has_weight": work.has_weight,
                    "now_ms": work.now_ms,
                    "name": f"{kind} {workers} {turn}",
                    "processes": workers,
                    "ray": ray,
                }
                output = run_measured([sys.executable, "-c", _RAN, json.dumps(given)])[2]
                (line,) = (line for line in output.splitlines() if line.startswith("ranking_s "))
                taken.setdefault((kind, workers), []).append(float(line.split()[1]))
    found: dict[str, Any] = {}
    for kind in ("processes", "ray"):
        one, two = (statistics.median(taken[kind, workers]) for workers in (1, 2))
        found[kind] = {"one_s": round(one, 2), "two_s": round(two, 2), "two_over_one": round(one / two, 2)}
    return found


def table(report: dict[str, Any]) -> Table:
    """The figures."""
    found = Table("figure", "measured", title=f"Lists of {TOP_N} for {report['users']:,} users")
    batch, asking, resumed = report["batch"], report["asking"], report["resumed"]
    found.add_row("batch, lists per processor second", f"{batch['lists_per_cpu_s']:,.0f}")
    found.add_row("asking one by one, lists per processor second", f"{asking['lists_per_cpu_s']:,.0f}")
    found.add_row("ratio", f"{report['rate_per_core_over_asking']:.1f}")
    found.add_row("lists that are those of the server", f"{asking['same_lists']} of {asking['lists']}")
    found.add_row("same bytes when killed and resumed", "yes" if resumed["same_bytes"] else "no")
    for kind in ("processes", "ray"):
        found.add_row(f"two workers over one, {kind}", f"{report[kind]['two_over_one']:.2f}")
    return found


if __name__ == "__main__":
    main()
