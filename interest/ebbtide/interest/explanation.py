"""Why an item scores as it does: the exact share of every event, dimension, prior and adjustment.

A score is linear in the events once alpha and the norms are known: event e of the history adds
alpha v_e exp(-lambda age) exp(-mu rank) x_e / ||H||_2 . a_i to item i, one of the session 1 - alpha and ||C||_2 for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.adjustments import find_pairs
from ebbtide.interest.checks import Request, RequestsRefused, RequestTensors
from ebbtide.interest.decay import event_decays, half_lives
from ebbtide.interest.errors import RequestError
from ebbtide.interest.item_ids import ItemIds
from ebbtide.interest.lookup import UNKNOWN
from ebbtide.interest.new_items import GrownTable
from ebbtide.interest.parameters import NORM_FLOOR_SQUARED
from ebbtide.interest.pipeline import InterestPipeline, Records
from ebbtide.interest.repeat import repeat_parts
from ebbtide.interest.state_events import StateEvents
from ebbtide.interest.stock import are_in_stock
from ebbtide.interest.weighed import Weighed

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
_TEXT, _RESIDUAL = "text", "residual"
"""The two feature blocks of every model."""


@dataclass(frozen=True)
class Explanation:
    """The outputs of the `explainer` model for candidates and events, including events that were left out.

    `event_share` summed over events, `state_event_share` summed over the raw events of the user's state,
    `folded_share`, `prior_share` and `adjustment_share` add up to `candidate_score`; so do `dimension_share` summed
    over dimensions and the last two. All of an unknown candidate's are NaN.
    """

    candidate_score: Floats
    """``[1, candidates]``."""
    candidate_in_stock: npt.NDArray[np.bool_]
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
    """``[candidates]``: minus infinity (excluded), a repeat score, or what the newest events add to a related item. A
    candidate with a repeat score has no prior share, a part of what events of items say
    (`InterestPipeline.seen_interest`), and all that free texts say."""
    repeat_share: Floats
    """``[candidates, parts]``: `contract.REPEAT_PARTS` of each repeat score, which sum to `adjustment_share`; 0 for
    other candidates, related items among them."""
    block_name: npt.NDArray[np.object_]
    """``[blocks]``: names in UTF-8; empty for an export without vectors of items."""
    block_share: Floats
    """``[candidates, blocks]``: sums to that of `dimension_share`. An item that was added after the export has its text
    alone."""
    half_life_days: Floats
    """``[d]``, with the request's own decay scale."""
    folded_share: Floats
    """``[candidates]``: of all folded events of the user's state together."""
    state_event_share: Floats
    """``[candidates, raw events]``: newest first, as the next ones; 0 for one that the request has too."""
    state_event_item: npt.NDArray[np.object_]
    """``[raw events]``: ids in UTF-8, empty for an item that is not in the catalog."""
    state_event_time: npt.NDArray[np.int64]
    """``[raw events]``, Unix milliseconds."""
    state_event_current: npt.NDArray[np.bool_]
    """``[raw events]``."""
    state_event_decay: Floats
    """``[raw events]``."""
    state_status: npt.NDArray[np.int32] | None
    """``[1, 1]``: `contract.StateStatus`; None without a record."""


