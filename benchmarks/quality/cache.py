"""Caches the lists of every fit, so that an interrupted run continues where it stopped.

The cache key of a fit is its data, its settings and its code: a change to any of them causes a new fit.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from benchmarks.quality.split import Split
from ebbtide.train.evaluation.lists import RankedLists

_DIGITS = 16


@dataclass(frozen=True)
class Fitted:
    """The lists of one fitted model on one split."""

    lists: RankedLists
    train_s: float
    """Wall-clock seconds of training; for counts and closed forms the seconds of ranking are included."""
    cpu_s: float
    """Processor seconds of the same work, summed over threads; a busy machine does not change them."""


class Stopwatch:
    """Measures wall-clock and processor time from its creation until `stop`."""

    def __init__(self) -> None:
        self._began = time.monotonic(), time.process_time()
        self._took: tuple[float, float] | None = None

    def stop(self) -> None:
        """Stops the measurement."""
        wall, cpu = self._began
        self._took = time.monotonic() - wall, time.process_time() - cpu

    def fitted(self, lists: RankedLists) -> Fitted:
        """Returns the lists with the measured times; stops the measurement if it is still running."""
        if self._took is None:
            self.stop()
        assert self._took is not None
        return Fitted(lists, *self._took)


class Cache:
    """A folder of cached fits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str, key: dict[str, object]) -> Path:
        """The file of a fit, whether it exists or not.

        Args:
            name: Name of the model, so that the file name is readable.
            key: JSON values: everything that the lists depend on.
        """
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:_DIGITS]
        return self._folder / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}-{digest}.safetensors"

    def get(self, name: str, key: dict[str, object], fit: Callable[[], Fitted]) -> Fitted:
        """Returns the cached fit, or fits and caches the result."""
        path = self.path(name, key)
        if not path.is_file():
            self._keep(path, fit())
        with safe_open(str(path), framework="numpy") as file:
            times = file.metadata()
            lists = RankedLists(file.get_tensor("item").astype(np.int64), file.get_tensor("score"))
        return Fitted(lists, float(times["train_s"]), float(times["cpu_s"]))

    def _keep(self, path: Path, fitted: Fitted) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        save_file(
            {"item": fitted.lists.item.astype(np.int32), "score": fitted.lists.score},
            str(partial),
            {"train_s": repr(fitted.train_s), "cpu_s": repr(fitted.cpu_s)},
        )
        partial.rename(path)


@cache
def split_fingerprint(split: Split) -> str:
    """Fingerprint of the events without their weights, the test events, and whether seen items may be recommended."""
    log = split.test.log
    digest = hashlib.sha256(json.dumps([split.repeats, log.users, split.test.catalog.item_id]).encode())
    for array in (log.start, log.item, log.time_ms, split.test.is_test):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:_DIGITS]


def code_fingerprint(files: Iterable[Path]) -> str:
    """Fingerprint of the code of Python files; comments, docstrings and formatting do not change it."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(ast.dump(_WithoutDocstrings().visit(ast.parse(file.read_text(encoding="utf-8")))).encode())
    return digest.hexdigest()[:_DIGITS]


class _WithoutDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node
