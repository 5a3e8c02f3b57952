"""The scoring head with an approximate index: the index selects candidates, and the item factors give exact scores.

The index may miss items, but scores are exact, excluded items are never returned, and items with a score adjustment
are always candidates. Requests with filters, and requests whose exclusions leave too few candidates, are scored exactly
over the whole catalog.

All tables are memory-mapped, so the instances of a served model share one copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract, exported, served_models
from ebbtide.interest.adjustments import check_adjusted_items
from ebbtide.interest.batch import serve_requests
from ebbtide.interest.checks import RequestTensors
from ebbtide.interest.errors import RequestError
from ebbtide.interest.retrieval import RETRIEVAL_FILE, RetrievalTables
from ebbtide.interest.tensorfile import read_tensors

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_BLOCK = 1024
_GATHERED_SHARE = 0.1
"""Share of the catalog: if fewer items are allowed, only these are scored; otherwise the whole catalog is."""
_FIRST_BIT = 1
_MOST_MORE = 1024
"""Candidates of a request beyond those of the index's settings. Where more adjusted items than this are excluded, and
so many of them that too few candidates are left, the request is scored exactly."""
_INPUTS = tuple(tensor.name for tensor in served_models.SCORING_HEAD.inputs)


class ApproximateHead:
    """The model `scoring_head` of one export, without Triton."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Maps the files of a version folder.

        Args:
            folder: Version folder that an export with an index wrote.
            fingerprint: Fingerprint of that export.

        Raises:
            ValueError: A file is damaged or belongs to another export.
        """
        path = folder / RETRIEVAL_FILE
        tensors, metadata = read_tensors(path)
        exported.require_fingerprint(fingerprint, metadata, path)
        self._tables = RetrievalTables.from_tensors(tensors, metadata)
        factors = _tables(folder, exported.FACTORS_FILE, fingerprint)[exported.ITEM_FACTORS]
        self._factors: Floats = np.asarray(factors)
        self._words: Ints | None = None
        self._columns: tuple[tuple[int, int], ...] = ()
        self._numeric: frozenset[int] = frozenset()
        attributes = _tables(folder, exported.ATTRIBUTES_FILE, fingerprint)
        if exported.ITEM_WORDS in attributes:
            self._words = np.asarray(attributes[exported.ITEM_WORDS])
            self._columns = tuple(pairwise(attributes[exported.COLUMN_WORD].tolist()))
            if exported.NUMBER_COLUMN in attributes:
                self._numeric = frozenset(attributes[exported.NUMBER_COLUMN].tolist())
        # The reader leaves arrays in the mapped file if faiss can use them there.
        library: Any = faiss  # the reader is missing in faiss's types
        reader = library.ZeroCopyIOReader(faiss.swig_ptr(self._tables.index), self._tables.index.size)
        self._index = faiss.read_index(reader, faiss.IO_FLAG_MMAP_IFC)
        expected = self._factors.shape
        if (self._index.ntotal, self._index.d) != expected or len(self._tables.ids.start) != len(self._factors) + 1:
            raise ValueError(f"{path}: got an index of {self._index.ntotal} x {self._index.d}; expected {expected}")
        # Adjustments by item, all zero (none) between requests; memory pages that no request uses are never allocated.
        self._adjustment: Floats = np.zeros(len(self._factors), dtype=np.float32)

    @property
    def items(self) -> int:
        """Number of items of the catalog."""
        return len(self._factors)

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Runs the head with the interface of an ONNX Runtime session of the exact head; ids are `str`.

        Args:
            outputs: Names of the outputs to return, in order; None for all.
            feeds: The inputs of the contract by name.
        """
        best, score = self.rank(*(feeds[name] for name in _INPUTS))
        ids = np.array([item.decode() for item in self._tables.ids.take(best).ravel()], dtype=np.object_)
        found = {
            contract.ITEM_ID.name: ids.reshape(best.shape),
            contract.SCORE.name: score,
            contract.ITEM_INDEX.name: best,
        }
        return [found[name] for name in (outputs or found)]

    def rank(self, interest: Floats, adjust_item: Ints, adjust_score: Floats, item_filter: Ints) -> tuple[Ints, Floats]:
        """The best items of each request.

        Args:
            interest: ``[requests, d + p]``.
            adjust_item: ``[requests, adjustments]``.
            adjust_score: ``[requests, adjustments]``.
            item_filter: ``[requests, filter words]``.

        Returns:
            Catalog indices and scores, ``[requests, top N]``, best first.
        """
        shape = (len(interest), self._tables.settings.top_n)
        best, score = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.float32)
        filtered = [self._filters(row) for row in item_filter]
        searched = np.flatnonzero(~np.array(filtered, dtype=np.bool_))
        found = self._search(interest[searched], int(np.count_nonzero(adjust_score, axis=1).max(initial=0)))
        candidates: dict[int, Ints] = dict(zip(searched.tolist(), found, strict=True))
        for row in range(len(interest)):
            adjusted = np.flatnonzero(adjust_score[row])
            items, values = adjust_item[row, adjusted], adjust_score[row, adjusted]
            # The sum of an item's adjustments is minus infinity if one of them is; otherwise the item has only one.
            np.add.at(self._adjustment, items, values)
            try:
                answer = None
                if row in candidates:
                    answer = self._best_of(interest[row], _with_scored(candidates[row], items, values))
                best[row], score[row] = answer or self._exact(interest[row], item_filter[row])
            finally:
                self._adjustment[items] = 0
        return best, score

    def run_requests(self, requests: Sequence[RequestTensors]) -> list[dict[str, npt.NDArray[Any]] | RequestError]:
        """Answers the requests of a batch; the index is searched once for all of them.

        Args:
            requests: For each request the inputs of `SCORING_HEAD`, each with a leading dimension of users.

        Returns:
            For each request the outputs of `served_models.SCORING_HEAD`, with ids in UTF-8, or its error.
        """
        return serve_requests(requests, self._answers)

    def _answers(self, requests: Sequence[RequestTensors]) -> list[dict[str, npt.NDArray[Any]]]:
        inputs = [np.concatenate([request[name] for request in requests]) for name in _INPUTS]
        users = [len(request[contract.INTEREST.name]) for request in requests]
        check_adjusted_items(np.arange(len(requests)).repeat(users), inputs[1], self.items)
        best, score = self.rank(*inputs)
        outputs = {
            contract.ITEM_ID.name: self._tables.ids.take(best),
            contract.SCORE.name: score,
            contract.ITEM_INDEX.name: best,
        }
        ends = np.cumsum(users)[:-1]
        rows = zip(*(np.split(values, ends) for values in outputs.values()), strict=True)
        return [dict(zip(outputs, row, strict=True)) for row in rows]

    def _search(self, interest: Floats, adjusted: int) -> Ints:
        """The index's candidates for each request, ``[requests, candidates]``; -1 if it found fewer."""
        count = min(self.items, self._tables.settings.candidates + min(adjusted, _MOST_MORE))
        if not len(interest):
            return np.empty((0, count), dtype=np.int64)
        # One thread per instance: with more, the instances would compete for the cores.
        faiss.omp_set_num_threads(1)
        _, found = self._index.search(np.ascontiguousarray(interest), count)
        return np.asarray(found, dtype=np.int64)

    def _best_of(self, interest: Floats, items: Ints) -> tuple[Ints, Floats] | None:
        """The best of the given items by exact score; None if too few of them may be recommended."""
        score = self._factors.take(items, axis=0) @ interest
        _put(score, self._adjustment.take(items))
        answer = _top(items, score, self._tables.settings.top_n)
        return None if len(answer[1]) < self._tables.settings.top_n or np.isneginf(answer[1][-1]) else answer

    def _exact(self, interest: Floats, item_filter: Ints) -> tuple[Ints, Floats]:
        """The best items of the whole catalog."""
        allowed = self._allowed(item_filter)
        if allowed is not None:
            few = np.flatnonzero(allowed) if np.count_nonzero(allowed) < _GATHERED_SHARE * self.items else None
            if few is not None and (answer := self._best_of(interest, few)) is not None:
                return answer
        score = self._factors @ interest
        _put(score, self._adjustment)
        if allowed is not None:
            score[~allowed] = -np.inf
        items = _worth_sorting(score, self._tables.settings.top_n)
        return _top(items, score[items], self._tables.settings.top_n)

    def _filters(self, item_filter: Ints) -> bool:
        return any(not item_filter[first] & _FIRST_BIT for first, _ in self._columns)

    def _allowed(self, item_filter: Ints) -> npt.NDArray[np.bool_] | None:
        """Whether the request's filters allow each item of the catalog, ``[items]``; None if all are allowed."""
        allowed: npt.NDArray[np.bool_] | None = None
        for column, (first, end) in enumerate(self._columns):
            if self._words is None or item_filter[first] & _FIRST_BIT:
                continue
            passes = np.zeros(self.items, dtype=np.bool_)
            if column in self._numeric:
                number = self._words[:, first + 1]
                passes |= (number >= item_filter[first + 1]) & (number <= item_filter[first + 2])
            for word in () if column in self._numeric else range(first, end):
                if item_filter[word]:
                    passes |= (self._words[:, word] & item_filter[word]) != 0
            allowed = passes if allowed is None else allowed & passes
        return allowed


