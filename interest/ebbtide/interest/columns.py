"""Many requests as flat columns: each tensor joined once for the whole batch, and checked there at once.

Here it is only seen that something is wrong, and with which requests; `ebbtide.interest.checks` tells what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.checks import MAX_WEIGHT, OWN_EVENT
from ebbtide.interest.contract import Limits, Tensor

Part = Mapping[str, npt.NDArray[Any]]
"""The tensors of one request to the server, by name, with a batch dimension where it has several users."""
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


_LARGEST = np.finfo(np.float32).max


class PartsRefused(Exception):  # noqa: N818 - no error yet: it says where to look for them
    """Some parts of a batch cannot be served."""

    def __init__(self, parts: Ints) -> None:
        """Takes their places in the batch."""
        super().__init__(f"parts {parts.tolist()}")
        self.parts = parts


@dataclass(frozen=True)
class Texts:
    """Events given as text."""

    user: Ints
    """``[texts]``, ascending."""
    stands_for: Ints
    """``[texts]``: the place of the event that a text stands in for, among its user's; -1 for one of its own."""
    vector: Floats
    """``[texts, d]``."""


@dataclass(frozen=True)
class Columns:
    """B users with E events, checked; whether keys are known is still open. Events stand as given, without padding."""

    part: Ints
    """``[B]``: which part a user came in."""
    items: Ints
    """``[B]``: events with an item."""
    events: Ints
    """``[B]``: events of both kinds."""
    event_item: Ints
    """``[sum of items]``."""
    user: Ints
    """``[E]``: whose event each one is, ascending."""
    now_ms: Ints
    """``[B]``: each user's clock, Unix milliseconds."""
    age_ms: Ints
    """``[E]``: from each event to its user's `now`."""
    is_current: Bools | None
    """``[E]``, false where a user gave none."""
    has_flags: Bools | None
    """``[B]``: who gave `is_current`; None where all did or nobody."""
    weight: Floats | None
    """``[E]``, 1 where a user gave none."""
    alpha: Floats | None
    """``[B]``, NaN where a user gave none."""
    decay_scale: Floats | None
    """``[B]``, 1 where a user gave none."""
    exclude_seen: Bools | bool
    """``[B]``, or one for all."""
    ignore_unknown: Bools | bool
    """``[B]``, or one for all."""
    exclude: tuple[Ints, Ints] | None
    """User and key of each excluded item."""
    allow: tuple[Ints, Ints] | None
    """User and key of each allowed attribute value."""
    texts: Texts | None

    @property
    def users(self) -> int:
        """B."""
        return self.items.shape[0]


def join_parts(parts: Sequence[Part], limits: Limits, *, exclude_seen: bool, ignore_unknown: bool) -> Columns:
    """The columns of a batch.

    Args:
        parts: At least one.
        limits: Of the export.
        exclude_seen: The policy where a request has none.
        ignore_unknown: The policy where a request has none.

    Raises:
        PartsRefused: Some cannot be served.
    """
    return _Join(parts, limits).columns(exclude_seen=exclude_seen, ignore_unknown=ignore_unknown)


