"""Many requests as flat columns: each tensor joined once for the whole batch, and checked there at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.checks import (
    LATEST_NOW_MS,
    NOT_SECONDS,
    RANGES,
    STANDALONE,
    RequestTensors,
    before_2200,
    in_seconds,
)
from ebbtide.interest.contract import Limits
from ebbtide.interest.errors import RequestError
from ebbtide.interest.event_types import UNTYPED, EventTypes
from ebbtide.interest.joining import Join, leading
from ebbtide.interest.time_units import PLAUSIBLE_S

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_NOTHING = np.zeros(0, dtype=np.int64)
_OF_EVENTS = frozenset(
    tensor.name
    for tensor in (
        contract.EVENT_ITEM,
        contract.EVENT_TIME,
        contract.EVENT_IS_CURRENT,
        contract.EVENT_WEIGHT,
        contract.EVENT_TYPE,
        contract.EVENT_COUNT,
        contract.TEXT_VECTOR,
        contract.TEXT_EVENT,
    )
)


@dataclass(frozen=True)
class Texts:
    """Events given as text."""

    user: Ints
    """``[texts]``, ascending."""
    stands_for: Ints
    """``[texts]``: the index of the event that a text stands in for, among its user's; -1 for one by itself."""
    vector: Floats
    """``[texts, dimensions]``: interest dimensions, from the encoder."""


@dataclass(frozen=True)
class Columns:
    """The requests of many users, checked except for unknown keys; events in the order given, without padding.

    The axis `users` has one entry for each user of the batch, and `events` one for each event of all these users, one
    user after the other.
    """

    request: Ints
    """``[users]``, ascending: the index of the request that a user came in."""
    items: Ints
    """``[users]``: events with an item."""
    events: Ints
    """``[users]``: events of both kinds."""
    event_item: Ints
    """``[events with an item]``, catalog keys."""
    user: Ints
    """``[events]``: whose event each one is, ascending."""
    now_ms: Ints
    """``[users]``: each user's clock, Unix milliseconds."""
    age_ms: Ints
    """``[events]``: from each event to its user's `now`."""
    is_current: Bools | None
    """``[events]``, false where a user gave none."""
    has_flags: Bools | None
    """``[users]``: whether the user gave `is_current`; None where all did, or none."""
    weight: Floats | None
    """``[events]``, 1 where a user gave none; times the weight of its type, so it may be negative."""
    alpha: Floats | None
    """``[users]``, NaN where a user gave none."""
    decay_scale: Floats | None
    """``[users]``, 1 where a user gave none."""
    exclude_seen: Bools | bool
    """``[users]``, or one for all."""
    ignore_unknown: Bools | bool
    """``[users]``, or one for all."""
    exclude: tuple[Ints, Ints] | None
    """User and key of each excluded item."""
    allow: tuple[Ints, Ints] | None
    """User and key of each allowed attribute value."""
    texts: Texts | None
    as_exported: Bools | bool
    """``[users]``, or one for all: whether to leave out what has changed since the export."""

    @property
    def users(self) -> int:
        """Number of users in the batch."""
        return self.items.shape[0]


def join_requests(
    requests: Sequence[RequestTensors],
    limits: Limits,
    *,
    exclude_seen: bool,
    ignore_unknown: bool,
    event_types: EventTypes | None = None,
) -> Columns:
    """The columns of a batch.

    Args:
        requests: At least one.
        limits: Of the export.
        exclude_seen: The policy where a request has none.
        ignore_unknown: The policy where a request has none.
        event_types: Of the export; None for none.

    Raises:
        RequestsRefused: Some cannot be served.
    """
    return _Columns(requests, limits, contract.NOW).columns(
        event_types, exclude_seen=exclude_seen, ignore_unknown=ignore_unknown
    )


