"""The fields that all requests about one user have, as tensors: events, clock, overrides, exclusions, policies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from google.protobuf.timestamp_pb2 import Timestamp

from ebbtide.client.codec.tensors import Values
from ebbtide.client.errors import InvalidArgumentError
from ebbtide.interest import contract
from ebbtide.interest.event_types import UNTYPED
from ebbtide.interest.keys import item_key, item_keys, user_keys
from ebbtide.v1 import (
    Event,
    ExplainRequest,
    InterestRequest,
    ObserveRequest,
    RankRequest,
    RecommendRequest,
    UnknownItemPolicy,
)

UserRequest = RecommendRequest | RankRequest | ExplainRequest
"""The requests about one user; fields that they share have the same names."""

EventRequest = UserRequest | ObserveRequest
"""The requests that carry events."""

MAX_ID_BYTES = 256
"""Longest id of a user or of an event, UTF-8. Only hashes are sent, so the bound saves no space; it finds mistakes."""

_EARLIEST_S, _LATEST_S = -62_135_596_800, 253_402_300_799
"""The years 1 to 9999: the range of a `Timestamp`."""

_OWN_TEXT = -1
"""In ``text_event``: the text is an event of its own."""


class LocatedEvent(NamedTuple):
    """An event and its position in the request."""

    group: str
    """Field of the request: history, current or events."""
    position: int
    """Index within that field."""
    event: Event

    @property
    def path(self) -> str:
        """Path of the event in the request, as in ``history[3]``."""
        return f"{self.group}[{self.position}]"


class TensorOrder(NamedTuple):
    """The events of a request in the order of the tensors' entries."""

    items: list[LocatedEvent]
    """Events with an item: the entries of ``event_item``."""
    texts: list[LocatedEvent]
    """Events with only a text, which follow `items` in tensors that describe every event."""
    stand_ins: list[LocatedEvent]
    """Events of `items` with a `fallback_text`: the first entries of ``text``, before those of `texts`."""


def tensor_order(request: EventRequest) -> TensorOrder:
    """The events of a request in the order of the tensors' entries."""
    order = TensorOrder([], [], [])
    for group, events in event_groups(request):
        for index, event in enumerate(events):
            located = LocatedEvent(group, index, event)
            (order.texts if event.HasField("text") else order.items).append(located)
            if event.HasField("fallback_text"):
                order.stand_ins.append(located)
    return order


def event_groups(request: EventRequest) -> tuple[tuple[str, Sequence[Event]], ...]:
    """The fields that hold events, with their names, in the order in which they are read."""
    if isinstance(request, ObserveRequest):
        return (("events", request.events),)
    return ("history", request.history), ("current", request.current), ("events", request.events)


def user_values(request: UserRequest, clock_ms: int) -> Values:
    """The tensors about the user; ``text`` is one of them if the request has any text.

    Args:
        request: What the caller asks for.
        clock_ms: The caller's clock, Unix milliseconds; used when the request carries no `now`.

    Raises:
        InvalidArgumentError: A mistake that the tensors would hide from the server: `events` mixed with `history` or
            `current`, an event without subject or time, an empty item id, a `fallback_text` beside a text, a time that
            is not a valid timestamp, an empty user id.
    """
    if request.events and (request.history or request.current):
        raise InvalidArgumentError.of_field(
            "events",
            "history or current beside it",
            "either history and current, or events for the server to split",
        )
    items, texts, stand_ins = Columns.empty(), Columns.empty(), StandIns([], [])
    for group, events in event_groups(request):
        read_events(group, events, items, texts, stand_ins)
    values: Values = {contract.NOW: [now_ms_of(request, clock_ms)]}
    # A model from before there were users in requests needs both tensors.
    if items.subject or texts.subject or not request.HasField("user_id"):
        values[contract.EVENT_ITEM] = item_keys(items.subject)
        values[contract.EVENT_TIME] = items.time_ms + texts.time_ms
    if request.history or request.current:
        values[contract.EVENT_IS_CURRENT] = items.is_current + texts.is_current
    weights = items.weight + texts.weight
    if weights.count(1.0) != len(weights):
        values[contract.EVENT_WEIGHT] = weights
    event_types = items.event_type + texts.event_type
    if any(event_types):
        values[contract.EVENT_TYPE] = type_keys(event_types)
    if request.HasField("alpha"):
        values[contract.ALPHA] = [request.alpha]
    if request.HasField("decay_scale"):
        values[contract.DECAY_SCALE] = [request.decay_scale]
    if request.exclude_item_ids:
        values[contract.EXCLUDE_ITEM] = item_keys(checked_ids("exclude_item_ids", request.exclude_item_ids))
    if request.HasField("exclude_seen"):
        values[contract.EXCLUDE_SEEN] = [request.exclude_seen]
    if request.unknown_items:
        values[contract.IGNORE_UNKNOWN] = [ignores_unknown(request)]
    if request.HasField("user_id"):
        values[contract.USER] = user_keys([checked_id("user_id", request.user_id)])[0]
    if request.allow_stateless:
        values[contract.ALLOW_STATELESS] = [True]
    if stand_ins.text:
        values[contract.TEXT_EVENT] = stand_ins.position + [_OWN_TEXT] * len(texts.subject)
    if stand_ins.text or texts.subject:
        values[contract.TEXT] = [text.encode() for text in stand_ins.text + texts.subject]
    return values


