"""Compares ways to bring live popularity to the scoring head: sparse score adjustments, a dense input, a new head.

    python -m benchmarks.live_popularity [--items 10000] [--json FILE]

All run in this process, in turns, on one thread: Python's part of the work and the head's. "Agreement" is the mean
share of the exact top 50, with all columns of now, that a way returns. Set OPENBLAS_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from ebbtide.export.head.graph import head_graph
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Limits, Size
from ebbtide.interest.live_prior import LivePrior

Floats = npt.NDArray[np.float32]

DIMENSIONS = 96
TOP_N = 50
RUNS = 60
LIVE_ITEMS = (64, 256, 512)


def session(graph: onnx.ModelProto) -> ort.InferenceSession:
    """One thread, as a served head on a small machine."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])


def dense_graph(graph: onnx.ModelProto, items: int) -> onnx.ModelProto:
    """The head with one more input, ``[requests, items]``, that is added to all scores."""
    dense = onnx.ModelProto()
    dense.CopyFrom(graph)
    [product] = [node for node in dense.graph.node if node.output[0] == "linear_score"]
    product.output[0] = "frozen_score"
    at = list(dense.graph.node).index(product) + 1
    dense.graph.node.insert(at, helper.make_node("Add", ["frozen_score", "live_gain"], ["linear_score"]))
    dense.graph.input.append(helper.make_tensor_value_info("live_gain", TensorProto.FLOAT, ["requests", items]))
    return dense


def world(items: int) -> tuple[Floats, Floats, Floats, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Factors, interests, and what the prior adds at export and now: a Zipf catalog of which a part has moved."""
    random = np.random.default_rng(0)
    factors = (random.standard_normal((items, DIMENSIONS)) / DIMENSIONS**0.5).astype(np.float32)
    interest = random.standard_normal((64, DIMENSIONS)).astype(np.float32)
    frozen = -np.log(random.permutation(items) + 10.0) + np.log(items)
    moved = random.permutation(items)[: items // 10]
    now = frozen.copy()
    now[moved] = random.permutation(now[moved])
    return factors, interest, np.ones(64, np.float32), frozen, now


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a table of medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args(arguments)
    items, width = chosen.items, Limits().adjustments
    factors, interest, ones, frozen, now = world(items)
    table = np.concatenate([factors, frozen.astype(np.float32)[:, None]], axis=1)
    interest = np.concatenate([interest, ones[:, None]], axis=1)
    sizes = {Size.INTEREST: DIMENSIONS + 1, Size.TOP_N: TOP_N, Size.FILTER: 1}
    graph = head_graph(table, [f"item {index}" for index in range(items)], sizes)
    head, dense = session(graph), session(dense_graph(graph, items))
    gain = (now - frozen).astype(np.float32)
    exact = interest[:, :-1] @ factors.T + now
    best = np.argsort(-exact, axis=1)[:, :TOP_N]
    index = [contract.ITEM_INDEX.name]

    def feeds(rows: int, prior: LivePrior | None) -> dict[str, npt.NDArray[Any]]:
        item, score = np.zeros((rows, width), np.int64), np.zeros((rows, width), np.float32)
        item[:, :60] = np.arange(60)
        if prior is not None:
            prior.adjust(interest[:rows], item, score, None)
        inputs = (interest[:rows], item, score, np.ones((rows, 1), np.int64))
        return dict(zip((tensor.name for tensor in served_models.SCORING_HEAD.inputs), inputs, strict=True))

    def with_dense(rows: int) -> npt.NDArray[Any]:
        given = np.broadcast_to(gain, (rows, items)).copy()
        found: npt.NDArray[Any] = dense.run(index, {**feeds(rows, None), "live_gain": given})[0]
        return found

    ways: dict[str, Callable[[int], npt.NDArray[Any]]] = {
        "frozen": lambda rows: head.run(index, feeds(rows, None))[0],
        "dense input": with_dense,
    }
    for most in LIVE_ITEMS:
        prior = LivePrior.of(now - frozen, frozen, table, most)
        ways[f"adjustments, {most} items"] = lambda rows, prior=prior: head.run(index, feeds(rows, prior))[0]  # type: ignore[misc]

    found: dict[str, dict[str, float]] = {}
    for name, run in ways.items():
        share = np.mean([len(set(a) & set(b)) / TOP_N for a, b in zip(run(64).tolist(), best.tolist(), strict=True)])
        found[name] = {"agreement": float(share)}
    for rows in (1, 8):
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(RUNS):
            for name, run in ways.items():
                began = time.perf_counter()
                run(rows)
                times[name].append(time.perf_counter() - began)
        for name in ways:
            found[name][f"ms, batch {rows}"] = float(np.median(times[name])) * 1000
            found[name][f"ratio, batch {rows}"] = float(np.median(np.array(times[name]) / np.array(times["frozen"])))
    began = time.perf_counter()
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(head_graph(table, [f"item {one}" for one in range(items)], sizes), str(path))
        ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        seconds, size_mb = time.perf_counter() - began, path.stat().st_size / 1e6
        found["new version of the head"] = {"s for each change": seconds, "MB": size_mb}
    for name, values in found.items():
        print(f"{name:28}", "  ".join(f"{key} {value:.3f}" for key, value in values.items()))
    if chosen.json:
        chosen.json.write_text(json.dumps({"items": items, "ways": found}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
