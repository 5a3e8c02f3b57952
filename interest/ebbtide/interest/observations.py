"""Events to add to users' states: the requests to `observe` as flat columns, checked for the whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.checks import NOT_SECONDS, RequestTensors, in_seconds
from ebbtide.interest.contract import Limits
from ebbtide.interest.errors import RequestError
from ebbtide.interest.event_types import UNTYPED, EventTypes
from ebbtide.interest.events import MS_PER_DAY
from ebbtide.interest.joining import Join, leading
from ebbtide.interest.lookup import UNKNOWN, ItemIndex
from ebbtide.interest.record import NewEvents, derived_ids
from ebbtide.interest.time_units import PLAUSIBLE_S

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_NOTHING = np.zeros(0, dtype=np.int64)
_CLOCK_SKEW_MS = MS_PER_DAY
"""How far after the server's clock an event may be. Later ones are faults, such as microseconds for milliseconds, and
would make all other events of the user old."""


@dataclass(frozen=True)
class Observations:
    """The events of B rows, each for one user; a user may have several rows."""

    user: Ints
    """``[requests, 2]``."""
    events: NewEvents
    """Of the rows."""
    shown: list[Ints]
    """``[requests]``: keys of the items that were shown before the events."""
    resets: Bools
    """``[requests]``: whether to forget first what was learned online."""
    is_counted: Bools
    """``[requests]``: whether the popularity of the items counts the events."""


def join_observations(
    requests: Sequence[RequestTensors],
    limits: Limits,
    index: ItemIndex,
    fingerprint: str,
    now_ms: int,
    *,
    ignore_unknown: bool,
    event_types: EventTypes | None = None,
) -> Observations:
    """The rows of a batch.

    Args:
        requests: At least one.
        limits: Of the export.
        index: The catalog's keys.
        fingerprint: Of the export, for the error.
        now_ms: The server's clock, Unix milliseconds.
        ignore_unknown: The policy where a request has none.
        event_types: Of the export; None for none.

    Raises:
        RequestsRefused: Some cannot be served.
    """
    return _Observations(requests, limits, contract.USER, width=2).columns(
        index, fingerprint, now_ms, event_types, ignore_unknown=ignore_unknown
    )


class _Observations(Join):
    """The state of one `join_observations`."""

    def columns(
        self,
        index: ItemIndex,
        fingerprint: str,
        now_ms: int,
        event_types: EventTypes | None,
        *,
        ignore_unknown: bool,
    ) -> Observations:
        users: Ints = self._flat(contract.USER).reshape(-1, 2)
        self._check_users(
            # No user's key begins with 0: those are shared records of the store.
            users[:, 0] == 0,
            lambda one: RequestError(contract.USER.name, f"0 and {users[one, 1]}", "the key of a user"),
        )
        counts = self._lengths(contract.EVENT_ITEM)
        of_events = (contract.EVENT_TIME, contract.EVENT_WEIGHT, contract.EVENT_TYPE, contract.EVENT_ID)
        self._check_lengths(counts, of_events, by_item=True)
        real = self._event_counts(counts, np.zeros(counts.size, dtype=np.bool_))
        item_key, time_ms = self._flat(contract.EVENT_ITEM), self._flat(contract.EVENT_TIME)
        weight, _ = self._optional(contract.EVENT_WEIGHT, counts, fill=np.float32(1))
        type_key, _ = self._optional(contract.EVENT_TYPE, counts, fill=np.int64(UNTYPED))
        event_id, gave_id = self._optional(contract.EVENT_ID, counts, fill=np.int64(0))
        if event_id is None and type_key is not None:
            event_id = derived_ids(item_key, time_ms, type_key, event_types)
        elif event_id is not None and gave_id is not None:
            derived = derived_ids(item_key, time_ms, type_key, event_types)
            event_id = np.where(np.repeat(gave_id, counts), event_id, derived)
        if real is not None:
            real = np.where(real < 0, counts, real)
            kept = leading(real, counts)
            counts, item_key, time_ms = real, item_key[kept], time_ms[kept]
            weight = None if weight is None else weight[kept]
            type_key = None if type_key is None else type_key[kept]
            event_id = None if event_id is None else event_id[kept]
        user = np.arange(counts.size).repeat(counts)
        latest_ms = now_ms + _CLOCK_SKEW_MS
        if time_ms.min(initial=0) < 0 or time_ms.max(initial=0) > latest_ms:
            self._check_entries(
                contract.EVENT_TIME,
                user,
                (time_ms < 0) | (time_ms > latest_ms),
                time_ms,
                lambda _one: f"Unix milliseconds from 0 to {latest_ms}, a day after the server's clock",
            )
        if time_ms.min(initial=PLAUSIBLE_S[1]) < PLAUSIBLE_S[1]:
            self._check_entries(contract.EVENT_TIME, user, in_seconds(time_ms), time_ms, lambda _one: NOT_SECONDS)
        self._check_weights(user, weight)
        types, is_target = self._types(user, type_key, event_types), None
        if types is not None and event_types is not None:
            weight, is_target = event_types.weighed(types, weight), event_types.is_target[types]
        self._check_known(user, item_key, index, fingerprint, ignore_unknown=ignore_unknown)
        as_exported = np.broadcast_to(self._policy(contract.AS_EXPORTED, default=False), counts.shape)
        shown = self._keys(contract.SHOWN_ITEM, self._limits.max_candidates, "items")
        of_rows = [_NOTHING] * counts.size
        if shown is not None:
            row, key = shown
            of_rows = np.split(key, np.bincount(row, minlength=counts.size).cumsum()[:-1])
        resets = np.broadcast_to(self._policy(contract.RESET_LEARNING, default=False), counts.shape)
        return Observations(
            users, NewEvents(counts, item_key, time_ms, weight, event_id, is_target), of_rows, resets, ~as_exported
        )

    def _check_known(
        self, user: Ints, item_key: Ints, index: ItemIndex, fingerprint: str, *, ignore_unknown: bool
    ) -> None:
        ignores = np.broadcast_to(self._policy(contract.IGNORE_UNKNOWN, default=ignore_unknown), self._request.size)
        if ignores.all():
            return
        refused = (index.find(item_key) == UNKNOWN) & ~ignores[user]
        expected = (
            f"the key of one of the {index.items} items of the catalog of export {fingerprint}, or "
            f"`{contract.IGNORE_UNKNOWN.name}`"
        )
        self._check_entries(contract.EVENT_ITEM, user, refused, item_key, lambda _one: expected)
