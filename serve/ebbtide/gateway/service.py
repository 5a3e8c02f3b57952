"""The methods of `InterestService` over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from typing import Any, NoReturn, TypeVar, cast

import grpc
from google.protobuf.message import Message

from ebbtide.client._as_answered import as_answered
from ebbtide.client.errors import CallCancelledError, DeadlineExceededError, EbbtideError
from ebbtide.gateway.calls import Calls
from ebbtide.gateway.failures import code_of, details_of, shown
from ebbtide.gateway.malformed import Malformed
from ebbtide.gateway.stream import outcome_of
from ebbtide.v1 import interest_pb2_grpc
from ebbtide.v1.interest_pb2 import (
    AddItemsRequest,
    AddItemsResponse,
    EmbedRequest,
    EmbedResponse,
    ExplainRequest,
    ExplainResponse,
    ForgetRequest,
    ForgetResponse,
    InterestRequest,
    InterestResponse,
    ListItemsRequest,
    ListItemsResponse,
    ListOutOfStockRequest,
    ListOutOfStockResponse,
    ListRulesRequest,
    ListRulesResponse,
    ObserveRequest,
    ObserveResponse,
    RankRequest,
    RankResponse,
    RecommendRequest,
    RecommendResponse,
    RecommendStreamRequest,
    RemoveItemsRequest,
    RemoveItemsResponse,
    RemoveRulesRequest,
    RemoveRulesResponse,
    SetRulesRequest,
    SetRulesResponse,
    SetStockRequest,
    SetStockResponse,
)

AT_ONCE = 16
"""Requests of one stream in flight; the next is read when one of them is answered."""

_PROTOCOL = "grpc"

Context = Any
"""A `grpc.aio.ServicerContext`; grpc-stubs has it generic over messages, which the generated stubs are not."""
Response = TypeVar("Response")


class InterestService(interest_pb2_grpc.InterestServiceServicer):
    """Answers typed calls, each within the deadline of its caller."""

    def __init__(self, calls: Calls) -> None:
        """Makes the service of one gateway.

        Args:
            calls: Its methods.
        """
        self._calls = calls

    async def Recommend(self, request: RecommendRequest, context: Context) -> RecommendResponse:  # noqa: N802
        """See the schema."""
        return await self._answer("Recommend", request, context, RecommendResponse)

    async def RecommendStream(  # type: ignore[override]  # noqa: N802  # the stubs know generators only
        self, request_iterator: AsyncIterator[RecommendStreamRequest], context: Context
    ) -> None:
        """See the schema; a stream takes no slot of a plain call."""
        calls, metadata = self._calls, _metadata(context)
        idle_s = calls.config.stream_idle_s

        async def ask(request: RecommendRequest) -> RecommendResponse:
            async with calls.requests_of_streams:
                timeout_s = min(calls.timeout_s(_left_s(context)), calls.config.client.timeout_s)
                return await calls.recommend(request, {"timeout_s": timeout_s, "metadata": calls.forwarded(metadata)})

        outcomes = as_answered(_in_time(request_iterator, idle_s), lambda _, item: outcome_of(item, ask), AT_ONCE)
        try:
            with calls.stream("RecommendStream", _PROTOCOL, metadata):
                async with aclosing(outcomes):
                    async for outcome in outcomes:
                        await _sent(context.write(outcome), idle_s)
        except EbbtideError as error:
            await _fail(context, error)

    async def Rank(self, request: RankRequest, context: Context) -> RankResponse:  # noqa: N802
        """See the schema."""
        return await self._answer("Rank", request, context, RankResponse)

    async def Explain(self, request: ExplainRequest, context: Context) -> ExplainResponse:  # noqa: N802
        """See the schema."""
        return await self._answer("Explain", request, context, ExplainResponse)

    async def Embed(self, request: EmbedRequest, context: Context) -> EmbedResponse:  # noqa: N802
        """See the schema."""
        return await self._answer("Embed", request, context, EmbedResponse)

    async def Observe(self, request: ObserveRequest, context: Context) -> ObserveResponse:  # noqa: N802
        """See the schema."""
        return await self._answer("Observe", request, context, ObserveResponse)

    async def Interest(self, request: InterestRequest, context: Context) -> InterestResponse:  # noqa: N802
        """See the schema."""
        return await self._answer("Interest", request, context, InterestResponse)

    async def Forget(self, request: ForgetRequest, context: Context) -> ForgetResponse:  # noqa: N802
        """See the schema."""
        return await self._answer("Forget", request, context, ForgetResponse)

    async def AddItems(self, request: AddItemsRequest, context: Context) -> AddItemsResponse:  # noqa: N802
        """See the schema."""
        return await self._answer("AddItems", request, context, AddItemsResponse)

    async def RemoveItems(self, request: RemoveItemsRequest, context: Context) -> RemoveItemsResponse:  # noqa: N802
        """See the schema."""
        return await self._answer("RemoveItems", request, context, RemoveItemsResponse)

    async def ListItems(self, request: ListItemsRequest, context: Context) -> ListItemsResponse:  # noqa: N802
        """See the schema."""
        return await self._answer("ListItems", request, context, ListItemsResponse)

    async def SetStock(self, request: SetStockRequest, context: Context) -> SetStockResponse:  # noqa: N802
        """See the schema."""
        return await self._answer("SetStock", request, context, SetStockResponse)

    async def ListOutOfStock(  # noqa: N802
        self, request: ListOutOfStockRequest, context: Context
    ) -> ListOutOfStockResponse:
        """See the schema."""
        return await self._answer("ListOutOfStock", request, context, ListOutOfStockResponse)

    async def SetRules(self, request: SetRulesRequest, context: Context) -> SetRulesResponse:  # noqa: N802
        """See the schema."""
        return await self._answer("SetRules", request, context, SetRulesResponse)

    async def RemoveRules(self, request: RemoveRulesRequest, context: Context) -> RemoveRulesResponse:  # noqa: N802
        """See the schema."""
        return await self._answer("RemoveRules", request, context, RemoveRulesResponse)

    async def ListRules(self, request: ListRulesRequest, context: Context) -> ListRulesResponse:  # noqa: N802
        """See the schema."""
        return await self._answer("ListRules", request, context, ListRulesResponse)

    async def _answer(self, method: str, request: Message | Malformed, context: Context, _: type[Response]) -> Response:
        left_s, metadata = _left_s(context), _metadata(context)
        try:
            if isinstance(request, Malformed):
                raise request.error()
            answer = await self._calls.answer(method, request, protocol=_PROTOCOL, left_s=left_s, metadata=metadata)
        except EbbtideError as error:
            await _fail(context, error)
        return cast(Response, answer)


async def _in_time(
    requests: AsyncIterator[RecommendStreamRequest | Malformed], idle_s: float
) -> AsyncIterator[RecommendStreamRequest]:
    """The requests of a stream.

    Raises:
        DeadlineExceededError: None came for so long: a silent stream must not keep others out.
        InvalidArgumentError: One cannot be read.
    """
    while True:
        try:
            request = await asyncio.wait_for(anext(requests), idle_s)
        except StopAsyncIteration:
            return
        except asyncio.TimeoutError:
            raise DeadlineExceededError(
                f"no request came over the stream for {idle_s:g} s; expected one: close a stream that has no more "
                "requests, and open another one for the next"
            ) from None
        if isinstance(request, Malformed):
            raise request.error()
        yield request


async def _sent(writing: Awaitable[None], idle_s: float) -> None:
    """Sends an answer of a stream.

    Raises:
        DeadlineExceededError: The caller does not take it.
        CallCancelledError: The caller is gone.
    """
    try:
        await asyncio.wait_for(writing, idle_s)
    except grpc.aio.InternalError:
        raise CallCancelledError("the caller ended the stream") from None
    except asyncio.TimeoutError:
        raise DeadlineExceededError(
            f"the caller took no answer from the stream for {idle_s:g} s; expected it to read them while it sends"
        ) from None


async def _fail(context: Context, error: EbbtideError) -> NoReturn:
    """Ends a call with a status and details."""
    await context.abort(code_of(error), shown(error.message), details_of(error))
    raise AssertionError("abort raises")


def _left_s(context: Context) -> float | None:
    left_s = context.time_remaining()
    return None if left_s is None else float(left_s)


def _metadata(context: Context) -> dict[str, str | bytes]:
    return dict(context.invocation_metadata() or ())
