"""Requests of many users, put into as few calls as their fields allow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic

from ebbtide.client._served import check_limits
from ebbtide.client.codec import (
    Arrays,
    EncodedRequest,
    decode_observed,
    decode_recommended,
    encode,
    encode_observe,
    pack_key,
)
from ebbtide.client.codec.users import PackKey
from ebbtide.client.errors import EbbtideError, InvalidArgumentError
from ebbtide.client.results import A, ObserveResult, Q, R, RecommendResult
from ebbtide.interest import served_models
from ebbtide.interest.errors import RequestError
from ebbtide.v1 import ObserveRequest, ObserveResponse, RecommendRequest, RecommendResponse


@dataclass(frozen=True)
class Kind(Generic[Q, A, R]):
    """A kind of requests of which one call may hold several, each of another user."""

    model_name: str
    """The model that takes several users in one call."""
    encode: Callable[[Q, int], EncodedRequest]
    """The tensors of one request, with the clock of the caller in Unix milliseconds."""
    decode: Callable[[Arrays, Q, str], A]
    """The answer in the output tensors of one user, from the version of a model."""
    result: Callable[..., R]
    """Makes the result of one request, with the fields of `ebbtide.client.results.Result`."""


def _read_recommended(outputs: Arrays, request: RecommendRequest, version: str) -> RecommendResponse:
    return decode_recommended(outputs, request, model_version=version)


def _read_observed(outputs: Arrays, _: ObserveRequest, version: str) -> ObserveResponse:
    return decode_observed(outputs, model_version=version)


RECOMMEND: Kind[RecommendRequest, RecommendResponse, RecommendResult] = Kind(
    served_models.RECOMMEND.name, encode, _read_recommended, RecommendResult
)
OBSERVE: Kind[ObserveRequest, ObserveResponse, ObserveResult] = Kind(
    served_models.OBSERVE.name, lambda request, _: encode_observe(request), _read_observed, ObserveResult
)


@dataclass(frozen=True)
class User(Generic[Q]):
    """One request among many."""

    index: int
    """Index of the request in the list of requests."""
    request: Q
    """The caller's request."""
    encoded: EncodedRequest | InvalidArgumentError
    """The tensors, or the error of a request that has none."""

    @property
    def pack_key(self) -> PackKey | None:
        """Users with the same key may share a call; None for a user who is asked for alone."""
        return pack_key(self.encoded) if isinstance(self.encoded, EncodedRequest) else None

    def is_within(self, limits: Mapping[str, int]) -> bool:
        """Whether no tensor is longer than the server's limits allow."""
        if isinstance(self.encoded, InvalidArgumentError):
            return False
        try:
            check_limits(self.encoded, limits)
        except RequestError:
            return False
        return True


Pack = list[User[Q]]
"""Users to ask for in one call: one, or several whose requests stack."""


def packs(kind: Kind[Q, A, R], requests: Iterable[Q], users_per_request: int) -> Iterator[Pack[Q]]:
    """The calls to make. Requests are read one by one, so a caller's generator need not end to be served.

    Args:
        kind: Of the requests.
        requests: One for each user.
        users_per_request: Users of one call, at most. Packs that are not full by the last request come last.
    """
    open_packs: dict[PackKey, Pack[Q]] = {}
    for index, request in enumerate(requests):
        user = encoded_user(kind, index, request)
        key = user.pack_key
        if key is None:
            yield [user]
            continue
        pack = open_packs.setdefault(key, [])
        pack.append(user)
        if len(pack) >= users_per_request:
            yield open_packs.pop(key)
    yield from open_packs.values()


def encoded_user(kind: Kind[Q, A, R], index: int, request: Q) -> User[Q]:
    """One request with its tensors, encoded with the current time."""
    try:
        return User(index, request, kind.encode(request, clock_ms()))
    except InvalidArgumentError as error:
        return User(index, request, error)


def read_user(kind: Kind[Q, A, R], user: User[Q], rows: Arrays, model_version: str) -> R:
    """The result of one user of a pack.

    Args:
        kind: Of the request.
        user: Whose it is.
        rows: The output tensors of this user, without batch dimension.
        model_version: Version of the model that answered.
    """
    try:
        response = kind.decode(rows, user.request, model_version)
    except InvalidArgumentError as error:
        return kind.result(user.request, error=error, index=user.index)
    return kind.result(user.request, response=response, index=user.index)


def failed(kind: Kind[Q, A, R], users: Pack[Q], error: EbbtideError) -> list[R]:
    """The results of users whose call failed."""
    return [kind.result(user.request, error=error, index=user.index) for user in users]


def clock_ms() -> int:
    """This machine's clock, Unix milliseconds."""
    return time.time_ns() // 1_000_000
