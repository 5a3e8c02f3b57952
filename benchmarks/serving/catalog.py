"""Time of the scoring head by catalog size: exact search against memory bandwidth, an index against exact search.

Item factors are grown from the bundle's (`grown`); interests are those of real users. All heads run in this process,
without a server: exact heads in ONNX Runtime, indexes in the served NumPy and faiss code. A request asks for the best
100 items and excludes 60. Turns alternate; a figure is the median of the turns' medians.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import torch

from benchmarks.serving.catalog_heads import Feeds, exact_heads, indexed_head, recall, requests_of
from benchmarks.serving.grown import grow_factors
from benchmarks.serving.settings import Settings
from benchmarks.serving.users import real_requests
from ebbtide.export.errors import RetrievalError
from ebbtide.export.head.graph import item_factors
from ebbtide.export.head.index import RECALL_AT, build_index
from ebbtide.export.head.options import RetrievalOptions
from ebbtide.export.writer import RepositoryWriter
from ebbtide.interest import exported, served_models
from ebbtide.interest.checks import Request
from ebbtide.interest.pipeline import AdaptiveWeights
from ebbtide.train.bundle import InterestBundle

Floats = npt.NDArray[np.float32]

SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
QUICK_SIZES = SIZES[:3]
_MEMORY_PER_FACTOR = 6
"""Peak memory of a measurement, in copies of the factors: grown, as an ONNX message, packed by ONNX Runtime."""
_TURN_S = 0.5
_WARMING_RUNS, _LEAST_RUNS = 3, 8
_BANDWIDTH_BYTES = 1 << 28
_BANDWIDTH_RUNS = 5


def measure(settings: Settings) -> dict[str, Any]:
    """Figures by number of items, as text; sizes that do not fit into memory are left out.

    Raises:
        ValueError: The bundle's log has too few long histories.
    """
    bundle = InterestBundle.load(settings.bundle)
    interests = _interests(bundle, settings.work / "catalog")
    with torch.inference_mode():
        trained = item_factors(bundle)
    found: dict[str, Any] = {}
    for items in QUICK_SIZES if settings.quick else SIZES:
        need = _MEMORY_PER_FACTOR * items * trained[0].nbytes
        if psutil.virtual_memory().available < need:
            continue
        factors = grow_factors(trained, bundle.model.config.dimensions, items)
        found[str(items)] = _measure_size(factors, interests, settings)
        del factors
        gc.collect()
    return found


def write_plot(results: dict[str, Any], path: Path) -> None:
    """Plots the time of a request by catalog size.

    Args:
        results: Results of `measure`.
        path: PNG file to write.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    items = sorted(int(size) for size in results)
    figure, axes = plt.subplots(figsize=(7, 4.5), constrained_layout=True)
    lines = {
        "floor_ms": ("floor: the factors, read once by one thread", "0.6", "--"),
        "exact_ms": ("exact, one thread", "tab:blue", "-"),
        "ann_ms": ("index: ivf", "tab:orange", "-"),
    }
    for key, (label, colour, style) in lines.items():
        points = [(size, value) for size in items if (value := results[str(size)].get(key)) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), style, color=colour, label=label, marker="o", markersize=4)
    for size in items:
        one = results[str(size)]
        if one.get("ann_ms") is not None:
            axes.annotate(
                f"{one['ann_speedup']:.1f}x\nrecall {one['ann_recall_at_100']:.3f}",
                (size, min(one["ann_ms"], one["exact_ms"])),
                xytext=(0, -8),
                textcoords="offset points",
                ha="center",
                va="top",
                fontsize=8,
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(x=0.08, y=0.18)
    axes.set_xticks(items, [f"{size:,}" for size in items])
    axes.minorticks_off()
    axes.set_xlabel("items of the catalog")
    axes.set_ylabel(f"ms for the best {RECALL_AT}, one request")
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend(frameon=False, loc="upper left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _interests(bundle: InterestBundle, folder: Path) -> Floats:
    """Interests of real users, computed by the exported pipeline, ``[users, d + p]``."""
    folder.mkdir(parents=True)
    writer = RepositoryWriter(bundle, folder)
    writer.write_interest()
    pipeline = exported.read_pipeline(folder / served_models.ADAPTIVE_WEIGHTS.name / str(writer.version))
    users = [Request(**{name: row[0] for name, row in one.items()}) for one in real_requests(bundle)]
    return np.stack([answer.interest for answer in pipeline.run(users) if isinstance(answer, AdaptiveWeights)])


def _measure_size(factors: Floats, interests: Floats, settings: Settings) -> dict[str, Any]:
    items, cores = len(factors), len(os.sched_getaffinity(0))
    folder = settings.work / f"catalog-{items}"
    folder.mkdir()
    result: dict[str, Any] = {"width": factors.shape[1], "top_n": RECALL_AT, "cores": cores}
    # The index is configured on one half of the users and measured on the other half.
    settle, requests = interests[::2], requests_of(interests[1::2], items)
    exact, exact_all_cores = exact_heads(factors, folder / "exact", (1, cores))
    heads = {"exact": exact, "exact_all_cores": exact_all_cores}
    began = time.monotonic()
    try:
        index = build_index(factors, settle, RECALL_AT, RetrievalOptions("ivf"))
    except RetrievalError as error:
        result |= {"ann_ms": None, "ann_speedup": None, "ann_refused": str(error)}
    else:
        result |= {
            "ann_build_s": round(time.monotonic() - began, 1),
            "ann_parameters": {**index.parameters, "candidates": index.candidates},
        }
        heads["ann"] = indexed_head(index, factors, folder / "ivf")
        result["ann_recall_at_100"] = round(recall(heads["ann"], exact, requests), 4)
    turns: dict[str, list[float]] = {name: [] for name in heads}
    bandwidths: dict[int, list[tuple[float, float]]] = {1: [], cores: []}
    for _ in range(settings.repeats):
        for name, head in heads.items():
            turns[name].append(_turn(head, requests))
        for threads, found in bandwidths.items():
            found.append(_bandwidth(threads))
    seconds = {name: float(np.median(found)) for name, found in turns.items()}
    result |= {f"{name}_ms": round(found * 1e3, 4) for name, found in seconds.items()}
    result |= {f"{name}_speedup": round(seconds["exact"] / seconds[name], 2) for name in heads if "exact" not in name}
    for name, threads in (("exact", 1), ("exact_all_cores", cores)):
        read, copied = np.median(bandwidths[threads], axis=0).tolist()
        suffix = name.removeprefix("exact")
        # The limit is the faster of reading and copying.
        result |= {
            f"read_gb_per_s{suffix}": round(read / 1e9, 2),
            f"copy_gb_per_s{suffix}": round(copied / 1e9, 2),
            f"floor_ms{suffix}": round(factors.nbytes / max(read, copied) * 1e3, 4),
            f"fraction_of_bandwidth{suffix}": round(factors.nbytes / seconds[name] / max(read, copied), 3),
        }
    return result


def _turn(head: Any, requests: Sequence[Feeds]) -> float:  # noqa: ANN401 - onnxruntime carries no types
    """Median seconds of a request; each is of another user, and the first ones are not counted (cold cache)."""
    seconds: list[float] = []
    began = time.monotonic()
    while len(seconds) < _WARMING_RUNS + _LEAST_RUNS or time.monotonic() - began < _TURN_S:
        start = time.perf_counter()
        head.run(None, requests[len(seconds) % len(requests)])
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds[_WARMING_RUNS:]))


def _bandwidth(threads: int) -> tuple[float, float]:
    """Bytes per second that a number of threads read, and that they move by copying (each byte is read and written).

    Measured with torch, whose sums and copies use the given number of threads, on an array far larger than any cache.
    """
    source = torch.ones(_BANDWIDTH_BYTES // 4)
    target = torch.empty_like(source)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    reads, copies = [], []
    try:
        for _ in range(_BANDWIDTH_RUNS):
            start = time.perf_counter()
            source.sum()
            between = time.perf_counter()
            target.copy_(source)
            copies.append(time.perf_counter() - between)
            reads.append(between - start)
    finally:
        torch.set_num_threads(before)
    return _BANDWIDTH_BYTES / min(reads), 2 * _BANDWIDTH_BYTES / min(copies)