class _Join:
    """The state of one `join_parts`."""

    def __init__(self, parts: Sequence[Part], limits: Limits) -> None:
        self._parts = parts
        self._limits = limits
        self._given = frozenset().union(*parts)
        self._all_give_all = sum(map(len, parts)) == len(parts) * len(self._given)
        self._counts = self._sizes(contract.NOW)
        self._single = len(parts) == sum(self._counts)
        self._part = np.arange(len(parts)) if self._single else np.arange(len(parts)).repeat(self._counts)

    def columns(self, *, exclude_seen: bool, ignore_unknown: bool) -> Columns:
        items = self._lengths(contract.EVENT_ITEM)
        texts = self._texts(items)
        own_texts = None if texts is None else texts.user[texts.stands_for == OWN_EVENT]
        events = items if own_texts is None else items + np.bincount(own_texts, minlength=items.size)
        self._check_lengths(events, by_item=own_texts is None)
        counts = self._event_counts(items, texts)
        exclude = self._keys(contract.EXCLUDE_ITEM, self._limits.max_exclude_items)
        allow = self._keys(contract.ALLOW_ATTRIBUTE, self._limits.max_attributes)
        self._keys(contract.CANDIDATE_ITEM, self._limits.max_candidates)

        event_item, time_ms = self._flat(contract.EVENT_ITEM), self._flat(contract.EVENT_TIME)
        is_current, has_flags = self._optional(contract.EVENT_IS_CURRENT, events, fill=np.False_)
        weight, _ = self._optional(contract.EVENT_WEIGHT, events, fill=np.float32(1))
        if counts is not None:
            # Those who gave a count have no texts: with padding or without, their events are those with an item.
            seen_items, own_events = np.where(counts < 0, items, counts), np.where(counts < 0, events, counts)
            event_item = event_item[_leading(seen_items, items)]
            kept = _leading(own_events, events)
            time_ms = time_ms[kept]
            is_current = None if is_current is None else is_current[kept]
            weight = None if weight is None else weight[kept]
            items, events = seen_items, own_events
        user = np.arange(events.size).repeat(events)
        now_ms = self._flat(contract.NOW)
        age_ms = self._ages(now_ms, user, events, time_ms)
        self._check_weights(user, weight)
        return Columns(
            part=self._part,
            items=items,
            events=events,
            event_item=event_item,
            user=user,
            now_ms=now_ms,
            age_ms=age_ms,
            is_current=is_current,
            has_flags=has_flags,
            weight=weight,
            alpha=self._number(contract.ALPHA, most=np.float32(1), fill=np.float32(np.nan)),
            decay_scale=self._number(contract.DECAY_SCALE, most=_LARGEST, fill=np.float32(1)),
            exclude_seen=self._policy(contract.EXCLUDE_SEEN, default=exclude_seen),
            ignore_unknown=self._policy(contract.IGNORE_UNKNOWN, default=ignore_unknown),
            exclude=exclude,
            allow=allow,
            texts=texts,
        )

    def _check_lengths(self, events: Ints, *, by_item: bool) -> None:
        """Refuses users with too many events, or with another number of entries of what each event has one of.

        Args:
            events: ``[B]``.
            by_item: Whether these are the lengths of `event_item`.
        """
        bad = events > self._limits.max_events
        items = self._sizes(contract.EVENT_ITEM)
        for tensor in (contract.EVENT_TIME, contract.EVENT_IS_CURRENT, contract.EVENT_WEIGHT):
            if tensor.name in self._given and not (by_item and self._sizes(tensor) == items):
                bad |= self._lengths(tensor, missing=events) != events
        self._refuse_users(bad)

    def _event_counts(self, items: Ints, texts: Texts | None) -> Ints | None:
        """Each user's own events, -1 where all are; None where nobody has padding."""
        found = self._scalars(contract.EVENT_COUNT)
        if found is None:
            return None
        values, given = found
        counts = values.astype(np.int64)
        bad = (counts < 0) | (counts > items)
        if given is not None:
            bad &= given
            counts[~given] = -1
        if texts is not None:
            bad |= (counts >= 0) & (np.bincount(texts.user, minlength=items.size) > 0)
        self._refuse_users(bad)
        return counts

    def _texts(self, items: Ints) -> Texts | None:
        if contract.TEXT_VECTOR.name not in self._given and contract.TEXT_EVENT.name not in self._given:
            return None
        vectors = [part.get(contract.TEXT_VECTOR.name) for part in self._parts]
        stands_for = [part.get(contract.TEXT_EVENT.name) for part in self._parts]
        counts = [0 if part is None else part.shape[0] for part in vectors]
        own = [
            np.full(count, OWN_EVENT) if given is None else given.reshape(-1)
            for count, given in zip(counts, stands_for, strict=True)
        ]
        self._refuse_users(
            np.array(
                [
                    count > self._limits.max_texts or index.size != count
                    for count, index in zip(counts, own, strict=True)
                ]
            )
        )
        # Only models that do not batch take texts: a part is a user.
        user = np.repeat(np.arange(len(counts)), counts)
        index = np.concatenate(own)
        bad = (index < OWN_EVENT) | (index >= items[user])
        named = index != OWN_EVENT
        order = np.lexsort((index, user))
        again = (index[order][1:] == index[order][:-1]) & (user[order][1:] == user[order][:-1])
        bad[order[1:][again & named[order][1:]]] = True
        self._refuse_users(_somewhere(bad, user, items.size))
        given_vectors = [part for part in vectors if part is not None]
        if not given_vectors:
            return None
        return Texts(user, index, np.concatenate(given_vectors))

    def _ages(self, now_ms: Ints, user: Ints, events: Ints, time_ms: Ints) -> Ints:
        """Milliseconds from each event to its user's `now`, ``[E]``; refuses times before 1970 or after `now`."""
        age_ms = now_ms.repeat(events) - time_ms
        # A set sign bit in any of them shows in the smallest.
        if now_ms.min() < 0 or (time_ms | age_ms).min(initial=0) < 0:
            self._refuse_users((now_ms < 0) | _somewhere((time_ms < 0) | (age_ms < 0), user, events.size))
        return age_ms

    def _check_weights(self, user: Ints, weight: Floats | None) -> None:
        # NaN fails both comparisons.
        if weight is not None and not (weight.min(initial=0) >= 0 and weight.max(initial=0) <= MAX_WEIGHT):
            self._refuse_users(_somewhere(~((weight >= 0) & (weight <= MAX_WEIGHT)), user, self._part.size))

    def _keys(self, tensor: Tensor, most: int) -> tuple[Ints, Ints] | None:
        if tensor.name not in self._given:
            return None
        lengths = self._lengths(tensor, missing=np.zeros(self._part.size, dtype=np.int64))
        self._refuse_users(lengths > most)
        return np.repeat(np.arange(lengths.size), lengths), self._flat(tensor)

    def _sizes(self, tensor: Tensor) -> list[int]:
        """Entries of each part, -1 where it has no such tensor."""
        name = tensor.name
        if self._all_give_all:
            return [part[name].size for part in self._parts]
        return [part[name].size if name in part else -1 for part in self._parts]

    def _lengths(self, tensor: Tensor, missing: Ints | None = None) -> Ints:
        """Entries of each user's row; ``missing`` says how many those count for who did not give the tensor."""
        sizes = np.array(self._sizes(tensor))
        if not self._single:
            sizes = np.where(sizes < 0, sizes, sizes // self._counts).repeat(self._counts)
        return sizes if missing is None else np.where(sizes < 0, missing, sizes)

    def _flat(self, tensor: Tensor) -> npt.NDArray[Any]:
        """The entries of those who gave the tensor, one after the other."""
        name = tensor.name
        given = [part[name] for part in self._parts if name in part]
        if len(given) == 1:
            return given[0].reshape(-1)
        # Along the last axis in half the time, where no part has more than one row.
        return np.concatenate(given, axis=-1).reshape(-1) if self._single else np.concatenate(given, axis=None)

    def _who(self, tensor: Tensor) -> Bools | None:
        """The users who gave a tensor that somebody gave; None for all."""
        if self._all_give_all:
            return None
        name = tensor.name
        given = [name in part for part in self._parts]
        return None if all(given) else np.array(given)[self._part]

    def _optional(self, tensor: Tensor, events: Ints, fill: np.generic) -> tuple[npt.NDArray[Any] | None, Bools | None]:
        """The entries of all, and who gave them (None where all did or nobody)."""
        if tensor.name not in self._given:
            return None, None
        flat, who = self._flat(tensor), self._who(tensor)
        if who is None:
            return flat, None
        values = np.full(int(events.sum()), fill)
        values[np.repeat(who, events)] = flat
        return values, who

    def _scalars(self, tensor: Tensor) -> tuple[npt.NDArray[Any], Bools | None] | None:
        """One value for each user, zero where it was not given, and who gave it (None where all did)."""
        if tensor.name not in self._given:
            return None
        flat, who = self._flat(tensor), self._who(tensor)
        if who is None:
            return flat, None
        values = np.zeros(who.size, dtype=flat.dtype)
        values[who] = flat
        return values, who

    def _number(self, tensor: Tensor, *, most: np.float32, fill: np.float32) -> Floats | None:
        """A number from 0 to ``most`` for each user."""
        found = self._scalars(tensor)
        if found is None:
            return None
        values, given = found
        self._refuse_users(~((values >= 0) & (values <= most)))
        return values if given is None else np.where(given, values, fill)

    def _policy(self, tensor: Tensor, *, default: bool) -> Bools | bool:
        found = self._scalars(tensor)
        if found is None:
            return default
        values, given = found
        return values if given is None else np.where(given, values, default)

    def _refuse_users(self, bad: Bools) -> None:
        # A quarter of what `any` takes, for arrays as small as these.
        if np.count_nonzero(bad):
            raise PartsRefused(np.unique(self._part[bad]))


def _somewhere(bad: Bools, user: Ints, users: int) -> Bools:
    """Who has a bad entry, ``[users]``."""
    found = np.zeros(users, dtype=np.bool_)
    found[user[bad]] = True
    return found


def _leading(kept: Ints, lengths: Ints) -> Bools:
    """Which entries are among the first ``kept`` of their rows, for rows one after the other."""
    index = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    leading: Bools = index < np.repeat(kept, lengths)
    return leading
