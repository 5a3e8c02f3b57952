"""Several runs of `ebbtide tune`: its gain over the default settings, and whether the runs choose the same settings.

The repository stays as it is. Prints a table and writes JSON, of which the top level is the run with the middle ratio.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median_low
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
console = Console()


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The runs together.

    Args:
        runs: Results of `ebbtide tune`, at least one.
    """
    middle = median_low(run["ratio"] for run in runs)
    choices = Counter(run["winner"]["export_options"] for run in runs)
    return {
        **next(run for run in runs if run["ratio"] == middle),
        "same_choice_share": round(max(choices.values()) / len(runs), 3),
        "runs": runs,
    }


def main() -> None:
    """Runs and reports."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tune", description=__doc__)
    parser.add_argument("--repository", type=Path, default=Path("artifacts/repository"))
    parser.add_argument("--bundle", type=Path, default=Path("artifacts/bundle"))
    parser.add_argument("--slo", default="p99<100ms")
    parser.add_argument("--mix", default="recommend_text=1")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each run")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "tune.json")
    arguments = parser.parse_args()
    runs = []
    # Results must not name folders of this machine: tune runs in the project's folder, on paths relative to it.
    with tempfile.TemporaryDirectory(dir=ROOT / "artifacts") as folder:
        for index in range(arguments.runs):
            console.print(f"run {index + 1} of {arguments.runs}")
            out = Path(folder).relative_to(ROOT) / f"{index}.json"
            choices = ("--bundle", str(arguments.bundle), "--slo", arguments.slo, "--mix", arguments.mix)
            command = [sys.executable, "-c", "from ebbtide.cli.main import main; main()", "tune"]
            subprocess.run(
                [*command, str(arguments.repository), *choices, "--minutes", str(arguments.minutes), "--out", str(out)],
                check=True,
                cwd=ROOT,
            )
            runs.append(json.loads((ROOT / out).read_text(encoding="utf-8")))
    table = Table(title=f"ebbtide tune under {runs[0]['slo']}", title_justify="left")
    for heading in ("changes", "default, requests/s", "found, requests/s", "ratio", "95 %", "s"):
        table.add_column(heading, justify="left" if heading == "changes" else "right")
    for run in runs:
        ends = "" if run["ratio_ci95"] is None else " to ".join(f"{end:.2f}" for end in run["ratio_ci95"])
        rates = [run[which]["rate_per_s"] for which in ("default", "found")]
        shown = ["" if rate is None else f"{rate:,.0f}" for rate in rates]
        options = run["winner"]["export_options"] or "none"
        table.add_row(options, *shown, f"{run['ratio']:.2f}", ends, f"{run['seconds']:.0f}")
    console.print(table)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(summary(runs), indent=1, allow_nan=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
