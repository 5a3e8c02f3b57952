"""Runs the quality benchmark: evaluates every model on every data set and writes benchmarks/results/quality.json.

python -m benchmarks.quality --library artifacts/quality-venv/bin/python [--quick]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from benchmarks.quality.console import console
from benchmarks.quality.datasets import REAL, ROOT, builders, world_data_set
from benchmarks.quality.field import TRIES, field
from benchmarks.quality.ours import ABLATIONS
from benchmarks.quality.run import Plan, run_data_set
from benchmarks.quality.summary import print_tables, write_summary
from benchmarks.quality.worlds import WORLDS
from ebbtide.train.config import TrainConfig
from ebbtide.train.evaluation.report import without_nan

_QUICK_TRIES = 1
_QUICK_TRAINING = TrainConfig(epochs=2, refit=False)


def main() -> None:
    """Parses the command line, runs the models, and writes the report after each data set."""
    arguments = _arguments()
    # Not resolve(): the interpreter of a virtual environment is a symlink, and the symlink's path locates its packages.
    library = arguments.library.absolute() if arguments.library else None
    data_sets = builders(arguments.work, library, arguments.lastfm)
    unknown = {*arguments.data_set} - data_sets.keys()
    if unknown:
        raise SystemExit("--data-set lastfm: got no folder; expected --lastfm FOLDER or the variable EBBTIDE_LASTFM")
    chosen = [name for name in data_sets if not arguments.data_set or name in arguments.data_set]
    quick = arguments.quick
    user_counts = {name: int(number) for name, _, number in (given.partition("=") for given in arguments.users)}
    unknown = user_counts.keys() - data_sets.keys()
    if unknown:
        raise SystemExit(
            f"--users: got {min(unknown)!r}; expected a data set "
            f"({', '.join(data_sets)}) and a number, such as complete-journey=400"
        )
    plan = Plan(
        tries=_QUICK_TRIES if quick else arguments.tries,
        training=_QUICK_TRAINING if quick else TrainConfig(epochs=arguments.epochs),
        library=library,
        work=arguments.work,
        baselines=arguments.only != "ours",
        ours=arguments.only != "baselines",
        without=frozenset(arguments.without),
    )
    report: dict[str, Any] = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "machine": {"cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__},
        "data_sets": _kept_data_sets(arguments.json, chosen if arguments.data_set else []),
    }
    left_out = sorted(plan.without | {row.name for row in field() if row.library and library is None})
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        dataset = data_sets[name]()
        users = user_counts.get(name, dataset.quick_users if quick else dataset.users)
        result = run_data_set(dataset, users, plan, console.print)
        facts = {"quick": quick, "tries": plan.tries, "epochs": plan.training.epochs, "left_out": left_out}
        report["data_sets"].append({**result, **facts})
        report["quick"] = any(one["quick"] for one in report["data_sets"])
        arguments.json.write_text(json.dumps(without_nan(report), indent=2, allow_nan=False) + "\n")
        print_tables(report["data_sets"][-1])
    console.print(f"[green]✓[/green] {', '.join(str(path) for path in write_summary(arguments.json))}")


def _kept_data_sets(path: Path, chosen: list[str]) -> list[dict[str, Any]]:
    """Returns the report's entries for the data sets that do not run again."""
    if not chosen or not path.is_file():
        return []
    kept: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["data_sets"]
    return [one for one in kept if one["name"] not in chosen]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--library",
        type=Path,
        help="Python interpreter of the environment of requirements.txt (default: its models are left out)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="few users, one setting of each baseline, two epochs for Ebbtide"
    )
    parser.add_argument(
        "--data-set",
        action="append",
        default=[],
        choices=[*REAL, *(world_data_set(name) for name in WORLDS)],
        help="run this data set only (default: all); can be repeated",
    )
    parser.add_argument(
        "--lastfm",
        type=Path,
        default=os.environ.get("EBBTIDE_LASTFM"),
        metavar="FOLDER",
        help="folder of the Last.fm data (default: the variable EBBTIDE_LASTFM; without it Last.fm is left out)",
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=[*(row.name for row in field()), *ABLATIONS],
        metavar="NAME",
        help="leave out a baseline or an ablation; can be repeated (SASRec and BERT4Rec take most of the time)",
    )
    parser.add_argument(
        "--only", choices=["baselines", "ours"], help="run the baselines only, or Ebbtide and its ablations only"
    )
    parser.add_argument(
        "--users",
        action="append",
        default=[],
        metavar="NAME=N",
        help="number of users of a data set; they are drawn with a fixed seed and are the same for all models",
    )
    parser.add_argument(
        "--tries",
        type=int,
        default=TRIES,
        metavar="N",
        help="maximum number of settings of each baseline to try on the validation period",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        default=TrainConfig().epochs,
        metavar="N",
        help="maximum number of epochs for Ebbtide and its ablations; a long log needs few",
    )
    parser.add_argument(
        "--work", type=Path, default=ROOT / "artifacts" / "quality", help="folder for intermediate data and kept fits"
    )
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "quality.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
