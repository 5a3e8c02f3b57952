"""Is one request servable? Every refusal names the field, the value and what was expected.

`ebbtide.interest.columns` finds that something is wrong, in whole batches at once; what it is, is told here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.contract import Limits, Tensor
from ebbtide.interest.errors import RequestError

MAX_WEIGHT = np.float32(1e15)
"""The squares of larger event weights would leave single precision."""
OWN_EVENT = -1
"""The `text_event` of a text that is an event of its own."""


@dataclass(frozen=True)
class Request:
    """One user's request, as the tensors of the contract without batch dimension; None for a missing optional one.

    Events come in one order everywhere: those with an item, then the texts that are events of their own.
    `event_time`, `event_is_current` and `event_weight` have one entry for each.
    """

    event_item: npt.NDArray[np.int64]
    event_time: npt.NDArray[np.int64]
    now: npt.NDArray[np.int64]
    event_is_current: npt.NDArray[np.bool_] | None = None
    event_weight: npt.NDArray[np.float32] | None = None
    event_count: npt.NDArray[np.int32] | None = None
    alpha: npt.NDArray[np.float32] | None = None
    decay_scale: npt.NDArray[np.float32] | None = None
    exclude_item: npt.NDArray[np.int64] | None = None
    exclude_seen: npt.NDArray[np.bool_] | None = None
    ignore_unknown: npt.NDArray[np.bool_] | None = None
    allow_attribute: npt.NDArray[np.int64] | None = None
    candidate_item: npt.NDArray[np.int64] | None = None
    """What `explain` is asked about; the others pay no heed to it."""
    text_vector: npt.NDArray[np.float32] | None = None
    """``[texts, d]``, from the encoder."""
    text_event: npt.NDArray[np.int64] | None = None

    @property
    def texts(self) -> int:
        """Texts, of both kinds."""
        return 0 if self.text_vector is None else self.text_vector.shape[0]

    @property
    def own_texts(self) -> int:
        """Texts that are events of their own."""
        return self.texts if self.text_event is None else int(np.count_nonzero(self.text_event == OWN_EVENT))

    @property
    def events(self) -> int:
        """Events of both kinds, padding included."""
        return self.event_item.size + self.own_texts

    @property
    def own_events(self) -> int:
        """Events without the padding behind them."""
        return self.events if self.event_count is None else int(self.event_count.flat[0])


def check_request(request: Request, limits: Limits) -> RequestError | None:
    """The first thing wrong with a request, or None; whether its keys are known is seen at the look-up."""
    return (
        _check_texts(request, limits)
        or _check_lengths(request, limits)
        or _check_times(request)
        or _check_weights(request)
        or _check_numbers(request)
    )


def _check_texts(request: Request, limits: Limits) -> RequestError | None:
    stands_for = request.text_event
    if request.texts > limits.max_texts:
        return RequestError(contract.TEXT_VECTOR.name, f"{request.texts} texts", f"at most {limits.max_texts} texts")
    if stands_for is None:
        return None
    if stands_for.size != request.texts:
        return RequestError(
            contract.TEXT_EVENT.name, f"{stands_for.size} entries", f"{request.texts} entries, one for each text"
        )
    items = request.event_item.size
    wrong = _first_bad(
        contract.TEXT_EVENT,
        stands_for,
        (stands_for < OWN_EVENT) | (stands_for >= items),
        f"the place of one of the {items} events with an item, or {OWN_EVENT} for an event of its own",
    )
    if wrong is not None:
        return wrong
    first = np.zeros(stands_for.size, dtype=np.bool_)
    first[np.unique(stands_for, return_index=True)[1]] = True
    again = ~first & (stands_for != OWN_EVENT)
    return _first_bad(contract.TEXT_EVENT, stands_for, again, "one text at most for each event")


def _check_lengths(request: Request, limits: Limits) -> RequestError | None:
    events = request.events
    if events > limits.max_events:
        return RequestError(contract.EVENT_ITEM.name, f"{events} events", f"at most {limits.max_events} events")
    one_each = f"{events} entries, one for each event"
    for tensor, value in (
        (contract.EVENT_TIME, request.event_time),
        (contract.EVENT_IS_CURRENT, request.event_is_current),
        (contract.EVENT_WEIGHT, request.event_weight),
    ):
        if value is not None and value.size != events:
            return RequestError(tensor.name, f"{value.size} entries", one_each)
    if request.event_count is not None:
        count, most = request.own_events, request.event_item.size
        if request.texts or not 0 <= count <= most:
            expected = "none along with texts" if request.texts else f"a number from 0 to {most}, the row's events"
            return RequestError(contract.EVENT_COUNT.name, str(count), expected)
    for tensor, keys, most, what in (
        (contract.EXCLUDE_ITEM, request.exclude_item, limits.max_exclude_items, "items"),
        (contract.ALLOW_ATTRIBUTE, request.allow_attribute, limits.max_attributes, "attribute values"),
        (contract.CANDIDATE_ITEM, request.candidate_item, limits.max_candidates, "items"),
    ):
        if keys is not None and keys.size > most:
            return RequestError(tensor.name, f"{keys.size} {what}", f"at most {most} {what}")
    return None


def _check_times(request: Request) -> RequestError | None:
    now = int(request.now.flat[0])
    if now < 0:
        return RequestError(contract.NOW.name, str(now), "Unix milliseconds, 0 or more")
    time = request.event_time[: request.own_events]
    return _first_bad(
        contract.EVENT_TIME,
        time,
        (time < 0) | (time > now),
        f"Unix milliseconds from 0 to `now`, which is {now}",
    )


def _check_weights(request: Request) -> RequestError | None:
    if request.event_weight is None:
        return None
    weight = request.event_weight[: request.own_events]
    return _first_bad(
        contract.EVENT_WEIGHT, weight, ~((weight >= 0) & (weight <= MAX_WEIGHT)), "a finite number from 0 to 1e15"
    )


def _check_numbers(request: Request) -> RequestError | None:
    alpha, scale = request.alpha, request.decay_scale
    if alpha is not None and not 0 <= alpha.flat[0] <= 1:
        return RequestError(contract.ALPHA.name, str(alpha.flat[0]), "a number from 0 to 1")
    if scale is not None and not 0 <= scale.flat[0] < np.inf:
        return RequestError(contract.DECAY_SCALE.name, str(scale.flat[0]), "a finite number, 0 or more")
    return None


def _first_bad(
    tensor: Tensor, values: npt.NDArray[Any], bad: npt.NDArray[np.bool_], expected: str
) -> RequestError | None:
    """The error for the first entry that is bad, or None."""
    if not bad.any():
        return None
    index = int(np.argmax(bad))
    return RequestError(f"{tensor.name}[{index}]", str(values[index]), expected)
