"""Sends calls of `AsyncInterestClient.recommend`, or of `observe`, of one turn of the event loop as one request."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic

from ebbtide.client._packs import Kind, Pack, User, encoded_user
from ebbtide.client.codec.users import PackKey
from ebbtide.client.config import Unset
from ebbtide.client.results import A, Q, R

Ask = Callable[[Pack[Q], "float | Unset"], Awaitable[list[R]]]
"""Answers a pack within a timeout, seconds; errors are in the results."""


class Gathering(Generic[Q, A, R]):
    """The calls of one client that wait for the end of this turn of the event loop.

    No call waits for others: calls that a busy event loop starts in one turn are sent together, and a single call is
    sent alone.
    """

    def __init__(self, kind: Kind[Q, A, R], ask: Ask[Q, R], users_per_request: int) -> None:
        """Makes an empty one.

        Args:
            kind: Of the requests.
            ask: Answers a pack.
            users_per_request: Users of one pack, at most.
        """
        self._kind = kind
        self._ask = ask
        self._most = users_per_request
        self._open: dict[tuple[PackKey, float | Unset], dict[asyncio.Future[A], User[Q]]] = {}
        self._under_way: set[asyncio.Task[None]] = set()

    async def call(self, request: Q, timeout_s: float | Unset) -> A:
        """The answer to one request.

        Raises:
            EbbtideError: The call failed.
        """
        user = encoded_user(self._kind, 0, request)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[A] = loop.create_future()
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

    def _send(self, group: tuple[PackKey, float | Unset], waiting: dict[asyncio.Future[A], User[Q]]) -> None:
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

        def left(one: asyncio.Future[A]) -> None:
            if one.cancelled() and all(answer.done() for answer in pack):
                task.cancel()

        for answer in pack:
            answer.add_done_callback(left)

    async def _settle(self, pack: dict[asyncio.Future[A], User[Q]], timeout_s: float | Unset) -> None:
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


def _end(answer: asyncio.Future[A], outcome: A | Exception | None) -> None:
    """Gives a call its answer or its error, unless it was cancelled."""
    if answer.done() or outcome is None:
        return
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)
