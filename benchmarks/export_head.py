"""What the scoring head's precisions cost and gain, by size of the catalog: time of a run, file, answers that differ.

ONNX Runtime with one thread, as exported; every run has other interests, and precisions take turns. Factors are random:
times depend on shapes alone. Prints a table of medians and of ratios to fp32, and writes JSON.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnxruntime as ort
from rich.console import Console
from rich.table import Table

from benchmarks.serving import machine
from ebbtide.export.choices import Precision
from ebbtide.export.head.graph import head_graph
from ebbtide.export.onnx_files import write_graph
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Limits, Size
from ebbtide.interest.modelfile import MODEL_FILE

ROOT = Path(__file__).parents[1]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
DIMENSIONS, PRIOR_COLUMNS, TOP_N = 64, 4, 50
EXCLUDED = 60
RUN_BUDGET_S = 4.0
LEAST_RUNS = 7


@dataclass(frozen=True)
class HeadTimes:
    """One precision at one size of catalog and batch."""

    items: int
    batch: int
    precision: str
    median_ms: float
    ratio_to_fp32: float
    """Above 1 where it is faster."""
    file_mib: float
    recall: float
    """Share of the fp32 head's items that it names too."""


def measure_head(items: int, batches: list[int], seed: int = 0) -> list[HeadTimes]:
    """Times every precision on one catalog."""
    random = np.random.default_rng(seed)
    factors = (random.standard_normal((items, DIMENSIONS + PRIOR_COLUMNS)) * 0.3).astype(np.float32)
    width = Limits().adjustments
    sizes = {Size.INTEREST: factors.shape[1], Size.TOP_N: TOP_N, Size.FILTER: 1}
    sessions: dict[str, Any] = {}
    file_mib: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as index:
        for precision in PRECISIONS:
            graph = head_graph(factors, [str(item) for item in range(items)], sizes, precision)
            write_graph(graph, "benchmark", Path(index))
            file_mib[precision] = sum(file.stat().st_size for file in Path(index).iterdir()) / 2**20
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1
            sessions[precision] = ort.InferenceSession(str(Path(index) / MODEL_FILE), options)
    found = []
    for batch in batches:
        seconds: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
        recall: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
        began = time.monotonic()
        while len(seconds["fp32"]) < LEAST_RUNS or time.monotonic() - began < RUN_BUDGET_S:
            feeds = _feeds(random, batch, items, factors.shape[1], width)
            answers = {}
            for name, session in sessions.items():
                start = time.perf_counter()
                (answers[name],) = session.run([contract.ITEM_ID.name], feeds)
                seconds[name].append(time.perf_counter() - start)
            for name, answer in answers.items():
                shared = [len(set(row) & set(best)) for row, best in zip(answer, answers["fp32"], strict=True)]
                recall[name].append(float(np.mean(shared)) / TOP_N)
        # The first run of a shape makes ONNX Runtime's buffers.
        medians = {precision: float(np.median(times[1:])) for precision, times in seconds.items()}
        found += [
            HeadTimes(
                items,
                batch,
                precision,
                round(medians[precision] * 1e3, 4),
                round(medians["fp32"] / medians[precision], 3),
                round(file_mib[precision], 1),
                round(float(np.mean(recall[precision])), 6),
            )
            for precision in PRECISIONS
        ]
    return found


def _feeds(random: np.random.Generator, batch: int, items: int, width: int, adjustments: int) -> dict[str, Any]:
    interest, adjust_item, adjust_score, item_filter = (tensor.name for tensor in served_models.SCORING_HEAD.inputs)
    item, score = np.zeros((batch, adjustments), np.int64), np.zeros((batch, adjustments), np.float32)
    item[:, :EXCLUDED] = random.integers(0, items, (batch, EXCLUDED))
    score[:, :EXCLUDED] = -np.inf
    return {
        interest: random.standard_normal((batch, width)).astype(np.float32),
        adjust_item: item,
        adjust_score: score,
        item_filter: np.ones((batch, 1), np.int64),
    }


def main() -> None:
    """Measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, nargs="+", default=[9_742, 50_000, 100_000, 1_000_000])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8, 32])
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "export_head.json")
    arguments = parser.parse_args()
    console = Console()
    results: list[HeadTimes] = []
    for items in arguments.items:
        with console.status(f"{items:,} items"):
            results += measure_head(items, arguments.batches)
    table = Table(title=f"Scoring head, {DIMENSIONS} + {PRIOR_COLUMNS} columns, top {TOP_N}, one thread")
    for heading in ("items", "batch", "precision", "median, ms", "fp32 takes", "file, MiB", "recall"):
        table.add_column(heading, justify="right")
    for one in results:
        table.add_row(
            *(f"{one.items:,}", str(one.batch), one.precision, f"{one.median_ms:.3f}", f"{one.ratio_to_fp32:.2f}x"),
            *(f"{one.file_mib:.1f}", f"{one.recall:.4f}"),
            end_section=one.precision == PRECISIONS[-1],
        )
    console.print(table)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine.facts(), "results": [asdict(one) for one in results]}
    arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
