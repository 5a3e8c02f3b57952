"""The baselines that Ebbtide is compared with, each with the same number of settings to try."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field as field_of
from pathlib import Path
from typing import Any

from benchmarks.quality.actr import actr
from benchmarks.quality.blend import blend, chosen_by_validation
from benchmarks.quality.cache import Cache, Fitted, Stopwatch, code_fingerprint, split_fingerprint
from benchmarks.quality.exchange import Settings, library_lists
from benchmarks.quality.library import SEQUENTIAL_ITEMS
from benchmarks.quality.linear import MAX_ITEMS, decayed_neighbours, ease
from benchmarks.quality.next_basket import tifu_knn, up_cf
from benchmarks.quality.personal import personal_frequency
from benchmarks.quality.popularity import popularity
from benchmarks.quality.split import Split, ndcg_at_10
from ebbtide.train.evaluation.lists import RankedLists

TRIES = 5
"""Maximum number of settings of each model to try on the validation period."""
_USES = {
    "popularity": ("split",),
    "personal": ("popularity", "split"),
    "linear": ("split",),
    "next_basket": ("baskets", "split"),
    "library": (),
    "actr": ("popularity", "split"),
    "blend": ("linear", "personal", "popularity", "split"),
}
"""The modules of this folder that each module of baselines imports."""
_CODE = {
    module: code_fingerprint(Path(__file__).parent / f"{name}.py" for name in (module, *uses))
    for module, uses in _USES.items()
}
"""Computed when the process starts, so that it is the fingerprint of the code that runs."""


@dataclass(frozen=True)
class Baseline:
    """One row of the table."""

    name: str
    updated: bool
    """Whether predictions use other users' events after the split time, as Ebbtide's updated popularity does."""
    grid: list[Settings]
    """At most `TRIES` settings, the most promising first. A quick run uses the first, changed by `quick`."""
    rank: Callable[..., RankedLists] | None = None
    """Function of a split and keyword settings; None for a model of library.py."""
    library: str = ""
    """Name of the model in library.py; empty if `rank` is given."""
    only_repeats: bool = False
    """Whether the model is for repeat consumption only."""

    cost: float = 1.0
    """Approximate time of a fit, relative to a popularity model; used to estimate the remaining time."""
    quick: Settings = field_of(default_factory=dict)
    """Settings that a quick run replaces."""
    most_items: int | None = None
    """Maximum number of items that the model knows, the most frequent first; None for all."""
    choose: Callable[[Split], tuple[Settings, list[tuple[Settings, float]]]] | None = None
    """Finds the settings on the validation split, and gives all that it tried; None tries the grid."""

    @property
    def kind(self) -> str:
        """Name of the model without its settings."""
        return self.rank.__name__ if self.rank is not None else self.library

    @property
    def code(self) -> str:
        """Fingerprint of the model's code."""
        return _CODE["library" if self.rank is None else self.rank.__module__.rpartition(".")[2]]


@dataclass(frozen=True)
class Tuned:
    """A baseline on the test split."""

    fitted: Fitted
    settings: Settings
    """The settings with the highest NDCG@10 on the validation split."""
    tried: list[tuple[Settings, float]]
    """Each setting with its NDCG@10 on the validation split; empty if there was only one."""


def field() -> list[Baseline]:
    """All baselines."""
    rows: list[Baseline] = []
    for updated, suffix in ((False, "frozen"), (True, "kept up to date")):
        rows += _counts(updated, suffix)
    return [
        *rows,
        Baseline(
            "EASE",
            *(False, [{"regularisation": value} for value in (300.0, 100.0, 1000.0, 30.0, 3000.0)], ease),
            cost=20,
            most_items=MAX_ITEMS,
        ),
        Baseline(
            "EASE, decayed popularity and own counts, blended",
            updated=True,
            grid=[{}],
            rank=blend,
            cost=60,
            most_items=MAX_ITEMS,
            choose=chosen_by_validation,
        ),
        Baseline(
            "ACT-R, base level and spreading",
            updated=False,
            grid=_actr(),
            rank=actr,
            only_repeats=True,
            cost=6,
        ),
        Baseline("item kNN with decay", False, _neighbours(), decayed_neighbours, cost=10, most_items=MAX_ITEMS),
        Baseline("iALS", False, _ials(), library="ials", cost=20),
        Baseline("BPR-MF", False, _bpr(), library="bpr", cost=10),
        _library_sequence("SASRec", "sasrec"),
        _library_sequence("BERT4Rec", "bert4rec"),
        _library_sequence("HSTU", "hstu"),
    ]


