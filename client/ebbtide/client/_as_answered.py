"""Answers to a stream of requests, each as soon as it is ready, with a bounded number of requests in flight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


async def as_answered(
    requests: Iterable[Request] | AsyncIterable[Request],
    answer: Callable[[int, Request], Coroutine[Any, Any, Result]],
    max_concurrency: int,
) -> AsyncGenerator[Result, None]:
    """Yields the results in the order in which they come.

    Args:
        requests: Read while answers are awaited, never more than `max_concurrency` ahead of them.
        answer: Answers one request, given its index too.
        max_concurrency: Largest number of requests in flight; a request whose result was not read yet counts.

    Raises:
        BaseException: The exception of `requests` or `answer`; requests in flight are cancelled.
    """
    results: asyncio.Queue[asyncio.Task[Result] | asyncio.Task[None]] = asyncio.Queue()
    slots = asyncio.Semaphore(max_concurrency)
    running: set[asyncio.Task[Result]] = set()

    async def read() -> None:
        index = 0
        async for request in _awaited(requests):
            await slots.acquire()
            task = asyncio.create_task(answer(index, request))
            running.add(task)
            task.add_done_callback(results.put_nowait)
            index += 1

    reader = asyncio.create_task(read())
    reader.add_done_callback(results.put_nowait)
    try:
        while running or not reader.done():
            done = await results.get()
            if done is reader:
                await reader
                continue
            running.remove(done)  # type: ignore[arg-type]
            slots.release()
            yield done.result()  # type: ignore[misc]
        await reader
    finally:
        for task in (reader, *running):
            task.cancel()
        # What fails while it is cancelled is of no interest any more, and asyncio would report it.
        await asyncio.gather(reader, *running, return_exceptions=True)


async def _awaited(requests: Iterable[Request] | AsyncIterable[Request]) -> AsyncIterator[Request]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request
