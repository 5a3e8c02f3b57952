"""Scores of the candidates that a request names: the `candidate_head` model without Triton's API."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.adjustments import find_pairs
from ebbtide.interest.columns import Part, PartsRefused
from ebbtide.interest.contract import Limits
from ebbtide.interest.errors import RequestError
from ebbtide.interest.lookup import UNKNOWN, KeyIndex
from ebbtide.interest.parts import serve_parts

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_INTEREST, _ADJUST_ITEM, _ADJUST_SCORE, _CANDIDATE_ITEM = (tensor.name for tensor in contract.CANDIDATE_HEAD.inputs)


class CandidateScorer:
    """Answers batches of requests from the catalog's item factors."""

    def __init__(self, index: KeyIndex, factors: Floats, limits: Limits) -> None:
        """Takes what one export wrote.

        Args:
            index: The catalog's keys.
            factors: ``[items, d + p]``, in catalog order; may be memory-mapped.
            limits: Of the export.
        """
        self._index = index
        # A plain view of a memory map: each operation on a `memmap` costs microseconds for its class alone.
        self._factors = np.asarray(factors)
        self._limits = limits

    def run_parts(self, parts: Sequence[Part]) -> list[dict[str, Floats] | RequestError]:
        """The answers to requests as the server has them.

        Args:
            parts: The inputs of `contract.CANDIDATE_HEAD`, each with a leading dimension of users.

        Returns:
            For each part `candidate_score`, ``[users, candidates]``, or its error.
        """
        return serve_parts(parts, self._scores, self._refusal)

    def _scores(self, parts: Sequence[Part]) -> list[dict[str, Floats]]:
        interest = np.concatenate([part[_INTEREST] for part in parts])
        adjust_item = np.concatenate([part[_ADJUST_ITEM] for part in parts])
        adjust_score = np.concatenate([part[_ADJUST_SCORE] for part in parts])
        candidates = np.concatenate([part[_CANDIDATE_ITEM] for part in parts], axis=None)
        users = [part[_INTEREST].shape[0] for part in parts]
        lengths = np.repeat([part[_CANDIDATE_ITEM].shape[1] for part in parts], users)
        bad = lengths > self._limits.max_candidates
        if adjust_item.size:
            bad |= (adjust_item.min(axis=1) < 0) | (adjust_item.max(axis=1) >= self._factors.shape[0])
        if bad.any():
            raise PartsRefused(np.unique(np.repeat(np.arange(len(parts)), users)[bad]))

        item = self._index.find(candidates)
        scores = np.empty(candidates.size, dtype=np.float32)
        ends = np.cumsum(lengths)
        # One user at a time: their factors stay in the processor's cache on the way from gather to product. Not by
        # BLAS, whose threads would fight with those of the other instances over products this small.
        for weights, start, stop in zip(interest, (ends - lengths).tolist(), ends.tolist(), strict=True):
            factors = self._factors.take(item[start:stop], axis=0)
            np.einsum("nk,k->n", factors, weights, out=scores[start:stop])
        user = np.repeat(np.arange(lengths.size), lengths)
        adjustment = find_pairs(adjust_item, adjust_score, user, item, self._factors.shape[0])
        np.copyto(scores, adjustment, where=adjustment != 0)
        scores[item == UNKNOWN] = np.nan

        answers: list[dict[str, Floats]] = []
        start = 0
        for part in parts:
            shape = part[_CANDIDATE_ITEM].shape
            stop = start + part[_CANDIDATE_ITEM].size
            answers.append({contract.CANDIDATE_SCORE.name: scores[start:stop].reshape(shape)})
            start = stop
        return answers

    def _refusal(self, part: Part) -> RequestError:
        count, most = part[_CANDIDATE_ITEM].shape[1], self._limits.max_candidates
        if count > most:
            return RequestError(_CANDIDATE_ITEM, f"{count} items", f"at most {most} items")
        items = self._factors.shape[0]
        wrong = (part[_ADJUST_ITEM] < 0) | (part[_ADJUST_ITEM] >= items)
        row, index = (int(where) for where in np.argwhere(wrong)[0])
        return RequestError(
            f"{_ADJUST_ITEM}[{index}]", str(part[_ADJUST_ITEM][row, index]), f"a catalog index from 0 to {items - 1}"
        )
