"""From a batch of requests to what the scoring head needs: the `adaptive_weights` model without Triton's API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.blend import Blend, blend_interest
from ebbtide.interest.checks import Request, check_request
from ebbtide.interest.errors import RequestError
from ebbtide.interest.events import EventBatch, order_events
from ebbtide.interest.lookup import UNKNOWN, KeyIndex
from ebbtide.interest.parameters import InterestParameters

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AdaptiveWeights:
    """The answer to one request: the outputs of the `adaptive_weights` model, without batch dimension."""

    interest: Floats
    """``[d + p]``: w, then the weights of the prior's columns."""
    adjust_item: Ints
    """``[adjustments]``: catalog indices, padded with 0."""
    adjust_score: Floats
    """``[adjustments]``: minus infinity excludes the item; padded with 0, which changes nothing."""
    alpha_used: Floats
    """``[1]``."""
    events_used: npt.NDArray[np.int32]
    """``[1]``."""


class InterestPipeline:
    """Answers batches of requests from learned parameters and the catalog's event vectors."""

    def __init__(self, parameters: InterestParameters, index: KeyIndex, vectors: Floats) -> None:
        """Takes what one export wrote.

        Args:
            parameters: Learned decay, gate and prior weights.
            index: The catalog's keys.
            vectors: ``[items, d]``, the event vector of each item in catalog order; may be memory-mapped.
        """
        self._parameters = parameters
        self._index = index
        self._vectors = vectors

    def run(self, requests: Sequence[Request]) -> list[AdaptiveWeights | RequestError]:
        """The answers in the requests' order; a request that cannot be served gets its error, the others theirs."""
        answers: list[AdaptiveWeights | RequestError | None] = [
            check_request(request, self._parameters.config.limits) for request in requests
        ]
        sound = [place for place, error in enumerate(answers) if error is None]
        found = self._find_items([requests[place].event_item for place in sound])
        for place, items in zip(sound, found, strict=True):
            answers[place] = self._unknown_item(requests[place], items)
        known = [(place, items) for place, items in zip(sound, found, strict=True) if answers[place] is None]
        if known:
            served = self._serve([requests[place] for place, _ in known], [items for _, items in known])
            for (place, _), answer in zip(known, served, strict=True):
                answers[place] = answer
        return [answer for answer in answers if answer is not None]

    def _find_items(self, keys: list[Ints]) -> list[Ints]:
        """Catalog indices of each request's items, by one search for all."""
        if not keys:
            return []
        found = self._index.find(np.concatenate(keys))
        return np.split(found, np.cumsum([len(part) for part in keys])[:-1])

    def _unknown_item(self, request: Request, items: Ints) -> RequestError | None:
        unknown = items == UNKNOWN
        if not unknown.any():
            return None
        place = int(np.argmax(unknown))
        return RequestError(
            f"{contract.EVENT_ITEM.name}[{place}]",
            str(request.event_item[place]),
            f"the key of one of the {self._vectors.shape[0]} items of the catalog of export "
            f"{self._parameters.config.fingerprint}",
        )

    def _serve(self, requests: list[Request], items: list[Ints]) -> list[AdaptiveWeights]:
        batch, blend = self.blend(requests, items)
        prior = np.broadcast_to(self._parameters.prior_weight, (len(requests), self._parameters.prior_weight.shape[0]))
        interest = np.concatenate([blend.interest, prior], axis=1)
        alpha = blend.alpha.mean(axis=1, keepdims=True)
        events = np.bincount(batch.request, minlength=len(requests)).astype(np.int32)[:, None]
        adjust_item, adjust_score = self._exclusions(requests, items)
        return [
            AdaptiveWeights(interest[row], adjust_item[row], adjust_score[row], alpha[row], events[row])
            for row in range(len(requests))
        ]

    def blend(self, requests: list[Request], items: list[Ints]) -> tuple[EventBatch, Blend]:
        """The ordered events and interest vectors of sound requests.

        Args:
            requests: B checked requests.
            items: B arrays, the catalog indices of each one's `event_item`.
        """
        counts = np.array([request.events for request in requests], dtype=np.int64)
        weighted = any(request.event_weight is not None for request in requests)
        batch = order_events(
            counts=counts,
            time_ms=np.concatenate([request.event_time for request in requests]),
            now_ms=np.concatenate([request.now for request in requests]),
            weight=np.concatenate([_weights(request) for request in requests]) if weighted else None,
            is_current=[request.event_is_current for request in requests],
            session_gap_ms=self._parameters.config.session_gap_ms,
        )
        if any(request.texts for request in requests):
            parts: list[Floats] = []
            for request, found in zip(requests, items, strict=True):
                parts.append(self._vectors[found])
                if request.text_vector is not None:
                    parts.append(request.text_vector)
            vectors = np.concatenate(parts)[batch.source]
        else:
            vectors = self._vectors[np.concatenate(items)[batch.source]]
        override = None
        if any(request.alpha is not None for request in requests):
            override = np.array(
                [np.nan if request.alpha is None else request.alpha[0] for request in requests], dtype=np.float32
            )
        return batch, blend_interest(batch, vectors, self._parameters, override)

    def _exclusions(self, requests: list[Request], items: list[Ints]) -> tuple[Ints, Floats]:
        """Score adjustments that exclude items, ``[B, adjustments]`` each."""
        excluded = [self._excluded(request, found) for request, found in zip(requests, items, strict=True)]
        width = self._parameters.config.limits.adjustments
        adjust_item = np.zeros((len(requests), width), dtype=np.int64)
        adjust_score = np.zeros((len(requests), width), dtype=np.float32)
        for row, part in enumerate(excluded):
            adjust_item[row, : len(part)] = part
            adjust_score[row, : len(part)] = -np.inf
        return adjust_item, adjust_score

    def _excluded(self, request: Request, items: Ints) -> Ints:
        seen = self._parameters.config.exclude_seen if request.exclude_seen is None else bool(request.exclude_seen[0])
        parts = [items] if seen else []
        if request.exclude_item is not None:
            found = self._index.find(request.exclude_item)
            parts.append(found[found != UNKNOWN])
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def _weights(request: Request) -> Floats:
    if request.event_weight is None:
        return np.ones(request.events, dtype=np.float32)
    return request.event_weight
