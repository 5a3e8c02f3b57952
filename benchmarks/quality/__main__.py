"""Runs the quality benchmark: evaluates every model on every data set and writes benchmarks/results/quality.json.

Results that are there already, and whose data, settings and code have not changed, are kept. So a run may be
interrupted, and go on later or on another machine that has the file.

python -m benchmarks.quality --library artifacts/quality-venv/bin/python [--quick]
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from benchmarks.quality.console import console
from benchmarks.quality.datasets import REAL, ROOT, builders, world_data_set
from benchmarks.quality.field import TRIES, field
from benchmarks.quality.ours import ABLATIONS, OURS
from benchmarks.quality.records import Records
from benchmarks.quality.run import Plan, run_data_set
from benchmarks.quality.summary import print_tables, write_summary
from benchmarks.quality.worlds import WORLDS
from ebbtide.train.config import TrainConfig

RESULTS = ROOT / "benchmarks" / "results" / "quality.json"
SEEDS = 3
_QUICK_TRIES = 1
_QUICK_TRAINING = TrainConfig(epochs=2, refit=False)
_GROUPS = {"baselines": tuple(row.name for row in field()), "ours": (OURS, *ABLATIONS)}
_NAMES = [name for group in _GROUPS.values() for name in group]


def main() -> None:
    """Parses the command line, runs the models that have no valid result yet, and saves each result at once."""
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
        seeds=1 if quick else arguments.seeds,
        quick=quick,
        only=frozenset(name for given in arguments.only for name in _GROUPS.get(given, (given,))) or None,
        without=frozenset(arguments.without),
    )
    path = arguments.json or (arguments.work / "quick.json" if quick else RESULTS)
    records = Records(path)
    for name in chosen:
        dataset = data_sets[name]()
        users = user_counts.get(name, dataset.quick_users if quick else dataset.users)
        print_tables(run_data_set(dataset, users, plan, records, console.print))
    console.print(f"[green]✓[/green] {', '.join(str(path) for path in write_summary(path))}")


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
        choices=_NAMES,
        metavar="NAME",
        help="leave out a model, by its name in the report; can be repeated (SASRec and BERT4Rec take longest)",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=[*_GROUPS, *_NAMES],
        metavar="NAME",
        help="run this model only, by its name in the report, or a group: baselines, ours (Ebbtide and its ablations); "
        "can be repeated; valid results of other models stay in the report",
    )
    parser.add_argument(
        "--seeds", type=int, default=SEEDS, metavar="N", help="trainings of Ebbtide with different seeds (default: 3)"
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
    parser.add_argument(
        "--json",
        type=Path,
        help="the report; results in it that are still valid are not computed again (default: "
        "benchmarks/results/quality.json, or quick.json in the --work folder with --quick)",
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
