"""Training against SASRec on films and groceries: ``python -m benchmarks.training --library PYTHON``.

Prints a table for each and writes ``benchmarks/results/training.json``. `benchmarks.training.scale` measures memory.
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
from benchmarks.training.speed import Curve, before_border, ours, sasrec

RESULTS = Path(__file__).parents[1] / "results" / "training.json"
USERS = {"complete-journey": 300}
"""Of logs that are too long to train on in minutes; drawn by a seed, as in the quality benchmark."""


def main() -> None:
    """Trains both on each data set, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, required=True, help="Python of benchmarks/quality/requirements.txt.")
    parser.add_argument("--epochs", type=int, default=8, help="Of ours.")
    parser.add_argument("--sasrec-epochs", type=int, default=80, help="Of SASRec, whose epochs are far shorter.")
    parser.add_argument("--work", type=Path, default=ROOT / "artifacts" / "quality", help="Folder for data in between.")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    content: dict[str, Any] = {
        "data": "what comes before the border of time:0.2, validated on its last tenth",
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
        test = before_border(drawn(dataset, users, folder))
        mine = ours(test, options.epochs, repeats=dataset.repeats)
        return mine, sasrec(test, options.sasrec_epochs, options.library, folder, repeats=dataset.repeats)


def _ratios(mine: Curve, theirs: Curve) -> dict[str, float | None]:
    # Where ours ends higher, the time that it takes to reach SASRec's best is what a user would wait less.
    to_their_best = mine.time_to_s(max(theirs.ndcg_at_10))
    return {
        "time_to_best_ratio": mine.time_to_best_s / theirs.time_to_best_s,
        "time_to_sasrec_best_s": to_their_best,
        "time_to_sasrec_best_ratio": None if to_their_best is None else to_their_best / theirs.time_to_best_s,
        "events_per_s_ratio": mine.events_per_s / theirs.events_per_s,
        "best_ndcg_at_10_ratio": max(mine.ndcg_at_10) / max(theirs.ndcg_at_10),
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
    table = Table(title=f"Training on {name}, validation", title_justify="left")
    headings = ("", "NDCG@10 at the start", "at best", "at epoch", "time to it, s", "events/s", "texts, s")
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
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
