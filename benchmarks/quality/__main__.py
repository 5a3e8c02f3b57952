"""Runs the quality benchmark: every model on every data set, one table each, and benchmarks/results/quality.json.

python -m benchmarks.quality --library artifacts/quality-venv/bin/python [--quick]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from platformdirs import user_cache_path
from rich.console import Console
from rich.table import Table

from benchmarks.quality import ours
from benchmarks.quality.datasets import HOLDOUT, ROOT, DataSet, complete_journey, movielens, shortened
from benchmarks.quality.field import TRIES, Baseline, Tuned, field, tuned
from benchmarks.quality.split import Split, splits
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.encoder import PACKAGED, embed_cached, encoder_fingerprint, encoder_folder
from ebbtide.train.evaluation.evaluate import Evaluation, cold_values, evaluate_lists
from ebbtide.train.evaluation.intervals import paired
from ebbtide.train.evaluation.lists import RankedLists
from ebbtide.train.stage import read_data

_QUICK_TRIES = 1
_FILE_WIDTH = 160
"""Columns where the output is no terminal."""
_QUICK_TRAINING = TrainConfig(epochs=2, refit=False)

console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)


class Results:
    """The rows of one data set, as they come."""

    def __init__(self, name: str, split: Split, vectors: npt.NDArray[np.float32]) -> None:
        self.name, self.split, self.vectors = name, split, vectors
        self.rows: list[dict[str, Any]] = []
        self.measured: dict[str, tuple[Evaluation, npt.NDArray[np.float64]]] = {}

    def add(self, name: str, lists: RankedLists, **more: object) -> None:
        """Measures one model's lists."""
        found = evaluate_lists(self.split.test, lists, self.vectors)
        cold, _ = cold_values(self.split.test, lists)
        self.measured[name] = (found, cold)
        ndcg = found.metrics["ndcg_at_10"]
        self.rows.append(
            {
                "name": name,
                "ndcg_at_10": ndcg.mean,
                "recall_at_10": found.metrics["recall_at_10"].mean,
                "hit_rate_at_10": found.metrics["hit_rate_at_10"].mean,
                "ci95": [ndcg.low, ndcg.high],
                "cold_ndcg_at_10": found.cold.ndcg_at_10.mean if found.cold.instants else None,
                **asdict(found.beyond),
                **more,
            }
        )
        console.print(f"  {name}: NDCG@10 {ndcg.mean:.4f}, {ndcg.low:.4f} to {ndcg.high:.4f}")

    def compare(self, name: str, other: str, ratio: str) -> dict[str, Any]:
        """The ratio of two models' NDCG@10, and the interval of the paired difference."""
        mine, theirs = (self.measured[which][0].person_values["ndcg_at_10"] for which in (name, other))
        return self._ratio(mine, theirs, other, ratio)

    def compare_cold(self, name: str, other: str, ratio: str) -> dict[str, Any]:
        """The same on items with at most 5 training events."""
        mine, theirs = (self.measured[which][1] for which in (name, other))
        return self._ratio(mine, theirs, other, ratio) if mine.size else {ratio: None}

    def _ratio(
        self, mine: npt.NDArray[np.float64], theirs: npt.NDArray[np.float64], other: str, ratio: str
    ) -> dict[str, Any]:
        base = float(theirs.mean())
        return {
            ratio: float(mine.mean()) / base if base else None,
            f"{ratio}_against": other,
            f"{ratio}_difference": asdict(paired(mine, theirs, 0)),
        }


def run_data_set(dataset: DataSet, quick: bool, library: Path | None, work: Path) -> dict[str, Any]:
    """All models on one data set; the JSON of its part of the report."""
    work = work / dataset.name
    data = read_data(shortened(dataset, work) if quick else dataset.reference)
    folder = encoder_folder(PACKAGED)
    with console.status("Embedding the catalog"):
        vectors = embed_cached(folder, encoder_fingerprint(folder), data.catalog.text, user_cache_path("ebbtide"))
    validation, test = splits(data.log, data.catalog, HOLDOUT, dataset.repeats)
    console.print(
        f"[bold]{dataset.name}[/bold]: {data.log.events:,} events of {len(data.log.users):,} people on "
        f"{len(data.catalog):,} items; {len(test.test.instants):,} instants to predict"
    )
    results = Results(dataset.name, test, vectors)
    baselines = [row for row in field() if dataset.repeats or not row.only_repeats]
    if library is None:
        baselines = [row for row in baselines if not row.library]
    for baseline in baselines:
        with console.status(baseline.name):
            found = tuned(baseline, validation, test, _QUICK_TRIES if quick else TRIES, library, work / "exchange")
        results.add(baseline.name, found.lists, **_told(baseline, found))
    _run_ours(results, test, vectors, _QUICK_TRAINING if quick else TrainConfig())
    _add_ratios(results, baselines)
    _print(results)
    return {
        "name": dataset.name,
        "holdout": HOLDOUT,
        "items": len(data.catalog),
        "people": len(data.log.users),
        "events": data.log.events,
        "test_people": int(np.unique(test.test.owner).size),
        "test_instants": len(test.test.instants),
        "models": results.rows,
    }


