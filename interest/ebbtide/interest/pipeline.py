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
from ebbtide.interest.blend import Blend, blend_interest
from ebbtide.interest.checks import Request, check_request
from ebbtide.interest.columns import Columns, Part, PartsRefused, join_parts
from ebbtide.interest.errors import RequestError
from ebbtide.interest.events import EventBatch, order_by_age
from ebbtide.interest.lookup import UNKNOWN, KeyIndex
from ebbtide.interest.parameters import InterestParameters
from ebbtide.interest.parts import as_part, first_refusal, rows_of, serve_parts
from ebbtide.interest.repeat import repeat_score
from ebbtide.interest.sources import EventSources, find_sources

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
T = TypeVar("T")

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
    """The interest of B users, and all that it came from."""

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
        answers = self.run_parts([as_part(request) for request in requests])
        return [
            answer
            if isinstance(answer, RequestError)
            else AdaptiveWeights(**{name: values[0] for name, values in answer.items()})
            for answer in answers
        ]

    def run_parts(
        self, parts: Sequence[Part], wanted: Collection[str] = ALL_OUTPUTS
    ) -> list[dict[str, npt.NDArray[np.generic]] | RequestError]:
        """The answers to requests as the server has them.

        Args:
            parts: The tensors of each; with a batch dimension, several users may share one.
            wanted: Outputs that are built.

        Returns:
            For each part its outputs by name, each ``[users, ...]`` a slice of the whole batch's; or the error of its
            first user who cannot be served.
        """
        return serve_parts(parts, lambda sound: self._outputs(sound, wanted), self.part_refusal)

    def weigh(self, parts: Sequence[Part]) -> Weighed:
        """The interest of all users of a batch.

        Raises:
            PartsRefused: Some parts cannot be served; `part_refusal` says why.
        """
        config = self.parameters.config
        columns = join_parts(
            parts, config.limits, exclude_seen=config.exclude_seen, ignore_unknown=config.ignore_unknown
        )
        sources = find_sources(columns, self.index)
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

    def part_refusal(self, part: Part) -> RequestError:
        """Why a part that was refused cannot be served: what is wrong with its first user who cannot be."""
        return first_refusal(part, self.refusal)

    def refusal(self, request: Request) -> RequestError | None:
        """Why one user cannot be served, or None."""
        return (
            check_request(request, self.parameters.config.limits)
            or self._unknown_item(request)
            or self._unknown_attribute(request)
        )

    def _pairs(self, weighed: Weighed) -> list[Pairs]:
        """Every kind of score adjustment; what else there is about single items, is added here."""
        columns, sources = weighed.columns, weighed.sources
        pairs: list[Pairs] = []
        if self.parameters.repeat is not None:
            items = sources.item.take(weighed.batch.source)
            user, item, score = repeat_score(
                weighed.batch, items, columns.now_ms, self.parameters.repeat, columns.decay_scale
            )
            # Who excludes the seen items needs no scores of them, nor the room.
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

    def _outputs(self, parts: Sequence[Part], wanted: Collection[str]) -> list[dict[str, npt.NDArray[np.generic]]]:
        weighed = self.weigh(parts)
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
        return rows_of(parts, outputs)

    def _filters(self, columns: Columns) -> Ints:
        if columns.allow is None:
            return self._attributes.everything(columns.users)
        user, keys = columns.allow
        value = self._attributes.find(keys)
        unknown = value == UNKNOWN
        if np.count_nonzero(unknown):
            raise PartsRefused(np.unique(columns.part[user[unknown]]))
        return self._attributes.filters(columns.users, user, value)

    def _unknown_item(self, request: Request) -> RequestError | None:
        policy = self.parameters.config.ignore_unknown
        if policy if request.ignore_unknown is None else request.ignore_unknown.flat[0]:
            return None
        keys = request.event_item if request.event_count is None else request.event_item[: request.own_events]
        unknown = self.index.find(keys) == UNKNOWN
        if request.text_event is not None:
            unknown[request.text_event[request.text_event >= 0]] = False
        return _first_unknown(
            contract.EVENT_ITEM,
            keys,
            unknown,
            f"the key of one of the {self._vectors.shape[0]} items of the catalog of export "
            f"{self.parameters.config.fingerprint}, or `{contract.IGNORE_UNKNOWN.name}`",
        )

    def _unknown_attribute(self, request: Request) -> RequestError | None:
        keys = request.allow_attribute
        if keys is None:
            return None
        return _first_unknown(
            contract.ALLOW_ATTRIBUTE,
            keys,
            self._attributes.find(keys) == UNKNOWN,
            f"the key of one of the {self._attributes.column.size} attribute values of the catalog of export "
            f"{self.parameters.config.fingerprint}",
        )


def _of(values: npt.NDArray[T], kept: Ints | None) -> npt.NDArray[T]:  # type: ignore[type-var]
    return values if kept is None else values[kept]


def _first_unknown(
    tensor: contract.Tensor, keys: Ints, unknown: npt.NDArray[np.bool_], expected: str
) -> RequestError | None:
    if not unknown.any():
        return None
    index = int(np.argmax(unknown))
    return RequestError(f"{tensor.name}[{index}]", str(keys[index]), expected)
