"""Peak memory of `ebbtide train` and `ebbtide evaluate` on a generated log of millions of events.

    python -m benchmarks.training.scale --events 10000000

The log is realistic in the properties that memory depends on: item popularity follows Zipf's law, users' activity is
log-normal, events come in bursts with pauses of days, ids are strings, and columns have other names than the defaults.
The log is written to a temporary folder. The commands run in their own processes, and the kernel reports their peak
resident set size.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.serving.machine import facts

_DAY_S = 86_400
_DAYS = 730
_EVENTS_PER_USER = 50
_ZIPF = 0.9
_BURST = 6
_CHUNK = 1_000_000
"""Events written at once."""


@dataclass(frozen=True)
class Run:
    """Time and memory of one command."""

    command: str
    seconds: float
    peak_rss_gib: float


def write_log(folder: Path, events: int, items: int, seed: int = 0) -> tuple[Path, Path]:
    """Writes a Parquet log (``visitor``, ``sku``, ``at``) and a CSV catalog (``sku``, ``name``, ``kind``).

    Returns:
        The paths of the log and of the catalog.
    """
    random = np.random.default_rng(seed)
    users = max(events // _EVENTS_PER_USER, 1)
    activity = random.lognormal(0.0, 1.2, users)
    popularity = 1 / np.arange(1, items + 1) ** _ZIPF
    cumulative = np.cumsum(popularity) / popularity.sum()
    kinds = np.arange(items) % 40
    by_kind = np.argsort(kinds, kind="stable")
    kind_start = np.searchsorted(kinds[by_kind], np.arange(41))
    counts = random.multinomial(events, activity / activity.sum())
    files = []
    # Users are independent of each other, so the log is generated and written in chunks.
    cuts = np.searchsorted(np.cumsum(counts), np.arange(0, events, _CHUNK)[1:])
    for index, (low, high) in enumerate(zip([0, *cuts], [*cuts, users], strict=True)):
        user = np.repeat(np.arange(low, high), counts[low:high])
        if not user.size:
            continue
        favourite = random.integers(0, 40, (high - low, 3))[user - low, random.integers(0, 3, user.shape[0])]
        liked = by_kind[
            kind_start[favourite]
            + (random.random(user.shape[0]) ** 2 * np.diff(kind_start)[favourite]).astype(np.int64)
        ]
        popular = np.searchsorted(cumulative, random.random(user.shape[0]))
        item = np.where(random.random(user.shape[0]) < 0.5, liked, popular)
        burst = random.integers(0, _DAYS * _DAY_S, user.shape[0] // _BURST + 1)
        time_s = np.repeat(burst, _BURST)[: user.shape[0]] + random.integers(0, 1800, user.shape[0])
        file = folder / f"chunk-{index}.parquet"
        pl.DataFrame({"visitor": user, "sku": item, "at": 1_600_000_000 + time_s}).sort("at").with_columns(
            pl.format("visitor-{}", "visitor").alias("visitor"), pl.format("sku-{}", "sku").alias("sku")
        ).write_parquet(file)
        files.append(file)
    log = folder / "log.parquet"
    pl.scan_parquet(files).sink_parquet(log)
    for file in files:
        file.unlink()
    catalog = folder / "catalog.csv"
    pl.DataFrame(
        {
            "sku": [f"sku-{item}" for item in range(items)],
            "name": [f"item {item}" for item in range(items)],
            "kind": [f"kind {kind}" for kind in kinds],
        }
    ).write_csv(catalog)
    return log, catalog


def measured(arguments: list[str]) -> Run:
    """Runs `ebbtide` with arguments and returns its time and its peak resident set size (by wait4).

    Raises:
        subprocess.CalledProcessError: The command failed.
    """
    command = [sys.executable, "-c", "from ebbtide.cli.main import main; main()", *arguments]
    began = time.monotonic()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    process.returncode = code
    if code:
        raise subprocess.CalledProcessError(code, command)
    return Run(arguments[0], time.monotonic() - began, usage.ru_maxrss / 1024**2)


def main() -> None:
    """Writes the log, trains, evaluates, prints time and memory, and writes them to ``--json`` if given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000, help="number of events of the log")
    parser.add_argument("--items", type=int, default=10_000, help="number of items of the catalog")
    parser.add_argument("--epochs", type=int, default=1, help="number of training epochs")
    parser.add_argument("--holdout", default="time:0.01", help="test set, as in `ebbtide train --holdout`")
    parser.add_argument("--loss", default="sampled-softmax", help="training loss, as in `ebbtide train --loss`")
    parser.add_argument("--windows-per-batch", type=int, default=32, help="as in `ebbtide train`")
    parser.add_argument("--json", type=Path, help="file to write (default: none)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ebbtide-scale-") as name:
        folder = Path(name)
        log, catalog = write_log(folder, options.events, options.items)
        bundle = folder / "bundle"
        data = ["--events", str(log), "--user-col", "visitor", "--item-col", "sku", "--time-col", "at"]
        texts = ["--catalog", str(catalog), "--text-template", "{name}, {kind}"]
        training = ["--epochs", str(options.epochs), "--no-refit", "--loss", options.loss, "--holdout", options.holdout]
        training += ["--windows-per-batch", str(options.windows_per_batch)]
        runs = [
            measured(["train", *data, *texts, *training, "--out", str(bundle)]),
            measured(["evaluate", str(bundle), "--predictions", str(folder / "lists.parquet")]),
        ]
    print(f"{options.events:,} events, {options.items:,} items, {options.loss}, {options.epochs} epoch(s)")
    for run in runs:
        print(f"{run.command:10} {run.seconds:8.0f} s  peak {run.peak_rss_gib:6.2f} GiB")
    if options.json is not None:
        settings = {"events": options.events, "items": options.items, "loss": options.loss, "epochs": options.epochs}
        found = {"machine": facts(), **settings, "runs": [asdict(run) for run in runs]}
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
