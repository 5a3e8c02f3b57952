"""The client for asyncio: `AsyncInterestClient`."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import AsyncIterable, AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ebbtide.client._as_answered import as_answered
from ebbtide.client._events import strings
from ebbtide.client._gathering import Gathering
from ebbtide.client._messages import message, messages
from ebbtide.client._operations import Operations
from ebbtide.client._packs import OBSERVE, RECOMMEND, Kind, Pack, packs
from ebbtide.client._requests import (
    Allowed,
    UnknownItems,
    UserKeywords,
    explain_request,
    interest_request,
    observe_request,
    one_request,
    rank_request,
    recommend_request,
)
from ebbtide.client._steps import AskToken, Rpc, Steps, T, Wait
from ebbtide.client._triton import Connection, Untyped, open_async
from ebbtide.client.config import UNSET, USERS_PER_REQUEST, ClientConfig, Unset
from ebbtide.client.errors import CallCancelledError, DeadlineExceededError, EbbtideError, Status
from ebbtide.client.metadata import ModelMetadata, ServerMetadata
from ebbtide.client.results import A, Explanation, ObserveResult, Q, R, Ranking, RecommendResult, UserInterest
from ebbtide.interest import served_models
from ebbtide.v1 import (
    AddItemsRequest,
    AddItemsResponse,
    Event,
    ExplainRequest,
    ForgetRequest,
    InterestRequest,
    ListItemsRequest,
    ListItemsResponse,
    ListOutOfStockRequest,
    ListOutOfStockResponse,
    ListRulesRequest,
    ListRulesResponse,
    NewItem,
    ObserveRequest,
    ObserveResponse,
    RankRequest,
    RecommendRequest,
    RecommendResponse,
    RemoveItemsRequest,
    RemoveItemsResponse,
    RemoveRulesRequest,
    RemoveRulesResponse,
    Rule,
    SetRulesRequest,
    SetRulesResponse,
    SetStockRequest,
    SetStockResponse,
    Slate,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack


class AsyncInterestClient:
    """`InterestClient` for asyncio: the same methods, to await; cancelling the task cancels the call on the server.

    All calls of one client belong to the event loop of its first one.

        async with AsyncInterestClient("localhost:8001") as client:
            response = await client.recommend(history=[event(item_id="318", time=yesterday)], top_n=5)
    """

    def __init__(self, url: str | Sequence[str] = "localhost:8001", *, config: ClientConfig | None = None) -> None:
        """Prepares a connection, which the first call opens; arguments and errors are those of `InterestClient`."""
        self._operations = Operations(url, config, type(self).__name__)
        self._triton: Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        together = self._operations.config.effective_users_per_request
        self._recommending = self._gathering(RECOMMEND, "recommend") if together > 1 else None
        self._observing = self._gathering(OBSERVE, "observe") if together > 1 else None

    async def recommend(
        self,
        request: RecommendRequest | None = None,
        *,
        top_n: int | None = None,
        allow: Allowed | None = None,
        slate: Slate | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
        **user: Unpack[UserKeywords],
    ) -> RecommendResponse:
        """As `InterestClient.recommend`; see `ClientConfig.users_per_request` for calls that are sent together."""
        whole = one_request(request, recommend_request(top_n=top_n, allow=allow, slate=slate, **user))
        if self._recommending is not None and not metadata:
            return await self._recommending.call(whole, timeout_s)
        return await self._drive(self._operations.recommend(whole, timeout_s, metadata))

    async def recommend_many(
        self,
        requests: Iterable[RecommendRequest],
        *,
        max_concurrency: int = 16,
        users_per_request: int = USERS_PER_REQUEST,
        timeout_s: float | Unset = UNSET,
    ) -> list[RecommendResult]:
        """As `InterestClient.recommend_many`."""
        self._operations.check_many(timeout_s, max_concurrency=max_concurrency, users_per_request=users_per_request)
        return await self._many(RECOMMEND, "recommend_many", requests, max_concurrency, users_per_request, timeout_s)

    def recommend_stream(
        self,
        requests: Iterable[RecommendRequest] | AsyncIterable[RecommendRequest],
        *,
        max_concurrency: int = 16,
        timeout_s: float | Unset = UNSET,
    ) -> AsyncIterator[RecommendResult]:
        """As `InterestClient.recommend_stream`, to iterate with ``async for``.

        `requests` may also be an async iterator; while it waits for its next request, answers continue. After leaving
        the loop early, close the iterator (`contextlib.aclosing`) to cancel the calls in flight.
        """
        self._operations.check_many(timeout_s, max_concurrency=max_concurrency)

        def answer(index: int, request: RecommendRequest) -> Coroutine[Any, Any, RecommendResult]:
            return self._drive(self._operations.recommend_one(index, request, timeout_s))

        return as_answered(requests, answer, max_concurrency)

    async def rank(
        self,
        request: RankRequest | None = None,
        *,
        candidates: Iterable[str] = (),
        top_n: int | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
        **user: Unpack[UserKeywords],
    ) -> Ranking:
        """As `InterestClient.rank`."""
        whole = one_request(request, rank_request(candidates=candidates, top_n=top_n, **user))
        return await self._drive(self._operations.rank(whole, timeout_s, metadata))

    async def explain(
        self,
        request: ExplainRequest | None = None,
        *,
        item_ids: Iterable[str] = (),
        top_n: int | None = None,
        allow: Allowed | None = None,
        slate: Slate | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
        **user: Unpack[UserKeywords],
    ) -> Explanation:
        """As `InterestClient.explain`."""
        given = explain_request(item_ids=item_ids, top_n=top_n, allow=allow, slate=slate, **user)
        whole = one_request(request, given)
        return await self._drive(self._operations.explain(whole, timeout_s, metadata))

    async def embed(
        self,
        texts: Iterable[str],
        *,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> npt.NDArray[np.float32]:
        """As `InterestClient.embed`."""
        return await self._drive(self._operations.embed(strings("texts", texts), timeout_s, metadata))

    async def observe(
        self,
        user_id: str | None = None,
        events: Iterable[Event] = (),
        *,
        request: ObserveRequest | None = None,
        unknown_items: UnknownItems = None,
        shown: Iterable[str] = (),
        reset_learning: bool = False,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> ObserveResponse:
        """As `InterestClient.observe`; see `ClientConfig.users_per_request` for calls that are sent together."""
        given = observe_request(
            user_id or "", events, unknown_items=unknown_items, shown=shown, reset_learning=reset_learning
        )
        whole = one_request(request, given)
        if self._observing is not None and not metadata:
            return await self._observing.call(whole, timeout_s)
        return await self._drive(self._operations.observe(whole, timeout_s, metadata))

    async def observe_many(
        self,
        requests: Iterable[ObserveRequest],
        *,
        max_concurrency: int = 16,
        users_per_request: int = USERS_PER_REQUEST,
        timeout_s: float | Unset = UNSET,
    ) -> list[ObserveResult]:
        """As `InterestClient.observe_many`."""
        self._operations.check_many(timeout_s, max_concurrency=max_concurrency, users_per_request=users_per_request)
        return await self._many(OBSERVE, "observe_many", requests, max_concurrency, users_per_request, timeout_s)

    async def interest(
        self,
        user_id: str | None = None,
        *,
        request: InterestRequest | None = None,
        now: datetime | None = None,
        decay_scale: float | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> UserInterest:
        """As `InterestClient.interest`."""
        whole = one_request(request, interest_request(user_id or "", now=now, decay_scale=decay_scale))
        return await self._drive(self._operations.interest(whole, timeout_s, metadata))

    async def forget(
        self, user_id: str, *, timeout_s: float | Unset = UNSET, metadata: Mapping[str, str] | None = None
    ) -> int:
        """As `InterestClient.forget`."""
        return await self._drive(self._operations.forget(message(ForgetRequest, user_id=user_id), timeout_s, metadata))

    async def add_items(
        self,
        items: Iterable[NewItem] = (),
        *,
        request: AddItemsRequest | None = None,
        only_update: bool = False,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> AddItemsResponse:
        """As `InterestClient.add_items`."""
        given = message(
            AddItemsRequest, items=messages("items", items, NewItem, "new_item(...)"), only_update=only_update
        )
        return await self._drive(self._operations.catalog.add_items(one_request(request, given), timeout_s, metadata))

    async def remove_items(
        self,
        item_ids: Iterable[str] = (),
        *,
        request: RemoveItemsRequest | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> RemoveItemsResponse:
        """As `InterestClient.remove_items`."""
        given = message(RemoveItemsRequest, item_ids=strings("item_ids", item_ids))
        return await self._drive(
            self._operations.catalog.remove_items(one_request(request, given), timeout_s, metadata)
        )

    async def list_items(
        self, *, timeout_s: float | Unset = UNSET, metadata: Mapping[str, str] | None = None
    ) -> list[NewItem]:
        """As `InterestClient.list_items`."""
        return await self._drive(self._operations.catalog.list_items(timeout_s, metadata))

    async def list_items_part(
        self,
        request: ListItemsRequest,
        *,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> ListItemsResponse:
        """As `InterestClient.list_items_part`."""
        return await self._drive(self._operations.catalog.list_part(request, timeout_s, metadata))

    async def set_stock(
        self,
        *,
        out_of_stock: Iterable[str] = (),
        in_stock: Iterable[str] = (),
        request: SetStockRequest | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> SetStockResponse:
        """As `InterestClient.set_stock`."""
        given = message(
            SetStockRequest,
            out_of_stock_item_ids=strings("out_of_stock_item_ids", out_of_stock),
            in_stock_item_ids=strings("in_stock_item_ids", in_stock),
        )
        return await self._drive(self._operations.catalog.set_stock(one_request(request, given), timeout_s, metadata))

    async def list_out_of_stock(
        self, *, timeout_s: float | Unset = UNSET, metadata: Mapping[str, str] | None = None
    ) -> list[str]:
        """As `InterestClient.list_out_of_stock`."""
        return await self._drive(self._operations.catalog.list_out_of_stock(timeout_s, metadata))

    async def list_out_of_stock_part(
        self,
        request: ListOutOfStockRequest,
        *,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> ListOutOfStockResponse:
        """As `InterestClient.list_out_of_stock_part`."""
        return await self._drive(self._operations.catalog.out_of_stock_part(request, timeout_s, metadata))

    async def set_rules(
        self,
        rules: Iterable[Rule] = (),
        *,
        request: SetRulesRequest | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> SetRulesResponse:
        """As `InterestClient.set_rules`."""
        given = message(SetRulesRequest, rules=messages("rules", rules, Rule, "rule(...)"))
        return await self._drive(self._operations.catalog.set_rules(one_request(request, given), timeout_s, metadata))

    async def remove_rules(
        self,
        names: Iterable[str] = (),
        *,
        request: RemoveRulesRequest | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> RemoveRulesResponse:
        """As `InterestClient.remove_rules`."""
        given = message(RemoveRulesRequest, names=strings("names", names))
        return await self._drive(
            self._operations.catalog.remove_rules(one_request(request, given), timeout_s, metadata)
        )

    async def list_rules(
        self, *, timeout_s: float | Unset = UNSET, metadata: Mapping[str, str] | None = None
    ) -> ListRulesResponse:
        """As `InterestClient.list_rules`."""
        return await self._drive(self._operations.catalog.list_rules(ListRulesRequest(), timeout_s, metadata))

    async def is_live(self, *, timeout_s: float | Unset = UNSET) -> bool:
        """As `InterestClient.is_live`."""
        return await self._drive(self._operations.is_live(timeout_s))

    async def is_ready(
        self, model_name: str = served_models.RECOMMEND.name, *, timeout_s: float | Unset = UNSET
    ) -> bool:
        """As `InterestClient.is_ready`."""
        return await self._drive(self._operations.is_ready(model_name, timeout_s))

    async def wait_until_ready(self, timeout_s: float, model_name: str = served_models.RECOMMEND.name) -> None:
        """As `InterestClient.wait_until_ready`."""
        await self._drive(self._operations.wait_until_ready(timeout_s, model_name))

    async def server_metadata(self, *, timeout_s: float | Unset = UNSET) -> ServerMetadata:
        """As `InterestClient.server_metadata`."""
        return await self._drive(self._operations.server_metadata(timeout_s))

    async def model_metadata(
        self, model_name: str = served_models.RECOMMEND.name, *, timeout_s: float | Unset = UNSET
    ) -> ModelMetadata:
        """As `InterestClient.model_metadata`."""
        return await self._drive(self._operations.model_metadata(model_name, timeout_s))

    async def close(self) -> None:
        """As `InterestClient.close`."""
        if self._operations.close() and self._triton is not None:
            await self._drive(self._operations.release())
            await self._triton.close_async()

    async def __aenter__(self) -> AsyncInterestClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return repr(self._operations)

    def _gathering(self, kind: Kind[Q, A, R], method: str) -> Gathering[Q, A, R]:
        """The calls of one method that are sent together."""

        async def ask(pack: Pack[Q], timeout_s: float | Unset) -> list[R]:
            return await self._drive(self._operations.ask_pack(kind, method, pack, timeout_s))

        return Gathering(kind, ask, self._operations.config.effective_users_per_request)

    async def _many(
        self,
        kind: Kind[Q, A, R],
        method: str,
        requests: Iterable[Q],
        max_concurrency: int,
        users_per_request: int,
        timeout_s: float | Unset,
    ) -> list[R]:
        """The results of many requests of one kind, in their order."""
        waiting = packs(kind, requests, users_per_request)
        results: list[R] = []

        async def worker() -> None:
            for pack in waiting:
                results.extend(await self._drive(self._operations.ask_pack(kind, method, pack, timeout_s)))

        workers = [asyncio.create_task(worker()) for _ in range(max_concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for task in workers:
                task.cancel()
        return sorted(results, key=lambda result: result.index)

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
            return await self._connected().call(*rpc)
        except asyncio.CancelledError as error:
            # gRPC also cancels the calls of a channel that closes; this tells such a call from a cancelled task.
            task = asyncio.current_task()
            if self._operations.closed and not _is_cancelled(task):
                raise CallCancelledError("The client was closed while the call ran.") from error
            raise

    def _connected(self) -> Connection:
        """The connection, which is made in the event loop that it belongs to."""
        loop = asyncio.get_running_loop()
        if self._triton is None:
            operations = self._operations
            self._triton = open_async(
                operations.endpoint.target, operations.credentials, operations.channel_args, operations.rotation
            )
            self._loop = loop
        if self._loop is not loop:
            raise EbbtideError(
                "This client belongs to the event loop of its first call; got a call from another one. Make one client "
                "for each event loop.",
                status=Status.FAILED_PRECONDITION,
            )
        return self._triton


def _is_cancelled(task: asyncio.Task[Any] | None) -> bool:
    """Whether the task was cancelled. Python 3.10 does not say, so there the answer is no."""
    return task is not None and sys.version_info >= (3, 11) and task.cancelling() > 0
