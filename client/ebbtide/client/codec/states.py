"""Requests about the state of a user as tensors, and what the models answer: observe, interest, forget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ebbtide.client.codec.answers import fill_user
from ebbtide.client.codec.tensors import Arrays, EncodedRequest, Values, encoded, flat
from ebbtide.client.codec.user import (
    Columns,
    StandIns,
    checked_id,
    checked_ids,
    ignores_unknown,
    now_ms_of,
    read_events,
    type_keys,
)
from ebbtide.client.errors import InvalidArgumentError
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Tensor
from ebbtide.interest.keys import item_keys, user_keys
from ebbtide.v1 import (
    Event,
    ExplainResponse,
    ForgetRequest,
    ForgetResponse,
    InterestRequest,
    InterestResponse,
    ObserveRequest,
    ObserveResponse,
)

StateRequest = ObserveRequest | InterestRequest | ForgetRequest
"""The requests about the state of one user."""

_DAY_MS = 86_400_000


def encode_observe(request: ObserveRequest) -> EncodedRequest:
    """The tensors of events to add to the state of a user.

    Returns:
        For ``observe``: ``user`` int64 ``[1, 2]``, ``event_item`` and ``event_time`` int64 ``[1, events]``, and the
        optional tensors that the request calls for.

    Raises:
        InvalidArgumentError: What the server could not see: no user id, no events and no `reset_learning`, an event
            with a text, without item or time, some events with an `event_id` and others without, an empty item id.
    """
    if not request.events and not request.reset_learning:
        raise InvalidArgumentError.of_field("events", "none", "at least one event")
    items, texts, stand_ins = Columns.empty(), Columns.empty(), StandIns([], [])
    read_events("events", request.events, items, texts, stand_ins)
    if texts.subject or stand_ins.text:
        raise _with_text(request)
    values = _of_user(request)
    values[contract.EVENT_ITEM] = item_keys(items.subject)
    values[contract.EVENT_TIME] = items.time_ms
    if items.weight.count(1.0) != len(items.weight):
        values[contract.EVENT_WEIGHT] = items.weight
    if any(items.event_type):
        values[contract.EVENT_TYPE] = type_keys(items.event_type)
    if ids := _event_ids(request):
        values[contract.EVENT_ID] = item_keys(ids)
    if request.unknown_items:
        values[contract.IGNORE_UNKNOWN] = [ignores_unknown(request)]
    if request.shown_item_ids:
        values[contract.SHOWN_ITEM] = item_keys(checked_ids("shown_item_ids", request.shown_item_ids))
    if request.reset_learning:
        values[contract.RESET_LEARNING] = [True]
    return encoded(served_models.OBSERVE, values)


def encode_interest(request: InterestRequest, now_ms: int) -> EncodedRequest:
    """The tensors that ask for the state of a user: ``user`` int64 ``[2]``, ``now`` int64 ``[1]``.

    Args:
        request: What the caller asks for.
        now_ms: The caller's clock, Unix milliseconds; used when the request carries no `now`.

    Raises:
        InvalidArgumentError: No user id, or `now` is no valid timestamp.
    """
    values = _of_user(request)
    values[contract.NOW] = [now_ms_of(request, now_ms)]
    if request.HasField("decay_scale"):
        values[contract.DECAY_SCALE] = [request.decay_scale]
    return encoded(served_models.INTEREST_STATE, values)


def encode_forget(request: ForgetRequest) -> EncodedRequest:
    """The tensor that asks to erase a user: ``user`` int64 ``[1, 2]``.

    Raises:
        InvalidArgumentError: No user id.
    """
    return encoded(served_models.FORGET, _of_user(request))


def decode_observed(outputs: Arrays, *, model_version: str = "") -> ObserveResponse:
    """How many events were added, from ``observed`` int32, four values.

    Raises:
        InternalError: The output is missing, or has another shape.
    """
    added, duplicate, late, unknown = flat(outputs, contract.OBSERVED, 4).tolist()
    return ObserveResponse(
        added_events=added,
        duplicate_events=duplicate,
        late_events=late,
        unknown_events=unknown,
        model_version=model_version,
    )


def decode_interest(
    outputs: Arrays, request: InterestRequest, now_ms: int, *, model_version: str = ""
) -> InterestResponse:
    """The state of a user.

    Args:
        outputs: Those of the model ``interest``, for E newest events: ``state_event_item`` of bytes,
            ``state_event_time`` int64, ``state_event_weight`` and ``state_event_decay`` float32, ``[events]`` each;
            ``state_counts`` int32 four values, ``half_life_days`` and ``interest_energy`` float32 ``[d]``, and the
            outputs about the user.
        request: The request, for its clock.
        now_ms: The clock that the request was encoded with.
        model_version: Version of the model that answered.

    Raises:
        InternalError: An output is missing, or its shape is not that of the others.
    """
    response = InterestResponse()
    fill_user(response, outputs, model_version)
    folded, _, late, dropped = flat(outputs, contract.STATE_COUNTS, 4).tolist()
    response.folded_events, response.late_events, response.dropped_events = folded, late, dropped
    if contract.ALPHA_OFFSET.name in outputs:
        response.alpha_offset = float(flat(outputs, contract.ALPHA_OFFSET, 1)[0])
    half_lives = flat(outputs, contract.HALF_LIFE_DAYS)
    response.half_life_days.extend(half_lives.tolist())
    response.energy.extend(flat(outputs, contract.INTEREST_ENERGY, half_lives.size).tolist())
    add_state_events(response, outputs, now_ms_of(request, now_ms))
    # The events of the current session are the newest of those that count.
    counted = [explained for explained in response.events if explained.event.item_id]
    for explained in counted[: response.current_events_used]:
        explained.is_current = True
    return response


def decode_forgotten(outputs: Arrays) -> ForgetResponse:
    """How many records were erased, from ``forgotten`` int32, one value.

    Raises:
        InternalError: The output is missing, or has another shape.
    """
    return ForgetResponse(erased_records=int(flat(outputs, contract.FORGOTTEN, 1)[0]))


def add_state_events(response: InterestResponse | ExplainResponse, outputs: Arrays, now_ms: int) -> int:
    """Adds the newest events of the state to an answer, newest first.

    Args:
        response: The answer.
        outputs: All outputs. A model that was exported before there were states gives no events.
        now_ms: Time that ages are measured against, Unix milliseconds.

    Returns:
        How many there are.

    Raises:
        InternalError: Their outputs differ in length.
    """
    if contract.STATE_EVENT_TIME.name not in outputs:
        return 0
    times: list[int] = outputs[contract.STATE_EVENT_TIME.name].reshape(-1).tolist()
    item_ids = _column(outputs, contract.STATE_EVENT_ITEM, times, b"")
    decays = _column(outputs, contract.STATE_EVENT_DECAY, times, 0.0)
    weights = _column(outputs, contract.STATE_EVENT_WEIGHT, times, None)
    current = _column(outputs, contract.STATE_EVENT_CURRENT, times, False)
    events = response.events if isinstance(response, InterestResponse) else response.state_events
    for time_ms, item_id, decay, weight, is_current in zip(times, item_ids, decays, weights, current, strict=True):
        event = Event(item_id=item_id, weight=weight)
        event.time.FromMilliseconds(time_ms)
        age_days = max(0.0, (now_ms - time_ms) / _DAY_MS)
        events.add(event=event, is_current=is_current, decay=decay, age_days=age_days)
    return len(times)


def _column(outputs: Arrays, tensor: Tensor, times: Sequence[int], default: object) -> list[Any]:
    """What an output says of the newest events, one by one; the default of each if the model does not give it."""
    if tensor.name not in outputs:
        return [default] * len(times)
    if not times:
        return []
    values: list[Any] = flat(outputs, tensor, len(times)).tolist()
    return values


def _of_user(request: StateRequest) -> Values:
    return {contract.USER: user_keys([checked_id("user_id", request.user_id)])[0]}


def _event_ids(request: ObserveRequest) -> list[str]:
    """The id of every event; none if no event has one."""
    given = [event.HasField("event_id") for event in request.events]
    if not any(given):
        return []
    if not all(given):
        # The server makes the id of an event without one; the client must not make another.
        path = f"events[{given.index(False)}].event_id"
        raise InvalidArgumentError.of_field(path, "none, beside events with one", "an id for every event, or for none")
    return [checked_id(f"events[{index}].event_id", event.event_id) for index, event in enumerate(request.events)]


def _with_text(request: ObserveRequest) -> InvalidArgumentError:
    field, path = next(
        (field, f"events[{index}].{field}")
        for index, event in enumerate(request.events)
        for field in ("text", "fallback_text")
        if event.HasField(field)
    )
    return InvalidArgumentError.of_field(
        path, f"a {field}", "item_id alone: a state keeps items; send texts with the request that they matter for"
    )