def _counts(updated: bool, suffix: str) -> list[Baseline]:
    """Popularity and next-basket models, with or without other users' events after the split time."""

    def row(name: str, grid: list[Settings], rank: Callable[..., RankedLists], **more: Any) -> Baseline:  # noqa: ANN401
        return Baseline(f"{name}, {suffix}", updated, [{"updated": updated, **one} for one in grid], rank, **more)

    return [
        row("popularity", [{}], popularity),
        row("popularity of the last 7 days", [{"window_days": 7.0}], popularity),
        row("popularity of the last 30 days", [{"window_days": 30.0}], popularity),
        row("decayed popularity", [{"half_life_days": days} for days in (30.0, 1.0, 1 / 12, 7.0, 365.0)], popularity),
        row(
            "personal frequency with decay",
            [{"half_life_days": days} for days in (90.0, math.inf, 30.0, 180.0, 14.0)],
            personal_frequency,
            only_repeats=True,
            cost=3,
        ),
        row("UP-CF@r", _up_cf(), up_cf, only_repeats=True, cost=6),
        row("TIFU-kNN", _tifu_knn(), tifu_knn, only_repeats=True, cost=6),
    ]


def _up_cf() -> list[Settings]:
    """Values of recency, locality and asymmetry from the paper's grid."""
    tried = ((25, 5, 0.75), (100, 10, 0.25), (math.inf, 5, 0.5), (10, 10, 0.5), (100, 50, 0.75))
    return [{"recency": r, "locality": q, "asymmetry": alpha} for r, q, alpha in tried]


def _tifu_knn() -> list[Settings]:
    """The paper's values for data of the same retailer and for two other data sets, then those of other authors."""
    tried = (
        (900, 0.9, 0.6, 0.2, 3),
        (300, 0.9, 0.7, 0.7, 7),
        (900, 0.9, 0.7, 0.9, 3),
        (500, 1, 0.6, 0.4, 14),
        (300, 1, 0.9, 0.9, 14),
    )
    return [
        {"neighbours": k, "within_decay": within, "group_decay": between, "own_share": alpha, "groups": m}
        for k, within, between, alpha, m in tried
    ]


def _actr() -> list[Settings]:
    tried = ((0.5, 0.0), (0.5, 0.1), (0.3, 0.1), (0.8, 0.1), (0.5, 1.0))
    return [{"decay": decay, "spreading": spreading} for decay, spreading in tried]


def _neighbours() -> list[Settings]:
    tried = ((30.0, 10.0), (1.0, 10.0), (180.0, 10.0), (30.0, 50.0), (30.0, 0.0))
    return [{"half_life_days": days, "shrinkage": shrinkage, "neighbours": 100} for days, shrinkage in tried]


def _ials() -> list[Settings]:
    tried = ((64, 0.1, 1.0), (64, 1.0, 10.0), (128, 0.1, 1.0), (64, 10.0, 1.0), (32, 1.0, 1.0))
    return [
        {"factors": factors, "regularization": penalty, "alpha": alpha, "iterations": 15}
        for factors, penalty, alpha in tried
    ]


def _bpr() -> list[Settings]:
    tried = ((64, 0.05, 0.01), (64, 0.01, 0.01), (128, 0.05, 0.01), (64, 0.05, 0.1), (64, 0.1, 0.001))
    return [
        {"factors": factors, "learning_rate": rate, "regularization": penalty, "iterations": 100}
        for factors, rate, penalty in tried
    ]


