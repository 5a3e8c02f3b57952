"""Events observed per second of processor time: the Python client to one server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import count, cycle, islice
from statistics import median
from typing import Any

from benchmarks.state.histories import OBSERVED, Log, observed_id
from benchmarks.state.processes import cpu_s
from ebbtide.client import InterestClient, ObserveRequest, event, observe_request

TOGETHER = (64, 1)
"""Users of one request; each has one new event."""
CALLS_IN_FLIGHT = {64: 4, 1: 16}
_CHUNK = 1024
_TIMEOUT_S = 60.0

Results = dict[str, Any]


def measure(url: str, pids: Sequence[int], log: Log, repeats: int, seconds: float) -> Results:
    """Rates; requests of many users and of single ones take turns.

    Args:
        url: ``host:port`` of a server that knows the users of the log.
        pids: Of the server, and of the store's server if it has one: their processor time counts.
        log: The log.
        repeats: Turns of each.
        seconds: Least length of a turn.
    """
    turns: dict[int, list[dict[str, float]]] = {together: [] for together in TOGETHER}
    with InterestClient(url) as client:
        requests = _requests(log)
        for repeat in range(-1, repeats):
            for together in TOGETHER if repeat % 2 == 0 else reversed(TOGETHER):
                turn = _turn(client, pids, requests, together, seconds)
                if repeat >= 0:
                    turns[together].append(turn)
    medians = {
        together: {name: round(median(turn[name] for turn in found), 2) for name in found[0]}
        for together, found in turns.items()
    }
    return {
        "events_per_s_per_core": medians[TOGETHER[0]]["events_per_s_per_core"],
        "events_per_s": medians[TOGETHER[0]]["events_per_s"],
        "users_per_request": TOGETHER[0],
        "by_users_per_request": [{"users": together, **medians[together]} for together in TOGETHER],
        "turns": {str(together): found for together, found in turns.items()},
    }


def _requests(log: Log) -> Iterator[ObserveRequest]:
    """One new event of each user in turn: an item of the catalog, now."""
    items = cycle(log.item_ids)
    for index in count():
        now_ms = time.time_ns() // 1_000_000
        yield observe_request(observed_id(index % OBSERVED), [event(item_id=next(items), time_ms=now_ms)])


def _turn(
    client: InterestClient, pids: Sequence[int], requests: Iterator[ObserveRequest], together: int, seconds: float
) -> dict[str, float]:
    done, busy_s, began = 0, cpu_s(pids), time.perf_counter()
    while time.perf_counter() < began + seconds:
        results = client.observe_many(
            islice(requests, _CHUNK),
            users_per_request=together,
            max_concurrency=CALLS_IN_FLIGHT[together],
            timeout_s=_TIMEOUT_S,
        )
        for result in results:
            if result.error is not None:
                raise result.error
            if result.response is None or result.response.added_events != 1:
                raise RuntimeError(f"observe: got {result.response}, expected one event added")
        done += len(results)
    passed = time.perf_counter() - began
    busy_s = cpu_s(pids) - busy_s
    return {
        "events_per_s_per_core": round(done / busy_s, 1),
        "events_per_s": round(done / passed, 1),
        "busy_cores": round(busy_s / passed, 3),
    }
