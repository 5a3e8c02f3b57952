"""The scoring head by an approximate index: the index names candidates, their exact scores come from the item factors.

Only completeness is given up: scores are exact, excluded and rejected items stay out, items with a score of their own
are always candidates. Requests that filter, and those whose exclusions leave too few candidates, are scored exactly
over the catalog.

All tables are memory-mapped, so that the instances of a served model share one copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract, exported
from ebbtide.interest.columns import Part, PartsRefused
from ebbtide.interest.errors import RequestError
from ebbtide.interest.parts import serve_parts
from ebbtide.interest.retrieval import RETRIEVAL_FILE, RetrievalTables
from ebbtide.interest.tensorfile import read_tensors

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_BLOCK = 1024
_GATHERED_SHARE = 0.1
"""Of the catalog: fewer allowed items are gathered and scored alone, more are scored with all the others."""
_FIRST_BIT = 1
_INPUTS = tuple(tensor.name for tensor in contract.SCORING_HEAD.inputs)


class ApproximateHead:
    """The model `scoring_head` of one export, without Triton."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Maps the files of a version folder.

        Args:
            folder: Written by an export with an index.
            fingerprint: Of that export.

        Raises:
            ValueError: A file is damaged, or of another export.
        """
        path = folder / RETRIEVAL_FILE
        tensors, metadata = read_tensors(path)
        exported.require_fingerprint(fingerprint, metadata, path)
        self._tables = RetrievalTables.from_tensors(tensors, metadata)
        factors = _tables(folder, exported.FACTORS_FILE, fingerprint)[exported.ITEM_FACTORS]
        self._factors: Floats = np.asarray(factors)
        self._words: Ints | None = None
        self._columns: tuple[tuple[int, int], ...] = ()
        attributes = _tables(folder, exported.ATTRIBUTES_FILE, fingerprint)
        if exported.ITEM_WORDS in attributes:
            self._words = np.asarray(attributes[exported.ITEM_WORDS])
            self._columns = tuple(pairwise(attributes[exported.COLUMN_WORD].tolist()))
        # Its arrays stay in the mapped file where the library can use them there.
        library: Any = faiss  # whose types leave the reader out
        reader = library.ZeroCopyIOReader(faiss.swig_ptr(self._tables.index), self._tables.index.size)
        self._index = faiss.read_index(reader, faiss.IO_FLAG_MMAP_IFC)
        expected = self._factors.shape
        if (self._index.ntotal, self._index.d) != expected or len(self._tables.ids.start) != len(self._factors) + 1:
            raise ValueError(f"{path}: got an index of {self._index.ntotal} x {self._index.d}; expected {expected}")
        # Adjustments by item, all zero (none) between requests; pages that no request touches are never made.
        self._adjustment: Floats = np.zeros(len(self._factors), dtype=np.float32)

    @property
    def items(self) -> int:
        """Of the catalog."""
        return len(self._factors)

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """As an ONNX Runtime session of the exact head is run; ids come as `str`.

        Args:
            outputs: Names of those wanted, in their order; all with None.
            feeds: The inputs of the contract, by name.
        """
        best, score = self.rank(*(feeds[name] for name in _INPUTS))
        ids = np.array([item.decode() for item in self._tables.ids.take(best).ravel()], dtype=np.object_)
        found = {contract.ITEM_ID.name: ids.reshape(best.shape), contract.SCORE.name: score}
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
            # A sum is minus infinity where one of its values is, and else the only one.
            np.add.at(self._adjustment, items, values)
            try:
                answer = None
                if row in candidates:
                    answer = self._best_of(interest[row], _with_scored(candidates[row], items, values))
                best[row], score[row] = answer or self._exact(interest[row], item_filter[row])
            finally:
                self._adjustment[items] = 0
        return best, score

    def run_parts(self, parts: Sequence[Part]) -> list[dict[str, npt.NDArray[Any]] | RequestError]:
        """The answers to requests as the server has them, with one search of the index for all of them.

        Args:
            parts: The inputs of `contract.SCORING_HEAD`, each with a leading dimension of users.

        Returns:
            For each part the outputs of `contract.SCORING_HEAD`, ids in UTF-8, or its error.
        """
        return serve_parts(parts, self._answers, self._refusal)

    def _answers(self, parts: Sequence[Part]) -> list[dict[str, npt.NDArray[Any]]]:
        refused = [number for number, part in enumerate(parts) if self._unknown_items(part).size]
        if refused:
            raise PartsRefused(np.array(refused))
        best, score = self.rank(*(np.concatenate([part[name] for part in parts]) for name in _INPUTS))
        ends = np.cumsum([len(part[contract.INTEREST.name]) for part in parts])[:-1]
        answers = zip(np.split(self._tables.ids.take(best), ends), np.split(score, ends), strict=True)
        return [{contract.ITEM_ID.name: ids, contract.SCORE.name: scores} for ids, scores in answers]

    def _refusal(self, part: Part) -> RequestError:
        wrong = self._unknown_items(part)
        return RequestError(contract.ADJUST_ITEM.name, str(wrong[0]), f"an index below {self.items}")

    def _unknown_items(self, part: Part) -> Ints:
        """Adjusted catalog indices that no item has."""
        adjusted = part[contract.ADJUST_ITEM.name]
        unknown: Ints = adjusted[(adjusted < 0) | (adjusted >= self.items)]
        return unknown

    def _search(self, interest: Floats, adjusted: int) -> Ints:
        """What the index names for each request, ``[requests, candidates]``; -1 where it found no more."""
        count = min(self.items, self._tables.settings.candidates + adjusted)
        if not len(interest):
            return np.empty((0, count), dtype=np.int64)
        # One thread for each instance: more of them would fight over the cores.
        faiss.omp_set_num_threads(1)
        _, found = self._index.search(np.ascontiguousarray(interest), count)
        return np.asarray(found, dtype=np.int64)

    def _best_of(self, interest: Floats, items: Ints) -> tuple[Ints, Floats] | None:
        """The best of some items by their exact scores; None where too few of them may be recommended."""
        score = self._factors.take(items, axis=0) @ interest
        _put(score, self._adjustment.take(items))
        answer = _top(items, score, self._tables.settings.top_n)
        return None if len(answer[1]) < self._tables.settings.top_n or np.isneginf(answer[1][-1]) else answer

    def _exact(self, interest: Floats, item_filter: Ints) -> tuple[Ints, Floats]:
        """The best of the whole catalog."""
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
        """Which items of the catalog a request allows, ``[items]``; None for all of them."""
        allowed: npt.NDArray[np.bool_] | None = None
        for first, end in self._columns:
            if self._words is None or item_filter[first] & _FIRST_BIT:
                continue
            passes = np.zeros(self.items, dtype=np.bool_)
            for word in range(first, end):
                if item_filter[word]:
                    passes |= (self._words[:, word] & item_filter[word]) != 0
            allowed = passes if allowed is None else allowed & passes
        return allowed


def read_approximate_head(folder: Path) -> ApproximateHead:
    """The head in a version folder.

    Raises:
        ValueError: A file is damaged, or of another export.
    """
    return ApproximateHead(folder, exported.read_interest_config(folder).fingerprint)


def _with_scored(candidates: Ints, items: Ints, values: Floats) -> Ints:
    """Candidates, and the adjusted items that are not excluded; none twice."""
    candidates = candidates[candidates >= 0]
    scored = items[~np.isneginf(values)]
    return np.union1d(candidates, scored) if scored.size else candidates


def _put(score: Floats, adjustment: Floats) -> None:
    """Adjustments in the place of scores, ``[items]`` both; 0 is none."""
    np.copyto(score, adjustment, where=adjustment != 0)


def _worth_sorting(score: Floats, top_n: int) -> Ints:
    """The items among which the best N are: those that reach the N-th largest maximum of a block of scores."""
    blocks = len(score) // _BLOCK
    if blocks <= top_n:
        return np.arange(len(score))
    largest = score[: blocks * _BLOCK].reshape(blocks, _BLOCK).max(axis=1)
    return np.flatnonzero(score >= np.partition(largest, blocks - top_n)[blocks - top_n])


def _top(items: Ints, score: Floats, top_n: int) -> tuple[Ints, Floats]:
    """The best N of some items, best first, and of equal ones the first of the catalog."""
    if len(score) > top_n:
        chosen = np.argpartition(-score, top_n - 1)[:top_n]
        items, score = items[chosen], score[chosen]
    order = np.lexsort((items, -score))
    return items[order], score[order]


def _tables(folder: Path, file: str, fingerprint: str) -> dict[str, npt.NDArray[Any]]:
    tables, metadata = read_tensors(folder / file)
    exported.require_fingerprint(fingerprint, metadata, folder / file)
    return tables
