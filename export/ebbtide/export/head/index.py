"""Builds an approximate index over the item factors, and chooses its search parameters by recall and speed.

Scores are inner products, the prior's columns included, so the index searches for maximum inner products. Items are
in lists (about the square root of their number) by the direction of their factors. Each factor has 4 bits, with a
codebook for each column, and is read with SIMD look-ups ("FastScan": André, Kermarrec, Le Scouarnec, "Cache locality is
not enough", VLDB 2015). The index returns many candidates by approximate scores; each is then scored exactly.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from ebbtide.export.errors import RetrievalError
from ebbtide.export.head.options import RetrievalOptions

Floats = npt.NDArray[np.float32]

RECALL_AT = 100
_LEAST_ITEMS = 100
_CHUNK = 50_000
_TRAINING_ITEMS_PER_LIST = 64
_LEAST_TRAINING_ITEMS = 65_536
_CLUSTER_ROUNDS = 10
_STEP = 2**0.25
_LEAST_LISTS = 4
_CANDIDATES_PER_BEST = (4, 10, 25)
"""Numbers of candidates to try, for each of the best 100 items, or of the top N if that is larger."""
_SPARE_CANDIDATES = 50
_MARGIN = 0.25
_ROUNDING = 1e-5
_SEED = 0


@dataclass(frozen=True)
class Index:
    """A measured index."""

    faiss_index: Any
    """The faiss index, with the chosen search parameters."""
    candidates: int
    """Candidates of one search."""
    parameters: dict[str, int]
    """Build and search parameters, with faiss' names."""
    recall: float
    """Recall at 100 on interests that were not used to choose the parameters."""
    query_ms: float
    """Median time of one search in this process, one thread, without scoring the candidates."""


@dataclass(frozen=True)
class _Choice:
    breadth: int
    candidates: int
    seconds: float


def build_index(
    factors: Floats,
    interests: Floats,
    top_n: int,
    options: RetrievalOptions,
    report: Callable[[str], None] = lambda _part: None,
) -> Index:
    """Builds an index and chooses the fastest search that reaches the recall.

    One half of the interests chooses the search parameters, the other half measures the recall.

    Args:
        factors: ``[items, d + p]``.
        interests: ``[requests, d + p]``, interests of realistic requests; at least 2.
        top_n: Number of items in an answer.
        options: Retrieval options other than ``exact``.
        report: Called with the progress.

    Raises:
        RetrievalError: The catalog is too small for an index, or no search reaches the recall.
    """
    if len(factors) < _LEAST_ITEMS:
        raise RetrievalError(
            f"retrieval {options.method}: got a catalog of {len(factors)} items; expected at least {_LEAST_ITEMS}: "
            "choose exact, which is faster for small catalogs"
        )
    threads = faiss.omp_get_max_threads()
    # Training consists of many short steps, after each of which threads wait for each other in a busy loop. On a
    # machine with other load, 6,000 items took 150 s with two threads and 1 s with one.
    faiss.omp_set_num_threads(1)
    try:
        index = _build_lists(factors, report)
        report("index: recall")
        truth = _truth(factors, interests)
        # With one thread, as in serving.
        choice, recall = _settle(index, factors, interests, truth, top_n, options.least_recall)
    finally:
        faiss.omp_set_num_threads(threads)
    if recall < options.least_recall:
        raise RetrievalError(
            f"retrieval {options.method}: got recall {recall:.3f} of the best {RECALL_AT} in the widest search; "
            f"expected {options.least_recall}: choose exact, or accept less with --least-recall "
            f"{np.floor(recall * 100) / 100:.2f}"
        )
    parameters = {"nlist": index.nlist, "nprobe": choice.breadth}
    return Index(index, choice.candidates, parameters, recall, choice.seconds * 1e3)


