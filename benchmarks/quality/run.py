"""Runs every model on one data set: first the baselines, then Ebbtide and its ablations."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from platformdirs import user_cache_path

from benchmarks.quality import ours
from benchmarks.quality.cache import Cache, Fitted, Stopwatch, code_fingerprint, split_fingerprint
from benchmarks.quality.datasets import HOLDOUT, ROOT, DataSet, drawn
from benchmarks.quality.field import Baseline, Fitter, Tuned, field, tuned
from benchmarks.quality.progress import Steps
from benchmarks.quality.results import Results
from benchmarks.quality.split import Split, splits
from ebbtide.data.dataset import read_dataset
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.encoder import PACKAGED, embed_cached, encoder_fingerprint, encoder_folder
from ebbtide.train.model import InterestModel

_OURS_COST = 300.0
"""Approximate time of one training of Ebbtide, relative to a popularity model."""


@dataclass(frozen=True)
class Plan:
    """The models to run and their settings."""

    tries: int
    """Maximum number of settings to try for each baseline."""
    training: TrainConfig
    """Training configuration of Ebbtide and its ablations."""
    library: Path | None
    """Python interpreter of the library models' environment; None leaves these models out."""
    work: Path
    """Folder for intermediate data and cached fits."""
    baselines: bool = True
    """Whether to run the baselines."""
    ours: bool = True
    """Whether to run Ebbtide and its ablations."""
    without: frozenset[str] = frozenset()
    """Names of baselines and ablations to leave out."""


