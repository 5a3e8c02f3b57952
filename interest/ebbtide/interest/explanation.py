"""Why an item scores as it does: the exact share of every event, dimension, prior and adjustment.

A score is linear in the events once alpha and the norms are known: event e of the history adds
alpha v_e exp(-lambda age) exp(-mu rank) x_e / ||H||_2 . a_i to item i, one of the session 1 - alpha and ||C||_2 for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.adjustments import find_pairs
from ebbtide.interest.checks import Request, RequestsRefused, RequestTensors
from ebbtide.interest.decay import event_decays
from ebbtide.interest.errors import RequestError
from ebbtide.interest.lookup import UNKNOWN
from ebbtide.interest.parameters import NORM_FLOOR_SQUARED
from ebbtide.interest.pipeline import InterestPipeline, Weighed
from ebbtide.interest.repeat import repeat_parts

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Explanation:
    """The outputs of the `explainer` model for candidates and events, including events that were left out.

    `event_share` summed over events, `prior_share` and `adjustment_share` add up to `candidate_score`; so do
    `dimension_share` summed over dimensions and the other two. All of an unknown candidate's are NaN. With the state of a
    user, `state_event_share` and `folded_share` belong to the sum over events.
    """

    candidate_score: Floats
    """``[1, candidates]``."""
    alpha_used: Floats
    """``[1, 1]``."""
    event_counts: npt.NDArray[np.int32]
    """``[1, 3]``."""
    event_share: Floats
    """``[candidates, events]``: events as they were given, 0 for one that was left out."""
    event_current: npt.NDArray[np.bool_]
    """``[events]``; false for an event that was left out."""
    event_decay: Floats
    """``[events]``; 0 for an event that was left out."""
    dimension_share: Floats
    """``[candidates, d]``."""
    prior_share: Floats
    """``[candidates]``."""
    adjustment_share: Floats
    """``[candidates]``: minus infinity (excluded), a repeat score (all other shares are then 0), or 0."""
    repeat_share: Floats
    """``[candidates, parts]``: `contract.REPEAT_PARTS` of each repeat score, which sum to `adjustment_share`; 0 for
    other candidates."""
    half_life_days: Floats
    """``[d]``, with the request's own decay scale."""


