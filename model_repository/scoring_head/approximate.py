"""The scoring head by an approximate index: the index names candidates, their exact scores come from the item factors.

Only completeness is given up: scores are exact, excluded and rejected items stay out, items with a score of their own
are always candidates. Requests that filter, and those whose exclusions leave too few candidates, are scored exactly
over the catalog.

All tables are memory-mapped, so that the instances of a served model share one copy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract, exported
from ebbtide.interest.tensorfile import read_tensors

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_BLOCK = 1024
_GATHERED_SHARE = 0.1
"""Of the catalog: fewer allowed items are gathered and scored alone, more are scored with all the others."""
_FIRST_BIT = 1


@dataclass(frozen=True)
class RetrievalSettings:
    """How the index is asked; what it was built with is in it."""

    top_n: int
    candidates: int
    """Items that the index names for a request, beside one more for each excluded item."""
    lifted: bool
    """Whether vectors of the index have one more entry, 0 for an interest, that makes them equally long."""


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
        path = folder / exported.RETRIEVAL_FILE
        tables, metadata = read_tensors(path)
        exported.require_fingerprint(fingerprint, metadata, path)
        self.settings = RetrievalSettings(**json.loads(metadata[exported.RETRIEVAL_SETTINGS]))
        self._index_bytes = np.asarray(tables[exported.RETRIEVAL_INDEX])
        self._id_start = np.asarray(tables[exported.ID_START])
        self._id_bytes = np.asarray(tables[exported.ID_BYTES]).data
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
        reader = library.ZeroCopyIOReader(faiss.swig_ptr(self._index_bytes), self._index_bytes.size)
        self._index = faiss.read_index(reader, faiss.IO_FLAG_MMAP_IFC)
        expected = (len(self._factors), self._factors.shape[1] + self.settings.lifted)
        if (self._index.ntotal, self._index.d) != expected or len(self._id_start) != len(self._factors) + 1:
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
        best, score = self.rank(*(feeds[tensor.name] for tensor in contract.SCORING_HEAD.inputs))
        ids = np.array([[item.decode() for item in row] for row in self.item_ids(best).tolist()], dtype=np.object_)
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
        shape = (len(interest), self.settings.top_n)
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

    def item_ids(self, index: Ints) -> npt.NDArray[np.object_]:
        """UTF-8 ids of items, in the shape of their catalog indices."""
        flat = index.ravel()
        indices = zip(self._id_start[flat].tolist(), self._id_start[flat + 1].tolist(), strict=True)
        ids = np.empty(flat.size, dtype=np.object_)
        ids[:] = [self._id_bytes[start:end].tobytes() for start, end in indices]
        return ids.reshape(index.shape)

    def _search(self, interest: Floats, adjusted: int) -> Ints:
        """What the index names for each request, ``[requests, candidates]``; -1 where it found no more."""
        count = min(self.items, self.settings.candidates + adjusted)
        if not len(interest):
            return np.empty((0, count), dtype=np.int64)
        if self.settings.lifted:
            interest = np.concatenate([interest, np.zeros((len(interest), 1), dtype=np.float32)], axis=1)
        # One thread for each instance: more of them would fight over the cores.
        faiss.omp_set_num_threads(1)
        _, found = self._index.search(np.ascontiguousarray(interest), count)
        return np.asarray(found, dtype=np.int64)

    def _best_of(self, interest: Floats, items: Ints) -> tuple[Ints, Floats] | None:
        """The best of some items by their exact scores; None where too few of them may be recommended."""
        score = self._factors.take(items, axis=0) @ interest
        _put(score, self._adjustment.take(items))
        answer = _top(items, score, self.settings.top_n)
        return None if len(answer[1]) < self.settings.top_n or np.isneginf(answer[1][-1]) else answer

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
        items = _worth_sorting(score, self.settings.top_n)
        return _top(items, score[items], self.settings.top_n)

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