def _library_sequence(name: str, library: str) -> Baseline:
    short: Settings = {"steps": 300}
    return Baseline(name, False, _sequential(), library=library, cost=150, quick=short, most_items=SEQUENTIAL_ITEMS)


def _sequential() -> list[Settings]:
    """Values of the width, the number of gradient steps and the learning rate."""
    tried = ((64, 1000, 1e-3), (64, 3000, 1e-3), (64, 6000, 1e-3), (128, 3000, 1e-3), (128, 3000, 3e-4))
    return [
        # The logs have few users, so batches are small: otherwise an epoch would have very few steps.
        {"n_factors": factors, "steps": steps, "lr": rate, "n_blocks": 2, "n_heads": 2, "batch_size": 16}
        for factors, steps, rate in tried
    ]


def tuned(baseline: Baseline, validation: Split, test: Split, tries: int, fitter: Fitter) -> Tuned:
    """Chooses the settings by NDCG@10 on the validation split, then fits on the training events of the test split.

    Args:
        baseline: Model to fit.
        validation: Split to choose the settings on.
        test: Split to report.
        tries: Maximum number of settings to try.
        fitter: Fits, or returns a cached fit.
    """
    if baseline.choose is not None:
        best, tried = baseline.choose(validation)
        return Tuned(fitter.fit(baseline, test, best), best, tried)
    grid = _grid(baseline, tries)
    scores: list[float] = []
    if len(grid) > 1:
        scores = [ndcg_at_10(validation, fitter.fit(baseline, validation, settings).lists) for settings in grid]
    best = grid[scores.index(max(scores))] if scores else grid[0]
    return Tuned(fitter.fit(baseline, test, best), best, [*zip(grid, scores, strict=False)])


def identity(baseline: Baseline, validation: Split, test: Split, tries: int) -> dict[str, object]:
    """All that the result of `tuned` depends on, as JSON values; the arguments are those of `tuned`."""
    grid = [{name: repr(value) for name, value in one.items()} for one in _grid(baseline, tries)]
    return {
        "validation": split_fingerprint(validation),
        "test": split_fingerprint(test),
        "settings": "chosen" if baseline.choose is not None else grid,
        "code": baseline.code,
    }


def _grid(baseline: Baseline, tries: int) -> list[Settings]:
    return baseline.grid[:tries] if tries > 1 else [{**baseline.grid[0], **baseline.quick}]


@dataclass(frozen=True)
class Fitter:
    """Fits baselines and caches the results."""

    cache: Cache
    library: Path | None
    """Python interpreter of the library models' environment; None if no library model is fitted."""
    exchange: Path
    """Folder for the files exchanged with library models."""
    done: Callable[[float, bool], None] = lambda _cost, _cached: None
    """Called after every fit with its cost and whether it was cached."""

    def fit(self, baseline: Baseline, split: Split, settings: Settings) -> Fitted:
        """Returns the lists of one fit, from the cache if it is there.

        Raises:
            ValueError: The baseline is a library model and `library` is None.
        """
        key: dict[str, object] = {
            "data": split_fingerprint(split),
            # JSON has no infinity.
            "settings": {name: repr(value) for name, value in settings.items()},
            "code": baseline.code,
        }

        def fit() -> Fitted:
            if baseline.rank is not None:
                watch = Stopwatch()
                return watch.fitted(baseline.rank(split, **settings))
            if self.library is None:
                raise ValueError(
                    f"{baseline.name}: got no environment for the library models; expected its Python: pass --library"
                )
            return library_lists(self.library, self.exchange, split, baseline.library, settings)

        cached = self.cache.path(baseline.kind, key).is_file()
        fitted = self.cache.get(baseline.kind, key, fit)
        self.done(baseline.cost, cached)
        return fitted
