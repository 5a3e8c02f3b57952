"""Many requests as flat columns: each tensor joined once for the whole batch, and checked there at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.checks import RANGES, STANDALONE, RequestTensors, refuse_entries, refuse_users
from ebbtide.interest.contract import Limits, Tensor
from ebbtide.interest.errors import RequestError

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


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
    """``[events]``, 1 where a user gave none."""
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

    @property
    def users(self) -> int:
        """Number of users in the batch."""
        return self.items.shape[0]


def join_requests(
    requests: Sequence[RequestTensors], limits: Limits, *, exclude_seen: bool, ignore_unknown: bool
) -> Columns:
    """The columns of a batch.

    Args:
        requests: At least one.
        limits: Of the export.
        exclude_seen: The policy where a request has none.
        ignore_unknown: The policy where a request has none.

    Raises:
        RequestsRefused: Some cannot be served.
    """
    return _Join(requests, limits).columns(exclude_seen=exclude_seen, ignore_unknown=ignore_unknown)


class _Join:
    """The state of one `join_requests`."""

    def __init__(self, requests: Sequence[RequestTensors], limits: Limits) -> None:
        self._requests = requests
        self._limits = limits
        self._given = frozenset().union(*requests)
        self._all_give_all = sum(map(len, requests)) == len(requests) * len(self._given)
        self._counts = self._sizes(contract.NOW)
        self._single = len(requests) == sum(self._counts)
        self._request = np.arange(len(requests)) if self._single else np.arange(len(requests)).repeat(self._counts)

    def columns(self, *, exclude_seen: bool, ignore_unknown: bool) -> Columns:
        limits = self._limits
        items = self._lengths(contract.EVENT_ITEM)
        texts = self._texts(items)
        standalone = None if texts is None else texts.user[texts.stands_for == STANDALONE]
        events = items if standalone is None else items + np.bincount(standalone, minlength=items.size)
        self._check_lengths(events, by_item=standalone is None)
        counts = self._event_counts(items, texts)
        exclude = self._keys(contract.EXCLUDE_ITEM, limits.max_exclude_items, "items")
        allow = self._keys(contract.ALLOW_ATTRIBUTE, limits.max_attributes, "attribute values")
        self._keys(contract.CANDIDATE_ITEM, limits.max_candidates, "items")

        event_item, time_ms = self._flat(contract.EVENT_ITEM), self._flat(contract.EVENT_TIME)
        is_current, has_flags = self._optional(contract.EVENT_IS_CURRENT, events, fill=np.False_)
        weight, _ = self._optional(contract.EVENT_WEIGHT, events, fill=np.float32(1))
        if counts is not None:
            # A user with a count has no texts, so the first `count` events are the first `count` items.
            real_items, real_events = np.where(counts < 0, items, counts), np.where(counts < 0, events, counts)
            event_item = event_item[_leading(real_items, items)]
            kept = _leading(real_events, events)
            time_ms = time_ms[kept]
            is_current = None if is_current is None else is_current[kept]
            weight = None if weight is None else weight[kept]
            items, events = real_items, real_events
        user = np.arange(events.size).repeat(events)
        now_ms = self._flat(contract.NOW)
        age_ms = self._ages(now_ms, user, events, time_ms)
        self._check_weights(user, weight)
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
            alpha=self._number(contract.ALPHA, fill=np.float32(np.nan)),
            decay_scale=self._number(contract.DECAY_SCALE, fill=np.float32(1)),
            exclude_seen=self._policy(contract.EXCLUDE_SEEN, default=exclude_seen),
            ignore_unknown=self._policy(contract.IGNORE_UNKNOWN, default=ignore_unknown),
            exclude=exclude,
            allow=allow,
            texts=texts,
        )

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
        return Texts(user, stands_for, np.concatenate(given_vectors))

    def _check_lengths(self, events: Ints, *, by_item: bool) -> None:
        """Refuses users with too many events, or with another number of entries of what each event has one of.

        Args:
            events: ``[users]``.
            by_item: Whether these are the lengths of `event_item`.
        """
        self._check_most(contract.EVENT_ITEM, events, self._limits.max_events, "events")
        items = self._sizes(contract.EVENT_ITEM)
        for tensor in (contract.EVENT_TIME, contract.EVENT_IS_CURRENT, contract.EVENT_WEIGHT):
            if tensor.name in self._given and not (by_item and self._sizes(tensor) == items):
                self._check_one_each(tensor, self._lengths(tensor, missing=events), events, "event")

    def _event_counts(self, items: Ints, texts: Texts | None) -> Ints | None:
        """Each user's events without padding, -1 where all are; None where no user has padding."""
        found = self._scalars(contract.EVENT_COUNT)
        if found is None:
            return None
        values, given = found
        counts = values.astype(np.int64)
        has_texts = np.zeros(items.size, dtype=np.bool_)
        if texts is not None:
            has_texts[texts.user] = True
        bad = (counts < 0) | (counts > items) | has_texts
        if given is not None:
            bad &= given
            counts[~given] = -1
        self._check_users(
            bad,
            lambda one: RequestError(
                contract.EVENT_COUNT.name,
                str(counts[one]),
                "none along with texts" if has_texts[one] else f"a number from 0 to {items[one]}, the row's events",
            ),
        )
        return counts

    def _ages(self, now_ms: Ints, user: Ints, events: Ints, time_ms: Ints) -> Ints:
        """Milliseconds from each event to its user's `now`, ``[events]``; refuses times before 1970 or after `now`."""
        age_ms = now_ms.repeat(events) - time_ms
        # A set sign bit in any of them shows in the smallest.
        if now_ms.min() < 0 or (time_ms | age_ms).min(initial=0) < 0:
            self._check_users(
                now_ms < 0,
                lambda one: RequestError(contract.NOW.name, str(now_ms[one]), "Unix milliseconds, 0 or more"),
            )
            self._check_entries(
                contract.EVENT_TIME,
                user,
                (time_ms < 0) | (age_ms < 0),
                time_ms,
                lambda one: f"Unix milliseconds from 0 to `now`, which is {now_ms[one]}",
            )
        return age_ms

    def _check_weights(self, user: Ints, weight: Floats | None) -> None:
        allowed = RANGES[contract.EVENT_WEIGHT.name]
        if weight is not None and not allowed.holds_all(weight):
            self._check_entries(contract.EVENT_WEIGHT, user, allowed.bad(weight), weight, lambda _one: allowed.expected)

    def _keys(self, tensor: Tensor, most: int, noun: str) -> tuple[Ints, Ints] | None:
        if tensor.name not in self._given:
            return None
        lengths = self._lengths(tensor, missing=np.zeros(self._request.size, dtype=np.int64))
        self._check_most(tensor, lengths, most, noun)
        return np.repeat(np.arange(lengths.size), lengths), self._flat(tensor)

    def _sizes(self, tensor: Tensor) -> list[int]:
        """Entries of each request, -1 where it has no such tensor."""
        name = tensor.name
        if self._all_give_all:
            return [request[name].size for request in self._requests]
        return [request[name].size if name in request else -1 for request in self._requests]

    def _lengths(self, tensor: Tensor, missing: Ints | None = None) -> Ints:
        """Entries of each user's row; ``missing`` where a user did not give the tensor, if it is stated."""
        sizes = np.array(self._sizes(tensor))
        if not self._single:
            sizes = np.where(sizes < 0, sizes, sizes // self._counts).repeat(self._counts)
        return sizes if missing is None else np.where(sizes < 0, missing, sizes)

    def _flat(self, tensor: Tensor) -> npt.NDArray[Any]:
        """The entries of the users that gave the tensor, one after the other."""
        name = tensor.name
        given = [request[name] for request in self._requests if name in request]
        if len(given) == 1:
            return given[0].reshape(-1)
        # Along the last axis in half the time, where no request has more than one row.
        return np.concatenate(given, axis=-1).reshape(-1) if self._single else np.concatenate(given, axis=None)

    def _gave(self, tensor: Tensor) -> Bools | None:
        """Whether each user gave a tensor that at least one gave, ``[users]``; None where all did."""
        if self._all_give_all:
            return None
        name = tensor.name
        given = [name in request for request in self._requests]
        return None if all(given) else np.array(given)[self._request]

    def _optional(self, tensor: Tensor, events: Ints, fill: np.generic) -> tuple[npt.NDArray[Any] | None, Bools | None]:
        """The entries of all users, and which users gave them (None where all did, or none)."""
        if tensor.name not in self._given:
            return None, None
        flat, gave = self._flat(tensor), self._gave(tensor)
        if gave is None:
            return flat, None
        values = np.full(int(events.sum()), fill)
        values[np.repeat(gave, events)] = flat
        return values, gave

    def _scalars(self, tensor: Tensor) -> tuple[npt.NDArray[Any], Bools | None] | None:
        """One value for each user, zero where it was not given, and which users gave it (None where all did)."""
        if tensor.name not in self._given:
            return None
        flat, gave = self._flat(tensor), self._gave(tensor)
        if gave is None:
            return flat, None
        values = np.zeros(gave.size, dtype=flat.dtype)
        values[gave] = flat
        return values, gave

    def _number(self, tensor: Tensor, *, fill: np.float32) -> Floats | None:
        """A number in the tensor's range for each user."""
        found = self._scalars(tensor)
        if found is None:
            return None
        values, given = found
        allowed = RANGES[tensor.name]
        self._check_users(
            allowed.bad(values), lambda one: RequestError(tensor.name, str(values[one]), allowed.expected)
        )
        return values if given is None else np.where(given, values, fill)

    def _policy(self, tensor: Tensor, *, default: bool) -> Bools | bool:
        found = self._scalars(tensor)
        if found is None:
            return default
        values, given = found
        return values if given is None else np.where(given, values, default)

    def _check_most(self, tensor: Tensor, counts: Ints, most: int, noun: str) -> None:
        """At most so many entries for each user."""
        self._check_users(
            counts > most, lambda one: RequestError(tensor.name, f"{counts[one]} {noun}", f"at most {most} {noun}")
        )

    def _check_one_each(self, tensor: Tensor, sizes: Ints, counts: Ints, noun: str) -> None:
        """As many entries as a user has texts, or events."""
        self._check_users(
            sizes != counts,
            lambda one: RequestError(
                tensor.name, f"{sizes[one]} entries", f"{counts[one]} entries, one for each {noun}"
            ),
        )

    def _check_users(self, bad: Bools, error: Callable[[int], RequestError]) -> None:
        # A quarter of what `any` takes, for arrays as small as these.
        if np.count_nonzero(bad):
            refuse_users(self._request, bad, error)

    def _check_entries(
        self, tensor: Tensor, user: Ints, bad: Bools, values: npt.NDArray[Any], expected: Callable[[int], str]
    ) -> None:
        if np.count_nonzero(bad):
            refuse_entries(self._request, user, bad, tensor, values, expected)


def _leading(kept: Ints, lengths: Ints) -> Bools:
    """Which entries are among the first ``kept`` of their rows, for rows one after the other."""
    index = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    leading: Bools = index < np.repeat(kept, lengths)
    return leading
