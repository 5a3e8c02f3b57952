"""Runs every model on one data set: the baselines tuned alike, then ours and its ablations."""

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
"""Of one training of ours, in fits of a popularity."""
_MODEL_FILES = ("lists", "ranks", "relevance", "scores", "split")
"""What of `ebbtide.train.evaluation` training and ranking depend on."""


@dataclass(frozen=True)
class Plan:
    """What to run, and how much of it."""

    tries: int
    """Settings of each baseline at most."""
    training: TrainConfig
    """Of ours."""
    library: Path | None
    """Python of the environment of the library models; without it they are left out."""
    work: Path
    """Folder for data in between, and for the fits that are kept."""
    baselines: bool = True
    ours: bool = True
    without: frozenset[str] = frozenset()
    """Names of baselines and ablations that are left out."""


def run_data_set(dataset: DataSet, users: int | None, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """All models on one data set; the JSON of its part of the report.

    Args:
        dataset: What to run on.
        users: How many are drawn; None for all.
        plan: What to run.
        say: Shows a line.
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
    kept = Cache(work / "fits")
    with Steps(dataset.name, cost) as steps:
        fitter = Fitter(kept, plan.library, work / "exchange", steps.done)
        for baseline in chosen:
            steps.now(baseline.name)
            found = tuned(baseline, validation, test, plan.tries, fitter)
            say(_line(results.add(baseline.name, found.fitted, **_told(baseline, found, test))))
        for name, config in variants.items():
            steps.now(name)
            for full_name, fitted, popularity in _ours(name, config, test, vectors, plan.training, kept, steps):
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
    """Of the choice among settings, and the last one."""
    number = min(len(row.grid), tries)
    return number + 1 if number > 1 else 1


def _line(row: dict[str, Any]) -> str:
    low, high = row["ci95"]
    return f"  {row['name']}: NDCG@10 {row['ndcg_at_10']:.4f}, {low:.4f} to {high:.4f}"


def _told(baseline: Baseline, found: Tuned, test: Split) -> dict[str, object]:
    told: dict[str, object] = {
        "kind": "baseline",
        "popularity": "updated" if baseline.updated else "frozen",
        "settings": _plain(found.settings),
        "tried": [{"settings": _plain(settings), "validation_ndcg_at_10": score} for settings, score in found.tried],
    }
    if baseline.most_items is not None:
        counts = np.bincount(test.test.training_item, minlength=len(test.test.catalog))
        known = np.zeros(counts.shape[0], dtype=np.bool_)
        known[np.argsort(-counts, kind="stable")[: baseline.most_items]] = True
        known &= counts > 0
        told["known_items"] = int(known.sum())
        told["known_share_of_relevant"] = float(known[test.test.relevance.item].mean())
    return told


def _plain(settings: dict[str, float]) -> dict[str, float | str]:
    """JSON knows no infinity."""
    return {name: "inf" if math.isinf(value) else value for name, value in settings.items()}


def _ours(
    name: str,
    config: ModelConfig,
    test: Split,
    vectors: npt.NDArray[np.float32],
    training: TrainConfig,
    kept: Cache,
    steps: Steps,
) -> Iterator[tuple[str, Fitted, str]]:
    """Name, lists and state of the popularity of one variant, kept up to date and frozen."""
    seen = np.zeros((vectors.shape[0], 1), dtype=np.float32) if name == ours.NO_TEXT else vectors
    key: dict[str, object] = {
        "data": split_fingerprint(test),
        "weights": hashlib.sha256(test.test.log.weight.tobytes()).hexdigest(),
        "texts": hashlib.sha256(np.ascontiguousarray(seen).tobytes()).hexdigest(),
        "config": [type(config).__name__, config.model_dump(mode="json")],
        "training": training.model_dump(mode="json"),
        "code": _CODE,
    }

    @cache
    def trained() -> tuple[InterestModel, Stopwatch]:
        watch = Stopwatch()
        model = ours.trained(test, config, training, seen)
        watch.stop()
        return model, watch

    def ranked(updated: bool) -> Fitted:
        model, watch = trained()
        return watch.fitted(ours.ranked(test, model, updated=updated))

    has_prior = bool(config.effective_prior_half_life_days)
    for updated in (True, False) if has_prior else (True,):
        flavour: dict[str, object] = {**key, "updated": updated}
        was_kept = kept.path(name, flavour).is_file()
        fitted = kept.get(name, flavour, lambda updated=updated: ranked(updated))  # type: ignore[misc]
        if updated:
            steps.done(_OURS_COST, was_kept)
        popularity = ("updated" if updated else "frozen") if has_prior else "none"
        yield name + ("" if updated else ours.FROZEN), fitted, popularity


def _files() -> Iterator[Path]:
    """Everything that training and ranking ours run."""
    train = ROOT / "train" / "ebbtide" / "train"
    yield from train.glob("*.py")
    yield from (train / "evaluation" / f"{name}.py" for name in _MODEL_FILES)
    yield from (ROOT / "interest" / "ebbtide" / "interest").glob("*.py")
    yield Path(ours.__file__)


_CODE = code_fingerprint(_files())
"""Taken when this process began, as the code it runs was."""
