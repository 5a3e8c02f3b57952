"""From a batch of requests to what the heads need: the `adaptive_weights` model without Triton's API."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract, served_models
from ebbtide.interest.adjustments import Pairs, pack_pairs
from ebbtide.interest.attributes import AttributeIndex
from ebbtide.interest.batch import rows_of, serve_requests
from ebbtide.interest.blend import blend_interest
from ebbtide.interest.checks import Request, RequestTensors, refuse_entries
from ebbtide.interest.columns import Columns, join_requests
from ebbtide.interest.decay import half_sums, weighted_vectors
from ebbtide.interest.errors import RequestError
from ebbtide.interest.events import order_by_age
from ebbtide.interest.joined import join_states
from ebbtide.interest.live_prior import LivePrior
from ebbtide.interest.log_recorder import LogRecorder
from ebbtide.interest.lookup import UNKNOWN, KeyIndex
from ebbtide.interest.meters import Meters, count_answers, count_filtered
from ebbtide.interest.new_items import GrownIndex, GrownTable, NewItems
from ebbtide.interest.parameters import InterestParameters
from ebbtide.interest.popularity import PriorOfOthers
from ebbtide.interest.recorder import Recorder
from ebbtide.interest.related import related_scores, scores_of_pairs
from ebbtide.interest.repeat import RepeatParameters, not_zero, repeat_score
from ebbtide.interest.rules import Rule, RuleBook, Ruled, RuleTables
from ebbtide.interest.seen_weights import seen_weights
from ebbtide.interest.sources import EventSources, find_sources
from ebbtide.interest.state import read
from ebbtide.interest.stock import OutOfStock
from ebbtide.interest.weighed import FromRecords, KnownItems, Weighed

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
T = TypeVar("T")

Records = Sequence[bytes | None]
"""The record of each user of one request; None for a user without one."""

_ADJUSTMENTS = {contract.ADJUST_ITEM.name, contract.ADJUST_SCORE.name}
_NEW_ITEMS = {contract.NEW_ITEM_ID.name, contract.NEW_ITEM_SCORE.name, contract.APPLIED_RULES.name}
_SEEN = {contract.SEEN_ITEM.name, contract.SEEN_WEIGHT.name}
ALL_OUTPUTS = frozenset(tensor.name for tensor in served_models.ADAPTIVE_WEIGHTS.outputs)
_OF_LISTS = ALL_OUTPUTS - _SEEN
"""The fields of `AdaptiveWeights`."""


@dataclass(frozen=True)
class AdaptiveWeights:
    """The answer to one request: the outputs of the `adaptive_weights` model, without batch dimension."""

    interest: Floats
    """``[d + p]``: w, then the weights of the prior's columns."""
    adjust_item: Ints
    """``[adjustments]``: catalog indices, padded with 0; see `contract.Axis.ADJUSTMENTS`."""
    adjust_score: Floats
    """``[adjustments]``: minus infinity excludes the item; padded with 0, which changes nothing."""
    item_filter: Ints
    """``[filter words]``."""
    alpha_used: Floats
    """``[1]``."""
    event_counts: npt.NDArray[np.int32]
    """``[3]``: of the history, of the session, left out."""
    new_item_id: npt.NDArray[np.object_]
    """``[best new items]``: UTF-8, best first."""
    new_item_score: Floats
    """``[best new items]``."""
    applied_rules: npt.NDArray[np.object_]
    """``[1]``: JSON; empty without rules of the house."""


