"""Runs the parts of the serving benchmark, writes JSON and Markdown after each part, and prints tables."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.serving import machine, report
from benchmarks.serving.settings import Settings

ROOT = Path(__file__).parents[2]
PARTS = {
    "pipeline": "benchmarks.serving.pipeline",
    "recommend": "benchmarks.serving.recommend",
    "peers": "benchmarks.serving.peers.measure",
    "encoder": "benchmarks.serving.encoder",
    "catalog": "benchmarks.serving.catalog",
    "memory": "benchmarks.serving.memory",
}
console = Console()


def main() -> None:
    """Parses the command line and runs the parts; after a failed part the others still run, and the status is 1."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="fewer sizes and repeats, shorter turns, peers with their first settings"
    )
    parser.add_argument(
        "--bundle",
        type=Path,
        default=ROOT / "artifacts" / "bundle",
        help="interest bundle (default: the demo's)",
    )
    parser.add_argument(
        "--only",
        choices=PARTS,
        action="append",
        help="run this part only and keep the results of the others; can be repeated",
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=ROOT / "benchmarks" / "results" / "serving.json",
        help="file to write; the Markdown page and the plot are written beside it",
    )
    arguments = parser.parse_args()
    if not arguments.bundle.is_dir():
        parser.error(f"--bundle: got {arguments.bundle}, which does not exist; expected a bundle: run `make demo`")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"runs": {}}
    if arguments.only and arguments.json.is_file():
        content = json.loads(arguments.json.read_text())
    content["machine"] = machine.facts()
    failed = []
    scratch = ROOT / "artifacts"
    scratch.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-serving-", dir=scratch) as work:
        settings = Settings(arguments.bundle, Path(work), arguments.quick)
        for part in arguments.only or PARTS:
            before, began = machine.load_average(), time.monotonic()
            try:
                with console.status(f"Measuring: {part}"):
                    module = importlib.import_module(PARTS[part])
                    content[part] = module.measure(settings)
            except Exception:
                # The results of the other parts are still useful; the exit status says that one is missing.
                console.print_exception()
                failed.append(part)
                continue
            seconds = round(time.monotonic() - began, 1)
            content["runs"][part] = {"quick": arguments.quick, "load_average_before": before, "seconds": seconds}
            console.print(f"{part}: {seconds:.0f} s")
            arguments.json.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
            arguments.json.with_suffix(".md").write_text(report.markdown(content))
            if part == "catalog":
                module.write_plot(content[part], arguments.json.with_name(report.PLOT))
    report.show(console, content)
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
