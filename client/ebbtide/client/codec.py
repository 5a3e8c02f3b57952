"""Typed messages to and from the tensors of the exported models; no I/O, so clients, gateway and tests share it.

Names, dtypes and batch rules come from `ebbtide.interest.contract`. A request without free text goes to the batching
ensemble ``recommend``, whose tensors carry a leading batch dimension of 1; one with free text goes to
``recommend_text``, whose tensors carry none and list the events with an item before those with a text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from google.protobuf.timestamp_pb2 import Timestamp

from ebbtide.client.errors import InternalError, InvalidArgumentError
from ebbtide.interest import contract
from ebbtide.interest.contract import Dtype, Model, Tensor
from ebbtide.interest.keys import item_keys
from ebbtide.v1 import Event, RecommendRequest, RecommendResponse

DEFAULT_TOP_N = 10
"""Items of an answer when the request does not say how many."""

_EARLIEST_S, _LATEST_S = -62_135_596_800, 253_402_300_799
"""The years 1 to 9999, which a `Timestamp` can say."""

Arrays = Mapping[str, npt.NDArray[Any]]
"""Tensors by name."""

_NUMPY: dict[Dtype, type[Any]] = {
    Dtype.BOOL: np.bool_,
    Dtype.INT32: np.int32,
    Dtype.INT64: np.int64,
    Dtype.FP32: np.float32,
    Dtype.BYTES: np.object_,
}


@dataclass(frozen=True)
class EncodedRequest:
    """What to send: the model to call and its input tensors."""

    model_name: str
    """A model of the contract that is called from outside: an ensemble."""
    tensors: Arrays
    """Input tensors by name, with the model's batch dimension where it has one."""


class LocatedEvent(NamedTuple):
    """An event and where the caller put it."""

    group: str
    """Field of `RecommendRequest`: history, current or events."""
    place: int
    """Index within that field."""
    event: Event

    @property
    def path(self) -> str:
        """Where the caller put it, as in ``history[3]``."""
        return f"{self.group}[{self.place}]"


def tensor_order(request: RecommendRequest) -> tuple[list[LocatedEvent], list[LocatedEvent]]:
    """The events with an item, and those with a text, each in the order of the tensors' entries.

    Tensors that describe every event list the first before the second.
    """
    items: list[LocatedEvent] = []
    texts: list[LocatedEvent] = []
    for group, events in (("history", request.history), ("current", request.current), ("events", request.events)):
        for place, event in enumerate(events):
            located = LocatedEvent(group, place, event)
            (texts if event.HasField("text") else items).append(located)
    return items, texts


def encode(request: RecommendRequest, now_ms: int) -> EncodedRequest:
    """The tensors of one request.

    Args:
        request: What the caller asks for.
        now_ms: The caller's clock, Unix milliseconds; used when the request carries no `now`.

    Returns:
        For ``recommend``: ``event_item``, ``event_time`` int64 ``[1, events]`` and ``now`` int64 ``[1, 1]``, and the
        optional tensors that the request calls for. For ``recommend_text`` the same without the leading dimension, and
        ``text`` of bytes ``[text events]``.

    Raises:
        InvalidArgumentError: What the server could not see: `events` mixed with `history` or `current`, an event
            without subject or time, an empty item id, a time that is no valid timestamp.
    """
    if request.events and (request.history or request.current):
        raise InvalidArgumentError.of_field(
            "events",
            "history or current beside it",
            "either history and current, or events for the server to split",
        )
    items, texts = _Columns([], [], [], []), _Columns([], [], [], [])
    for group, events in (("history", request.history), ("current", request.current), ("events", request.events)):
        _read_events(group, events, items, texts)
    model = contract.RECOMMEND_TEXT if texts.subject else contract.RECOMMEND
    tensors: dict[Tensor, Sequence[Any] | npt.NDArray[Any]] = {
        contract.EVENT_ITEM: item_keys(items.subject),
        contract.EVENT_TIME: items.time_ms + texts.time_ms,
        contract.NOW: [_now_ms(request, now_ms)],
    }
    if request.history or request.current:
        tensors[contract.EVENT_IS_CURRENT] = items.is_current + texts.is_current
    weights = items.weight + texts.weight
    if any(weight != 1 for weight in weights):
        tensors[contract.EVENT_WEIGHT] = weights
    if request.HasField("alpha"):
        tensors[contract.ALPHA] = [request.alpha]
    if request.exclude_item_ids:
        for index, item_id in enumerate(request.exclude_item_ids):
            if not item_id:
                raise _empty_id(f"exclude_item_ids[{index}]")
        tensors[contract.EXCLUDE_ITEM] = item_keys(request.exclude_item_ids)
    if request.HasField("exclude_seen"):
        tensors[contract.EXCLUDE_SEEN] = [request.exclude_seen]
    if texts.subject:
        tensors[contract.TEXT] = [text.encode() for text in texts.subject]
    return _encoded(model, tensors)