class InterestPipeline:
    """Answers batches of requests from learned parameters and the catalog's event vectors."""

    def __init__(
        self,
        parameters: InterestParameters,
        index: KeyIndex,
        vectors: Floats,
        attributes: AttributeIndex | None = None,
        factors: Floats | None = None,
    ) -> None:
        """Takes what one export wrote.

        Args:
            parameters: Learned decay, gate and prior weights.
            index: The catalog's keys.
            vectors: ``[items, d]``, the event vector of each item in catalog order; may be memory-mapped.
            attributes: The catalog's attribute values; None where it has none, or none are asked for.
            factors: ``[items, d + p]``, in catalog order; may be memory-mapped. None where no scores of repeated or
                related items are asked for.
        """
        self.parameters = parameters
        self.index = index
        # A plain view of a memory map: each operation on a `memmap` costs microseconds for its class alone.
        self._vectors = np.asarray(vectors)
        self._factors = None if factors is None else np.asarray(factors)
        self._most_related = 0 if factors is None or parameters.related is None else parameters.related.most
        self.attributes = AttributeIndex.none() if attributes is None else attributes
        self.items = KnownItems(index, self._vectors, parameters.repeat)
        """What to look items up in; a batch of requests takes it once, as another thread may replace it."""
        self.follows_items = False
        """Whether items may be added while the server runs."""
        self._out_of_stock = np.empty(0, dtype=np.int64)
        self._rules: Sequence[Rule] = ()
        self.rule_tables: RuleTables | None = None
        """What rules of the house need; None where the answers are no lists."""
        self.prior: LivePrior | None = None
        """What has changed in the popularity prior since the export; None if nothing has, or nobody follows it."""
        self.meters: Meters | None = None
        """Count the answers; None where nobody reads them."""
        self.prior_of_others: PriorOfOthers | None = None
        """The popularity prior of items that the export does not have; None in an export without counts."""

    def add(self, new: NewItems | None) -> None:
        """Answers with other new items from now on.

        Args:
            new: All of them; None for none.
        """
        items = KnownItems(self.index, self._vectors, self.parameters.repeat)
        if new is not None:
            vectors = GrownTable(self._vectors, new, new.vectors)
            repeat = None if items.repeat is None else new.repeat(items.repeat)
            items = KnownItems(GrownIndex(self.index, new), vectors, repeat, new)
        self.items = self._complete(items)

    def take_out_of_stock(self, key: Ints) -> None:
        """Leaves items out of lists from now on.

        Args:
            key: ``[items]``: keys of all that are out of stock; those that nobody knows count when they are added.
        """
        self._out_of_stock = key
        self.items = self._complete(self.items)

    def take_rules(self, rules: Sequence[Rule]) -> None:
        """Answers by other rules of the house from now on.

        Args:
            rules: All of them.
        """
        self._rules = rules
        self.items = self._complete(self.items)

    def _complete(self, items: KnownItems) -> KnownItems:
        """Items with what stock and rules say of them."""
        book = None
        if self._rules and self.rule_tables is not None:
            book = RuleBook.of(self._rules, items.index, self.attributes, self.rule_tables, items.new)
        stock = OutOfStock.of(self._out_of_stock, items.index, self.index.items)
        return replace(items, out_of_stock=stock, rules=book)

    def run(self, requests: Sequence[Request]) -> list[AdaptiveWeights | RequestError]:
        """The answers in the requests' order; a request that cannot be served gets its error, the others theirs."""
        answers = self.run_requests([request.tensors() for request in requests], _OF_LISTS)
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
        if records is None:
            return serve_requests(requests, lambda sound: self._outputs(sound, None, wanted))

        def serve(sound: Sequence[int]) -> list[dict[str, npt.NDArray[np.generic]]]:
            if len(sound) == len(requests):
                # As they are: reading the requests comes before the first use of a record, for which it may have to
                # wait.
                return self._outputs(requests, records, wanted)
            return self._outputs([requests[one] for one in sound], [records[one] for one in sound], wanted)

        return serve_requests(range(len(requests)), serve)

    def recorder(self, *, half_precision: bool = False) -> Recorder:
        """What reads and writes the records of this export's users, with the items that are known now."""
        items = self.items
        return Recorder(self.parameters, items.index, items.vectors, half_precision=half_precision)

    def log_recorder(self, *, half_precision: bool = False) -> LogRecorder:
        """What puts event logs into the records of this export's users."""
        return LogRecorder(self.parameters, self.index, self._vectors, half_precision=half_precision)

    def weigh(self, requests: Sequence[RequestTensors], records: Sequence[Records] | None = None) -> Weighed:
        """The interest of all users of a batch.

        Args:
            requests: The tensors of each.
            records: As for `run_requests`.

        Raises:
            RequestsRefused: Some requests cannot be served.
        """
        config = self.parameters.config
        columns = join_requests(
            requests,
            config.limits,
            exclude_seen=config.exclude_seen,
            ignore_unknown=config.ignore_unknown,
            event_types=self.parameters.event_types,
        )
        items = self.items
        sources = find_sources(columns, items.index, config.fingerprint)
        if records is not None:
            return self._weigh_with_records(columns, sources, records, items)
        kept = sources.kept
        batch = order_by_age(
            sources.user,
            sources.counts,
            _of(columns.age_ms, kept),
            weight=None if columns.weight is None else _of(columns.weight, kept),
            is_current=None if columns.is_current is None else _of(columns.is_current, kept),
            session_gap_ms=config.session_gap_ms,
            has_flags=None if columns.has_flags is None else columns.has_flags[sources.user],
        )
        vectors = sources.vectors(items.vectors, batch.source)
        blend = blend_interest(batch, vectors, self.parameters, columns.alpha, columns.decay_scale)
        return Weighed(columns, sources, batch, vectors, blend, items)

    def _weigh_with_records(
        self, columns: Columns, sources: EventSources, records: Sequence[Records], items: KnownItems
    ) -> Weighed:
        recorder = Recorder(self.parameters, items.index, items.vectors)
        states = recorder.read([record for of_request in records for record in of_request])
        joined = join_states(columns, sources, states, self.parameters.config.session_gap_ms)
        batch, scale = joined.batch, columns.decay_scale
        vectors = joined.sources.vectors(items.vectors, batch.source)
        base = read(states.folded, self.parameters, joined.clock_ms, batch, scale)
        blend = blend_interest(batch, vectors, self.parameters, columns.alpha, scale, base, states.alpha_offset)
        from_records = FromRecords(states, joined.tail, base, joined.clock_ms)
        return Weighed(columns, joined.sources, batch, vectors, blend, items, from_records)

    def adjustments(self, weighed: Weighed) -> tuple[Ints, Floats]:
        """The score adjustments of all users of a batch but those of related items, ``[users, adjustments]`` each."""
        return pack_pairs(self._pairs(weighed), weighed.columns.users, self.parameters.config.limits.adjustments)

    def related_scores(self, weighed: Weighed) -> Pairs | None:
        """What related items add to their scores from the factors; None without any."""
        related = self.parameters.related
        if related is None:
            return None
        return related_scores(weighed.batch, weighed.sources.item.take(weighed.batch.source), related)

    def _adjustments(self, weighed: Weighed, interest: Floats) -> tuple[Ints, Floats]:
        """All score adjustments of a batch, ``[users, adjustments]`` each; those of related items stand last."""
        pairs, related = self._pairs(weighed), self.related_scores(weighed)
        width = self.parameters.config.limits.adjustments + self._most_related
        if related is not None and related.user.size and self._factors is not None:
            pairs.append(self._related_pairs(weighed, interest, pairs, related, self._factors))
        return pack_pairs(pairs, weighed.columns.users, width)

    def _related_pairs(
        self, weighed: Weighed, interest: Floats, before: Sequence[Pairs], related: Pairs, factors: Floats
    ) -> Pairs:
        """The scores of related items; those with a repeat score keep it, and excluded ones stay excluded.

        Args:
            weighed: Of the batch.
            interest: ``[users, d + p]``.
            before: The other score adjustments.
            related: What is added to the scores from the factors.
            factors: ``[items, d + p]``.
        """
        if weighed.items.repeat is not None:
            end = weighed.items.index.end
            adjusted = [(kind.user * end + kind.item)[kind.item != UNKNOWN] for kind in before]
            related = related.where(np.isin(related.user * end + related.item, np.concatenate(adjusted), invert=True))
        score = related.value + scores_of_pairs(related, factors, interest)
        prior, left_out = self.live_prior(weighed)
        if prior is not None:
            gain = prior.gains(related.item)
            score += gain if left_out is None else np.where(left_out[related.user], np.float32(0), gain)
        return Pairs(related.user, related.item, not_zero(score))

    def _pairs(self, weighed: Weighed) -> list[Pairs]:
        """Every kind of score adjustment, the most important first; a new kind is added here."""
        columns, users = weighed.columns, weighed.columns.users
        pairs: list[Pairs] = []
        if columns.exclude is not None:
            user, keys = columns.exclude
            item = weighed.items.index.find(keys)
            known = item != UNKNOWN
            pairs.append(Pairs(user[known], item[known], -np.inf))
        if weighed.items.repeat is not None:
            user, item, score = self._repeat_scores(weighed, weighed.items.repeat, pairs)
            # Users who exclude the seen items need no scores of them.
            kept = ~np.broadcast_to(columns.exclude_seen, users)[user]
            pairs.append(Pairs(user[kept], item[kept], score[kept]))
        # Their order matters only if there might be no room for all that are not folded.
        most = weighed.sources.user.size + sum(kind.user.size for kind in pairs)
        by_importance = most > self.parameters.config.limits.adjustments
        if columns.exclude_seen is True and weighed.sources.text is None:
            seen = weighed.seen_items(by_importance=by_importance)
            pairs.extend(Pairs(user, item, -np.inf) for user, item in seen)
        elif np.any(columns.exclude_seen):
            for user, item in weighed.seen_items(by_importance=by_importance):
                excluded = np.broadcast_to(columns.exclude_seen, users)[user] & (item != UNKNOWN)
                pairs.append(Pairs(user[excluded], item[excluded], -np.inf))
        return pairs

    def _repeat_scores(
        self, weighed: Weighed, repeat: RepeatParameters, before: Sequence[Pairs]
    ) -> tuple[Ints, Ints, Floats]:
        """User, catalog index and repeat score of each seen item.

        Where the adjustments have no room for all after other pairs, the most important items of each user come first:
        the newest ones that are not folded, then the folded ones in the order of the record.
        """
        items = weighed.sources.item.take(weighed.batch.source)
        folded = weighed.folded_counts(repeat)
        scale = weighed.columns.decay_scale
        user, item, score = repeat_score(weighed.batch, items, weighed.columns.now_ms, repeat, scale, folded)
        interest = self.seen_interest(weighed)
        if interest is not None and self._factors is not None:
            new = weighed.items.new
            table = self._factors if new is None else GrownTable(self._factors, new, new.factors)
            factors = table.take(item, axis=0)[:, : interest.shape[1]]
            score = not_zero(score + np.einsum("pk,pk->p", factors, interest.take(user, axis=0)))
        counts = np.bincount(np.concatenate([user, *(kind.user for kind in before)]))
        if counts.max(initial=0) <= self.parameters.config.limits.adjustments:
            return user, item, score
        # An item's last position in the list is the most important one.
        least_first = [(user[::-1], item[::-1]) for user, item in reversed(weighed.seen_items())]
        seen_user, seen_item = (np.concatenate(column) for column in zip(*least_first, strict=True))
        known = seen_item != UNKNOWN
        width = weighed.items.index.end
        position = np.empty(user.size, dtype=np.int64)
        key = (user * width + item).searchsorted((seen_user * width + seen_item)[known])
        position[key] = -np.arange(key.size)
        order = np.lexsort((position, user))
        return user[order], item[order], score[order]

    @property
    def interest_share(self) -> float:
        """How much of the score by factors a seen item has beside its repeat score."""
        repeat = self.parameters.repeat
        return 0.0 if repeat is None or repeat.interest_share is None else float(repeat.interest_share[0])

    def seen_interest(self, weighed: Weighed) -> Floats | None:
        """The interest that is added to repeat scores by the factors of their items, ``[users, d]``; None for nothing.

        A share of the interest, and all that free texts and a request's alpha change in it: repeat scores were learned
        without both.
        """
        share, moved = self.interest_share, self.moved_interest(weighed)
        if moved is None:
            return weighed.blend.interest * np.float32(share) if share else None
        return np.float32(share) * weighed.blend.interest + np.float32(1 - share) * moved

    def moved_interest(self, weighed: Weighed) -> Floats | None:
        """What free texts and a request's alpha change in the interest, ``[users, d]``; None where there is neither."""
        columns, blend, batch = weighed.columns, weighed.blend, weighed.batch
        repeat = self.parameters.repeat
        if repeat is None or repeat.interest_share is None:
            return None
        if weighed.sources.text is None and columns.alpha is None:
            return None
        texts = np.zeros((2, *blend.long_term.shape), dtype=np.float32)
        if weighed.sources.text is not None:
            weight = weighted_vectors(batch, weighed.vectors, self.parameters.decay_exponents, columns.decay_scale)
            weight[weighed.sources.item.take(batch.source) != UNKNOWN] = 0
            sums = half_sums(weight, batch) / blend.norm[:, None]
            texts = np.stack([sums[0::2], sums[1::2]])
        given = blend.alpha - blend.model_alpha
        of_texts = blend.alpha * texts[0] + (1 - blend.alpha) * texts[1]
        return np.asarray(of_texts + given * ((blend.long_term - texts[0]) - (blend.current - texts[1])))

    def live_prior(self, weighed: Weighed) -> tuple[LivePrior | None, Bools | None]:
        """The live prior, and the users ``[users]`` that get the export's alone; None for nobody."""
        as_exported = weighed.columns.as_exported
        left_out = as_exported if isinstance(as_exported, np.ndarray) else None
        # Once: another thread may replace it.
        return self.prior, left_out

    def _outputs(
        self, requests: Sequence[RequestTensors], records: Sequence[Records] | None, wanted: Collection[str]
    ) -> list[dict[str, npt.NDArray[np.generic]]]:
        weighed = self.weigh(requests, records)
        new = weighed.items.new
        outputs: dict[str, npt.NDArray[np.generic]] = {}
        event_counts, alpha_used = weighed.event_counts, weighed.alpha_used
        if self.meters is not None:
            self.meters.keep(count_answers, event_counts, alpha_used, weighed.blend.idle_hours)
            if weighed.columns.allow is not None:
                self.meters.keep(count_filtered, weighed.columns.allow[0])
        interest = self._interest(weighed)
        if contract.INTEREST.name in wanted:
            outputs[contract.INTEREST.name] = interest
        wants_new = not _NEW_ITEMS.isdisjoint(wanted)
        ruled: Ruled | None = None
        if not _ADJUSTMENTS.isdisjoint(wanted) or (wants_new and new is not None):
            item, score = self._adjustments(weighed, interest)
            prior, left_out = self.live_prior(weighed)
            if prior is not None:
                prior.adjust(interest, item, score, left_out)
            if wants_new and weighed.items.rules is not None:
                ruled = self._ruled(weighed, requests, weighed.items.rules, interest, (item, score))
            if new is not None:
                if wants_new:
                    allowed = self._allowed(weighed, new, left_out)
                    most = self.parameters.config.top_n or new.index.size
                    gains = None if ruled is None else ruled.gains_of_new(new)
                    found = new.best(interest, (item, score), allowed, most, gains)
                    outputs[contract.NEW_ITEM_ID.name], outputs[contract.NEW_ITEM_SCORE.name] = found
                # The scoring head does not know them.
                is_new = (item >= new.first) & ~_for_candidates(weighed.columns, requests)[:, None]
                item[is_new], score[is_new] = 0, 0
            if ruled is not None:
                item, score = ruled.adjust((item, score))
            stock = weighed.items.out_of_stock
            if stock is not None:
                keeps = _for_candidates(weighed.columns, requests)
                item, score = stock.exclude(item, score, keeps if left_out is None else keeps | left_out)
            outputs[contract.ADJUST_ITEM.name], outputs[contract.ADJUST_SCORE.name] = item, score
        if wants_new and new is None:
            users = weighed.columns.users
            outputs[contract.NEW_ITEM_ID.name] = np.empty((users, 0), dtype=np.object_)
            outputs[contract.NEW_ITEM_SCORE.name] = np.empty((users, 0), dtype=np.float32)
        if contract.APPLIED_RULES.name in wanted:
            users, most = weighed.columns.users, self.parameters.config.top_n or self.index.items
            told = np.empty((users, 0), dtype=np.object_) if ruled is None else ruled.told(most)
            outputs[contract.APPLIED_RULES.name] = told
        if contract.ITEM_FILTER.name in wanted or weighed.columns.allow is not None:
            outputs[contract.ITEM_FILTER.name] = self._filters(weighed.columns)
        if not _SEEN.isdisjoint(wanted):
            outputs[contract.SEEN_ITEM.name], outputs[contract.SEEN_WEIGHT.name] = seen_weights(
                weighed, self.parameters
            )
        outputs[contract.ALPHA_USED.name] = alpha_used
        outputs[contract.EVENT_COUNTS.name] = event_counts
        if weighed.from_records is not None:
            outputs[contract.STATE_STATUS.name] = weighed.state_status
        return rows_of(requests, outputs)

    def _ruled(
        self,
        weighed: Weighed,
        requests: Sequence[RequestTensors],
        rules: RuleBook,
        interest: Floats,
        adjustments: tuple[Ints, Floats],
    ) -> Ruled | None:
        """What the rules of the house mean for the lists of a batch; None where none holds."""
        columns = weighed.columns
        prior, left_out = self.live_prior(weighed)
        keeps = _for_candidates(columns, requests)
        keeps = keeps if left_out is None else keeps | left_out
        ruled = rules.ruled(columns.now_ms, keeps, interest, adjustments, prior, weighed.items.new)
        if ruled is None:
            return None
        if weighed.items.out_of_stock is not None:
            ruled.forbid(weighed.items.out_of_stock.has(rules.item))
        if columns.allow is not None:
            ruled.forbid(~self.attributes.passing(rules.words, self._filters(columns)))
        return ruled

    def _allowed(self, weighed: Weighed, new: NewItems, left_out: Bools | None) -> Bools | None:
        """Which new items a user may get by stock, and by the filters and flags of the request.

        Returns:
            ``[users, new items]``; None for all.
        """
        allowed = None
        if weighed.columns.allow is not None:
            allowed = self.attributes.passing(new.words, self._filters(weighed.columns))
        stock = weighed.items.out_of_stock
        if stock is not None:
            in_stock = np.broadcast_to(~stock.has(new.index), (weighed.columns.users, new.index.size))
            allowed = in_stock if allowed is None else allowed & in_stock
        if left_out is not None:
            kept = np.broadcast_to(~left_out[:, None], (left_out.size, new.index.size))
            allowed = kept if allowed is None else allowed & kept
        return allowed

    def _interest(self, weighed: Weighed) -> Floats:
        """The output `interest`, ``[users, d + p]``."""
        d, prior_weight = self.parameters.vector_width, self.parameters.prior_weight
        interest = np.empty((weighed.columns.users, d + prior_weight.shape[0]), dtype=np.float32)
        interest[:, :d] = weighed.blend.interest
        interest[:, d:] = prior_weight
        return interest

    def _filters(self, columns: Columns) -> Ints:
        if columns.allow is None:
            return self.attributes.everything(columns.users)
        user, keys = columns.allow
        numbers = self.attributes.numbers_in(keys, 2)
        value = self.attributes.find(keys)
        unknown = (value == UNKNOWN) & numbers.is_value
        if np.count_nonzero(unknown):
            ranges = self.attributes.number_key.size
            expected = (
                f"the key of one of the {self.attributes.column.size} attribute values"
                + (f", or of one of the {ranges} numeric columns before its two bounds," if ranges else "")
                + f" of the catalog of export {self.parameters.config.fingerprint}"
            )
            refuse_entries(columns.request, user, unknown, contract.ALLOW_ATTRIBUTE, keys, lambda _user: expected)
        if not numbers.position.size:
            return self.attributes.filters(columns.users, user, value)
        position = numbers.position
        last = np.minimum(position + 2, keys.size - 1)
        least, most = keys[np.minimum(position + 1, keys.size - 1)], keys[last]
        empty = np.zeros(keys.size, dtype=np.bool_)
        empty[position] = (last != position + 2) | (user[last] != user[position]) | (least > most)
        if np.count_nonzero(empty):
            expected = "two integers of `ebbtide.interest.numbers` behind the column's key, the lower bound first"
            refuse_entries(columns.request, user, empty, contract.ALLOW_ATTRIBUTE, keys, lambda _user: expected)
        ranges_of = (user[position], numbers.column, least, most)
        return self.attributes.filters(columns.users, user[numbers.is_value], value[numbers.is_value], ranges_of)


def _for_candidates(columns: Columns, requests: Sequence[RequestTensors]) -> Bools:
    """The users whose score adjustments go to the head of candidates, ``[users]``."""
    marked = np.array([contract.FOR_CANDIDATES in request for request in requests])
    return marked[columns.request]


def _of(values: npt.NDArray[T], kept: Ints | None) -> npt.NDArray[T]:  # type: ignore[type-var]
    return values if kept is None else values[kept]
