"""The users' states between the store and the models: read for a batch of requests, and erased."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.checks import RequestTensors
from ebbtide.interest.contract import StateStatus
from ebbtide.interest.errors import RequestError
from ebbtide.interest.meters import Meters, count_times
from ebbtide.interest.pipeline import Records
from ebbtide.interest.record import RecordError, store_keys, tail_only
from ebbtide.store import Records as StoredRecords
from ebbtide.store import StateStore, StoreError, is_shared

Arrays = Mapping[str, npt.NDArray[Any]]
Answer = Arrays | Exception

NO_KEY = bytes(16)
"""The key that names no user."""
_NO_USER = np.full((1, 1), StateStatus.NO_USER, dtype=np.int32)


@dataclass(frozen=True)
class Known:
    """What the store holds of the users of one request."""

    records: Records
    """The record of each user, as this export reads it; None for a user without one."""
    statuses: Sequence[StateStatus]
    """Of each user."""


class Users:
    """The states of the users of one export."""

    def __init__(self, store: StateStore | None, fingerprint: str) -> None:
        """Takes the store, and notes there that the states are in use: now, or as soon as the store answers.

        Args:
            store: None where the server keeps no states.
            fingerprint: Of the export's states.
        """
        self.fingerprint = fingerprint.encode()
        self._store = store
        self._is_registered = store is None
        self.meters: Meters | None = None
        """Measure the store; None where nobody reads them."""
        self.waits_for: StoreError | None = None
        """Why the store did not answer when this was made; None if it did."""
        # A server may start before its store; requests without a user do not need it.
        try:
            self._register()
        except StoreError as error:
            self.waits_for = error

    @property
    def keeps_states(self) -> bool:
        """Whether there is a store."""
        return self._store is not None

    def store(self) -> StateStore:
        """The store, which knows that the export is in use.

        Raises:
            RequestError: The server keeps no states.
            StoreError: The store does not answer.
        """
        if self._store is None:
            raise RequestError(
                contract.USER.name,
                "a user",
                "none, since this server keeps no states of users: start it with the address of a store in "
                "EBBTIDE_STATE (`ebbtide serve --state`)",
            )
        self._register()
        return self._store

    def answer(
        self,
        requests: Sequence[RequestTensors],
        run: Callable[[Sequence[RequestTensors], Sequence[Records] | None], Sequence[Answer]],
    ) -> Sequence[Answer]:
        """The answers to a batch, each with its `state_status`; the store is read once for all users of the batch.

        Args:
            requests: Of one batch.
            run: Computes the answers to requests from the records of their users, which are None where no request of
                the batch names a user.
        """
        if not any(contract.USER.name in request for request in requests):
            return [_with_status(answer, None) for answer in run(requests, None)]
        records = _AwaitedRecords(self._begin_look_up(requests))
        with suppress(RecordError, _SomeUnknownError):
            answers = run(requests, records)
            if records.all_known:
                pairs = zip(answers, records.known, strict=True)
                return [_with_status(answer, one.statuses) for answer, one in pairs if isinstance(one, Known)]
        known = records.known
        served = [(request, one) for request, one in zip(requests, known, strict=True) if isinstance(one, Known)]
        if not served:
            return [one for one in known if not isinstance(one, Known)]
        try:
            ran = iter(run([request for request, _ in served], [one.records for _, one in served]))
        except RecordError:
            return [
                _answer_alone(request, one, run) if isinstance(one, Known) else one
                for request, one in zip(requests, known, strict=True)
            ]
        return [_with_status(next(ran), one.statuses) if isinstance(one, Known) else one for one in known]

    def look_up(self, requests: Sequence[RequestTensors]) -> list[Known | Exception]:
        """The records of the users of a batch, from one read; or why a request cannot be served.

        Args:
            requests: Of one batch.
        """
        return self._begin_look_up(requests)()

    def _begin_look_up(self, requests: Sequence[RequestTensors]) -> Callable[[], list[Known | Exception]]:
        """Asks the store; the function that it returns waits for what `look_up` returns."""
        keys = [
            store_keys(request[contract.USER.name].reshape(-1, 2))
            if contract.USER.name in request
            else [NO_KEY] * request[contract.NOW.name].size
            for request in requests
        ]
        users = list(dict.fromkeys(key for of_request in keys for key in of_request if not is_shared(key)))
        read: Callable[[], list[StoredRecords]] = list
        begin_failure: Exception | None = None
        began_s = time.perf_counter()
        if users:
            try:
                read = self.store().begin_read_all(users)
            except (RequestError, StoreError) as error:
                begin_failure = error

        def known() -> list[Known | Exception]:
            found: dict[bytes, StoredRecords] = {}
            failure = begin_failure
            if failure is None:
                try:
                    found = dict(zip(users, read(), strict=True))
                except StoreError as error:
                    failure = error
                if users and self.meters is not None:
                    self.meters.keep(count_times, time.perf_counter() - began_s)
            return [
                self._known(of_request, found)
                if failure is None
                else _without_store(of_request, failure, request.get(contract.ALLOW_STATELESS.name))
                for request, of_request in zip(requests, keys, strict=True)
            ]

        return known

    def forget(self, requests: Sequence[RequestTensors]) -> list[Answer]:
        """Erases the users of a batch everywhere in the store: the `forgetter` model.

        Args:
            requests: Of one batch.

        Raises:
            StoreError: The store does not answer.
        """
        keys = [store_keys(request[contract.USER.name].reshape(-1, 2)) for request in requests]
        users = list(dict.fromkeys(key for of_request in keys for key in of_request if not is_shared(key)))
        try:
            removed = dict(zip(users, self.store().forget(users), strict=True)) if users else {}
        except RequestError as error:
            return [error for _ in requests]
        return [
            RequestError(contract.USER.name, _first_shared(of_request), "the key of a user")
            if any(map(is_shared, of_request))
            # Of several rows of one user, the first has the count.
            else {contract.FORGOTTEN.name: np.array([[removed.pop(key, 0)] for key in of_request], dtype=np.int32)}
            for of_request in keys
        ]

    def close(self) -> None:
        """Closes the store."""
        if self._store is not None:
            self._store.close()

    def _register(self) -> None:
        if not self._is_registered and self._store is not None:
            self._store.register(self.fingerprint)
            self._is_registered = True

    def _known(self, keys: Iterable[bytes], found: Mapping[bytes, StoredRecords]) -> Known:
        records: list[bytes | None] = []
        statuses: list[StateStatus] = []
        for key in keys:
            record, status = None, StateStatus.NO_USER
            if key != NO_KEY:
                record, status = record_of(self.fingerprint, found.get(key, {}))
            records.append(record)
            statuses.append(status)
        return Known(records, statuses)


class _SomeUnknownError(Exception):
    """The users of some requests of a batch cannot be looked up."""


class _AwaitedRecords(Sequence[Records]):
    """The records of the users of each request of a batch; the first use of any of them waits for the store.

    So requests are read while the store looks users up.
    """

    def __init__(self, look_up: Callable[[], list[Known | Exception]]) -> None:
        self._look_up = look_up

    @cached_property
    def known(self) -> list[Known | Exception]:
        """What was found of each request's users."""
        return self._look_up()

    @property
    def all_known(self) -> bool:
        """Whether every request's users could be looked up."""
        return all(isinstance(one, Known) for one in self.known)

    @cached_property
    def _records(self) -> list[Records]:
        found = [one.records for one in self.known if isinstance(one, Known)]
        if len(found) != len(self.known):
            raise _SomeUnknownError
        return found

    @overload
    def __getitem__(self, index: int) -> Records: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Records]: ...

    def __getitem__(self, index: int | slice) -> Records | Sequence[Records]:
        return self._records[index]

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[Records]:
        return iter(self._records)


