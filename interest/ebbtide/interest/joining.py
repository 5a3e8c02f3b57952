"""Joins the tensors of many requests: each tensor once for the whole batch, with the checks that all models share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.checks import RANGES, RequestTensors, refuse_entries, refuse_users
from ebbtide.interest.contract import Limits, Tensor
from ebbtide.interest.errors import RequestError
from ebbtide.interest.event_types import UNTYPED, EventTypes, known_types
from ebbtide.interest.lookup import UNKNOWN

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_NOTHING = np.zeros(0, dtype=np.int64)


class Join:
    """The tensors of the requests of one batch, B users in all."""

    def __init__(self, requests: Sequence[RequestTensors], limits: Limits, rows: Tensor, width: int = 1) -> None:
        """Counts the users.

        Args:
            requests: At least one.
            limits: Of the export.
            rows: A tensor that every request has, with one row for each user.
            width: Entries of such a row.
        """
        self._requests = requests
        self._limits = limits
        self._given = frozenset().union(*requests)
        self._all_give_all = sum(map(len, requests)) == len(requests) * len(self._given)
        self._counts = self._sizes(rows)
        if width > 1:
            self._counts = [size // width for size in self._counts]
        self._single = len(requests) == sum(self._counts)
        self._request = np.arange(len(requests)) if self._single else np.arange(len(requests)).repeat(self._counts)

    def _check_lengths(self, events: Ints, tensors: Sequence[Tensor], *, by_item: bool) -> None:
        """Refuses users with too many events, or with another number of entries of what each event has one of.

        Args:
            events: ``[users]``.
            tensors: Those with an entry for each event.
            by_item: Whether `events` are the lengths of `event_item`.
        """
        self._check_most(contract.EVENT_ITEM, events, self._limits.max_events, "events")
        items = self._sizes(contract.EVENT_ITEM)
        for tensor in tensors:
            # Every event has a time; what else it may have is optional.
            is_needed = tensor is contract.EVENT_TIME
            if (is_needed or tensor.name in self._given) and not (by_item and self._sizes(tensor) == items):
                missing = np.zeros_like(events) if is_needed else events
                self._check_one_each(tensor, self._lengths(tensor, missing), events, "event")

    def _event_counts(self, items: Ints, has_texts: Bools) -> Ints | None:
        """Each user's events without padding, -1 where all are; None where no user has padding.

        Args:
            items: ``[users]``, events with an item, padding included.
            has_texts: ``[users]``, users with events given as text.
        """
        found = self._scalars(contract.EVENT_COUNT)
        if found is None:
            return None
        values, given = found
        counts = values.astype(np.int64)
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

    def _check_weights(self, user: Ints, weight: Floats | None) -> None:
        allowed = RANGES[contract.EVENT_WEIGHT.name]
        if weight is not None and not allowed.holds_all(weight):
            self._check_entries(contract.EVENT_WEIGHT, user, allowed.bad(weight), weight, lambda _one: allowed.expected)

    def _types(self, user: Ints, key: Ints | None, types: EventTypes | None) -> Ints | None:
        """The index of each event's type, ``[events]``; None where no event needs one.

        Args:
            user: ``[events]``.
            key: ``[events]``, of the types; None where no user gave any.
            types: Of the export.
        """
        if key is None:
            return None
        if types is None:
            expected = "none, since the model was trained without event types (`ebbtide train --event-type-col`)"
            self._check_entries(contract.EVENT_TYPE, user, key != UNTYPED, key, lambda _one: expected)
            return None
        index = types.find(key)
        expected = f"the key of one of the event types of the training: {known_types(types.names)}"
        self._check_entries(contract.EVENT_TYPE, user, index == UNKNOWN, key, lambda _one: expected)
        return index

    def _keys(self, tensor: Tensor, most: int, noun: str) -> tuple[Ints, Ints] | None:
        if tensor.name not in self._given:
            return None
        lengths = self._lengths(tensor, missing=np.zeros(self._request.size, dtype=np.int64))
        self._check_most(tensor, lengths, most, noun)
        return np.repeat(np.arange(lengths.size), lengths), self._flat(tensor)

    def _sizes(self, tensor: Tensor) -> list[int]:
        """Entries of each request, -1 where it has no such tensor."""
        name = tensor.name
        if self._all_give_all and name in self._given:
            return [request[name].size for request in self._requests]
        return [request[name].size if name in request else -1 for request in self._requests]

    def _lengths(self, tensor: Tensor, missing: Ints | None = None) -> Ints:
        """Entries of each user's row; ``missing`` where a user did not give the tensor, if it is stated."""
        sizes = np.array(self._sizes(tensor))
        if not self._single:
            sizes = np.where(sizes < 0, sizes, sizes // self._counts).repeat(self._counts)
        return sizes if missing is None else np.where(sizes < 0, missing, sizes)

    def _flat(self, tensor: Tensor) -> npt.NDArray[Any]:
        """The entries of the users that gave the tensor, one after the other; integers if nobody did."""
        name = tensor.name
        given = [request[name] for request in self._requests if name in request]
        if not given:
            return _NOTHING
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


def leading(kept: Ints, lengths: Ints) -> Bools:
    """Which entries are among the first ``kept`` of their rows, for rows one after the other."""
    index = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    leading: Bools = index < np.repeat(kept, lengths)
    return leading