def _told(baseline: Baseline, found: Tuned) -> dict[str, object]:
    settings = {name: _finite(value) for name, value in found.settings.items()}
    popularity = "updated" if baseline.updated else "frozen"
    return {
        "kind": "baseline",
        "popularity": popularity,
        "settings": settings,
        "tried": found.tried,
        "train_s": round(found.train_s, 1),
    }


def _finite(value: float) -> float | str:
    return "inf" if math.isinf(value) else value


def _run_ours(results: Results, test: Split, vectors: npt.NDArray[np.float32], training: TrainConfig) -> None:
    for name, config in ours.variants(test.repeats).items():
        seen = np.zeros((vectors.shape[0], 1), dtype=np.float32) if name == ours.NO_TEXT else vectors
        began = time.monotonic()
        with console.status(name):
            model = ours.trained(test, config, training, seen)
            train_s = round(time.monotonic() - began, 1)
            for updated, suffix in ((True, ""), (False, ", frozen")):
                if not updated and not _has_prior(config):
                    continue
                lists = ours.ranked(test, model, updated=updated)
                popularity = ("updated" if updated else "frozen") if _has_prior(config) else "none"
                results.add(name + suffix, lists, kind="ours", popularity=popularity, train_s=train_s)


def _has_prior(config: ModelConfig) -> bool:
    """Whether there is a prior that could be frozen."""
    return bool(config.effective_prior_half_life_days)


def _add_ratios(results: Results, baselines: list[Baseline]) -> None:
    """Puts ours into proportion, kept up to date and frozen; a frozen model meets frozen baselines only."""
    score = {row["name"]: row["ndcg_at_10"] for row in results.rows}
    for suffix, rivals in (
        ("", [row.name for row in baselines]),
        (", frozen", [row.name for row in baselines if not row.updated]),
    ):
        name = ours.OURS + suffix
        row = next(row for row in results.rows if row["name"] == name)
        row |= results.compare(name, max(rivals, key=lambda rival: score[rival]), "ratio_to_best_baseline")
        row |= results.compare(name, ours.NO_DECAY + suffix, "ratio_to_no_decay")
        row |= results.compare(name, ours.NO_INTEREST_DECAY + suffix, "ratio_to_no_interest_decay")
        row |= results.compare_cold(name, ours.NO_TEXT + suffix, "cold_item_ratio_to_no_text")


def _print(results: Results) -> None:
    table = Table(title=f"{results.name}, {HOLDOUT}, whole catalog ranked, people averaged", title_justify="left")
    for heading in ("", "NDCG@10", "95 %", "recall@10", "hit rate@10", "training, s"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in sorted(results.rows, key=lambda row: -row["ndcg_at_10"]):
        low, high = row["ci95"]
        table.add_row(
            *(row["name"], f"{row['ndcg_at_10']:.4f}", f"{low:.4f} to {high:.4f}"),
            *(f"{row['recall_at_10']:.4f}", f"{row['hit_rate_at_10']:.4f}", f"{row['train_s']:.0f}"),
        )
    console.print(table)
    for row in results.rows:
        for key, value in row.items():
            if "ratio_to" in key and isinstance(value, float):
                found = row[f"{key}_difference"]
                console.print(
                    f"{row['name']}: {key} {value:.2f} ({row[f'{key}_against']}), difference {found['mean']:+.4f}, "
                    f"95 % {found['low']:+.4f} to {found['high']:+.4f}"
                )


def main() -> None:
    """Reads the command line, runs, and writes the report after every data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--library", type=Path, help="Python of the environment of requirements.txt; without it its models are left out"
    )
    parser.add_argument("--quick", action="store_true", help="few people, nothing tuned, two epochs of ours")
    parser.add_argument("--work", type=Path, default=ROOT / "artifacts" / "quality", help="folder for data in between")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "quality.json")
    arguments = parser.parse_args()
    # Not resolve(): the interpreter of a virtual environment is a link, and finds its packages by the link's place.
    library = arguments.library.absolute() if arguments.library else None
    data_sets = [movielens(), complete_journey(arguments.work / "complete-journey-data", library)]
    report: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__},
        "quick": arguments.quick,
        "library_models": library is not None,
        "tries": _QUICK_TRIES if arguments.quick else TRIES,
        "data_sets": [],
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    for dataset in data_sets:
        report["data_sets"].append(run_data_set(dataset, arguments.quick, library, arguments.work))
        arguments.json.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
