"""Answers to a stream: as they come, bounded in number, and none lost when something fails."""

import asyncio
from contextlib import aclosing

import pytest

from deadlines import PATIENT
from ebbtide.client import AsyncInterestClient, recommend_request
from ebbtide.client._as_answered import as_answered


async def collected(requests, answer, max_concurrency):
    return [result async for result in as_answered(requests, answer, max_concurrency)]


async def letters(*values):
    for value in values:
        await asyncio.sleep(0)
        yield value


def test_results_come_as_they_are_answered_when_an_early_one_takes_longer():
    async def run():
        answered_b = asyncio.Event()

        async def answer(index, request):
            if request == "a":
                await answered_b.wait()
            else:
                answered_b.set()
            return index, request

        for requests in (["a", "b"], letters("a", "b")):
            answered_b.clear()
            assert await collected(requests, answer, 2) == [(1, "b"), (0, "a")]
        assert await collected([], answer, 2) == []

    asyncio.run(run())


def test_requests_are_read_no_further_ahead_than_the_bound_when_nobody_takes_results():
    async def run():
        read, most, running = [], 0, 0

        def requests():
            for number in range(20):
                read.append(number)
                yield number

        async def answer(index, _):
            nonlocal most, running
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            return index

        async with aclosing(as_answered(requests(), answer, 3)) as stream:
            first = await anext(stream)
            for _ in range(20):
                await asyncio.sleep(0)
            # Three under way or waiting to be taken, one read and waiting for room, and the one that was taken.
            assert len(read) <= 5
            rest = [result async for result in stream]
        assert sorted([first, *rest]) == list(range(20))
        assert most <= 3

    asyncio.run(run())


def test_failure_of_the_source_is_raised_when_answers_are_still_under_way():
    async def run():
        cancelled = asyncio.Event()

        async def answer(index, request):
            if request == "slow":
                try:
                    await asyncio.Event().wait()
                finally:
                    cancelled.set()
            return index

        async def failing():
            yield "slow"
            await asyncio.sleep(0)
            raise ValueError("the source broke")

        with pytest.raises(ValueError, match="the source broke"):
            await collected(failing(), answer, 4)
        await asyncio.wait_for(cancelled.wait(), 10)

        async def breaking():
            yield "fast"
            raise ValueError("the source broke")

        for _ in range(20):
            with pytest.raises(ValueError, match="the source broke"):
                await collected(breaking(), answer, 4)

    asyncio.run(run())


def test_calls_under_way_are_cancelled_when_the_stream_is_closed():
    async def run():
        cancelled = 0

        async def answer(index, _):
            nonlocal cancelled
            if index == 0:
                return index
            try:
                await asyncio.Event().wait()
            finally:
                cancelled += 1

        async with aclosing(as_answered(range(3), answer, 3)) as stream:
            assert await anext(stream) == 0
        for _ in range(5):
            await asyncio.sleep(0)
        assert cancelled == 2

    asyncio.run(run())


def test_async_client_answers_while_its_source_waits_when_requests_come_one_by_one(triton):
    async def run():
        answered = asyncio.Event()

        async def sessions():
            yield recommend_request(top_n=1)
            # The source goes on only once the first answer is there.
            await answered.wait()
            yield recommend_request(alpha=2)

        indices = []
        async with AsyncInterestClient(triton.grpc_url, config=PATIENT) as client:
            async for result in client.recommend_stream(sessions(), timeout_s=60):
                indices.append((result.index, result.error and result.error.field))
                answered.set()
        assert indices == [(0, None), (1, "alpha")]

    asyncio.run(asyncio.wait_for(run(), 120))
