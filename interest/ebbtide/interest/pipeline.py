"""From a batch of requests to what the heads need: the `adaptive_weights` model without Triton's API."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.adjustments import Pairs, pack_pairs
from ebbtide.interest.attributes import AttributeIndex
from ebbtide.interest.batch import rows_of, serve_requests
from ebbtide.interest.blend import Blend, blend_interest
from ebbtide.interest.checks import Request, RequestTensors, refuse_entries
from ebbtide.interest.columns import Columns, join_requests
from ebbtide.interest.errors import RequestError
from ebbtide.interest.events import EventBatch, order_by_age
from ebbtide.interest.lookup import UNKNOWN, KeyIndex
from ebbtide.interest.parameters import InterestParameters
from ebbtide.interest.recorder import Recorder
from ebbtide.interest.repeat import repeat_score
from ebbtide.interest.sources import EventSources, find_sources

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
T = TypeVar("T")

Records = Sequence[bytes | None]
"""The record of each user of one request; None for a user without one."""

ALL_OUTPUTS = frozenset(tensor.name for tensor in contract.ADAPTIVE_WEIGHTS.outputs)


@dataclass(frozen=True)
class AdaptiveWeights:
    """The answer to one request: the outputs of the `adaptive_weights` model, without batch dimension."""

    interest: Floats
    """``[d + p]``: w, then the weights of the prior's columns."""
    adjust_item: Ints
    """``[adjustments]``: catalog indices, padded with 0."""
    adjust_score: Floats
    """``[adjustments]``: minus infinity excludes the item; padded with 0, which changes nothing."""
    item_filter: Ints
    """``[filter words]``."""
    alpha_used: Floats
    """``[1]``."""
    event_counts: npt.NDArray[np.int32]
    """``[3]``: of the history, of the session, left out."""


@dataclass(frozen=True)
class Weighed:
    """The interest of B users, and everything it was computed from."""

    columns: Columns
    sources: EventSources
    batch: EventBatch
    """The events that count, ordered."""
    vectors: Floats
    """``[events that count, d]``, in the batch's order."""
    blend: Blend

    @property
    def alpha_used(self) -> Floats:
        """``[B, 1]``."""
        alpha = self.blend.alpha
        return alpha if alpha.shape[1] == 1 else np.asarray(alpha.mean(axis=1, keepdims=True))

    @property
    def event_counts(self) -> npt.NDArray[np.int32]:
        """``[B, 3]``."""
        users = self.columns.users
        counts = np.empty((users, 3), dtype=np.int32)
        counts[:, :2] = self.batch.half_counts.reshape(users, 2)
        counts[:, 2] = self.sources.left_out
        return counts


