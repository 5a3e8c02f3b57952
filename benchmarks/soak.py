"""A server under steady load for an hour, while versions change and items come and go: does it fail, does it grow?

    python -m benchmarks.soak [--minutes 60] [--json FILE]

First the rate is measured that the server gets through from this client, then 70 % of it is sent: two thirds lists of
known users, one third events of theirs that are observed. Every five minutes another version is deployed (or, with
fewer minutes, twelve times in all), and every ten seconds an item is added or removed. Memory is what the server's
processes have for themselves: files that they map, such as the store of the states, are left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.progress import Progress

from benchmarks.serving import machine
from benchmarks.steady import Load
from ebbtide.backfill import LogFiles, backfill
from ebbtide.client import InterestClient, event, new_item
from ebbtide.data.dataset import read_dataset
from ebbtide.deploy import deploy, roll_back
from ebbtide.export.repository import export_repository
from ebbtide.interest import admin_key
from ebbtide.loadtest.resources import Watch
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.refresh import refresh_prior

ROOT = Path(__file__).parents[1]
_SHARE_OF_RATE = 0.7
_SWITCHES = 12
_SAMPLE_S, _ITEMS_S, _RATE_S = 2.0, 10.0, 20.0
_MIB = 1024 * 1024
_SETTLED = 3
"""Deployments after which memory is compared: by then both versions, and the candidates of each, were loaded."""


@dataclass(frozen=True)
class Sample:
    """What the server's processes hold at a time."""

    at_s: float
    version: int
    memory_mib: float
    descriptors: int
    threads: int
    shared_mib: float
    """In /dev/shm, of the whole machine."""


@dataclass
class Watched:
    """Samples over time, taken by a thread."""

    pid: int
    version: int = 1
    samples: list[Sample] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Samples until it ends."""
        ends, began = threading.Event(), time.monotonic()

        def run() -> None:
            while not ends.wait(_SAMPLE_S):
                self.samples.append(self._sample(time.monotonic() - began))

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            ends.set()
            thread.join()

    def _sample(self, at_s: float) -> Sample:
        server = psutil.Process(self.pid)
        processes = [server, *server.children(recursive=True)]
        return Sample(
            at_s=round(at_s, 1),
            version=self.version,
            memory_mib=sum(process.memory_full_info().uss for process in processes) / _MIB,
            descriptors=sum(process.num_fds() for process in processes),
            threads=sum(process.num_threads() for process in processes),
            shared_mib=shutil.disk_usage("/dev/shm").used / _MIB,  # noqa: S108 - POSIX shared memory
        )

    def level(self, version: int, *, last: bool) -> Sample:
        """The median sample of the first or the last stay of a version in service, its first fifth left out."""
        stays: list[list[Sample]] = [[]]
        for sample in self.samples:
            if stays[-1] and sample.version != stays[-1][-1].version:
                stays.append([])
            stays[-1].append(sample)
        settled = [stay for stay in stays[_SETTLED:] if stay[0].version == version]
        if len(settled) < 2:
            raise SystemExit(f"got {len(stays) - 1} deployments; expected at least {_SETTLED + 3}: more --minutes")
        stay = settled[-1 if last else 0]
        stay = stay[len(stay) // 5 :]
        found = {name: float(np.median([getattr(sample, name) for sample in stay])) for name in asdict(stay[0])}
        return Sample(**{**found, "version": version})  # type: ignore[arg-type]


def main() -> None:
    """Parses the command line, soaks a server, prints and writes the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--bundle", type=Path, default=ROOT / "artifacts" / "bundle", help="for catalog and log")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "soak.json")
    arguments = parser.parse_args()
    console, busy = Console(), machine.load_average()
    with tempfile.TemporaryDirectory(dir=ROOT / "artifacts") as folder:
        found = soak(InterestBundle.load(arguments.bundle), Path(folder), arguments.minutes, console)
    report = {"machine": machine.facts(), "load_average_before": busy, **found}
    arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    console.print_json(json.dumps({name: value for name, value in found.items() if name != "samples"}))