def run_data_set(dataset: DataSet, users: int | None, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Runs all models on one data set.

    Args:
        dataset: Data set to run on.
        users: Number of users to draw; None for all.
        plan: Models to run.
        say: Prints a line.

    Returns:
        The data set's entry of the report, as JSON values.
    """
    work = plan.work / (dataset.name if users is None else f"{dataset.name}-{users}")
    data = read_dataset(drawn(dataset, users, work))
    folder = encoder_folder(PACKAGED)
    with Steps(f"{dataset.name}: embedding the catalog", 1):
        vectors = embed_cached(folder, encoder_fingerprint(folder), data.catalog.text, user_cache_path("ebbtide"))
    validation, test = splits(data.log, data.catalog, HOLDOUT, dataset.repeats)
    say(
        f"[bold]{dataset.name}[/bold]: {data.log.events:,} events of {len(data.log.users):,} users on "
        f"{len(data.catalog):,} items; {len(test.test.baskets):,} baskets to predict"
    )
    results = Results(test, vectors)
    chosen = [
        row
        for row in field()
        if plan.baselines and row.name not in plan.without and (dataset.repeats or not row.only_repeats)
    ]
    if plan.library is None:
        chosen = [row for row in chosen if not row.library]
    variants = {
        name: config
        for name, config in ours.variants(dataset.repeats).items()
        if plan.ours and name not in plan.without
    }
    cost = sum(row.cost * _fits(row, plan.tries) for row in chosen) + _OURS_COST * len(variants)
    fits = Cache(work / "fits")
    with Steps(dataset.name, cost) as steps:
        for name, oracle in dataset.oracles.items():
            steps.now(name)
            key: dict[str, object] = {"data": split_fingerprint(test), "code": _ORACLE_CODE}
            fitted = fits.get(name, key, lambda oracle=oracle: Stopwatch().fitted(oracle(test)))  # type: ignore[misc]
            say(_line(results.add(name, fitted, kind="oracle", popularity="known")))
        fitter = Fitter(fits, plan.library, work / "exchange", steps.done)
        for baseline in chosen:
            steps.now(baseline.name)
            result = tuned(baseline, validation, test, plan.tries, fitter)
            say(_line(results.add(baseline.name, result.fitted, **_facts(baseline, result, test))))
        for name, config in variants.items():
            steps.now(name)
            for full_name, fitted, popularity in _ours(name, config, test, vectors, plan.training, fits, steps):
                say(_line(results.add(full_name, fitted, kind="ours", popularity=popularity)))
    results.compare_ours()
    return {
        "name": dataset.name,
        "holdout": HOLDOUT,
        "repeats": dataset.repeats,
        "items": len(data.catalog),
        "users": len(data.log.users),
        "users_drawn": users,
        "events": data.log.events,
        "test_users": int(np.unique(test.test.owner).size),
        "test_baskets": len(test.test.baskets),
        "models": results.rows,
    }


def _fits(row: Baseline, tries: int) -> int:
    """Number of fits of a baseline: one for each setting tried, and the final one."""
    number = min(len(row.grid), tries)
    return number + 1 if number > 1 else 1


def _line(row: dict[str, Any]) -> str:
    low, high = row["ci95"]
    return f"  {row['name']}: NDCG@10 {row['ndcg_at_10']:.4f}, {low:.4f} to {high:.4f}"


def _facts(baseline: Baseline, result: Tuned, test: Split) -> dict[str, object]:
    """The entries of a baseline's row beside its metrics."""
    facts: dict[str, object] = {
        "kind": "baseline",
        "popularity": "updated" if baseline.updated else "frozen",
        "settings": _plain(result.settings),
        "tried": [{"settings": _plain(settings), "validation_ndcg_at_10": score} for settings, score in result.tried],
    }
    if baseline.most_items is not None:
        counts = np.bincount(test.test.training_item, minlength=len(test.test.catalog))
        known = np.zeros(counts.shape[0], dtype=np.bool_)
        known[np.argsort(-counts, kind="stable")[: baseline.most_items]] = True
        known &= counts > 0
        facts["known_items"] = int(known.sum())
        facts["known_share_of_relevant"] = float(known[test.test.relevance.item].mean())
    return facts


def _plain(settings: dict[str, float]) -> dict[str, float | str]:
    """The settings as JSON values: JSON has no infinity."""
    return {name: "inf" if math.isinf(value) else value for name, value in settings.items()}


def _ours(
    name: str,
    config: ModelConfig,
    test: Split,
    vectors: npt.NDArray[np.float32],
    training: TrainConfig,
    fits: Cache,
    steps: Steps,
) -> Iterator[tuple[str, Fitted, str]]:
    """Yields name, lists and popularity ("updated", "frozen" or "none") of one variant, updated and frozen."""
    model_vectors = np.zeros((vectors.shape[0], 1), dtype=np.float32) if name == ours.NO_TEXT else vectors
    key: dict[str, object] = {
        "data": split_fingerprint(test),
        "weights": hashlib.sha256(test.test.log.weight.tobytes()).hexdigest(),
        "texts": hashlib.sha256(np.ascontiguousarray(model_vectors).tobytes()).hexdigest(),
        "config": [type(config).__name__, config.model_dump(mode="json")],
        "training": training.model_dump(mode="json"),
        "code": _CODE,
    }

    @cache
    def trained() -> tuple[InterestModel, Stopwatch]:
        watch = Stopwatch()
        model = ours.trained(test, config, training, model_vectors)
        watch.stop()
        return model, watch

    def ranked(updated: bool) -> Fitted:
        model, watch = trained()
        return watch.fitted(ours.ranked(test, model, updated=updated))

    has_prior = bool(config.effective_prior_half_life_days)
    for updated in (True, False) if has_prior else (True,):
        full_key: dict[str, object] = {**key, "updated": updated}
        cached = fits.path(name, full_key).is_file()
        fitted = fits.get(name, full_key, lambda updated=updated: ranked(updated))  # type: ignore[misc]
        if updated:
            steps.done(_OURS_COST, cached)
        popularity = ("updated" if updated else "frozen") if has_prior else "none"
        yield name + ("" if updated else ours.FROZEN), fitted, popularity


def _files() -> Iterator[Path]:
    """The source files that training and ranking with Ebbtide run."""
    train = ROOT / "train" / "ebbtide" / "train"
    yield from train.glob("*.py")
    yield from (train / "evaluation" / f"{name}.py" for name in ("lists", "ranks", "relevance", "scores", "testset"))
    yield from (ROOT / "data" / "ebbtide" / "data").glob("*.py")
    yield from (ROOT / "interest" / "ebbtide" / "interest").glob("*.py")
    yield Path(ours.__file__)


_CODE = code_fingerprint(_files())
"""Computed when the process starts, so that it is the fingerprint of the code that runs."""
_ORACLE_CODE = code_fingerprint((ROOT / "benchmarks" / "quality" / "zoo").glob("*.py"))