def _first_shared(keys: Sequence[bytes]) -> str:
    """The first key of a request that is no user's, as the two integers of the tensor `user`."""
    first = next(key for key in keys if is_shared(key))
    return " and ".join(map(str, np.frombuffer(first, dtype="<i8").tolist()))


def record_of(fingerprint: bytes, records: StoredRecords) -> tuple[bytes | None, StateStatus]:
    """The record of a user for an export; without one, the raw events in the record of another export.

    Args:
        fingerprint: Of the export's states.
        records: All records of the user.
    """
    own = records.get(fingerprint)
    if own is not None:
        return own, StateStatus.USED
    if not records:
        return None, StateStatus.UNKNOWN_USER
    tails = []
    for record in records.values():
        # One that cannot be read, such as of another format, is no reason to fail: it is not this export's.
        with suppress(RecordError):
            tails.append(tail_only(record))
    # All versions have the newest events; they differ in how many of them they still hold raw.
    return (max(tails, key=len), StateStatus.RAW_ONLY) if tails else (None, StateStatus.UNKNOWN_USER)


def _answer_alone(
    request: RequestTensors,
    known: Known,
    run: Callable[[Sequence[RequestTensors], Sequence[Records] | None], Sequence[Answer]],
) -> Answer:
    """The answer to a request of which a record may be damaged: without that record, where the request allows it."""
    records, statuses = list(known.records), list(known.statuses)
    allowed = request.get(contract.ALLOW_STATELESS.name)
    while True:
        try:
            (answer,) = run([request], [records])
        except RecordError as error:
            if allowed is None or not allowed.reshape(-1)[error.user]:
                return error
            records[error.user], statuses[error.user] = None, StateStatus.UNAVAILABLE
        else:
            return _with_status(answer, statuses)


def _without_store(
    keys: Sequence[bytes], failure: Exception, allowed: npt.NDArray[np.bool_] | None
) -> Known | Exception:
    """What a request gets whose users cannot be looked up; no request without users is refused."""
    names_user = np.array([key != NO_KEY for key in keys])
    may_miss = np.zeros(len(keys), dtype=np.bool_) if allowed is None else allowed.reshape(-1)
    if np.any(names_user & ~may_miss) or (names_user.any() and not isinstance(failure, StoreError)):
        return failure
    statuses = [StateStatus.UNAVAILABLE if names else StateStatus.NO_USER for names in names_user]
    return Known([None] * len(keys), statuses)


def _with_status(answer: Answer, statuses: Sequence[StateStatus] | None) -> Answer:
    """The answer with the status of each user; one whose record was read has the status that the answer says."""
    if isinstance(answer, Exception):
        return answer
    said = answer.get(contract.STATE_STATUS.name)
    if statuses is None:
        rows = answer[contract.ALPHA_USED.name].shape[0]
        status = _NO_USER if rows == 1 else _NO_USER.repeat(rows, axis=0)
    elif said is not None and all(one is StateStatus.USED for one in statuses):
        return answer
    else:
        status = np.array([int(one) for one in statuses], dtype=np.int32)[:, None]
        if said is not None:
            status = np.where(status == int(StateStatus.USED), said, status)
    return {**answer, contract.STATE_STATUS.name: status}