class Explainer:
    """Explains scores from learned parameters, the catalog's event vectors and its item factors."""

    def __init__(
        self,
        pipeline: InterestPipeline,
        factors: Floats,
        ids: ItemIds | None = None,
        blocks: Mapping[str, Floats] | None = None,
    ) -> None:
        """Takes what one export wrote.

        Args:
            pipeline: Of the export.
            factors: ``[items, d + p]``, in catalog order; may be memory-mapped.
            ids: Of the catalog; None leaves the ids of a state's events empty.
            blocks: What each feature block but the residuals adds to the factors, ``[items, d]``; may be memory-mapped.
                None explains no blocks.
        """
        self.pipeline = pipeline
        self._ids = ids
        self._parameters = pipeline.parameters
        self._factors = np.asarray(factors)
        given = {} if blocks is None else blocks
        self._blocks = {name: np.asarray(given[name]) for name in sorted(given, key=_block_order)}

    def run(self, request: Request, records: Records | None = None) -> Explanation | RequestError:
        """The explanation of one request's `candidate_item`, or what is wrong with it.

        Args:
            request: Of one user.
            records: The user's record, as for `InterestPipeline.run_requests`; None for a request without a user.
        """
        return self.run_tensors(request.tensors(), records)

    def run_tensors(self, request: RequestTensors, records: Records | None = None) -> Explanation | RequestError:
        """The same for the tensors of a request of one user."""
        if contract.CANDIDATE_ITEM.name not in request:
            return RequestError(contract.CANDIDATE_ITEM.name, "no tensor", "the items to explain")
        try:
            weighed = self.pipeline.weigh([request], None if records is None else [records])
        except RequestsRefused as refused:
            return refused.errors[0]
        return self._explain(weighed, request[contract.CANDIDATE_ITEM.name].reshape(-1))

    def run_requests(
        self, requests: Sequence[RequestTensors], records: Sequence[Records] | None = None
    ) -> list[dict[str, npt.NDArray[Any]] | RequestError]:
        """The outputs by name for requests of one user each, in separate runs, because their sizes differ.

        Args:
            requests: Of one user each.
            records: For each request the record of its user; None where no request names a user.
        """
        of_requests: Sequence[Records | None] = [None] * len(requests) if records is None else records
        found = [self.run_tensors(*pair) for pair in zip(requests, of_requests, strict=True)]
        return [
            one
            if isinstance(one, RequestError)
            else {name: value for name, value in vars(one).items() if value is not None}
            for one in found
        ]

    def _explain(self, weighed: Weighed, candidates: npt.NDArray[np.int64]) -> Explanation:
        d = self._parameters.vector_width
        decays = event_decays(
            weighed.batch,
            self._parameters.decay_rate_per_day,
            self._parameters.rank_decay_rate,
            weighed.columns.decay_scale,
        )
        contributions, of_folded = _contributions(weighed, decays)
        of_seen, folded_of_seen = self._contributions_to_seen(weighed, decays, contributions, of_folded)
        new = weighed.items.new
        item = weighed.items.index.find(candidates)
        table = self._factors if new is None else GrownTable(self._factors, new, new.factors)
        factors = table.take(item, axis=0).astype(np.float64)
        adjustment_share = self._adjustments(weighed, item)
        # A repeat score replaces the score from the factors; an excluded item keeps its shares.
        replaced = np.isfinite(adjustment_share) & (adjustment_share != 0)
        repeat_share = self._repeat_parts(weighed, item, replaced)
        adjustment_share[replaced] = repeat_share[replaced].sum(axis=1)
        related = self.pipeline.related_scores(weighed)
        if related is not None:
            adjustment_share += np.where(replaced, 0, related.of_user(0, item))
        factors[replaced, d:] = 0
        factors[item == UNKNOWN] = np.nan

        def times(of_all: Doubles, of_replaced: Doubles) -> Doubles:
            """Factors times contributions ``[events, d]``, ``[candidates, events]``."""
            return np.where(replaced[:, None], factors[:, :d] @ of_replaced.T, factors[:, :d] @ of_all.T)

        interest, seen_interest = contributions.sum(axis=0) + of_folded, of_seen.sum(axis=0) + folded_of_seen
        counted_interest = np.where(replaced[:, None], seen_interest, interest)
        dimension_share = factors[:, :d] * counted_interest
        prior_share = factors[:, d:] @ self._parameters.prior_weight.astype(np.float64)
        prior, left_out = self.pipeline.live_prior(weighed)
        if left_out is None or not left_out[0]:
            for live in (prior, new):
                if live is not None:
                    prior_share += np.where(replaced, 0, live.gains(item))
        in_stock = are_in_stock(item, weighed.items.out_of_stock)
        if left_out is not None:
            in_stock |= left_out[0]
        score = dimension_share.sum(axis=1) + prior_share + adjustment_share

        events = int(weighed.columns.events[0])
        batch, kept = weighed.batch, weighed.sources.kept
        index = batch.source if kept is None else kept[batch.source]
        is_given = index != UNKNOWN
        given = index[is_given]
        share, decay = times(contributions, of_seen), decays.mean(axis=1)
        event_share = np.zeros((item.size, events), dtype=np.float32)
        event_share[:, given] = share[:, is_given]
        event_share[item == UNKNOWN] = np.nan
        event_current = np.zeros(events, dtype=np.bool_)
        event_current[given] = batch.is_current[is_given]
        event_decay = np.zeros(events, dtype=np.float32)
        event_decay[given] = decay[is_given]
        states = StateEvents.of(weighed, decays, self._ids)
        state_event_share = np.zeros((item.size, states.time_ms.size), dtype=np.float32)
        state_event_share[:, states.position[~is_given]] = share[:, ~is_given]
        state_event_share[item == UNKNOWN] = np.nan
        return Explanation(
            candidate_score=_single(score)[None],
            candidate_in_stock=in_stock[None],
            alpha_used=weighed.alpha_used,
            event_counts=weighed.event_counts,
            event_share=event_share,
            event_current=event_current,
            event_decay=event_decay,
            dimension_share=_single(dimension_share),
            prior_share=_single(prior_share),
            adjustment_share=_single(adjustment_share),
            repeat_share=_single(repeat_share),
            block_name=np.array([name.encode() for name in self._block_names], dtype=np.object_),
            block_share=_single(self._block_shares(item, counted_interest, dimension_share.sum(axis=1))),
            half_life_days=half_lives(self._parameters.decay_rate_per_day, weighed.columns.decay_scale),
            folded_share=_single(times(of_folded[None], folded_of_seen[None])[:, 0]),
            state_event_share=state_event_share,
            state_event_item=states.item_id,
            state_event_time=states.time_ms,
            state_event_current=states.is_current,
            state_event_decay=states.decay,
            state_status=None if weighed.from_records is None else weighed.state_status,
        )

    @property
    def _block_names(self) -> list[str]:
        """Text and residual first; none without blocks."""
        names = list(self._blocks)
        return [*names[:1], _RESIDUAL, *names[1:]] if names else []

    def _block_shares(self, item: npt.NDArray[np.int64], interest: Doubles, total: Doubles) -> Doubles:
        """What each feature block of the candidates adds to their scores, ``[candidates, blocks]``.

        Args:
            item: ``[candidates]``, catalog indices.
            interest: ``[candidates, d]``, that counts for each.
            total: ``[candidates]``, what all blocks add; NaN for an unknown candidate.
        """
        is_new = item >= self._factors.shape[0]
        row = np.where(is_new, 0, item)
        shares = {
            name: np.where(is_new, 0, (table.take(row, axis=0).astype(np.float64) * interest).sum(axis=1))
            for name, table in self._blocks.items()
        }
        if _TEXT in shares:
            shares[_TEXT] = np.where(is_new, total, shares[_TEXT])
        shares[_RESIDUAL] = total - sum(shares.values())
        found = np.zeros((item.size, len(self._block_names)))
        for column, name in enumerate(self._block_names):
            found[:, column] = np.where(item == UNKNOWN, np.nan, shares[name])
        return found

    def _contributions_to_seen(
        self, weighed: Weighed, decays: Floats, contributions: Doubles, of_folded: Doubles
    ) -> tuple[Doubles, Doubles]:
        """What events and folded events add to the repeat scores, as `_contributions` of all others."""
        share = self.pipeline.interest_share
        of_seen, folded_of_seen = share * contributions, share * of_folded
        if self.pipeline.moved_interest(weighed) is not None:
            moved, moved_folded = _contributions(weighed, decays, moved=True)
            of_seen += (1 - share) * moved
            folded_of_seen += (1 - share) * moved_folded
        return of_seen, folded_of_seen

    def _adjustments(self, weighed: Weighed, item: npt.NDArray[np.int64]) -> Doubles:
        """The score adjustment of each candidate, ``[candidates]``: 0 without one; NaN for unknown ones."""
        adjust_item, adjust_score = self.pipeline.adjustments(weighed)
        items = weighed.items.index.end
        found = find_pairs(adjust_item, adjust_score, np.zeros_like(item), item, items)
        return np.where(item == UNKNOWN, np.nan, found)

    def _repeat_parts(self, weighed: Weighed, item: npt.NDArray[np.int64], replaced: npt.NDArray[np.bool_]) -> Doubles:
        """The parts of each candidate's repeat score, ``[candidates, parts]``: 0 without one; NaN for unknown ones."""
        shares = np.zeros((item.size, len(contract.REPEAT_PARTS)))
        shares[item == UNKNOWN] = np.nan
        repeat = weighed.items.repeat
        if repeat is not None and replaced.any():
            items = weighed.sources.item.take(weighed.batch.source)
            _, seen, parts = repeat_parts(
                weighed.batch,
                items,
                weighed.columns.now_ms,
                repeat,
                weighed.columns.decay_scale,
                weighed.folded_counts(repeat),
            )
            shares[replaced] = parts[np.searchsorted(seen, item[replaced])]
        return shares


