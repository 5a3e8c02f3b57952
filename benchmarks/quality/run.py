"""Runs the models that have no valid result yet on one data set: baselines, then Ebbtide and its ablations."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from platformdirs import user_cache_path

from benchmarks.quality import ours
from benchmarks.quality.cache import Cache, Fitted, Stopwatch, code_fingerprint, split_fingerprint
from benchmarks.quality.datasets import HOLDOUT, ROOT, DataSet, drawn
from benchmarks.quality.field import Baseline, Fitter, Tuned, field, identity, tuned
from benchmarks.quality.progress import Steps
from benchmarks.quality.records import Records, fingerprint_of
from benchmarks.quality.results import Results
from benchmarks.quality.split import Split, splits
from ebbtide.data.dataset import read_dataset
from ebbtide.train.config import ModelConfig, TrainConfig
from ebbtide.train.encoder import PACKAGED, embed_cached, encoder_fingerprint, encoder_folder
from ebbtide.train.evaluation.lists import RankedLists
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
    seeds: int = 1
    """Number of trainings of Ebbtide, with the seeds 0, 1, ..; its ablations have seed 0 alone."""
    quick: bool = False
    only: frozenset[str] | None = None
    """Names of the models to run; None for all."""
    without: frozenset[str] = frozenset()
    """Names of models to leave out."""

    def runs(self, name: str, *, needs_library: bool = False) -> bool:
        """Whether a model is to run."""
        chosen = (self.only is None or name in self.only) and name not in self.without
        return chosen and not (needs_library and self.library is None)


def run_data_set(
    dataset: DataSet, users: int | None, plan: Plan, records: Records, say: Callable[[str], None]
) -> dict[str, Any]:
    """Runs the models on one data set that have no valid result yet, and saves each result at once.

    Args:
        dataset: Data set to run on.
        users: Number of users to draw; None for all.
        plan: Models to run.
        records: Results so far.
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
    baselines = [row for row in field() if dataset.repeats or not row.only_repeats]
    # Seeds that only an earlier run had are kept, but not trained.
    seeds = max([plan.seeds, *(row.get("seed", 0) + 1 for row in records.rows(dataset.name))])
    variants = [
        _Variant(name, seed, config, vectors)
        for name, config in ours.variants(dataset.repeats).items()
        for seed in range(seeds if name == ours.OURS else 1)
    ]
    facts = {
        "name": dataset.name,
        "data": split_fingerprint(test),
        "holdout": HOLDOUT,
        "repeats": dataset.repeats,
        "items": len(data.catalog),
        "users": len(data.log.users),
        "users_drawn": users,
        "events": data.log.events,
        "test_users": int(np.unique(test.test.owner).size),
        "test_baskets": len(test.test.baskets),
        "quick": plan.quick,
        "tries": plan.tries,
        "epochs": plan.training.epochs,
    }
    order = [*dataset.oracles, *(row.name for row in baselines)]
    order += [name for variant in variants for name, _, _ in variant.rows()]
    results = Results(test, vectors, facts, order, records)
    oracle_key: dict[str, object] = {"data": split_fingerprint(test), "code": _ORACLE_CODE}
    oracle_print = fingerprint_of(oracle_key)
    missing_oracles = [name for name in dataset.oracles if results.kept(name, oracle_print) is None]
    prints = {row.name: fingerprint_of(identity(row, validation, test, plan.tries)) for row in baselines}
    missing = [row for row in baselines if results.kept(row.name, prints[row.name]) is None]
    missing = [row for row in missing if plan.runs(row.name, needs_library=bool(row.library))]
    untrained = [variant for variant in variants if not variant.is_kept(results, test, plan.training)]
    untrained = [variant for variant in untrained if variant.seed < plan.seeds and plan.runs(variant.name)]
    say(f"  {len(results.rows)} results of earlier runs are valid")
    cost = sum(row.cost * _fits(row, plan.tries) for row in missing) + _OURS_COST * len(untrained)
    fits = Cache(work / "fits")
    with Steps(dataset.name, cost) as steps:
        for name in missing_oracles:
            steps.now(name)
            fitted = fits.get(name, oracle_key, partial(_timed, dataset.oracles[name], test))
            say(_line(results.add(name, oracle_print, fitted, kind="oracle", popularity="known")))
        fitter = Fitter(fits, plan.library, work / "exchange", steps.done)
        for baseline in missing:
            steps.now(baseline.name)
            result = tuned(baseline, validation, test, plan.tries, fitter)
            facts_of_row = _facts(baseline, result, test)
            say(_line(results.add(baseline.name, prints[baseline.name], result.fitted, **facts_of_row)))
        for variant in untrained:
            steps.now(variant.name)
            for line in variant.run(results, test, plan.training, fits, steps):
                say(line)
    return results.save()


