"""Several people in one request: rows padded to the longest, with the number of events that are each person's own.

One request costs the server less than several, and the client far less. What a row leaves out cannot be left out of a
tensor that has one row for each person, so only people who set the same optional tensors share a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.client.codec.tensors import Arrays, EncodedRequest
from ebbtide.client.errors import InternalError
from ebbtide.interest import contract

PackKey = frozenset[str]
"""The optional tensors that people of one request set, all of them or none."""

_NEUTRAL: dict[str, float] = {contract.EVENT_WEIGHT.name: 1.0, contract.DECAY_SCALE.name: 1.0}
"""Optional tensors with a value that says the same as leaving them out."""

_EVENTS = tuple(
    tensor.name
    for tensor in (contract.EVENT_ITEM, contract.EVENT_TIME, contract.EVENT_IS_CURRENT, contract.EVENT_WEIGHT)
)
"""Tensors with an entry for each event, of which ``event_count`` says how many count."""


def pack_key(person: EncodedRequest) -> PackKey | None:
    """What people must have in common to share a request; None for one who can share with nobody."""
    if person.model_name != contract.RECOMMEND.name:
        return None
    return frozenset(person.tensors.keys() - _NEUTRAL.keys())


def stack(people: Sequence[EncodedRequest]) -> EncodedRequest:
    """One request for ``recommend`` that asks for several people.

    Args:
        people: One or more with the same `pack_key`, each with a batch dimension of 1.

    Returns:
        The same tensors with ``len(people)`` rows, padded to the longest, and ``event_count`` int32
        ``[len(people), 1]``.
    """
    if len(people) == 1:
        return people[0]
    events = [person.tensors[contract.EVENT_ITEM.name].shape[1] for person in people]
    names = dict.fromkeys(name for person in people for name in person.tensors)
    tensors = {name: _rows(name, people, events) for name in names}
    tensors[contract.EVENT_COUNT.name] = np.array(events, dtype=np.int32)[:, np.newaxis]
    return EncodedRequest(people[0].model_name, tensors)


def people_of(outputs: Arrays, people: int) -> list[Arrays]:
    """The output tensors of each person, without batch dimension, in the order of `stack`.

    Raises:
        InternalError: An output has another number of rows than `people`.
    """
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != people:
            raise InternalError(
                f"{name}: got shape {list(array.shape)}; expected {people} rows, one for each person. "
                "Is the model at this address exported by Ebbtide?"
            )
    return [{name: array[row] for name, array in outputs.items()} for row in range(people)]


def _rows(name: str, people: Sequence[EncodedRequest], events: Sequence[int]) -> npt.NDArray[Any]:
    """One tensor of all people, ``[len(people), longest]``."""
    neutral = _NEUTRAL.get(name)
    rows = [
        person.tensors[name][0] if name in person.tensors else np.full(count if name in _EVENTS else 1, neutral)
        for person, count in zip(people, events, strict=True)
    ]
    dtype = next(person.tensors[name].dtype for person in people if name in person.tensors)
    padded = np.zeros((len(rows), max(map(len, rows))), dtype=dtype)
    for place, row in enumerate(rows):
        padded[place, : len(row)] = row
        if name not in _EVENTS and len(row):
            # Sets of keys have no count: a key that is there twice says nothing new.
            padded[place, len(row) :] = row[0]
    return padded
