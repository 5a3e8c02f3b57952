"""Two results side by side: is the difference between them more than chance?

The unit is a window of time: requests sent together wait for each other, windows much less. Two tests must agree: the
Mann-Whitney U test, and the 95 % interval of the ratio of means from a bootstrap over blocks of windows, which allows
for neighbouring windows being alike.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from ebbtide.loadtest.errors import LoadTestError

SIGNIFICANT = 0.05

_FEWEST_WINDOWS = 5
_BLOCK = 4
_RESAMPLES = 4_000
_SEED = 0
_MEASURES = {
    "throughput": ("throughput", "per second", True),
    "p50": ("p50_ms", "ms", False),
    "p90": ("p90_ms", "ms", False),
    "p99": ("p99_ms", "ms", False),
}


@dataclass(frozen=True)
class Difference:
    """One measure of two results."""

    measure: str
    unit: str
    first: float
    """Mean over the windows of the first."""
    second: float
    ratio: float
    """Second over first."""
    low: float
    """Ends of the ratio's 95 % interval."""
    high: float
    p_value: float
    significant: bool
    better: bool
    """Whether the second is the better one; meaningless where the difference is not significant."""

    def __str__(self) -> str:
        change = f"{self.ratio - 1:+.1%} [{self.low - 1:+.1%}, {self.high - 1:+.1%}]"
        verdict = ("better" if self.better else "worse") if self.significant else "no significant difference"
        return f"{self.measure}: {self.first:.4g} -> {self.second:.4g} {self.unit}, {change}, {verdict}"


@dataclass(frozen=True)
class Comparison:
    """Two results and their differences."""

    differences: list[Difference]
    warnings: list[str]
    """Why they may not be comparable."""


def read_result(path: Path) -> dict[str, Any]:
    """A result that ``--json`` wrote.

    Raises:
        LoadTestError: It is none.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadTestError(f"{path}: {error}; expected a file that `ebbtide loadtest --json` wrote") from error
    if not isinstance(result, dict) or "ebbtide_loadtest" not in result:
        raise LoadTestError(f"{path}: expected a file that `ebbtide loadtest --json` wrote")
    return result


def compare(first: dict[str, Any], second: dict[str, Any]) -> Comparison:
    """Compares the runs that two results' headline figures are of.

    Raises:
        LoadTestError: One has too few windows.
    """
    runs = [_headline(result) for result in (first, second)]
    differences = []
    for measure, (column, unit, more_is_better) in _MEASURES.items():
        values = [_values(run, column) for run in runs]
        differences.append(_difference(measure, unit, *values, more_is_better=more_is_better))
    return Comparison(differences, _warnings(first, second))


def _headline(result: dict[str, Any]) -> list[dict[str, Any]]:
    return [run for run in result["runs"] if run["headline"]]


def _values(runs: list[dict[str, Any]], column: str) -> npt.NDArray[np.float64]:
    values = [value for run in runs for value in run["windows"][column] if value is not None]
    if len(values) < _FEWEST_WINDOWS:
        raise LoadTestError(
            f"{column}: got {len(values)} windows with answers; expected at least {_FEWEST_WINDOWS}: run for longer"
        )
    return np.array(values, dtype=np.float64)


def _difference(
    measure: str,
    unit: str,
    first: npt.NDArray[np.float64],
    second: npt.NDArray[np.float64],
    *,
    more_is_better: bool,
) -> Difference:
    random = np.random.default_rng(_SEED)
    means = [_block_means(values, random) for values in (first, second)]
    low, high = np.quantile(means[1] / means[0], (SIGNIFICANT / 2, 1 - SIGNIFICANT / 2))
    ratio = float(second.mean() / first.mean())
    p_value = float(stats.mannwhitneyu(first, second).pvalue)
    significant = p_value < SIGNIFICANT and not low <= 1 <= high
    better = (ratio > 1) == more_is_better
    return Difference(
        measure,
        unit,
        float(first.mean()),
        float(second.mean()),
        ratio,
        float(low),
        float(high),
        p_value,
        bool(significant),
        better,
    )


def _block_means(values: npt.NDArray[np.float64], random: np.random.Generator) -> npt.NDArray[np.float64]:
    """Means of resamples made of blocks of neighbouring windows, the last followed by the first."""
    blocks = -(-len(values) // _BLOCK)
    starts = random.integers(len(values), size=(_RESAMPLES, blocks))
    indices = (starts[:, :, None] + np.arange(_BLOCK)).reshape(_RESAMPLES, -1)[:, : len(values)] % len(values)
    return np.asarray(values[indices].mean(axis=1))


def _warnings(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    found = []
    for what, of in (
        ("load", lambda result: [run["load"] for run in _headline(result)][:1]),
        ("mix", lambda result: result["requests"]["mix"]),
        ("by user", lambda result: result["requests"].get("by_user", False)),
        ("processor", lambda result: result["machine"]["processor"]),
        ("cores", lambda result: result["machine"]["cores"]),
        ("Triton", lambda result: result["server"]["version"]),
    ):
        if of(first) != of(second):
            found.append(f"{what}: {of(first)} in the first, {of(second)} in the second")
    found += [
        f"{name} result: the load generator may be the limit: {result['generator']['limit']}"
        for name, result in (("first", first), ("second", second))
        if result["generator"]["limit"]
    ]
    return found