def decode(outputs: Arrays, top_n: int = 0, *, model_version: str = "") -> RecommendResponse:
    """The answer that the output tensors carry.

    Args:
        outputs: ``item_id`` of bytes ``[1, N]``, ``score`` float32 ``[1, N]``, best first, ``alpha_used`` float32 and
            ``events_used`` int32, one value each; a leading dimension of 1 may be there or not.
        top_n: Items wanted, as in `RecommendRequest`; 0 is 10, or fewer where the model gives fewer.
        model_version: Version of the model that answered.

    Returns:
        The best `top_n` items. Excluded ones, whose score is minus infinity, are left out.

    Raises:
        InvalidArgumentError: More items wanted than the model was exported with.
        InternalError: An output is missing, or ids and scores do not pair up.
    """
    ids = _flat(outputs, contract.ITEM_ID)
    scores = _flat(outputs, contract.SCORE)
    if len(ids) != len(scores):
        raise InternalError(
            f"{contract.SCORE.name}: got {len(scores)} scores; expected one for each of the {len(ids)} ids. "
            "Is the model at this address exported by Ebbtide?"
        )
    if top_n > len(ids):
        raise InvalidArgumentError.of_field(
            "top_n", top_n, f"at most {len(ids)}: the model was exported with --top-n {len(ids)}"
        )
    response = RecommendResponse(
        alpha_used=float(_flat(outputs, contract.ALPHA_USED)[0]),
        events_used=int(_flat(outputs, contract.EVENTS_USED)[0]),
        model_version=model_version,
    )
    kept = np.flatnonzero(~np.isneginf(scores))[: top_n or DEFAULT_TOP_N]
    for index in kept:
        response.items.add(item_id=ids[index], score=float(scores[index]))
    return response


def encode_texts(texts: Sequence[str]) -> EncodedRequest:
    """The tensors that ask for the vectors of texts: ``text`` of bytes ``[texts]``.

    Raises:
        InvalidArgumentError: No texts at all.
    """
    if not texts:
        raise InvalidArgumentError.of_field("texts", "none", "at least one text")
    return _encoded(contract.EMBED, {contract.TEXT: [text.encode() for text in texts]})


def decode_vectors(outputs: Arrays) -> npt.NDArray[np.float32]:
    """The vectors of texts, float32 ``[texts, d]``.

    Raises:
        InternalError: The output is missing, or no matrix.
    """
    vectors = _output(outputs, contract.TEXT_VECTOR)
    if vectors.ndim != 2:
        raise InternalError(
            f"{contract.TEXT_VECTOR.name}: got shape {list(vectors.shape)}; expected [texts, d]. "
            "Is the model at this address exported by Ebbtide?"
        )
    return vectors.astype(_NUMPY[contract.TEXT_VECTOR.dtype], copy=False)


def _encoded(model: Model, tensors: Mapping[Tensor, Sequence[Any] | npt.NDArray[Any]]) -> EncodedRequest:
    arrays = {tensor.name: np.asarray(values, dtype=_NUMPY[tensor.dtype]) for tensor, values in tensors.items()}
    if model.batching:
        arrays = {name: array[np.newaxis] for name, array in arrays.items()}
    return EncodedRequest(model.name, arrays)


class _Columns(NamedTuple):
    """The events with an item, or those with a text, attribute by attribute."""

    subject: list[str]
    time_ms: list[int]
    is_current: list[bool]
    weight: list[float]


def _read_events(group: str, events: Sequence[Event], items: _Columns, texts: _Columns) -> None:
    """Adds the events of one field to the columns; the loop that a request's encoding time is spent in."""
    is_current = group == "current"
    for place, event in enumerate(events):
        if event.HasField("text"):
            columns, subject = texts, event.text
        else:
            columns, subject = items, event.item_id
            if not subject:
                raise _no_subject(f"{group}[{place}]", event)
        time = event.time
        seconds, nanos = time.seconds, time.nanos
        if not seconds and not nanos and not event.HasField("time"):
            raise InvalidArgumentError.of_field(f"{group}[{place}].time", "none", "when the event happened")
        # As `Timestamp.ToMilliseconds`, which takes four times as long.
        if not (_EARLIEST_S <= seconds <= _LATEST_S and 0 <= nanos < 1_000_000_000):
            raise _bad_time(f"{group}[{place}].time", time)
        columns.subject.append(subject)
        columns.time_ms.append(seconds * 1_000 + nanos // 1_000_000)
        columns.is_current.append(is_current)
        columns.weight.append(event.weight or (0.0 if event.HasField("weight") else 1.0))


def _no_subject(path: str, event: Event) -> InvalidArgumentError:
    if event.HasField("item_id"):
        return _empty_id(f"{path}.item_id")
    return InvalidArgumentError.of_field(path, "neither", "one of item_id and text")


def _empty_id(field: str) -> InvalidArgumentError:
    return InvalidArgumentError.of_field(field, "''", "the id of an item, not empty")


def _now_ms(request: RecommendRequest, clock_ms: int) -> int:
    if not request.HasField("now"):
        return clock_ms
    try:
        return request.now.ToMilliseconds()
    except ValueError as error:
        raise _bad_time("now", request.now) from error


def _bad_time(field: str, time: Timestamp) -> InvalidArgumentError:
    return InvalidArgumentError.of_field(
        field, f"{time.seconds} s and {time.nanos} ns", "a time of the years 1 to 9999, nanos 0 to 999999999"
    )


def _output(outputs: Arrays, tensor: Tensor) -> npt.NDArray[Any]:
    array = outputs.get(tensor.name)
    if array is None:
        raise InternalError(
            f"{tensor.name}: missing from the server's answer, which has {', '.join(sorted(outputs)) or 'nothing'}. "
            "Is the model at this address exported by Ebbtide?"
        )
    return array


def _flat(outputs: Arrays, tensor: Tensor) -> npt.NDArray[Any]:
    array = _output(outputs, tensor).reshape(-1)
    if array.size == 0:
        raise InternalError(f"{tensor.name}: got no values; expected at least one")
    return array
