"""One user's request, and how a rule over a whole batch refuses the requests that break it.

Every rule is stated once, in `ebbtide.interest.columns` or where keys are looked up: a vectorised test that says which
users or entries are bad, and beside it what was expected. The error is made from the same arrays, and names the field,
the value and what was expected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.contract import Tensor
from ebbtide.interest.errors import RequestError
from ebbtide.interest.time_units import PLAUSIBLE_S, plausible_unit

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

RequestTensors = Mapping[str, npt.NDArray[Any]]
"""The tensors of one request to the server, by name, with a batch dimension where it has several users."""
_OF_EVENTS = (contract.EVENT_ITEM.name, contract.EVENT_TIME.name)
STANDALONE = -1
"""The `text_event` of a text that is an event by itself."""


@dataclass(frozen=True)
class Request:
    """One user's request, as the tensors of the contract without batch dimension; None for a missing optional one.

    Events come in one order everywhere: those with an item, then the texts that are events by themselves.
    `event_time`, `event_is_current`, `event_weight` and `event_type` have one entry for each.
    """

    event_item: npt.NDArray[np.int64]
    event_time: npt.NDArray[np.int64]
    now: npt.NDArray[np.int64]
    event_is_current: npt.NDArray[np.bool_] | None = None
    event_weight: npt.NDArray[np.float32] | None = None
    event_type: npt.NDArray[np.int64] | None = None
    event_count: npt.NDArray[np.int32] | None = None
    alpha: npt.NDArray[np.float32] | None = None
    decay_scale: npt.NDArray[np.float32] | None = None
    exclude_item: npt.NDArray[np.int64] | None = None
    exclude_seen: npt.NDArray[np.bool_] | None = None
    ignore_unknown: npt.NDArray[np.bool_] | None = None
    allow_attribute: npt.NDArray[np.int64] | None = None
    user: npt.NDArray[np.int64] | None = None
    """``[2]``: the key of the user whose state counts too."""
    allow_stateless: npt.NDArray[np.bool_] | None = None
    candidate_item: npt.NDArray[np.int64] | None = None
    """The items to score or to explain; `recommend` ignores it."""
    text_vector: npt.NDArray[np.float32] | None = None
    """``[texts, d]``, from the encoder."""
    text_event: npt.NDArray[np.int64] | None = None

    def tensors(self) -> RequestTensors:
        """The tensors that the request has, by name; without those of events if it has none and names a user."""
        left_out = _OF_EVENTS if self.user is not None and not self.event_time.size else ()
        return {name: value for name, value in vars(self).items() if value is not None and name not in left_out}


@dataclass(frozen=True)
class Range:
    """The values that a tensor may have."""

    least: np.float32
    most: np.float32
    expected: str

    def bad(self, values: npt.NDArray[np.float32]) -> Bools:
        """The values outside, NaN among them."""
        return ~((values >= self.least) & (values <= self.most))

    def holds_all(self, values: npt.NDArray[np.float32]) -> bool:
        """Whether no value is outside; faster than `bad`. NaN fails both comparisons."""
        return bool(values.min(initial=self.least) >= self.least and values.max(initial=self.least) <= self.most)


_ZERO = np.float32(0)
RANGES: dict[str, Range] = {
    # The squares of larger event weights would leave single precision.
    contract.EVENT_WEIGHT.name: Range(_ZERO, np.float32(1e15), "a finite number from 0 to 1e15"),
    contract.ALPHA.name: Range(_ZERO, np.float32(1), "a number from 0 to 1"),
    # So are those of larger vectors with the largest weights.
    contract.TEXT_VECTOR.name: Range(np.float32(-1e3), np.float32(1e3), "finite numbers from -1000 to 1000"),
    contract.DECAY_SCALE.name: Range(_ZERO, np.finfo(np.float32).max, "a finite number, 0 or more"),
}
"""By tensor."""


NOT_SECONDS = "Unix milliseconds; this is a time between 1995 and 2200 in seconds"
"""Of a time that `in_seconds` finds: taken for milliseconds it is in 1970, and everything has decayed by today."""


def in_seconds(time: Ints) -> Bools:
    """Which times are surely in seconds, ``[times]``."""
    found: Bools = (time >= PLAUSIBLE_S[0]) & (time < PLAUSIBLE_S[1])
    return found


LATEST_NOW_MS = PLAUSIBLE_S[1] * 1000
"""2200-01-01: what is later is in another unit, and all would have decayed by then."""


def before_2200(now_ms: int) -> str:
    """What was expected of a `now` from `LATEST_NOW_MS` on."""
    unit = plausible_unit(now_ms)
    return "Unix milliseconds before 2200" + (
        "" if unit is None else f"; this is a time between 1995 and 2200 in {unit.value}"
    )


class RequestsRefused(Exception):  # noqa: N818 - it carries the errors of single requests
    """Some requests of a batch cannot be served."""

    def __init__(self, errors: Mapping[int, RequestError]) -> None:
        """Takes what is wrong with each of them, by its index in the batch."""
        super().__init__("; ".join(f"request {index}: {error}" for index, error in errors.items()))
        self.errors = errors


class RowError(RequestError):
    """What is wrong with one of several users of a request."""

    def __init__(self, error: RequestError, row: int) -> None:
        super().__init__(error.field, error.value, error.expected)
        self.row = row

    def __str__(self) -> str:
        return f"row {self.row}: {super().__str__()}"


def refuse_users(request: Ints, bad: Bools, error: Callable[[int], RequestError]) -> NoReturn:
    """Refuses the requests of bad users, each for the first of them.

    Args:
        request: ``[users]``, ascending: the request that each user came in.
        bad: ``[users]``.
        error: What is wrong with a user.

    Raises:
        RequestsRefused: Always.
    """
    errors: dict[int, RequestError] = {}
    for user in np.flatnonzero(bad).tolist():
        index = int(request[user])
        if index not in errors:
            first, end = np.searchsorted(request, [index, index + 1]).tolist()
            errors[index] = error(user) if end - first == 1 else RowError(error(user), user - first)
    raise RequestsRefused(errors)


def refuse_entries(
    request: Ints,
    user: Ints,
    bad: Bools,
    tensor: Tensor,
    values: npt.NDArray[Any],
    expected: Callable[[int], str],
) -> NoReturn:
    """Refuses the requests with a bad entry in one tensor, each for the first of them.

    Args:
        request: ``[users]``, ascending: the request that each user came in.
        user: ``[entries]``, ascending: the user that each entry belongs to.
        bad: ``[entries]``.
        tensor: Named in the error.
        values: ``[entries]``.
        expected: What was expected of a user's entries.

    Raises:
        RequestsRefused: Always.
    """

    def error(one: int) -> RequestError:
        first = int(np.searchsorted(user, one))
        index = int(np.argmax(bad[first:]))
        return RequestError(f"{tensor.name}[{index}]", str(values[first + index]), expected(one))

    users = np.zeros(request.size, dtype=np.bool_)
    users[user[bad]] = True
    refuse_users(request, users, error)