class Explainer:
    """Explains scores from learned parameters, the catalog's event vectors and its item factors."""

    def __init__(self, pipeline: InterestPipeline, factors: Floats) -> None:
        """Takes what one export wrote.

        Args:
            pipeline: Of the export.
            factors: ``[items, d + p]``, in catalog order; may be memory-mapped.
        """
        self._pipeline = pipeline
        self._parameters = pipeline.parameters
        self._factors = np.asarray(factors)

    def run(self, request: Request) -> Explanation | RequestError:
        """The explanation of one request's `candidate_item`, or what is wrong with it."""
        return self.run_tensors(request.tensors())

    def run_tensors(self, request: RequestTensors) -> Explanation | RequestError:
        """The same for the tensors of a request of one user."""
        if contract.CANDIDATE_ITEM.name not in request:
            return RequestError(contract.CANDIDATE_ITEM.name, "no tensor", "the items to explain")
        try:
            weighed = self._pipeline.weigh([request])
        except RequestsRefused as refused:
            return refused.errors[0]
        return self._explain(weighed, request[contract.CANDIDATE_ITEM.name].reshape(-1))

    def _explain(self, weighed: Weighed, candidates: npt.NDArray[np.int64]) -> Explanation:
        d = self._parameters.vector_width
        decays = event_decays(
            weighed.batch,
            self._parameters.decay_rate_per_day,
            self._parameters.rank_decay_rate,
            weighed.columns.decay_scale,
        )
        contributions = _contributions(weighed, decays)
        item = self._pipeline.index.find(candidates)
        factors = self._factors.take(item, axis=0).astype(np.float64)
        adjustment_share = self._adjustments(weighed, item)
        # A repeat score replaces the score from the factors; an excluded item keeps its shares.
        replaced = np.isfinite(adjustment_share) & (adjustment_share != 0)
        factors[replaced] = 0
        factors[item == UNKNOWN] = np.nan
        dimension_share = factors[:, :d] * contributions.sum(axis=0)
        prior_share = factors[:, d:] @ self._parameters.prior_weight.astype(np.float64)
        score = dimension_share.sum(axis=1) + prior_share + adjustment_share

        events = int(weighed.columns.events[0])
        index = weighed.batch.source if weighed.sources.kept is None else weighed.sources.kept[weighed.batch.source]
        event_share = np.zeros((item.size, events), dtype=np.float32)
        event_share[:, index] = factors[:, :d] @ contributions.T
        event_share[item == UNKNOWN] = np.nan
        event_current = np.zeros(events, dtype=np.bool_)
        event_current[index] = weighed.batch.is_current
        event_decay = np.zeros(events, dtype=np.float32)
        event_decay[index] = decays.mean(axis=1)
        return Explanation(
            candidate_score=_single(score)[None],
            alpha_used=weighed.alpha_used,
            event_counts=weighed.event_counts,
            event_share=event_share,
            event_current=event_current,
            event_decay=event_decay,
            dimension_share=_single(dimension_share),
            prior_share=_single(prior_share),
            adjustment_share=_single(adjustment_share),
            repeat_share=self._repeat_parts(weighed, item, replaced),
            half_life_days=self._half_lives(weighed),
        )

    def _adjustments(self, weighed: Weighed, item: npt.NDArray[np.int64]) -> Doubles:
        """The score adjustment of each candidate, ``[candidates]``: 0 without one; NaN for unknown ones."""
        adjust_item, adjust_score = self._pipeline.adjustments(weighed)
        found = find_pairs(adjust_item, adjust_score, np.zeros_like(item), item, self._factors.shape[0])
        return np.where(item == UNKNOWN, np.nan, found)

    def _repeat_parts(self, weighed: Weighed, item: npt.NDArray[np.int64], replaced: npt.NDArray[np.bool_]) -> Floats:
        """The parts of each candidate's repeat score, ``[candidates, parts]``: 0 without one; NaN for unknown ones."""
        shares = np.zeros((item.size, len(contract.REPEAT_PARTS)))
        shares[item == UNKNOWN] = np.nan
        if self._parameters.repeat is not None and replaced.any():
            items = weighed.sources.item.take(weighed.batch.source)
            _, seen, parts = repeat_parts(
                weighed.batch,
                items,
                weighed.columns.now_ms,
                self._parameters.repeat,
                weighed.columns.decay_scale,
            )
            shares[replaced] = parts[np.searchsorted(seen, item[replaced])]
        return _single(shares)

    def _half_lives(self, weighed: Weighed) -> Floats:
        scale = weighed.columns.decay_scale
        rate = self._parameters.decay_rate_per_day * (1.0 if scale is None else float(scale[0]))
        with np.errstate(divide="ignore", over="ignore"):
            return _single(np.log(2) / rate.astype(np.float64))


def _contributions(weighed: Weighed, decays: Floats) -> Doubles:
    """What each event of one user adds to the interest, ``[events that count, d]``, in the batch's order."""
    batch = weighed.batch
    weighted = decays.astype(np.float64) * weighed.vectors
    weighted *= batch.weight[:, None]
    squares = np.bincount(batch.is_current, weights=np.square(weighted).sum(axis=1), minlength=2)
    norms = np.sqrt(squares + NORM_FLOOR_SQUARED)
    alpha = weighed.blend.alpha[0].astype(np.float64)
    factor = np.stack([alpha / norms[0], (1 - alpha) / norms[1]])
    contributions: Doubles = weighted * factor[batch.is_current.astype(np.int64)]
    return contributions


def _single(values: npt.NDArray[Any]) -> Floats:
    return values.astype(np.float32)
