"""Calls of the async client that begin together and travel as one: who gets which answer, and what ends for whom."""

import asyncio
import threading

import grpc
import pytest

from ebbtide.client import (
    AsyncInterestClient,
    CallCancelledError,
    ClientConfig,
    Hooks,
    InvalidArgumentError,
    RetryConfig,
    UnavailableError,
    event,
)

REFUSED = grpc.StatusCode.INVALID_ARGUMENT


def config(users=None, **settings):
    return ClientConfig(check_contract=False, retry=RetryConfig(max_attempts=1), users_per_request=users, **settings)


def together(url, settings, *keywords):
    """The alphas, or errors, of calls that begin in one turn of the event loop."""

    async def run():
        async with AsyncInterestClient(url, config=settings) as client:
            calls = [client.recommend(**one) for one in keywords]
            return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 120)

    found = asyncio.run(run())
    return [one if isinstance(one, Exception) else one.alpha_used for one in found]


def events(index):
    return {"events": [event(item_id=str(index), time_ms=index)]}


def test_each_gets_its_own_answer_when_calls_travel_together(serve, answer):
    url, servicer = serve(answer(0, 0.25, 0.5))
    assert together(url, config(), events(0), events(1), events(2)) == [0, 0.25, 0.5]
    assert servicer.calls == 1


@pytest.mark.parametrize("settings", [config(1), config(hooks=(Hooks(),))], ids=["told", "hooks"])
def test_calls_travel_alone_when_told_or_watched(serve, settings, answer):
    url, servicer = serve(answer(0.5))
    assert together(url, settings, events(0), events(1)) == [0.5, 0.5]
    assert servicer.calls == 2


def test_requests_hold_no_more_users_than_told(serve, answer):
    url, servicer = serve(answer(0, 0.25))
    assert together(url, config(2), *map(events, range(4))) == [0, 0.25, 0, 0.25]
    assert servicer.calls == 2


@pytest.mark.parametrize(
    "other",
    [{"timeout_s": 4.0}, {"metadata": {"x-who": "me"}}, {"alpha": 0.5}, {"current": [event(text="rain", time_ms=1)]}],
    ids=lambda other: next(iter(other)),
)
def test_call_travels_alone_when_it_differs_in_what_one_request_can_say_once(serve, other, answer):
    url, servicer = serve(answer(0.5))
    assert together(url, config(), events(0), {**({} if "current" in other else events(1)), **other}) == [0.5, 0.5]
    assert servicer.calls == 2


def test_others_are_answered_when_one_is_refused(serve, answer):
    said = "in ensemble 'recommend', adaptive_weights: {}event_time[0]: got 2; expected Unix milliseconds"
    url, servicer = serve((REFUSED, said.format("row 1: ")), answer(0, 0.75), (REFUSED, said.format("")))
    first, refused, last = together(url, config(), events(0), events(1), events(2))
    assert (first, last) == (0, 0.75)
    assert type(refused) is InvalidArgumentError
    assert refused.field == "events[0].time"
    assert servicer.calls == 3


def test_refused_before_it_is_sent_fails_alone(serve, answer):
    url, servicer = serve(answer(0, 0.25))
    broken = {"events": [event(item_id="1", time_ms=1)], "history": [event(item_id="2", time_ms=2)]}
    first, refused, last = together(url, config(), events(0), broken, events(1))
    assert (first, last) == (0, 0.25)
    assert type(refused) is InvalidArgumentError
    assert servicer.calls == 1


def test_all_fail_alike_when_the_server_is_unavailable(serve):
    url, servicer = serve((grpc.StatusCode.UNAVAILABLE, "busy"))
    assert [type(one) for one in together(url, config(), events(0), events(1))] == [UnavailableError] * 2
    assert servicer.calls == 1


def test_hooks_see_one_call_when_they_are_told_that_calls_may_travel_together(serve, answer):
    url, _ = serve(answer(0, 0.25))
    seen = []
    hooks = Hooks(after_call=lambda call: seen.append((call.method, call.attempts)))
    together(url, config(2, hooks=(hooks,)), events(0), events(1))
    assert seen == [("recommend", 1)]


def test_others_are_answered_when_one_task_is_cancelled(serve, answer):
    url, servicer = serve(answer(0, 0.25))

    async def run():
        async with AsyncInterestClient(url, config=config()) as client:
            left, kept = (asyncio.create_task(client.recommend(**events(index))) for index in range(2))
            # One turn to begin, one to leave.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            left.cancel()
            return await asyncio.wait_for(asyncio.gather(left, kept, return_exceptions=True), 120)

    left, kept = asyncio.run(run())
    assert type(left) is asyncio.CancelledError
    assert kept.alpha_used == 0.25
    assert servicer.calls == 1


def test_nobody_is_asked_for_when_all_tasks_are_cancelled_before_they_leave(serve, answer):
    url, servicer = serve(answer(0))

    async def run():
        async with AsyncInterestClient(url, config=config()) as client:
            tasks = [asyncio.create_task(client.recommend(**events(index))) for index in range(2)]
            await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 120)

    assert [type(one) for one in asyncio.run(run())] == [asyncio.CancelledError] * 2
    assert servicer.calls == 0


def test_server_hears_of_it_when_all_tasks_are_cancelled(serve):
    held = threading.Event()
    url, servicer = serve(held)
    ended = []
    hooks = Hooks(after_call=lambda call: ended.append(call.status.name))

    async def run():
        async with AsyncInterestClient(url, config=config(2, hooks=(hooks,))) as client:
            tasks = [asyncio.create_task(client.recommend(**events(index))) for index in range(2)]
            while not servicer.calls:
                await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            found = await asyncio.gather(*tasks, return_exceptions=True)
            while not ended:
                await asyncio.sleep(0.01)
            return found

    found = asyncio.run(asyncio.wait_for(run(), 120))
    held.set()
    assert [type(one) for one in found] == [asyncio.CancelledError] * 2
    assert ended == ["CANCELLED"]


def test_calls_end_when_the_client_is_closed_meanwhile(serve):
    held = threading.Event()
    url, servicer = serve(held)

    async def run():
        client = AsyncInterestClient(url, config=config())
        tasks = [asyncio.create_task(client.recommend(**events(index))) for index in range(2)]
        while not servicer.calls:
            await asyncio.sleep(0.01)
        await client.close()
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 120)

    found = asyncio.run(run())
    held.set()
    assert [type(one) for one in found] == [CallCancelledError] * 2
