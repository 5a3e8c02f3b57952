"""Compares training with SASRec on films and groceries: ``python -m benchmarks.training --library PYTHON``.

It prints a table for each data set and writes ``benchmarks/results/training.json``. `benchmarks.training.scale`
measures memory.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.quality.datasets import ROOT, DataSet, complete_journey, drawn, movielens
from benchmarks.serving.machine import facts, load_average
from benchmarks.training.speed import Curve, before_split, ours, sasrec

RESULTS = Path(__file__).parents[1] / "results" / "training.json"
USERS = {"complete-journey": 300}
"""Number of users of data sets that take too long to train on; drawn with the seed of the quality benchmark."""


def main() -> None:
    """Trains both models on each data set, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--library",
        type=Path,
        required=True,
        help="Python interpreter of the environment of benchmarks/quality/requirements.txt",
    )
    parser.add_argument("--epochs", type=int, default=8, help="number of epochs for Ebbtide")
    parser.add_argument(
        "--sasrec-epochs", type=int, default=80, help="number of epochs for SASRec; they are far shorter than Ebbtide's"
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "artifacts" / "quality", help="folder for intermediate data"
    )
    parser.add_argument("--json", type=Path, default=RESULTS, help="file to write")
    options = parser.parse_args()
    content: dict[str, Any] = {
        "data": "the events before the split time of time:0.2; the last tenth of them is the validation period",
        "machine": {**facts(), "threads": torch.get_num_threads(), "load_average_before": load_average()},
        "users": USERS,
        "models": [],
    }
    for dataset in (movielens(), complete_journey(options.work / "complete-journey-data", options.library)):
        curves = _curves(dataset, options)
        content["models"] += [{"data_set": dataset.name, **_row(curve)} for curve in curves]
        content[dataset.name] = _ratios(*curves)
        _print(dataset.name, curves, content[dataset.name])
    options.json.write_text(json.dumps(content, indent=2) + "\n")


def _curves(dataset: DataSet, options: argparse.Namespace) -> tuple[Curve, Curve]:
    users = USERS.get(dataset.name)
    with tempfile.TemporaryDirectory(prefix="ebbtide-training-") as name:
        folder = Path(name)
        test = before_split(drawn(dataset, users, folder))
        ebbtide = ours(test, options.epochs, repeats=dataset.repeats)
        return ebbtide, sasrec(test, options.sasrec_epochs, options.library, folder, repeats=dataset.repeats)


def _ratios(ebbtide: Curve, other: Curve) -> dict[str, float | None]:
    # Ebbtide's best may be higher than SASRec's, so the time to reach SASRec's best is given too.
    to_other_best_s = ebbtide.time_to_s(max(other.ndcg_at_10))
    return {
        "time_to_best_ratio": ebbtide.time_to_best_s / other.time_to_best_s,
        "time_to_sasrec_best_s": to_other_best_s,
        "time_to_sasrec_best_ratio": None if to_other_best_s is None else to_other_best_s / other.time_to_best_s,
        "events_per_s_ratio": ebbtide.events_per_s / other.events_per_s,
        "best_ndcg_at_10_ratio": max(ebbtide.ndcg_at_10) / max(other.ndcg_at_10),
    }


def _row(curve: Curve) -> dict[str, object]:
    derived = ("best_epoch", "time_to_best_s", "events_per_s")
    return {
        "name": curve.name,
        "best_ndcg_at_10": max(curve.ndcg_at_10),
        **{name: getattr(curve, name) for name in derived},
        **asdict(curve),
    }


def _print(name: str, curves: tuple[Curve, Curve], ratios: dict[str, float | None]) -> None:
    table = Table(title=f"Training on {name}: NDCG@10 on the validation period", title_justify="left")
    headings = (
        *("model", "NDCG@10 before training", "best NDCG@10", "best epoch", "time to best epoch, s", "events/s"),
        "embedding the texts, s",
    )
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left")
    for curve in curves:
        start = curve.start_ndcg_at_10
        table.add_row(
            *(curve.name, "" if start is None else f"{start:.4f}", f"{max(curve.ndcg_at_10):.4f}"),
            *(str(curve.best_epoch), f"{curve.time_to_best_s:.1f}", f"{curve.events_per_s:,.0f}"),
            f"{curve.embedding_s:.1f}",
        )
    console = Console()
    console.print(table)
    for key, value in ratios.items():
        console.print(f"{key}: {'not reached' if value is None else format(value, '.3f')}")


if __name__ == "__main__":
    main()
