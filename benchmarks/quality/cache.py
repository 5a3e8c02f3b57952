"""Keeps the lists of every fit, so that a run that was broken off goes on where it stopped.

A fit is known by its data, its settings and the code that made it: whatever changes one of them is fitted anew.
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
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from benchmarks.quality.split import Split
from ebbtide.train.evaluation.lists import RankedLists

_DIGITS = 16


@dataclass(frozen=True)
class Fitted:
    """One fit of a model and its lists on one split."""

    lists: RankedLists
    train_s: float
    """Wall clock; for counts and closed forms with the ranking."""
    cpu_s: float
    """Processor time of the same, of all threads: what a busy machine does not change."""


class Stopwatch:
    """Wall clock and processor time from when it was made to when it was stopped."""

    def __init__(self) -> None:
        self._began = time.monotonic(), time.process_time()
        self._took: tuple[float, float] | None = None

    def stop(self) -> None:
        """What comes later does not count."""
        wall, cpu = self._began
        self._took = time.monotonic() - wall, time.process_time() - cpu

    def fitted(self, lists: RankedLists) -> Fitted:
        """The lists with the time taken; stops the watch where it runs."""
        if self._took is None:
            self.stop()
        assert self._took is not None
        return Fitted(lists, *self._took)


class Cache:
    """A folder of fits."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str, key: dict[str, object]) -> Path:
        """Where a fit is kept, or would be.

        Args:
            name: Of the model, for the reader of the folder.
            key: JSON values; everything that the lists depend on.
        """
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:_DIGITS]
        return self._folder / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}-{digest}.safetensors"

    def get(self, name: str, key: dict[str, object], fit: Callable[[], Fitted]) -> Fitted:
        """The kept fit, or a new one, which is kept."""
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


def split_fingerprint(split: Split) -> str:
    """Of who did what when, what is held out, and whether what was had may be in the lists; event weights aside."""
    log = split.test.log
    digest = hashlib.sha256(json.dumps([split.repeats, log.users, split.test.catalog.item_id]).encode())
    for part in (log.start, log.item, log.time_ms, split.test.is_test):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:_DIGITS]


def code_fingerprint(files: Iterable[Path]) -> str:
    """Of what Python files do: neither comments nor docstrings nor formatting count."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(ast.dump(_WithoutDocstrings().visit(ast.parse(file.read_text(encoding="utf-8")))).encode())
    return digest.hexdigest()[:_DIGITS]


class _WithoutDocstrings(ast.NodeTransformer):
    def visit_Expr(self, node: ast.Expr) -> ast.Expr | None:
        return None if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) else node
