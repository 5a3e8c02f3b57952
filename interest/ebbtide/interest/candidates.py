"""Scores of the candidates that a request names: the `candidate_head` model without Triton's API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract, served_models
from ebbtide.interest.adjustments import check_adjusted_items, find_pairs
from ebbtide.interest.batch import serve_requests
from ebbtide.interest.checks import RequestTensors, refuse_users
from ebbtide.interest.errors import RequestError
from ebbtide.interest.lookup import UNKNOWN
from ebbtide.interest.new_items import END_OF_INDICES, GrownTable
from ebbtide.interest.pipeline import InterestPipeline
from ebbtide.interest.stock import are_in_stock

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_INTEREST, _ADJUST_ITEM, _ADJUST_SCORE, _CANDIDATE_ITEM, _AS_EXPORTED = (
    tensor.name for tensor in served_models.CANDIDATE_HEAD.inputs
)


class CandidateScorer:
    """Answers batches of requests from the catalog's item factors."""

    def __init__(self, pipeline: InterestPipeline, factors: Floats) -> None:
        """Takes what one export wrote.

        Args:
            pipeline: Of the export; knows the items.
            factors: ``[items, d + p]``, in catalog order; may be memory-mapped.
        """
        self.pipeline = pipeline
        # A plain view of a memory map: each operation on a `memmap` costs microseconds for its class alone.
        self._factors = np.asarray(factors)
        self._limits = pipeline.parameters.config.limits

    def run_requests(self, requests: Sequence[RequestTensors]) -> list[dict[str, npt.NDArray[Any]] | RequestError]:
        """The answers to requests as the server has them.

        Args:
            requests: The inputs of `served_models.CANDIDATE_HEAD`, each with a leading dimension of users.

        Returns:
            For each request `candidate_score` and `candidate_in_stock`, ``[users, candidates]`` each, or its error.
        """
        return serve_requests(requests, self._scores)

    def _scores(self, requests: Sequence[RequestTensors]) -> list[dict[str, npt.NDArray[Any]]]:
        interest = np.concatenate([request[_INTEREST] for request in requests])
        adjust_item = np.concatenate([request[_ADJUST_ITEM] for request in requests])
        adjust_score = np.concatenate([request[_ADJUST_SCORE] for request in requests])
        candidates = np.concatenate([request[_CANDIDATE_ITEM] for request in requests], axis=None)
        users = [request[_INTEREST].shape[0] for request in requests]
        lengths = np.repeat([request[_CANDIDATE_ITEM].shape[1] for request in requests], users)
        request_of = np.arange(len(requests)).repeat(users)
        most = self._limits.max_candidates
        if lengths.max(initial=0) > most:
            refuse_users(
                request_of,
                lengths > most,
                lambda user: RequestError(_CANDIDATE_ITEM, f"{lengths[user]} items", f"at most {most} items"),
            )
        most = END_OF_INDICES if self.pipeline.follows_items else self._factors.shape[0]
        check_adjusted_items(request_of, adjust_item, most)

        # Once: another thread may replace it.
        items = self.pipeline.items
        new = items.new
        table = self._factors if new is None else GrownTable(self._factors, new, new.factors)
        item = items.index.find(candidates)
        scores = np.empty(candidates.size, dtype=np.float32)
        ends = np.cumsum(lengths)
        # One user at a time: their factors stay in the processor's cache on the way from gather to product. Not by
        # BLAS, whose threads would fight with those of the other instances over products this small.
        for weights, start, stop in zip(interest, (ends - lengths).tolist(), ends.tolist(), strict=True):
            factors = table.take(item[start:stop], axis=0)
            np.einsum("nk,k->n", factors, weights, out=scores[start:stop])
        if new is not None:
            scores += new.gains(item)
        user = np.repeat(np.arange(lengths.size), lengths)
        # Other processes may know more new items.
        end = max(items.index.end, int(adjust_item.max(initial=0)) + 1)
        adjustment = find_pairs(adjust_item, adjust_score, user, item, end)
        np.copyto(scores, adjustment, where=adjustment != 0)
        scores[item == UNKNOWN] = np.nan

        in_stock = are_in_stock(item, items.out_of_stock)
        answers: list[dict[str, npt.NDArray[Any]]] = []
        start = 0
        for request in requests:
            shape = request[_CANDIDATE_ITEM].shape
            stop = start + request[_CANDIDATE_ITEM].size
            answers.append(
                {
                    contract.CANDIDATE_SCORE.name: scores[start:stop].reshape(shape),
                    contract.CANDIDATE_IN_STOCK.name: in_stock[start:stop].reshape(shape) | _as_exported(request),
                }
            )
            start = stop
        return answers


def _as_exported(request: RequestTensors) -> npt.NDArray[np.bool_]:
    """Whether users are told the stock of the export, which is of everything; ``[users, 1]``, or ``[1, 1]`` for all."""
    return np.asarray(request.get(_AS_EXPORTED, np.zeros((1, 1), dtype=np.bool_)).reshape(-1, 1))
