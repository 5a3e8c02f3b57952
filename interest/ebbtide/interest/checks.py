"""Is one request servable? Every refusal names the field, the value and what was expected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest import contract
from ebbtide.interest.contract import Limits, Tensor
from ebbtide.interest.errors import RequestError


@dataclass(frozen=True)
class Request:
    """One person's request, as the tensors of the contract without batch dimension; None for a missing optional one.

    Events with text stand behind those with an item: `event_time`, `event_is_current` and `event_weight` have one entry
    for each of `event_item` and then one for each row of `text_vector`.
    """

    event_item: npt.NDArray[np.int64]
    event_time: npt.NDArray[np.int64]
    now: npt.NDArray[np.int64]
    event_is_current: npt.NDArray[np.bool_] | None = None
    event_weight: npt.NDArray[np.float32] | None = None
    alpha: npt.NDArray[np.float32] | None = None
    exclude_item: npt.NDArray[np.int64] | None = None
    exclude_seen: npt.NDArray[np.bool_] | None = None
    text_vector: npt.NDArray[np.float32] | None = None
    """``[texts, d]``, from the encoder."""

    @property
    def texts(self) -> int:
        """Events given as text."""
        return 0 if self.text_vector is None else self.text_vector.shape[0]

    @property
    def events(self) -> int:
        """Events of both kinds."""
        return self.event_item.shape[0] + self.texts


def check_request(request: Request, limits: Limits) -> RequestError | None:
    """The first thing wrong with a request, or None; whether its items are known is seen at the look-up."""
    return _check_lengths(request, limits) or _check_times(request) or _check_weights(request) or _check_alpha(request)


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
        if value is not None and value.shape[0] != events:
            return RequestError(tensor.name, f"{value.shape[0]} entries", one_each)
    excluded = 0 if request.exclude_item is None else request.exclude_item.shape[0]
    if excluded > limits.max_exclude_items:
        return RequestError(
            contract.EXCLUDE_ITEM.name, f"{excluded} items", f"at most {limits.max_exclude_items} items"
        )
    return None


def _check_times(request: Request) -> RequestError | None:
    now = int(request.now[0])
    if now < 0:
        return RequestError(contract.NOW.name, str(now), "Unix milliseconds, 0 or more")
    return _first_bad(
        contract.EVENT_TIME,
        request.event_time,
        (request.event_time < 0) | (request.event_time > now),
        f"Unix milliseconds from 0 to `now`, which is {now}",
    )


def _check_weights(request: Request) -> RequestError | None:
    weight = request.event_weight
    if weight is None:
        return None
    return _first_bad(
        contract.EVENT_WEIGHT, weight, ~(np.isfinite(weight) & (weight >= 0)), "a finite number, 0 or more"
    )


def _check_alpha(request: Request) -> RequestError | None:
    if request.alpha is None or 0 <= request.alpha[0] <= 1:
        return None
    return RequestError(contract.ALPHA.name, str(request.alpha[0]), "a number from 0 to 1")


def _first_bad(
    tensor: Tensor, values: npt.NDArray[Any], bad: npt.NDArray[np.bool_], expected: str
) -> RequestError | None:
    """The error for the first entry that is bad, or None."""
    if not bad.any():
        return None
    index = int(np.argmax(bad))
    return RequestError(f"{tensor.name}[{index}]", str(values[index]), expected)
