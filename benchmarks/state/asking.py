"""Recommendations by user id compared with requests that carry the events: the Python client to one server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np

from benchmarks.serving.load import Turn
from benchmarks.serving.turns import ratio, raw
from benchmarks.state.histories import LENGTHS, Log, asked_id
from ebbtide.client import AsyncInterestClient, InterestClient, RecommendRequest, StateStatus, recommend_request

IN_FLIGHT = 16
BY_EVENTS = (60, 512)
"""Lengths of the requests that carry events."""
COMPARED = 512
"""Length of the histories of the users by whom the two forms are compared."""
_TIMEOUT_S = 30.0

Results = dict[str, Any]
Requests = Mapping[str, Sequence[RecommendRequest]]


def requests_of(log: Log) -> dict[str, list[RecommendRequest]]:
    """The requests of each form, by its name; those with events are of the users of `COMPARED`."""
    by_events = {
        _with_events(events): [recommend_request(events=history[-events:]) for history in log.asked[COMPARED]]
        for events in BY_EVENTS
    }
    by_user = {
        _by_user(length): [recommend_request(user_id=asked_id(length, index)) for index in range(users)]
        for length, users in LENGTHS.items()
    }
    return {**by_events, **by_user}


def measure(url: str, log: Log, repeats: int, seconds: float, rounds: int) -> Results:
    """Ratios and medians; all forms take turns.

    Args:
        url: ``host:port`` of a server that knows the users of the log.
        log: The log.
        repeats: Turns of each form.
        seconds: Length of a turn with `IN_FLIGHT` requests.
        rounds: Requests of each form in a turn with one request at a time.
    """
    requests = requests_of(log)
    _require_states(url, requests)
    busy = asyncio.run(_busy_turns(url, requests, repeats, seconds))
    # Turns are short, so there can be more of them: what else the machine does then evens out.
    alone = _alone(url, requests, 3 * repeats, rounds)
    by_user, plain, long = _by_user(COMPARED), *map(_with_events, BY_EVENTS)
    return {
        "throughput_over_recommend_512": ratio(*(_rates(busy[name]) for name in (by_user, long))),
        "throughput_over_recommend_60": ratio(*(_rates(busy[name]) for name in (by_user, plain))),
        "p50_over_recommend_60": ratio(alone[by_user], alone[plain]),
        "p50_10000_events_over_10": ratio(alone[_by_user(10_000)], alone[_by_user(10)]),
        "in_flight": IN_FLIGHT,
        "busy": raw(busy),
        "p50_ms": {name: round(float(np.median(found)), 4) for name, found in alone.items()},
        "p50_ms_turns": alone,
    }


def _with_events(events: int) -> str:
    return f"recommend_{events}"


def _by_user(length: int) -> str:
    return f"by_user_of_{length}"


def _rates(turns: Sequence[Turn]) -> list[float]:
    return [turn.requests_per_s for turn in turns]


def _require_states(url: str, requests: Requests) -> None:
    """Checks that what is measured is what it is called."""
    with InterestClient(url) as client:
        for name, of_name in requests.items():
            expected = StateStatus.STATE_STATUS_USED if of_name[0].user_id else StateStatus.STATE_STATUS_UNSPECIFIED
            answer = client.recommend(of_name[0], timeout_s=_TIMEOUT_S)
            if answer.state_status != expected or not answer.items:
                raise RuntimeError(f"{name}: got state status {answer.state_status}, expected {expected}")


async def _busy_turns(url: str, requests: Requests, repeats: int, seconds: float) -> dict[str, list[Turn]]:
    async with AsyncInterestClient(url) as client:
        endless = {name: cycle(of_name) for name, of_name in requests.items()}
        found: dict[str, list[Turn]] = {name: [] for name in requests}
        for repeat in range(-1, repeats):
            for name in list(endless) if repeat % 2 == 0 else reversed(endless):
                turn = await _busy_turn(client, endless[name], seconds)
                if repeat >= 0:
                    found[name].append(turn)
        return found


async def _busy_turn(client: AsyncInterestClient, requests: Iterator[RecommendRequest], seconds: float) -> Turn:
    latencies: list[float] = []
    began = time.perf_counter()

    async def worker() -> None:
        while (sent := time.perf_counter()) < began + seconds:
            await client.recommend(next(requests), timeout_s=_TIMEOUT_S)
            latencies.append(time.perf_counter() - sent)

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    passed = time.perf_counter() - began
    p50, p99 = np.percentile(latencies, (50, 99)) * 1e3
    return Turn(round(len(latencies) / passed, 1), round(float(p50), 4), round(float(p99), 4))


def _alone(url: str, requests: Requests, repeats: int, rounds: int) -> dict[str, list[float]]:
    """The median of each turn in milliseconds, one request at a time."""
    found: dict[str, list[float]] = {name: [] for name in requests}
    with InterestClient(url) as client:
        endless = {name: cycle(of_name) for name, of_name in requests.items()}
        for repeat in range(repeats):
            for name in list(endless) if repeat % 2 == 0 else reversed(endless):
                latencies = []
                for _ in range(rounds):
                    request = next(endless[name])
                    sent = time.perf_counter()
                    client.recommend(request, timeout_s=_TIMEOUT_S)
                    latencies.append(time.perf_counter() - sent)
                found[name].append(round(float(np.median(latencies)) * 1e3, 4))
    return found