def _contributions(weighed: Weighed, decays: Floats, *, moved: bool = False) -> tuple[Doubles, Doubles]:
    """What each event of one user adds to the interest, ``[events that count, d]``, in the batch's order.

    And what all folded events add, ``[d]``.

    Args:
        weighed: Of one user.
        decays: ``[events that count, d]``.
        moved: Whether to count only what moves the repeat scores: texts, and what a request's alpha changes.
    """
    batch = weighed.batch
    weighted = decays.astype(np.float64) * weighed.vectors
    weighted *= batch.weight[:, None]
    squares = np.bincount(batch.is_current, weights=np.square(weighted).sum(axis=1), minlength=2)
    folded = np.zeros((2, decays.shape[1]))
    if weighed.from_records is not None:
        base = weighed.from_records.base
        squares = squares + base.squares[0].sum(axis=1)
        folded = base.sums[0]
    norms = np.sqrt(squares + NORM_FLOOR_SQUARED)
    half = batch.is_current.astype(np.int64)
    alpha = weighed.blend.alpha[0].astype(np.float64)
    factor = np.stack([alpha / norms[0], (1 - alpha) / norms[1]])
    if not moved:
        return weighted * factor[half], (folded * factor).sum(axis=0)
    change = alpha - weighed.blend.model_alpha[0]
    changed = np.stack([change / norms[0], -change / norms[1]])
    is_text = weighed.sources.item.take(batch.source) == UNKNOWN
    return weighted * np.where(is_text[:, None], factor[half], changed[half]), (folded * changed).sum(axis=0)


def _block_order(name: str) -> tuple[bool, str]:
    """The text first, then by name."""
    return name != _TEXT, name


def _single(values: npt.NDArray[Any]) -> Floats:
    return values.astype(np.float32)
