"""The methods of `InterestService`: admission, deadline and failures around the client's own methods."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, TypeVar

import grpc

from ebbtide.client import AsyncInterestClient
from ebbtide.client._as_answered import as_answered
from ebbtide.client.errors import EbbtideError
from ebbtide.gateway.config import GatewayConfig
from ebbtide.gateway.failures import code_of, details_of
from ebbtide.gateway.stream import outcome_of
from ebbtide.v1 import interest_pb2_grpc
from ebbtide.v1.interest_pb2 import (
    EmbedRequest,
    EmbedResponse,
    ExplainRequest,
    ExplainResponse,
    ForgetRequest,
    ForgetResponse,
    InterestRequest,
    InterestResponse,
    ObserveRequest,
    ObserveResponse,
    RankRequest,
    RankResponse,
    RecommendRequest,
    RecommendResponse,
    RecommendStreamRequest,
    RecommendStreamResponse,
)

logger = logging.getLogger("ebbtide.gateway")

_SHORTEST_TIMEOUT_S = 0.001

AT_ONCE = 16
"""Requests of one stream in flight; the next is read when one of them is answered."""

Context = Any
"""A `grpc.aio.ServicerContext`; grpc-stubs has it generic over messages, which the generated stubs are not."""
Answer = TypeVar("Answer")


class InterestService(interest_pb2_grpc.InterestServiceServicer):
    """Answers typed calls by calling Triton, each within the deadline of its caller."""

    def __init__(self, client: AsyncInterestClient, config: GatewayConfig) -> None:
        """Makes the service of one gateway.

        Args:
            client: Of the event loop that serves.
            config: The gateway's.
        """
        self._client = client
        self._config = config
        self._running = 0

    async def Recommend(self, request: RecommendRequest, context: Context) -> RecommendResponse:  # noqa: N802
        """See the schema."""
        return await self._call(context, lambda **call: self._client.recommend(request, **call))

    async def RecommendStream(  # noqa: N802
        self, request_iterator: AsyncIterator[RecommendStreamRequest], context: Context
    ) -> AsyncIterator[RecommendStreamResponse]:
        """See the schema; a stream counts as one call."""

        async def ask(request: RecommendRequest) -> RecommendResponse:
            timeout_s = min(self._timeout_s(context), self._config.client.timeout_s)
            return await self._client.recommend(request, timeout_s=timeout_s, metadata=self._forwarded(context))

        outcomes = as_answered(request_iterator, lambda _, item: outcome_of(item, ask), AT_ONCE)
        async with self._admitted(context), aclosing(outcomes):
            async for outcome in outcomes:
                yield outcome

    async def Rank(self, request: RankRequest, context: Context) -> RankResponse:  # noqa: N802
        """See the schema."""
        ranking = await self._call(context, lambda **call: self._client.rank(request, **call))
        return ranking.response

    async def Explain(self, request: ExplainRequest, context: Context) -> ExplainResponse:  # noqa: N802
        """See the schema."""
        explanation = await self._call(context, lambda **call: self._client.explain(request, **call))
        return explanation.response

    async def Embed(self, request: EmbedRequest, context: Context) -> EmbedResponse:  # noqa: N802
        """See the schema."""
        vectors = await self._call(context, lambda **call: self._client.embed(request.texts, **call))
        response = EmbedResponse()
        for vector in vectors:
            response.embeddings.add(values=vector)
        return response

    async def Observe(self, request: ObserveRequest, context: Context) -> ObserveResponse:  # noqa: N802
        """See the schema."""
        return await self._call(context, lambda **call: self._client.observe(request=request, **call))

    async def Interest(self, request: InterestRequest, context: Context) -> InterestResponse:  # noqa: N802
        """See the schema."""
        interest = await self._call(context, lambda **call: self._client.interest(request=request, **call))
        return interest.response

    async def Forget(self, request: ForgetRequest, context: Context) -> ForgetResponse:  # noqa: N802
        """See the schema."""
        erased = await self._call(context, lambda **call: self._client.forget(request.user_id, **call))
        return ForgetResponse(erased_records=erased)

    async def _call(self, context: Context, ask: Callable[..., Awaitable[Answer]]) -> Answer:
        async with self._admitted(context):
            return await ask(timeout_s=self._timeout_s(context), metadata=self._forwarded(context))

    @asynccontextmanager
    async def _admitted(self, context: Context) -> AsyncIterator[None]:
        """Admits a call if fewer than `max_concurrency` run; an error ends it with a status and details."""
        limit = self._config.max_concurrency
        if self._running >= limit:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the gateway has {limit} calls in flight; expected fewer: try again later, or add gateways",
            )
        self._running += 1
        try:
            yield
        except EbbtideError as error:
            await context.abort(code_of(error), error.message, details_of(error))
        except Exception:
            # The caller must not see internals of the gateway; its log has them.
            logger.exception("a call failed in the gateway itself")
            await context.abort(grpc.StatusCode.INTERNAL, "the gateway failed; its log says more")
        finally:
            self._running -= 1

    def _timeout_s(self, context: Context) -> float:
        """Time until the caller's deadline, seconds; the client's timeout for callers without one."""
        left_s = context.time_remaining()
        if left_s is None:
            return self._config.client.timeout_s
        return min(max(float(left_s), _SHORTEST_TIMEOUT_S), self._config.max_timeout_s)

    def _forwarded(self, context: Context) -> dict[str, str]:
        sent = dict(context.invocation_metadata() or ())
        return {name: sent[name] for name in self._config.forward_metadata if isinstance(sent.get(name), str)}
