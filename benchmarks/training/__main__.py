"""Training against SASRec on the shipped films: ``python -m benchmarks.training --library PYTHON``.

Prints the table and writes ``benchmarks/results/training.json``. `benchmarks.training.scale` measures memory.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.serving.machine import facts, load_average
from benchmarks.training.speed import Curve, films, ours, sasrec

RESULTS = Path(__file__).parents[1] / "results" / "training.json"


def main() -> None:
    """Trains both, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, required=True, help="Python of benchmarks/quality/requirements.txt.")
    parser.add_argument("--epochs", type=int, default=8, help="Of ours.")
    parser.add_argument("--sasrec-epochs", type=int, default=80, help="Of SASRec, whose epochs are far shorter.")
    parser.add_argument("--json", type=Path, default=RESULTS)
    options = parser.parse_args()
    before = load_average()
    _, test = films()
    with tempfile.TemporaryDirectory(prefix="ebbtide-sasrec-") as folder:
        curves = [ours(test, options.epochs), sasrec(test, options.sasrec_epochs, options.library, Path(folder))]
    mine, theirs = curves
    # Where ours ends higher, the time that it takes to reach SASRec's best is what a user would wait less.
    to_their_best = mine.time_to_s(max(theirs.ndcg_at_10))
    content = {
        "data": "movielens-small, before the border of time:0.2, validated on its last tenth",
        "machine": {**facts(), "threads": torch.get_num_threads(), "load_average_before": before},
        "models": [_row(curve) for curve in curves],
        "time_to_best_ratio": mine.time_to_best_s / theirs.time_to_best_s,
        "time_to_sasrec_best_s": to_their_best,
        "time_to_sasrec_best_ratio": None if to_their_best is None else to_their_best / theirs.time_to_best_s,
        "events_per_s_ratio": mine.events_per_s / theirs.events_per_s,
    }
    options.json.write_text(json.dumps(content, indent=2) + "\n")
    _print(curves, content)


def _row(curve: Curve) -> dict[str, object]:
    derived = ("best_epoch", "time_to_best_s", "events_per_s")
    return {
        **asdict(curve),
        **{name: getattr(curve, name) for name in derived},
        "best_ndcg_at_10": max(curve.ndcg_at_10),
    }


def _print(curves: list[Curve], content: dict[str, object]) -> None:
    table = Table(title="Training on the shipped films, validation", title_justify="left")
    headings = ("", "NDCG@10 at the start", "at best", "at epoch", "time to it, s", "events/s", "embedding, s")
    for heading in headings:
        table.add_column(heading, justify="right" if heading else "left")
    for curve in curves:
        table.add_row(
            *(curve.name, f"{curve.start_ndcg_at_10:.4f}", f"{max(curve.ndcg_at_10):.4f}", str(curve.best_epoch)),
            *(f"{curve.time_to_best_s:.1f}", f"{curve.events_per_s:,.0f}", f"{curve.embedding_s:.1f}"),
        )
    console = Console()
    console.print(table)
    for name in ("time_to_best_ratio", "time_to_sasrec_best_ratio", "events_per_s_ratio"):
        value = content[name]
        console.print(f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: not reached")


if __name__ == "__main__":
    main()
