"""Sends calls of `AsyncInterestClient.recommend` that start in the same turn of the event loop as one request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ebbtide.client._packs import Pack, User, encoded_user
from ebbtide.client.codec.users import PackKey
from ebbtide.client.config import Unset
from ebbtide.client.results import RecommendResult
from ebbtide.v1 import RecommendRequest, RecommendResponse

Ask = Callable[[Pack, "float | Unset"], Awaitable[list[RecommendResult]]]
"""Answers a pack within a timeout, seconds; errors are in the results."""

_Answer = asyncio.Future[RecommendResponse]


class Gathering:
    """The calls of one client that wait for the end of this turn of the event loop.

    No call waits for others: calls that a busy event loop starts in one turn are sent together, and a single call is
    sent alone.
    """

    def __init__(self, ask: Ask, users_per_request: int) -> None:
        """Makes an empty one.

        Args:
            ask: Answers a pack.
            users_per_request: Users of one pack, at most.
        """
        self._ask = ask
        self._most = users_per_request
        self._open: dict[tuple[PackKey, float | Unset], dict[_Answer, User]] = {}
        self._under_way: set[asyncio.Task[None]] = set()

    async def recommend(self, request: RecommendRequest, timeout_s: float | Unset) -> RecommendResponse:
        """The answer to one request.

        Raises:
            EbbtideError: The call failed.
        """
        user = encoded_user(0, request)
        loop = asyncio.get_running_loop()
        answer: _Answer = loop.create_future()
        if user.pack_key is None:
            await self._settle({answer: user}, timeout_s)
            return await answer
        group = user.pack_key, timeout_s
        waiting = self._open.get(group)
        if waiting is None:
            waiting = self._open[group] = {}
            loop.call_soon(self._send, group, waiting)
        waiting[answer] = user
        if len(waiting) >= self._most:
            self._send(group, waiting)
        return await answer

    def _send(self, group: tuple[PackKey, float | Unset], waiting: dict[_Answer, User]) -> None:
        if self._open.get(group) is not waiting:
            return  # it was full before the turn ended
        del self._open[group]
        pack = {answer: user for answer, user in waiting.items() if not answer.done()}
        if not pack:
            return
        task = asyncio.create_task(self._settle(pack, group[1]))
        # The event loop itself holds a task only weakly.
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

        def left(one: _Answer) -> None:
            if one.cancelled() and all(answer.done() for answer in pack):
                task.cancel()

        for answer in pack:
            answer.add_done_callback(left)

    async def _settle(self, pack: dict[_Answer, User], timeout_s: float | Unset) -> None:
        """Sends a pack, and gives each waiting call its answer or its error."""
        users = [User(index, one.request, one.encoded) for index, one in enumerate(pack.values())]
        try:
            results = await self._ask(users, timeout_s)
        except BaseException as error:
            for answer in pack:
                if isinstance(error, Exception):
                    _end(answer, error)
                else:
                    answer.cancel()
            if isinstance(error, Exception):
                return
            raise
        answers = list(pack)
        for result in results:
            _end(answers[result.index], result.error if result.response is None else result.response)


def _end(answer: _Answer, outcome: RecommendResponse | Exception | None) -> None:
    """Gives a call its answer or its error, unless it was cancelled."""
    if answer.done() or outcome is None:
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