def read_approximate_head(folder: Path) -> ApproximateHead:
    """Reads the head from a version folder.

    Raises:
        ValueError: A file is damaged or belongs to another export.
    """
    return ApproximateHead(folder, exported.read_interest_config(folder).fingerprint)


def _with_scored(candidates: Ints, items: Ints, values: Floats) -> Ints:
    """The union of candidates and adjusted items that are not excluded."""
    candidates = candidates[candidates >= 0]
    scored = items[~np.isneginf(values)]
    return np.union1d(candidates, scored) if scored.size else candidates


def _put(score: Floats, adjustment: Floats) -> None:
    """Replaces scores by adjustments, both ``[items]``; an adjustment of 0 means none."""
    np.copyto(score, adjustment, where=adjustment != 0)


def _worth_sorting(score: Floats, top_n: int) -> Ints:
    """Items that include the best N: those whose score is at least the N-th largest block maximum."""
    blocks = len(score) // _BLOCK
    if blocks <= top_n:
        return np.arange(len(score))
    largest = score[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1)
    return np.flatnonzero(score >= np.partition(largest, blocks - top_n)[blocks - top_n])


def _top(items: Ints, score: Floats, top_n: int) -> tuple[Ints, Floats]:
    """The best N of the given items, best first; equal scores are ordered by catalog index."""
    if len(score) > top_n:
        chosen = np.argpartition(-score, top_n - 1)[:top_n]
        items, score = items[chosen], score[chosen]
    order = np.lexsort((items, -score))
    return items[order], score[order]


def _tables(folder: Path, file: str, fingerprint: str) -> dict[str, npt.NDArray[Any]]:
    tables, metadata = read_tensors(folder / file)
    exported.require_fingerprint(fingerprint, metadata, folder / file)
    return tables