def _timed(rank: Callable[[Split], RankedLists], split: Split) -> Fitted:
    return Stopwatch().fitted(rank(split))


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


@dataclass(frozen=True, eq=False)
class _Variant:
    """Ebbtide or an ablation, trained with one seed."""

    name: str
    """Of the model, without the seed."""
    seed: int
    config: ModelConfig
    vectors: npt.NDArray[np.float32]
    """``[N, width]``, text vectors of the catalog."""

    def rows(self) -> list[tuple[str, str, bool]]:
        """Name of the row, name of the model, and whether popularity is updated: updated and frozen, if it has one."""
        suffix = f", seed {self.seed}" if self.seed else ""
        policies = (True, False) if self._has_prior else (True,)
        models = [(self.name + ("" if updated else ours.FROZEN), updated) for updated in policies]
        return [(model + suffix, model, updated) for model, updated in models]

    def is_kept(self, results: Results, test: Split, training: TrainConfig) -> bool:
        """Whether all rows are there from an earlier run; they become rows of this one."""
        found = [
            results.kept(name, fingerprint_of(self._key(test, training, updated))) for name, _, updated in self.rows()
        ]
        return all(row is not None for row in found)

    def run(self, results: Results, test: Split, training: TrainConfig, fits: Cache, steps: Steps) -> Iterator[str]:
        """Trains, ranks, and adds the rows; yields a line for each."""

        @cache
        def trained() -> tuple[InterestModel, Stopwatch]:
            watch = Stopwatch()
            seeded = training.model_copy(update={"seed": self.seed})
            model = ours.trained(test, self.config, seeded, self._model_vectors)
            watch.stop()
            return model, watch

        def ranked(updated: bool) -> Fitted:
            model, watch = trained()
            return watch.fitted(ours.ranked(test, model, updated=updated))

        for name, model, updated in self.rows():
            key = self._key(test, training, updated)
            is_cached = fits.path(self.name, key).is_file()
            fitted = fits.get(self.name, key, partial(ranked, updated))
            if updated:
                steps.done(_OURS_COST, is_cached)
            popularity = ("updated" if updated else "frozen") if self._has_prior else "none"
            more = {"kind": "ours", "model": model, "seed": self.seed, "popularity": popularity}
            yield _line(results.add(name, fingerprint_of(key), fitted, **more))

    def _key(self, test: Split, training: TrainConfig, updated: bool) -> dict[str, object]:
        return {
            "data": split_fingerprint(test),
            "weights": hashlib.sha256(test.test.log.weight.tobytes()).hexdigest(),
            "texts": hashlib.sha256(np.ascontiguousarray(self._model_vectors).tobytes()).hexdigest(),
            "config": [type(self.config).__name__, self.config.model_dump(mode="json")],
            "training": training.model_copy(update={"seed": self.seed}).model_dump(mode="json"),
            "code": _CODE,
            "updated": updated,
        }

    @property
    def _has_prior(self) -> bool:
        return bool(self.config.effective_prior_half_life_days)

    @property
    def _model_vectors(self) -> npt.NDArray[np.float32]:
        no_text = self.name == ours.NO_TEXT
        return np.zeros((self.vectors.shape[0], 1), dtype=np.float32) if no_text else self.vectors


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
