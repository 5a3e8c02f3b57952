"""The recommenders that Ebbtide is compared with, each with the same small budget of settings to tune."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quality.exchange import Settings, library_lists
from benchmarks.quality.linear import decayed_neighbours, ease
from benchmarks.quality.personal import personal_frequency
from benchmarks.quality.popularity import popularity
from benchmarks.quality.split import Split, ndcg_at_10
from ebbtide.train.evaluation.lists import RankedLists

TRIES = 5
"""Settings of each model that are tried on the validation period."""


@dataclass(frozen=True)
class Baseline:
    """One row of the table."""

    name: str
    updated: bool
    """Whether a prediction sees other people's events after the border, as ours with its popularity kept up to date."""
    grid: list[Settings]
    """At most `TRIES`; the likeliest first: the short form takes that one."""
    rank: Callable[..., RankedLists] | None = None
    """Takes a split and one of the settings; None for a model of library.py."""
    library: str = ""
    only_repeats: bool = False
    """Makes sense only where people take things again."""


@dataclass(frozen=True)
class Tuned:
    """A baseline on the test split."""

    lists: RankedLists
    settings: Settings
    tried: int
    train_s: float
    """Of the last fit; for the closed forms and counts, with the ranking."""


def field() -> list[Baseline]:
    """All of them."""
    half_lives: list[Settings] = [{"half_life_days": days} for days in (90.0, 1.0, 7.0, 30.0, 365.0)]
    personal: list[Settings] = [{"half_life_days": days} for days in (90.0, math.inf, 30.0, 180.0, 14.0)]
    rows = []
    for updated, suffix in ((False, "frozen"), (True, "kept up to date")):
        state: Settings = {"updated": updated}
        rows += [
            Baseline(f"popularity, {suffix}", updated, [state], popularity),
            Baseline(f"popularity of the last 7 days, {suffix}", updated, [{**state, "window_days": 7.0}], popularity),
            Baseline(
                f"popularity of the last 30 days, {suffix}", updated, [{**state, "window_days": 30.0}], popularity
            ),
            Baseline(f"decayed popularity, {suffix}", updated, [{**state, **one} for one in half_lives], popularity),
            Baseline(
                f"personal frequency with decay, popularity {suffix}",
                *(updated, [{**state, **one} for one in personal], personal_frequency),
                only_repeats=True,
            ),
        ]
    neighbours: list[Settings] = [
        {"half_life_days": days, "shrinkage": shrinkage, "neighbours": 100}
        for days, shrinkage in ((30.0, 10.0), (1.0, 10.0), (180.0, 10.0), (30.0, 50.0), (30.0, 0.0))
    ]
    rows += [
        Baseline("EASE", False, [{"regularisation": value} for value in (300.0, 100.0, 1000.0, 30.0, 3000.0)], ease),
        Baseline("item kNN with decay", False, neighbours, decayed_neighbours),
        Baseline("iALS", False, _ials(), library="ials"),
        Baseline("BPR-MF", False, _bpr(), library="bpr"),
        Baseline("SASRec", False, _sequential(), library="sasrec"),
        Baseline("BERT4Rec", False, _sequential(), library="bert4rec"),
    ]
    return rows


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


def _sequential() -> list[Settings]:
    tried = ((64, 30, 1e-3), (64, 100, 1e-3), (128, 30, 1e-3), (128, 100, 3e-4), (64, 10, 1e-3))
    return [
        # Few people: small batches, so that an epoch has more than a handful of steps.
        {"n_factors": factors, "epochs": epochs, "lr": rate, "n_blocks": 2, "n_heads": 2, "batch_size": 16}
        for factors, epochs, rate in tried
    ]


def tuned(baseline: Baseline, validation: Split, test: Split, tries: int, python: Path | None, folder: Path) -> Tuned:
    """Chooses the settings on the validation split by NDCG@10 and fits again before the border of the test.

    Args:
        baseline: What to fit.
        validation: Split to tune on.
        test: Split to rank.
        tries: Settings that are tried at most.
        python: Of the environment of the library models; None where the baseline is none of them.
        folder: For the files they exchange.
    """
    grid = baseline.grid[:tries]
    best = grid[0]
    if len(grid) > 1:
        scores = [ndcg_at_10(validation, lists) for lists, _ in _fits(baseline, validation, grid, python, folder)]
        best = grid[scores.index(max(scores))]
    lists, train_s = _fits(baseline, test, [best], python, folder)[0]
    return Tuned(lists, best, len(grid), train_s)


def _fits(
    baseline: Baseline, split: Split, grid: list[Settings], python: Path | None, folder: Path
) -> list[tuple[RankedLists, float]]:
    """Lists and seconds of each settings."""
    if baseline.rank is None:
        if python is None:
            raise ValueError(f"{baseline.name}: got no environment of the library models; expected --library")
        fits = library_lists(python, folder, split, baseline.library, grid)
        return [(fitted.lists, fitted.train_s) for fitted in fits]
    found = []
    for settings in grid:
        began = time.monotonic()
        lists = baseline.rank(split, **settings)
        found.append((lists, time.monotonic() - began))
    return found
