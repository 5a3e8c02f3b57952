"""Adds events to the states of users: the `observer` model without Triton's API."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.batch import serve_requests
from ebbtide.interest.checks import RequestTensors
from ebbtide.interest.errors import RequestError
from ebbtide.interest.feedback import Feedback
from ebbtide.interest.live_counts import PopularityWriter
from ebbtide.interest.meters import count_observed, count_times
from ebbtide.interest.observations import Observations, join_observations
from ebbtide.interest.pipeline import InterestPipeline
from ebbtide.interest.record import NewEvents, append_raw, store_keys, with_alpha_offset
from ebbtide.interest.recorder import Observed, Recorder
from ebbtide.interest.users import Users, record_of
from ebbtide.store import Changes, Snapshot, StateStore

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

PRECISION_VARIABLE = "EBBTIDE_STATE_PRECISION"
"""Names the precision of folded sums: ``single``, the default, or ``half``."""


def half_precision(environ: Mapping[str, str]) -> bool:
    """Whether states are written in 16 bits instead of 32; those of both precisions are read.

    Raises:
        ValueError: The variable has another value.
    """
    value = environ.get(PRECISION_VARIABLE) or "single"
    if value not in ("single", "half"):
        raise ValueError(f"{PRECISION_VARIABLE}: got {value!r}; expected single or half")
    return value == "half"


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Observer:
    """Adds the events of a whole batch of requests to the users' states, with one update of the store."""

    def __init__(
        self,
        pipeline: InterestPipeline,
        users: Users,
        *,
        half_precision: bool = False,
        feedback: Feedback | None = None,
        clock_ms: Callable[[], int] = _clock_ms,
        popularity: PopularityWriter | None = None,
    ) -> None:
        """Takes what one export wrote, and the store.

        Args:
            pipeline: Of the export.
            users: Of the same export.
            half_precision: Whether to write folded sums in 16 bits instead of 32.
            feedback: Learns online from the items that users were shown; None ignores those.
            clock_ms: The server's clock, Unix milliseconds.
            popularity: Counts the events for the live prior; None to count none.
        """
        self._popularity = popularity
        self._users = users
        self._pipeline = pipeline
        self._config = pipeline.parameters.config
        self._half_precision = half_precision
        self._feedback = feedback
        self._clock_ms = clock_ms

    def run_requests(self, requests: Sequence[RequestTensors]) -> list[dict[str, npt.NDArray[Any]] | RequestError]:
        """What became of the events of each request, after the store has them; or what is wrong with the request.

        Args:
            requests: Of one batch. Several rows may be of one user; they count in their order.

        Raises:
            StoreError: The store failed. Some users may have their events; sent again, these are duplicates.
            RecordError: The record of a user is damaged.
        """
        try:
            store = self._users.store()
        except RequestError as error:
            return [error for _ in requests]
        return serve_requests(requests, partial(self._observe, store))

    def _observe(self, store: StateStore, requests: Sequence[RequestTensors]) -> list[dict[str, npt.NDArray[Any]]]:
        config = self._config
        rows = join_observations(
            requests,
            config.limits,
            self._pipeline.items.index,
            config.fingerprint,
            self._clock_ms(),
            ignore_unknown=config.ignore_unknown,
            event_types=self._pipeline.parameters.event_types,
        )
        recorder = self._pipeline.recorder(half_precision=self._half_precision)
        update = _Update(self._users, rows, recorder, self._feedback)
        began_s = time.perf_counter()
        store.update(update.users, update.change)
        if self._users.meters is not None:
            self._users.meters.keep(count_times, time.perf_counter() - began_s)
            self._users.meters.keep(count_observed, update.counts)
        if self._popularity is not None:
            self._popularity.add(*update.added())
        sizes = [request[contract.USER.name].size // 2 for request in requests]
        borders = np.cumsum(sizes)[:-1]
        return [{contract.OBSERVED.name: counts} for counts in np.split(update.counts, borders)]


class _Update:
    """One update of the store: the rows of a batch by user."""

    def __init__(self, users: Users, rows: Observations, recorder: Recorder, feedback: Feedback | None) -> None:
        self._fingerprint = users.fingerprint
        self._rows = rows
        self._recorder = recorder
        self._feedback = feedback
        self.counts = np.zeros((rows.user.shape[0], 4), dtype=np.int32)
        """``[requests, 4]``: what became of each row's events, as `OBSERVED` has it."""
        self._added: dict[int, tuple[Ints, Ints]] = {}
        """Keys and times of the events of target types that each row added."""
        self._rows_of: dict[bytes, list[int]] = {}
        for row, key in enumerate(store_keys(rows.user)):
            self._rows_of.setdefault(key, []).append(row)
        self.users = list(self._rows_of)

    def change(self, snapshot: Snapshot) -> list[Changes]:
        """What to write for some of the users; called again for those that another writer changed meanwhile."""
        rows_of = [self._rows_of[self.users[index]] for index in snapshot.indices]
        fingerprints = snapshot.registered | {self._fingerprint}
        after = [
            {fingerprint: record_of(fingerprint, found)[0] for fingerprint in fingerprints}
            for found in snapshot.records
        ]
        # The rows of a user count one after the other, so that each has counts of its own.
        for turn in range(max(map(len, rows_of), default=0)):
            users = [user for user, rows in enumerate(rows_of) if turn < len(rows)]
            rows = np.array([rows_of[user][turn] for user in users])
            events, resets = self._rows.events.take(rows), self._rows.resets[rows]
            for fingerprint in fingerprints:
                before = [after[user][fingerprint] for user in users]
                if resets.any():
                    before = [
                        with_alpha_offset(record, 0) if record is not None and reset else record
                        for record, reset in zip(before, resets, strict=True)
                    ]
                if fingerprint == self._fingerprint:
                    observed = self._recorder.observe(before, events)
                    self.counts[rows] = observed.counts
                    taken = observed.is_new if events.is_target is None else observed.is_new & events.is_target
                    records: Sequence[bytes | None] = self._learned(before, events, observed, taken, rows)
                    added = events.raw().take(taken)
                    first = added.user.searchsorted(np.arange(len(users) + 1)).tolist()
                    for row, start, stop in zip(rows.tolist(), first, first[1:], strict=False):
                        self._added[row] = added.key[start:stop], added.time_ms[start:stop]
                else:
                    # This version has no vectors of the other's catalog; the other folds the events itself.
                    records = append_raw(before, events).records
                for user, record in zip(users, records, strict=True):
                    after[user][fingerprint] = record
        return [
            {name: record for name, record in changed.items() if record != found.get(name)}
            for changed, found in zip(after, snapshot.records, strict=True)
        ]

    def added(self) -> tuple[Ints, Ints]:
        """Item keys and times of the events of target types that were added, of rows whose events are counted."""
        counted = [pair for row, pair in self._added.items() if self._rows.is_counted[row]]
        none = np.empty(0, dtype=np.int64)
        keys, times = zip(*counted, strict=True) if counted else ((none,), (none,))
        return np.concatenate(keys), np.concatenate(times)

    def _learned(
        self, before: Sequence[bytes | None], events: NewEvents, observed: Observed, taken: Bools, rows: Ints
    ) -> list[bytes | None]:
        """The observed records, with the offsets that the feedback of their rows moves them to."""
        records = observed.records
        if self._feedback is None:
            return records
        shown = [self._rows.shown[row] for row in rows.tolist()]
        for user, offset in self._feedback.offsets(before, events, taken, shown).items():
            record = records[user]
            assert record is not None  # noqa: S101 - an event was added
            records[user] = with_alpha_offset(record, offset)
        return records
