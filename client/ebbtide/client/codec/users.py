"""Several users in one request: rows padded to the longest, with the number of events of each user.

One request costs the server less than several, and the client far less. A tensor has one row for each user or is left
out for all, so only users whose requests set the same optional tensors share a request.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ebbtide.client.codec.tensors import Arrays, EncodedRequest
from ebbtide.client.errors import InternalError
from ebbtide.interest import contract, served_models
from ebbtide.interest.event_types import UNTYPED


class PackKey(NamedTuple):
    """What users of one request have in common."""

    model_name: str
    tensors: frozenset[str]
    """Optional tensors that the users set, all of them or none."""
    needs_store: bool
    """Whether a user can only be answered from the store of the states. If the store fails, so do all of the request:
    those who can do without are asked for apart."""


_STACKED = (served_models.RECOMMEND.name, served_models.RECOMMEND_SLATE.name, served_models.OBSERVE.name)
"""Models that take several users in one request."""

_NEUTRAL: dict[str, float] = {
    contract.EVENT_ITEM.name: 0,
    contract.EVENT_TIME.name: 0,
    contract.EVENT_WEIGHT.name: 1.0,
    contract.EVENT_TYPE.name: UNTYPED,
    contract.DECAY_SCALE.name: 1.0,
    contract.USER.name: 0,
    contract.ALLOW_STATELESS.name: False,
    contract.RESET_LEARNING.name: False,
}
"""Optional tensors with a value that has the same meaning as leaving the tensor out; of those with an entry for each
event, what an entry is for an event that does not have one."""

_EVENTS = tuple(
    tensor.name
    for tensor in (
        contract.EVENT_ITEM,
        contract.EVENT_TIME,
        contract.EVENT_IS_CURRENT,
        contract.EVENT_WEIGHT,
        contract.EVENT_TYPE,
        contract.EVENT_ID,
    )
)
"""Tensors with an entry for each event, of which ``event_count`` says how many count."""


def pack_key(user: EncodedRequest) -> PackKey | None:
    """Users with the same key may share a request; None for a user who is asked for alone."""
    if user.model_name not in _STACKED:
        return None
    needs_store = contract.USER.name in user.tensors and contract.ALLOW_STATELESS.name not in user.tensors
    return PackKey(user.model_name, frozenset(user.tensors.keys() - _NEUTRAL.keys()), needs_store)


def stack(users: Sequence[EncodedRequest]) -> EncodedRequest:
    """One request for ``recommend``, ``recommend_slate`` or ``observe``, for several users.

    Args:
        users: One or more with the same `pack_key`, each with a batch dimension of 1.

    Returns:
        The same tensors with ``len(users)`` rows, padded to the longest, and ``event_count`` int32
        ``[len(users), 1]``.
    """
    if len(users) == 1:
        return users[0]
    no_events = np.zeros((1, 0))
    events = [user.tensors.get(contract.EVENT_ITEM.name, no_events).shape[1] for user in users]
    names = dict.fromkeys(name for user in users for name in user.tensors)
    tensors = {name: _rows(name, users, events) for name in names}
    tensors[contract.EVENT_COUNT.name] = np.array(events, dtype=np.int32)[:, np.newaxis]
    return EncodedRequest(users[0].model_name, tensors)


def users_of(outputs: Arrays, users: int) -> list[Arrays]:
    """The output tensors of each user, without batch dimension, in the order of `stack`.

    Raises:
        InternalError: An output has another number of rows than `users`.
    """
    for name, array in outputs.items():
        if array.ndim == 0 or len(array) != users:
            raise InternalError(
                f"{name}: got shape {list(array.shape)}; expected {users} rows, one for each user. "
                "Is the model at this address exported by Ebbtide?"
            )
    return [{name: array[row] for name, array in outputs.items()} for row in range(users)]


def _rows(name: str, users: Sequence[EncodedRequest], events: Sequence[int]) -> npt.NDArray[Any]:
    """One tensor of all users, ``[len(users), longest]``."""
    neutral = _NEUTRAL.get(name)
    rows = [
        user.tensors[name][0] if name in user.tensors else np.full(count if name in _EVENTS else 1, neutral)
        for user, count in zip(users, events, strict=True)
    ]
    dtype = next(user.tensors[name].dtype for user in users if name in user.tensors)
    padded = np.zeros((len(rows), max(map(len, rows))), dtype=dtype)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
        if name not in _EVENTS and len(row):
            # Sets of keys have no count: a key that is there twice says nothing new.
            padded[index, len(row) :] = row[0]
    return padded