class InterestPipeline:
    """Answers batches of requests from learned parameters and the catalog's event vectors."""

    def __init__(
        self,
        parameters: InterestParameters,
        index: KeyIndex,
        vectors: Floats,
        attributes: AttributeIndex | None = None,
    ) -> None:
        """Takes what one export wrote.

        Args:
            parameters: Learned decay, gate and prior weights.
            index: The catalog's keys.
            vectors: ``[items, d]``, the event vector of each item in catalog order; may be memory-mapped.
            attributes: The catalog's attribute values; None where it has none, or none are asked for.
        """
        self.parameters = parameters
        self.index = index
        # A plain view of a memory map: each operation on a `memmap` costs microseconds for its class alone.
        self._vectors = np.asarray(vectors)
        self._attributes = AttributeIndex.none() if attributes is None else attributes

    def run(self, requests: Sequence[Request]) -> list[AdaptiveWeights | RequestError]:
        """The answers in the requests' order; a request that cannot be served gets its error, the others theirs."""
        answers = self.run_requests([request.tensors() for request in requests])
        return [
            answer
            if isinstance(answer, RequestError)
            else AdaptiveWeights(**{name: values[0] for name, values in answer.items()})
            for answer in answers
        ]

    def run_requests(
        self,
        requests: Sequence[RequestTensors],
        wanted: Collection[str] = ALL_OUTPUTS,
        records: Sequence[Records] | None = None,
    ) -> list[dict[str, npt.NDArray[np.generic]] | RequestError]:
        """The answers to requests as the server has them.

        Args:
            requests: The tensors of each; with a batch dimension, several users may share one.
            wanted: Outputs that are built.
            records: For each request the record of each of its users; None where no user of any request has one.

        Returns:
            For each request its outputs by name, each ``[users, ...]`` a slice of the whole batch's; or the error of
            its first user who cannot be served.
        """
        return serve_requests(requests, lambda sound: self._outputs(sound, wanted, records))

    def recorder(self, *, half_precision: bool = False) -> Recorder:
        """What reads and writes the records of this export's users."""
        return Recorder(self.parameters, self.index, self._vectors, half_precision=half_precision)

    def weigh(self, requests: Sequence[RequestTensors], records: Sequence[Records] | None = None) -> Weighed:
        """The interest of all users of a batch.

        Args:
            requests: The tensors of each.
            records: As for `run_requests`.

        Raises:
            RequestsRefused: Some requests cannot be served.
        """
        if records is not None:
            raise NotImplementedError
        config = self.parameters.config
        columns = join_requests(
            requests, config.limits, exclude_seen=config.exclude_seen, ignore_unknown=config.ignore_unknown
        )
        sources = find_sources(columns, self.index, config.fingerprint)
        kept = sources.kept
        batch = order_by_age(
            sources.user,
            sources.counts,
            _of(columns.age_ms, kept),
            weight=None if columns.weight is None else _of(columns.weight, kept),
            is_current=None if columns.is_current is None else _of(columns.is_current, kept),
            session_gap_ms=config.session_gap_ms,
            has_flags=columns.has_flags,
        )
        vectors = sources.vectors(self._vectors, batch.source)
        blend = blend_interest(batch, vectors, self.parameters, columns.alpha, columns.decay_scale)
        return Weighed(columns, sources, batch, vectors, blend)

    def adjustments(self, weighed: Weighed) -> tuple[Ints, Floats]:
        """The score adjustments of all users of a batch, ``[users, adjustments]`` each."""
        return pack_pairs(self._pairs(weighed), weighed.columns.users, self.parameters.config.limits.adjustments)

    def _pairs(self, weighed: Weighed) -> list[Pairs]:
        """Every kind of score adjustment; a new kind is added here."""
        columns, sources = weighed.columns, weighed.sources
        pairs: list[Pairs] = []
        if self.parameters.repeat is not None:
            items = sources.item.take(weighed.batch.source)
            user, item, score = repeat_score(
                weighed.batch, items, columns.now_ms, self.parameters.repeat, columns.decay_scale
            )
            # Users who exclude the seen items need no scores of them.
            kept = ~np.broadcast_to(columns.exclude_seen, columns.users)[user]
            pairs.append(Pairs(user[kept], item[kept], score[kept]))
        if columns.exclude_seen is True and sources.text is None:
            pairs.append(Pairs(sources.user, sources.item, -np.inf))
        elif np.any(columns.exclude_seen):
            excludes = np.broadcast_to(columns.exclude_seen, columns.users)
            seen = excludes[sources.user] & (sources.item != UNKNOWN)
            pairs.append(Pairs(sources.user[seen], sources.item[seen], -np.inf))
        if columns.exclude is not None:
            user, keys = columns.exclude
            item = self.index.find(keys)
            known = item != UNKNOWN
            pairs.append(Pairs(user[known], item[known], -np.inf))
        return pairs

    def _outputs(
        self, requests: Sequence[RequestTensors], wanted: Collection[str], records: Sequence[Records] | None
    ) -> list[dict[str, npt.NDArray[np.generic]]]:
        weighed = self.weigh(requests, records)
        users = weighed.columns.users
        outputs: dict[str, npt.NDArray[np.generic]] = {}
        if contract.INTEREST.name in wanted:
            d, prior_weight = self.parameters.vector_width, self.parameters.prior_weight
            interest = np.empty((users, d + prior_weight.shape[0]), dtype=np.float32)
            interest[:, :d] = weighed.blend.interest
            interest[:, d:] = prior_weight
            outputs[contract.INTEREST.name] = interest
        if contract.ADJUST_ITEM.name in wanted or contract.ADJUST_SCORE.name in wanted:
            outputs[contract.ADJUST_ITEM.name], outputs[contract.ADJUST_SCORE.name] = self.adjustments(weighed)
        if contract.ITEM_FILTER.name in wanted or weighed.columns.allow is not None:
            outputs[contract.ITEM_FILTER.name] = self._filters(weighed.columns)
        outputs[contract.ALPHA_USED.name] = weighed.alpha_used
        outputs[contract.EVENT_COUNTS.name] = weighed.event_counts
        return rows_of(requests, outputs)

    def _filters(self, columns: Columns) -> Ints:
        if columns.allow is None:
            return self._attributes.everything(columns.users)
        user, keys = columns.allow
        value = self._attributes.find(keys)
        unknown = value == UNKNOWN
        if np.count_nonzero(unknown):
            expected = (
                f"the key of one of the {self._attributes.column.size} attribute values of the catalog of export "
                f"{self.parameters.config.fingerprint}"
            )
            refuse_entries(columns.request, user, unknown, contract.ALLOW_ATTRIBUTE, keys, lambda _user: expected)
        return self._attributes.filters(columns.users, user, value)


def _of(values: npt.NDArray[T], kept: Ints | None) -> npt.NDArray[T]:  # type: ignore[type-var]
    return values if kept is None else values[kept]