def _settle(
    index: Any,  # noqa: ANN401 - faiss carries no types
    factors: Floats,
    interests: Floats,
    truth: Floats,
    top_n: int,
    least_recall: float,
) -> tuple[_Choice, float]:
    """Chooses the fastest search that reaches the recall and sets it in the index.

    Returns:
        The search, or the widest one if none reaches the recall, and its recall on the held-out interests.
    """
    choosing, held_out = slice(0, None, 2), slice(1, None, 2)
    wanted = max(RECALL_AT, top_n)
    counts = sorted({min(len(factors), each * wanted + _SPARE_CANDIDATES) for each in _CANDIDATES_PER_BEST})
    breadths = _breadths(index.nlist)
    # Somewhat above the bound, since other requests must reach the recall too.
    aim = least_recall + _MARGIN * (1 - least_recall)
    best = _Choice(breadths[-1], counts[-1], np.inf)
    for candidates in counts:
        choice = _narrowest(index, factors, interests[choosing], truth[choosing], candidates, breadths, aim)
        best = min(best, choice or best, key=lambda one: one.seconds)
    recall = 0.0
    for breadth in breadths[breadths.index(best.breadth) :]:
        index.nprobe = breadth
        recall, seconds = _measure(index, factors, interests[held_out], truth[held_out], best.candidates)
        best = _Choice(breadth, best.candidates, seconds)
        if recall >= least_recall:
            break
    return best, recall


def _build_lists(factors: Floats, report: Callable[[str], None]) -> Any:  # noqa: ANN401 - faiss carries no types
    items, width = factors.shape
    lists = max(1, round(items**0.5))
    index: Any = faiss.index_factory(width, f"IVF{lists},PQ{width}x4fs", faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.max_points_per_centroid, index.cp.seed = _CLUSTER_ROUNDS, _TRAINING_ITEMS_PER_LIST, _SEED
    # faiss warns on stderr about few items per list, which is normal for a small catalog.
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    report(f"index: {lists:,} lists")
    count = min(items, max(lists * _TRAINING_ITEMS_PER_LIST, _LEAST_TRAINING_ITEMS))
    sample = np.random.default_rng(_SEED).choice(items, count, replace=False)
    index.train(factors[np.sort(sample)])
    # For large catalogs, all cores fill the lists.
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)) if items > _CHUNK else 1)
    for start in range(0, items, _CHUNK):
        index.add(np.ascontiguousarray(factors[start : start + _CHUNK]))
        report(f"index: {index.ntotal:,} of {items:,} items")
    faiss.omp_set_num_threads(1)
    return index


def _truth(factors: Floats, interests: Floats) -> Floats:
    """Each request's score of its 100th best item, ``[requests]``."""
    index = min(RECALL_AT, len(factors))
    return np.array([np.partition(factors @ row, -index)[-index] for row in interests], dtype=np.float32)


def _narrowest(
    index: Any,  # noqa: ANN401 - faiss carries no types
    factors: Floats,
    interests: Floats,
    truth: Floats,
    candidates: int,
    breadths: list[int],
    least_recall: float,
) -> _Choice | None:
    """The narrowest search that reaches the recall; None if no search does."""
    for breadth in breadths:
        index.nprobe = breadth
        recall, seconds = _measure(index, factors, interests, truth, candidates)
        if recall >= least_recall:
            return _Choice(breadth, candidates, seconds)
    return None


def _measure(
    index: Any,  # noqa: ANN401 - faiss carries no types
    factors: Floats,
    interests: Floats,
    truth: Floats,
    candidates: int,
) -> tuple[float, float]:
    """Mean recall of the best 100 among the candidates, and the median time of a search."""
    wanted = min(RECALL_AT, len(factors))
    recall, seconds = [], []
    for row, least in zip(interests, truth, strict=True):
        query = np.ascontiguousarray(row[None])
        began = time.perf_counter()
        _, found = index.search(query, candidates)
        seconds.append(time.perf_counter() - began)
        score = factors[found[found >= 0]] @ row
        # Items with the same score as the 100th best item count as found.
        reached = int(np.count_nonzero(score >= least - _ROUNDING * max(1.0, abs(float(least)))))
        recall.append(min(reached, wanted) / wanted)
    return float(np.mean(recall)), float(np.median(seconds))


def _breadths(lists: int) -> list[int]:
    """Numbers of lists to read, from few to all."""
    breadth, found = float(_LEAST_LISTS), []
    while breadth < lists:
        found.append(round(breadth))
        breadth *= _STEP
    return [*dict.fromkeys(found), lists]