def now_ms_of(request: UserRequest | InterestRequest, clock_ms: int) -> int:
    """The time of the request, which ages are measured against, Unix milliseconds.

    Raises:
        InvalidArgumentError: `now` is no valid timestamp.
    """
    if not request.HasField("now"):
        return clock_ms
    try:
        return request.now.ToMilliseconds()
    except ValueError as error:
        raise _bad_time("now", request.now) from error


def checked_ids(field: str, item_ids: Sequence[str]) -> Sequence[str]:
    """The ids, after a check that none is empty.

    Raises:
        InvalidArgumentError: An id is empty; the error names its index in `field`.
    """
    for index, item_id in enumerate(item_ids):
        if not item_id:
            raise _empty_id(f"{field}[{index}]")
    return item_ids


def checked_id(field: str, text: str) -> str:
    """The id of a user or of an event, after a check that it is one.

    Raises:
        InvalidArgumentError: It is empty, or longer than `MAX_ID_BYTES`.
    """
    size = len(text.encode())
    if not size:
        raise InvalidArgumentError.of_field(field, "''", "an id, not empty")
    if size > MAX_ID_BYTES:
        raise InvalidArgumentError.of_field(field, f"{size} bytes", f"at most {MAX_ID_BYTES} bytes of UTF-8")
    return text


class Columns(NamedTuple):
    """The events with an item, or those with a text alone, attribute by attribute."""

    subject: list[str]
    time_ms: list[int]
    is_current: list[bool]
    weight: list[float]
    event_type: list[str]
    """Empty for an event without one."""

    @classmethod
    def empty(cls) -> Columns:
        """No events yet."""
        return cls([], [], [], [], [])


class StandIns(NamedTuple):
    """Fallback texts, and the index of each one's event among the events with an item."""

    text: list[str]
    position: list[int]


def read_events(group: str, events: Sequence[Event], items: Columns, texts: Columns, stand_ins: StandIns) -> None:
    """Adds the events of one field to the columns; encoding a request spends its time in this loop."""
    is_current = group == "current"
    for index, event in enumerate(events):
        # Reading a field of a message is slow, so the usual event is recognised by as few as possible.
        subject = event.item_id
        if subject:
            columns = items
        elif event.HasField("text"):
            columns, subject = texts, event.text
        else:
            raise _no_subject(f"{group}[{index}]", event)
        if event.HasField("fallback_text"):
            if columns is texts:
                raise InvalidArgumentError.of_field(
                    f"{group}[{index}].fallback_text", "one beside text", "item_id beside it, or none"
                )
            stand_ins.text.append(event.fallback_text)
            stand_ins.position.append(len(items.subject))
        time = event.time
        seconds, nanos = time.seconds, time.nanos
        if not seconds and not nanos and not event.HasField("time"):
            raise InvalidArgumentError.of_field(f"{group}[{index}].time", "none", "when the event happened")
        # Same as `Timestamp.ToMilliseconds`, in a quarter of its time.
        if not (_EARLIEST_S <= seconds <= _LATEST_S and 0 <= nanos < 1_000_000_000):
            raise _bad_time(f"{group}[{index}].time", time)
        columns.subject.append(subject)
        columns.time_ms.append(seconds * 1_000 + nanos // 1_000_000)
        columns.is_current.append(is_current)
        columns.weight.append(event.weight or (0.0 if event.HasField("weight") else 1.0))
        columns.event_type.append(event.event_type)


def type_keys(event_types: Sequence[str]) -> npt.NDArray[np.int64]:
    """The key of each event type, int64 ``[events]``; `UNTYPED` for an empty name."""
    key_of = {name: item_key(name) if name else UNTYPED for name in set(event_types)}
    return np.array([key_of[name] for name in event_types], dtype=np.int64)


def ignores_unknown(request: EventRequest) -> bool:
    """Whether the policy of the request, which is not unspecified, leaves out events with unknown items.

    Raises:
        InvalidArgumentError: It is no policy.
    """
    policy = request.unknown_items
    if policy == UnknownItemPolicy.UNKNOWN_ITEM_POLICY_IGNORE:
        return True
    if policy == UnknownItemPolicy.UNKNOWN_ITEM_POLICY_ERROR:
        return False
    # Proto3 enums are open: a newer caller may send what this version does not know.
    raise InvalidArgumentError.of_field("unknown_items", policy, f"one of {', '.join(UnknownItemPolicy.keys())}")


def _no_subject(path: str, event: Event) -> InvalidArgumentError:
    if event.HasField("item_id"):
        return _empty_id(f"{path}.item_id")
    return InvalidArgumentError.of_field(path, "neither", "one of item_id and text")


def _empty_id(field: str) -> InvalidArgumentError:
    return InvalidArgumentError.of_field(field, "''", "the id of an item, not empty")


def _bad_time(field: str, time: Timestamp) -> InvalidArgumentError:
    return InvalidArgumentError.of_field(
        field, f"{time.seconds} s and {time.nanos} ns", "a time of the years 1 to 9999, nanos 0 to 999999999"
    )
