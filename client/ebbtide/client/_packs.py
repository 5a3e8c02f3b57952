"""Requests of many users, put into as few calls as their fields allow."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ebbtide.client._served import check_limits
from ebbtide.client.codec import Arrays, EncodedRequest, decode, encode, pack_key
from ebbtide.client.codec.users import PackKey
from ebbtide.client.errors import EbbtideError, InvalidArgumentError
from ebbtide.client.results import RecommendResult
from ebbtide.interest.errors import RequestError
from ebbtide.v1 import RecommendRequest


@dataclass(frozen=True)
class User:
    """One request among many."""

    index: int
    """Index of the request in the list of requests."""
    request: RecommendRequest
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


Pack = list[User]
"""Users to ask for in one call: one, or several whose requests stack."""


def packs(requests: Iterable[RecommendRequest], users_per_request: int) -> Iterator[Pack]:
    """The calls to make. Requests are read one by one, so a caller's generator need not end to be served.

    Args:
        requests: One for each user.
        users_per_request: Users of one call, at most. Packs that are not full by the last request come last.
    """
    open_packs: dict[PackKey, Pack] = {}
    for index, request in enumerate(requests):
        user = encoded_user(index, request)
        key = user.pack_key
        if key is None:
            yield [user]
            continue
        pack = open_packs.setdefault(key, [])
        pack.append(user)
        if len(pack) >= users_per_request:
            yield open_packs.pop(key)
    yield from open_packs.values()


def encoded_user(index: int, request: RecommendRequest) -> User:
    """One request with its tensors, encoded with the current time."""
    try:
        return User(index, request, encode(request, clock_ms()))
    except InvalidArgumentError as error:
        return User(index, request, error)


def read_user(user: User, rows: Arrays, model_version: str) -> RecommendResult:
    """The result of one user of a pack.

    Args:
        user: Whose it is.
        rows: The output tensors of this user, without batch dimension.
        model_version: Version of the model that answered.
    """
    try:
        response = decode(rows, user.request.top_n, model_version=model_version)
    except InvalidArgumentError as error:
        return RecommendResult(user.request, error=error, index=user.index)
    return RecommendResult(user.request, response=response, index=user.index)


def failed(users: Pack, error: EbbtideError) -> list[RecommendResult]:
    """The results of users whose call failed."""
    return [RecommendResult(user.request, error=error, index=user.index) for user in users]


def clock_ms() -> int:
    """This machine's clock, Unix milliseconds."""
    return time.time_ns() // 1_000_000
