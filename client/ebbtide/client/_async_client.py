"""The client that is awaited: `AsyncInterestClient`."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.client._events import one_request, recommend_request, strings
from ebbtide.client._operations import Operations
from ebbtide.client._steps import AskToken, Rpc, Steps, T, Wait
from ebbtide.client._triton import Untyped, open_async
from ebbtide.client.config import UNSET, ClientConfig, Unset
from ebbtide.client.errors import CallCancelledError, DeadlineExceededError, EbbtideError, Status
from ebbtide.client.metadata import ModelMetadata, ServerMetadata
from ebbtide.client.results import RecommendResult
from ebbtide.interest import contract
from ebbtide.v1 import Event, RecommendRequest, RecommendResponse


class AsyncInterestClient:
    """`InterestClient` for asyncio: the same methods, to await; cancelling the task cancels the call on the server.

    All calls of one client belong to the event loop of its first one.

        async with AsyncInterestClient("localhost:8001") as client:
            response = await client.recommend(history=[event(item_id="318", time=yesterday)], top_n=5)
    """

    def __init__(self, url: str | Sequence[str] = "localhost:8001", *, config: ClientConfig | None = None) -> None:
        """Prepares a connection, which the first call opens; arguments and errors are those of `InterestClient`."""
        self._operations = Operations(url, config, type(self).__name__)
        self._triton: Untyped = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def recommend(
        self,
        request: RecommendRequest | None = None,
        *,
        history: Iterable[Event] = (),
        current: Iterable[Event] = (),
        events: Iterable[Event] = (),
        now: datetime | None = None,
        alpha: float | None = None,
        exclude: Iterable[str] = (),
        exclude_seen: bool | None = None,
        top_n: int | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> RecommendResponse:
        """As `InterestClient.recommend`."""
        keywords = recommend_request(
            history=history,
            current=current,
            events=events,
            now=now,
            alpha=alpha,
            exclude=exclude,
            exclude_seen=exclude_seen,
            top_n=top_n,
        )
        return await self._drive(self._operations.recommend(one_request(request, keywords), timeout_s, metadata))

    async def recommend_many(
        self,
        requests: Iterable[RecommendRequest],
        *,
        max_concurrency: int = 16,
        timeout_s: float | Unset = UNSET,
    ) -> list[RecommendResult]:
        """As `InterestClient.recommend_many`."""
        self._operations.check_many(max_concurrency, timeout_s)
        waiting = enumerate(requests)
        results: dict[int, RecommendResult] = {}

        async def worker() -> None:
            for index, request in waiting:
                results[index] = await self._drive(self._operations.recommend_one_of_many(request, timeout_s))

        workers = [asyncio.create_task(worker()) for _ in range(max_concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for task in workers:
                task.cancel()
        return [results[index] for index in range(len(results))]

    async def embed(
        self,
        texts: Iterable[str],
        *,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> npt.NDArray[np.float32]:
        """As `InterestClient.embed`."""
        return await self._drive(self._operations.embed(strings("texts", texts), timeout_s, metadata))

    async def is_live(self, *, timeout_s: float | Unset = UNSET) -> bool:
        """As `InterestClient.is_live`."""
        return await self._drive(self._operations.is_live(timeout_s))

    async def is_ready(self, model_name: str = contract.RECOMMEND.name, *, timeout_s: float | Unset = UNSET) -> bool:
        """As `InterestClient.is_ready`."""
        return await self._drive(self._operations.is_ready(model_name, timeout_s))

    async def wait_until_ready(self, timeout_s: float, model_name: str = contract.RECOMMEND.name) -> None:
        """As `InterestClient.wait_until_ready`."""
        await self._drive(self._operations.wait_until_ready(timeout_s, model_name))

    async def server_metadata(self, *, timeout_s: float | Unset = UNSET) -> ServerMetadata:
        """As `InterestClient.server_metadata`."""
        return await self._drive(self._operations.server_metadata(timeout_s))

    async def model_metadata(
        self, model_name: str = contract.RECOMMEND.name, *, timeout_s: float | Unset = UNSET
    ) -> ModelMetadata:
        """As `InterestClient.model_metadata`."""
        return await self._drive(self._operations.model_metadata(model_name, timeout_s))

    async def close(self) -> None:
        """As `InterestClient.close`."""
        if self._operations.close() and self._triton is not None:
            await self._triton.close()

    async def __aenter__(self) -> AsyncInterestClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return repr(self._operations)

    async def _drive(self, steps: Steps[T]) -> T:
        """Takes the steps of a call one after the other, and awaits each."""
        try:
            step = next(steps)
            while True:
                try:
                    outcome = await self._perform(step)
                except BaseException as error:  # the steps know what to do with it
                    step = steps.throw(error)
                else:
                    step = steps.send(outcome)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    async def _perform(self, step: Rpc | Wait | AskToken) -> Untyped:
        if isinstance(step, Rpc):
            return await self._call(step)
        if isinstance(step, Wait):
            return await asyncio.sleep(step.seconds)
        token = step.provider()
        if not inspect.isawaitable(token):
            return token
        try:
            return await asyncio.wait_for(token, step.timeout_s)
        except asyncio.TimeoutError as error:
            raise DeadlineExceededError(
                f"The token provider gave no token within the {step.timeout_s:.3g} s that the call had left."
            ) from error

    async def _call(self, rpc: Rpc) -> Untyped:
        try:
            return await getattr(self._connected(), rpc.method)(**rpc.arguments)
        except asyncio.CancelledError as error:
            # gRPC cancels the calls of a channel that closes, and cannot be told from a cancelled task otherwise.
            task = asyncio.current_task()
            if self._operations.closed and not _is_cancelled(task):
                raise CallCancelledError("The client was closed while the call ran.") from error
            raise

    def _connected(self) -> Untyped:
        """The `tritonclient` client, which is made in the event loop that it belongs to."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            operations = self._operations
            self._triton = open_async(operations.endpoint.target, operations.credentials, operations.channel_args)
            self._loop = loop
        if self._loop is not loop:
            raise EbbtideError(
                "This client belongs to the event loop of its first call; got a call from another one. Make one client "
                "for each event loop.",
                status=Status.FAILED_PRECONDITION,
            )
        return self._triton


def _is_cancelled(task: asyncio.Task[Any] | None) -> bool:
    """Whether somebody cancelled the task; Python 3.10 cannot tell, so there it counts as not cancelled."""
    return task is not None and sys.version_info >= (3, 11) and task.cancelling() > 0