def soak(bundle: InterestBundle, folder: Path, minutes: float, console: Console) -> dict[str, Any]:
    """The figures of one soak, in an empty folder."""
    data = bundle.config.data
    log = read_dataset(data).log
    newest_ms = int(log.time_ms.max())
    repository, state = folder / "repository", f"embedded:{folder / 'states'}"
    with console.status("two versions, and the states of the users"):
        export_repository(bundle, repository)
        day = 86_400_000
        export_repository(refresh_prior(bundle, log, newest_ms - 30 * day), repository, version=2)
        backfill(repository, LogFiles([data.events], data.columns, max_bad_rows=data.max_bad_rows), state)
    key = admin_key.made(admin_key.key_file(repository))
    config = ServerConfig(repository, model_control="explicit", load_models=("*",), state=state, admin_key=key)
    with TritonServer(config) as server:
        pid = Watch(server.grpc_url).server_pid
        assert pid is not None
        users = [str(user) for user in log.users]
        call = _calls(users, list(bundle.catalog.item_id), datetime.fromtimestamp(newest_ms / 1000, timezone.utc))
        with console.status("the rate that it gets through"):
            rate = _rate(server.grpc_url, call)
        load = Load([server.grpc_url], call, _SHARE_OF_RATE * rate)
        watched = Watched(pid)
        failed_changes, switches = [], 0
        with watched.running(), load.running(), InterestClient(server.grpc_url) as client, Progress() as progress:
            task = progress.add_task(f"{load.rate_per_s:.0f} calls a second", total=60 * minutes)
            began = time.monotonic()
            next_item, items = began + _ITEMS_S, 0
            while (passed := time.monotonic() - began) < 60 * minutes:
                progress.update(task, completed=passed)
                time.sleep(0.2)
                try:
                    if passed > (switches + 1) * 60 * minutes / (_SWITCHES + 1):
                        switches += 1
                        change = deploy if switches % 2 else roll_back
                        watched.version = change(repository, [server.grpc_url], key=key).version
                    if time.monotonic() > next_item:
                        next_item += _ITEMS_S
                        _change_items(client, items)
                        items += 1
                except Exception as error:
                    failed_changes.append(repr(error))
    growth = {name: _growth(watched, name) for name in ("memory_mib", "descriptors", "threads", "shared_mib")}
    latencies = np.array(load.latencies_ms)
    return {
        "minutes": minutes,
        "rate_per_s": round(load.rate_per_s, 1),
        "share_of_measured_rate": _SHARE_OF_RATE,
        "calls": latencies.size,
        "failed": len(load.failures),
        "first_failures": load.failures[:3],
        "p50_ms": round(float(np.median(latencies)), 2),
        "p99_ms": round(float(np.quantile(latencies, 0.99)), 2),
        "deployments": switches,
        "item_changes": items,
        "failed_changes": failed_changes[:3],
        "growth": growth,
        "samples": [asdict(sample) for sample in watched.samples[:: max(len(watched.samples) // 200, 1)]],
    }


def _calls(users: Sequence[str], item_ids: Sequence[str], newest: datetime) -> Any:  # noqa: ANN401
    """The call of a number: of three, two lists and one event."""
    random = np.random.default_rng(0)
    user, item = random.permutation(len(users)), random.permutation(len(item_ids))

    def call(client: InterestClient, number: int) -> object:
        asked, now = users[user[number % len(users)]], newest + timedelta(milliseconds=number)
        if number % 3:
            return client.recommend(user_id=asked, now=now)
        return client.observe(asked, [event(item_id=item_ids[item[number // 3 % len(item_ids)]], time=now)])

    return call


def _rate(address: str, call: Any) -> float:  # noqa: ANN401
    """Calls a second that one client with sixteen threads gets answered."""
    ends, counts = time.monotonic() + _RATE_S, [0] * 16
    with InterestClient(address) as client:

        def run(worker: int) -> None:
            while time.monotonic() < ends:
                call(client, worker + 16 * counts[worker])
                counts[worker] += 1

        threads = [threading.Thread(target=run, args=(worker,)) for worker in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return sum(counts) / _RATE_S


def _change_items(client: InterestClient, number: int) -> None:
    """Adds an item, and removes the one that was added three changes before."""
    client.add_items([new_item(f"soak {number}", f"A film of the soak, number {number}")])
    if number >= 3:
        client.remove_items([f"soak {number - 3}"])


def _growth(watched: Watched, name: str) -> dict[str, float]:
    first, last = (getattr(watched.level(1, last=last), name) for last in (False, True))
    return {"first": round(first, 1), "last": round(last, 1), "last_over_first": round(last / max(first, 1e-9), 4)}


if __name__ == "__main__":
    main()
