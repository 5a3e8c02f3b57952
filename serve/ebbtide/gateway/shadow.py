"""Sends a share of the answered requests to a version that is not in service, and compares the answers.

The version is the one that `ebbtide deploy --shadow` has loaded. Its answers go into metrics and a log line, and to no
caller. A request waits in a bounded queue until its answer was handed on; where the queue is full, it is dropped.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum

from ebbtide.client import AsyncInterestClient, ClientConfig, RetryConfig
from ebbtide.client.errors import EbbtideError, InvalidArgumentError, ModelNotReadyError, VersionMismatchError
from ebbtide.gateway.metrics import ShadowMetrics
from ebbtide.interest import served_models
from ebbtide.v1 import RecommendRequest, RecommendResponse

logger = logging.getLogger("ebbtide.gateway.shadow")

COMPARED_ITEMS = 10
_WAITING = 64
"""Requests that wait at most; a further one is dropped."""
AT_ONCE = 4
"""Mirrored requests in flight at most."""
LOOK_AGAIN_S = 2.0
"""For so long after a look that found no version in shadow, requests are counted as absent without another look."""


class Outcome(Enum):
    """What became of a request that was chosen."""

    COMPARED = "compared"
    REFUSED = "refused"
    """The new version says that the request is wrong, which the version in service has answered."""
    FAILED = "failed"
    """The new version gave no answer: too late, overloaded, or a fault."""
    DROPPED = "dropped"
    """As many requests waited as may."""
    ABSENT = "absent"
    """No version is in shadow."""


@dataclass(frozen=True)
class _Answered:
    """A request and what the version in service made of it."""

    request: RecommendRequest
    answer: RecommendResponse
    seconds: float


@dataclass
class _Compared:
    """Sums over the requests that two versions have answered."""

    requests: int = 0
    overlap: float = 0.0
    live_s: float = 0.0
    shadow_s: float = 0.0


class Shadow:
    """Mirrors the requests of one gateway; all calls belong to its event loop."""

    def __init__(
        self, target: str | list[str], config: ClientConfig, share: float, summary_s: float, metrics: ShadowMetrics
    ) -> None:
        """Prepares a connection of its own.

        Args:
            target: Address of Triton.
            config: How the gateway calls it. Hooks do not see the mirrored calls, which are tried once, each alone.
            share: Of the requests to mirror, 0 to 1.
            summary_s: Seconds between two lines of the log.
            metrics: Where the results are counted.
        """
        config = replace(
            config,
            model_suffix=served_models.CANDIDATE_SUFFIX,
            retry=RetryConfig(max_attempts=1),
            hooks=(),
            users_per_request=1,
            shared_memory=False,
            expected_fingerprint=None,
        )
        self._client = AsyncInterestClient(target, config=config)
        self._share, self._summary_s, self._metrics = share, summary_s, metrics
        self._waiting: asyncio.Queue[_Answered] = asyncio.Queue(_WAITING)
        self._tasks: list[asyncio.Task[None]] = []
        self._absent_until_s = 0.0
        self._outcomes: Counter[Outcome] = Counter()
        self._compared: dict[tuple[str, str], _Compared] = {}
        self._first_refusal: str | None = None

    def start(self) -> None:
        """Begins to mirror."""
        self._tasks = [asyncio.create_task(self._mirror()) for _ in range(AT_ONCE)]
        self._tasks.append(asyncio.create_task(self._summarize()))

    async def stop(self) -> None:
        """Drops what waits, writes the last summary and closes the connection."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._tell()
        await self._client.close()

    def offer(self, request: RecommendRequest, answer: RecommendResponse, seconds: float) -> None:
        """Notes an answered request if it is chosen; it is sent after the coroutine that calls this has given way.

        Args:
            request: As the caller sent it.
            answer: That of the version in service.
            seconds: That it took.
        """
        if random.random() >= self._share:  # noqa: S311 - no secret
            return
        if time.monotonic() < self._absent_until_s:
            self._count(Outcome.ABSENT)
            return
        if not request.HasField("now"):
            # Both versions see the same age of every event.
            now_ns = time.time_ns() - int(seconds * 1e9)
            same = RecommendRequest()
            same.CopyFrom(request)
            same.now.FromNanoseconds(now_ns)
            request = same
        try:
            self._waiting.put_nowait(_Answered(request, answer, seconds))
        except asyncio.QueueFull:
            self._count(Outcome.DROPPED)

    async def _mirror(self) -> None:
        while True:
            answered = await self._waiting.get()
            try:
                outcome = await self._compare(answered)
            except Exception:
                logger.exception("a mirrored request failed in the gateway itself")
                outcome = Outcome.FAILED
            self._count(outcome)

    async def _compare(self, answered: _Answered) -> Outcome:
        began_s = time.monotonic()
        if began_s < self._absent_until_s:
            return Outcome.ABSENT
        try:
            mirrored = await self._client.recommend(answered.request)
        except ModelNotReadyError:
            return self._none_there()
        except (InvalidArgumentError, VersionMismatchError) as error:
            # Not the message, which holds what the caller sent.
            field = f" at {error.field}" if isinstance(error, InvalidArgumentError) and error.field else ""
            self._first_refusal = self._first_refusal or f"{type(error).__name__}{field}"
            return Outcome.REFUSED
        except EbbtideError:
            return Outcome.FAILED
        live, shadow = answered.answer.model_version, mirrored.model_version
        if live == shadow:
            # After a deployment the candidates are those of the version in service.
            return self._none_there()
        shadow_s, overlap = time.monotonic() - began_s, overlap_at_10(answered.answer, mirrored)
        self._metrics.compared(live, shadow, overlap, answered.seconds, shadow_s)
        sums = self._compared.setdefault((live, shadow), _Compared())
        sums.requests += 1
        sums.overlap += overlap
        sums.live_s += answered.seconds
        sums.shadow_s += shadow_s
        return Outcome.COMPARED

    def _none_there(self) -> Outcome:
        self._absent_until_s = time.monotonic() + LOOK_AGAIN_S
        return Outcome.ABSENT

    def _count(self, outcome: Outcome) -> None:
        self._outcomes[outcome] += 1
        self._metrics.requests.labels(outcome.value).inc()

    async def _summarize(self) -> None:
        while True:
            await asyncio.sleep(self._summary_s)
            self._tell()

    def _tell(self) -> None:
        """Writes what happened since the last time as one line of JSON, if anything but absence did."""
        outcomes, self._outcomes = self._outcomes, Counter()
        compared, self._compared = self._compared, {}
        refusal, self._first_refusal = self._first_refusal, None
        if outcomes.keys() <= {Outcome.ABSENT}:
            return
        line = {
            "shadow": {outcome.value: outcomes[outcome] for outcome in Outcome},
            "versions": [
                {
                    "live": live,
                    "shadow": shadow,
                    "requests": sums.requests,
                    "mean_overlap_at_10": round(sums.overlap / sums.requests, 4),
                    "mean_live_ms": round(1e3 * sums.live_s / sums.requests, 3),
                    "mean_shadow_ms": round(1e3 * sums.shadow_s / sums.requests, 3),
                }
                for (live, shadow), sums in compared.items()
            ],
            "first_refusal": refusal,
        }
        logger.info("%s", json.dumps(line))


def overlap_at_10(live: RecommendResponse, shadow: RecommendResponse) -> float:
    """Share of the first ten items of an answer that another one has among its first ten; 1 for two empty lists."""
    old = {item.item_id for item in live.items[:COMPARED_ITEMS]}
    new = {item.item_id for item in shadow.items[:COMPARED_ITEMS]}
    return len(old & new) / len(old) if old else float(not new)