class _Columns(Join):
    """The state of one `join_requests`."""

    def columns(self, event_types: EventTypes | None, *, exclude_seen: bool, ignore_unknown: bool) -> Columns:
        if self._given.isdisjoint(_OF_EVENTS):
            return self._without_events(exclude_seen=exclude_seen, ignore_unknown=ignore_unknown)
        items = self._lengths(contract.EVENT_ITEM, missing=np.zeros(self._request.size, dtype=np.int64))
        texts = self._texts(items)
        standalone = None if texts is None else texts.user[texts.stands_for == STANDALONE]
        events = items if standalone is None else items + np.bincount(standalone, minlength=items.size)
        self._check_lengths(
            events,
            (contract.EVENT_TIME, contract.EVENT_IS_CURRENT, contract.EVENT_WEIGHT, contract.EVENT_TYPE),
            by_item=standalone is None,
        )
        has_texts = np.zeros(items.size, dtype=np.bool_)
        if texts is not None:
            has_texts[texts.user] = True
        counts = self._event_counts(items, has_texts)
        event_item, time_ms = self._flat(contract.EVENT_ITEM), self._flat(contract.EVENT_TIME)
        is_current, has_flags = self._optional(contract.EVENT_IS_CURRENT, events, fill=np.False_)
        weight, _ = self._optional(contract.EVENT_WEIGHT, events, fill=np.float32(1))
        type_key, _ = self._optional(contract.EVENT_TYPE, events, fill=np.int64(UNTYPED))
        if counts is not None:
            # A user with a count has no texts, so the first `count` events are the first `count` items.
            real_items, real_events = np.where(counts < 0, items, counts), np.where(counts < 0, events, counts)
            event_item = event_item[leading(real_items, items)]
            kept = leading(real_events, events)
            time_ms = time_ms[kept]
            is_current = None if is_current is None else is_current[kept]
            weight = None if weight is None else weight[kept]
            type_key = None if type_key is None else type_key[kept]
            items, events = real_items, real_events
        user = np.arange(events.size).repeat(events)
        now_ms = self._flat(contract.NOW)
        age_ms = self._ages(now_ms, user, events, time_ms)
        self._check_weights(user, weight)
        types = self._types(user, type_key, event_types)
        if types is not None and event_types is not None:
            weight = event_types.weighed(types, weight)
        return Columns(
            request=self._request,
            items=items,
            events=events,
            event_item=event_item,
            user=user,
            now_ms=now_ms,
            age_ms=age_ms,
            is_current=is_current,
            has_flags=has_flags,
            weight=weight,
            texts=texts,
            **self._not_of_events(exclude_seen=exclude_seen, ignore_unknown=ignore_unknown),
        )

    def _without_events(self, *, exclude_seen: bool, ignore_unknown: bool) -> Columns:
        """The columns of a batch whose users all come without events, as those who are known by their states do."""
        none, now_ms = np.zeros(self._request.size, dtype=np.int64), self._flat(contract.NOW)
        return Columns(
            request=self._request,
            items=none,
            events=none,
            event_item=_NOTHING,
            user=_NOTHING,
            now_ms=now_ms,
            age_ms=self._ages(now_ms, _NOTHING, none, _NOTHING),
            is_current=None,
            has_flags=None,
            weight=None,
            texts=None,
            **self._not_of_events(exclude_seen=exclude_seen, ignore_unknown=ignore_unknown),
        )

    def _not_of_events(self, *, exclude_seen: bool, ignore_unknown: bool) -> dict[str, Any]:
        """The fields of `Columns` that say nothing of events."""
        limits = self._limits
        self._keys(contract.CANDIDATE_ITEM, limits.max_candidates, "items")
        return {
            "alpha": self._number(contract.ALPHA, fill=np.float32(np.nan)),
            "decay_scale": self._number(contract.DECAY_SCALE, fill=np.float32(1)),
            "exclude_seen": self._policy(contract.EXCLUDE_SEEN, default=exclude_seen),
            "ignore_unknown": self._policy(contract.IGNORE_UNKNOWN, default=ignore_unknown),
            "exclude": self._keys(contract.EXCLUDE_ITEM, limits.max_exclude_items, "items"),
            "allow": self._keys(contract.ALLOW_ATTRIBUTE, limits.max_attributes, "attribute values"),
            "as_exported": self._policy(contract.AS_EXPORTED, default=False),
        }

    def _texts(self, items: Ints) -> Texts | None:
        if contract.TEXT_VECTOR.name not in self._given and contract.TEXT_EVENT.name not in self._given:
            return None
        vectors = [request.get(contract.TEXT_VECTOR.name) for request in self._requests]
        # Only models that do not batch take texts: a request has one user.
        counts = np.array([0 if rows is None else rows.shape[0] for rows in vectors])
        self._check_most(contract.TEXT_VECTOR, counts, self._limits.max_texts, "texts")
        events = [request.get(contract.TEXT_EVENT.name) for request in self._requests]
        given = [
            np.full(count, STANDALONE) if index is None else index.reshape(-1)
            for count, index in zip(counts, events, strict=True)
        ]
        self._check_one_each(contract.TEXT_EVENT, np.array([index.size for index in given]), counts, "text")
        stands_for = np.concatenate(given)
        user = np.repeat(np.arange(counts.size), counts)
        self._check_entries(
            contract.TEXT_EVENT,
            user,
            (stands_for < STANDALONE) | (stands_for >= items[user]),
            stands_for,
            lambda one: (
                f"the index of one of the {items[one]} events with an item, or {STANDALONE} for a text that is an "
                "event by itself"
            ),
        )
        order = np.lexsort((stands_for, user))
        again = (stands_for[order][1:] == stands_for[order][:-1]) & (user[order][1:] == user[order][:-1])
        repeated = np.zeros(user.size, dtype=np.bool_)
        repeated[order[1:][again & (stands_for[order][1:] != STANDALONE)]] = True
        self._check_entries(
            contract.TEXT_EVENT, user, repeated, stands_for, lambda _one: "one text at most for each event"
        )
        given_vectors = [rows for rows in vectors if rows is not None]
        if not given_vectors:
            return None
        vector = np.concatenate(given_vectors)
        allowed = RANGES[contract.TEXT_VECTOR.name]
        if not allowed.holds_all(vector):
            bad = allowed.bad(vector)
            value = vector[np.arange(bad.shape[0]), bad.argmax(axis=1)]
            self._check_entries(contract.TEXT_VECTOR, user, bad.any(axis=1), value, lambda _one: allowed.expected)
        return Texts(user, stands_for, vector)

    def _ages(self, now_ms: Ints, user: Ints, events: Ints, time_ms: Ints) -> Ints:
        """Milliseconds from each event to its user's `now`, ``[events]``.

        Refuses times before 1970 or after `now`, those that are in seconds, and a `now` from 2200 on.
        """
        age_ms = now_ms.repeat(events) - time_ms if time_ms.size else time_ms
        end = PLAUSIBLE_S[1]
        # A set sign bit in any of them shows in the smallest.
        if now_ms.min() < end or (time_ms.size and ((time_ms | age_ms).min() < 0 or time_ms.min() < end)):
            self._check_users(
                now_ms < 0,
                lambda one: RequestError(contract.NOW.name, str(now_ms[one]), "Unix milliseconds, 0 or more"),
            )
            self._check_users(
                in_seconds(now_ms),
                lambda one: RequestError(contract.NOW.name, str(now_ms[one]), NOT_SECONDS),
            )
            self._check_entries(
                contract.EVENT_TIME,
                user,
                (time_ms < 0) | (age_ms < 0),
                time_ms,
                lambda one: f"Unix milliseconds from 0 to `now`, which is {now_ms[one]}",
            )
            self._check_entries(contract.EVENT_TIME, user, in_seconds(time_ms), time_ms, lambda _one: NOT_SECONDS)
        if now_ms.max() >= LATEST_NOW_MS:
            self._check_users(
                now_ms >= LATEST_NOW_MS,
                lambda one: RequestError(contract.NOW.name, str(now_ms[one]), before_2200(int(now_ms[one]))),
            )
        return age_ms
