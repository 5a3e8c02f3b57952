"""Answers the messages of the schema by calling Triton, for every protocol: admission, deadline, methods."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from ebbtide.client import AsyncInterestClient
from ebbtide.client.errors import (
    EbbtideError,
    InternalError,
    ResourceExhaustedError,
    UnauthenticatedError,
)
from ebbtide.client.security import authorization
from ebbtide.gateway.config import GatewayConfig
from ebbtide.gateway.metrics import Metrics
from ebbtide.gateway.shadow import Shadow
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
    RemoveItemsRequest,
    RemoveItemsResponse,
    RemoveRulesRequest,
    RemoveRulesResponse,
    SetRulesRequest,
    SetRulesResponse,
    SetStockRequest,
    SetStockResponse,
)

logger = logging.getLogger("ebbtide.gateway")

_SHORTEST_TIMEOUT_S = 0.001

if TYPE_CHECKING:
    from ebbtide.gateway.spans import CallSpan

Options = dict[str, Any]
"""What every method of the client takes: ``timeout_s`` and ``metadata``."""
Method = Callable[[Any, Options], Awaitable[Message]]
"""Answers a request message."""


class _Slots:
    """A number of calls that may be in flight; a further one is refused."""

    def __init__(self, most: int, what: str, advice: str) -> None:
        self._most, self._what, self._advice = most, what, advice
        self._taken = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Takes one for as long as the context lasts.

        Raises:
            ResourceExhaustedError: None is free.
        """
        if self._taken >= self._most:
            raise ResourceExhaustedError(
                f"the gateway has {self._most} {self._what}; expected fewer: {self._advice}, or add gateways"
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1


class Calls:
    """The methods of `InterestService` for one client: at most `max_concurrency` calls, and `max_streams` streams."""

    def __init__(
        self,
        client: AsyncInterestClient,
        config: GatewayConfig,
        metrics: Metrics,
        shadow: Shadow | None = None,
        span_of: CallSpan = lambda _method, _protocol, _metadata: nullcontext(),
    ) -> None:
        """Makes the methods of one gateway.

        Args:
            client: Of the event loop that serves.
            config: The gateway's.
            metrics: Where calls are counted.
            shadow: Compares answers with those of a version that is not in service; None does not.
            span_of: The span of a call.
        """
        self.client = client
        self.config = config
        self.requests_of_streams = asyncio.Semaphore(config.max_concurrency)
        """Requests of all streams in flight; further ones wait."""
        self.recommended = 0
        """Plain calls of `Recommend` that Triton has answered."""
        self._metrics = metrics
        self._shadow = shadow
        self._span_of = span_of
        self._calls = _Slots(config.max_concurrency, "calls in flight", "try again later")
        self._streams = _Slots(config.max_streams, "streams open", "use plain calls, send more over one stream")
        self._expected = None if config.token is None else authorization(config.token).encode()
        self._methods: dict[str, Method] = {
            "Recommend": self.recommend,
            "Rank": self._rank,
            "Explain": self._explain,
            "Embed": self._embed,
            "Observe": self._observe,
            "Interest": self._interest,
            "Forget": self._forget,
            "AddItems": self._add_items,
            "RemoveItems": self._remove_items,
            "ListItems": self._list_items,
            "SetStock": self._set_stock,
            "ListOutOfStock": self._list_out_of_stock,
            "SetRules": self._set_rules,
            "RemoveRules": self._remove_rules,
            "ListRules": self._list_rules,
        }

    async def answer(
        self, method: str, request: Message, *, protocol: str, left_s: float | None, metadata: Mapping[str, Any]
    ) -> Message:
        """Answers one request.

        Args:
            method: Name of a unary method of the schema.
            request: Its request message.
            protocol: ``grpc`` or ``http``, for the metrics.
            left_s: Seconds until the caller's deadline; None if there is none.
            metadata: Metadata or headers of the call, names in lower case.

        Raises:
            EbbtideError: The call failed, was not admitted, or the caller is not allowed to make it.
        """
        with self._admitted(self._calls, method, protocol, metadata):
            answer = await self._methods[method](
                request, {"timeout_s": self.timeout_s(left_s), "metadata": self.forwarded(metadata)}
            )
            self.recommended += method == "Recommend"
            return answer

    @contextmanager
    def stream(self, method: str, protocol: str, metadata: Mapping[str, Any]) -> Iterator[None]:
        """Admits a stream, which takes no slot of a plain call.

        Raises:
            EbbtideError: As of `answer`.
        """
        with self._admitted(self._streams, method, protocol, metadata):
            yield

    @contextmanager
    def _admitted(self, slots: _Slots, method: str, protocol: str, metadata: Mapping[str, Any]) -> Iterator[None]:
        """Admits a call if its token is right and a slot is free.

        Raises:
            UnauthenticatedError: The gateway asks for a token, and the call has none or another one.
            ResourceExhaustedError: As many calls are in flight as may be.
            InternalError: Something failed that is not an `EbbtideError`; the log has it, the caller does not see it.
        """
        with self._metrics.call(method, protocol), self._span_of(method, protocol, metadata):
            self.require_token(metadata.get("authorization"))
            with slots.one():
                try:
                    yield
                except (EbbtideError, asyncio.CancelledError):
                    raise
                except Exception:
                    logger.exception("a call failed in the gateway itself")
                    raise InternalError("the gateway failed; its log says more") from None

    def timeout_s(self, left_s: float | None) -> float:
        """Time for a call, seconds.

        Args:
            left_s: Seconds until the caller's deadline; None takes the client's timeout.
        """
        if left_s is None:
            return self.config.client.timeout_s
        return min(max(left_s, _SHORTEST_TIMEOUT_S), self.config.max_timeout_s)

    def forwarded(self, metadata: Mapping[str, Any]) -> dict[str, str]:
        """The part of a call's metadata that goes to Triton."""
        return {name: metadata[name] for name in self.config.forward_metadata if isinstance(metadata.get(name), str)}

    def require_token(self, sent: object) -> None:
        """Accepts a call's ``authorization``.

        Raises:
            UnauthenticatedError: The gateway asks for a token, and this is none or another one.
        """
        if self._expected is None:
            return
        given = sent.encode() if isinstance(sent, str) else b""
        # Takes as long wherever the two differ.
        if not hmac.compare_digest(given, self._expected):
            raise UnauthenticatedError(
                "got no token, or one that is not valid here; expected authorization: Bearer and the gateway's token"
            )

    async def recommend(self, request: RecommendRequest, call: Options) -> RecommendResponse:
        """Answers one request, of a plain call or of a stream that was admitted.

        Raises:
            EbbtideError: The call failed.
        """
        if self._shadow is None:
            return await self.client.recommend(request, **call)
        began_s = time.monotonic()
        answer = await self.client.recommend(request, **call)
        self._shadow.offer(request, answer, time.monotonic() - began_s)
        return answer

    async def _rank(self, request: RankRequest, call: Options) -> RankResponse:
        return (await self.client.rank(request, **call)).response

    async def _explain(self, request: ExplainRequest, call: Options) -> ExplainResponse:
        return (await self.client.explain(request, **call)).response

    async def _embed(self, request: EmbedRequest, call: Options) -> EmbedResponse:
        response = EmbedResponse()
        for vector in await self.client.embed(request.texts, **call):
            response.embeddings.add(values=vector)
        return response

    async def _observe(self, request: ObserveRequest, call: Options) -> ObserveResponse:
        return await self.client.observe(request=request, **call)

    async def _interest(self, request: InterestRequest, call: Options) -> InterestResponse:
        return (await self.client.interest(request=request, **call)).response

    async def _forget(self, request: ForgetRequest, call: Options) -> ForgetResponse:
        return ForgetResponse(erased_records=await self.client.forget(request.user_id, **call))

    async def _add_items(self, request: AddItemsRequest, call: Options) -> AddItemsResponse:
        return await self.client.add_items(request=request, **call)

    async def _remove_items(self, request: RemoveItemsRequest, call: Options) -> RemoveItemsResponse:
        return await self.client.remove_items(request=request, **call)

    async def _list_items(self, request: ListItemsRequest, call: Options) -> ListItemsResponse:
        return await self.client.list_items_part(request, **call)

    async def _set_stock(self, request: SetStockRequest, call: Options) -> SetStockResponse:
        return await self.client.set_stock(request=request, **call)

    async def _list_out_of_stock(self, request: ListOutOfStockRequest, call: Options) -> ListOutOfStockResponse:
        return await self.client.list_out_of_stock_part(request, **call)

    async def _set_rules(self, request: SetRulesRequest, call: Options) -> SetRulesResponse:
        return await self.client.set_rules(request=request, **call)

    async def _remove_rules(self, request: RemoveRulesRequest, call: Options) -> RemoveRulesResponse:
        return await self.client.remove_rules(request=request, **call)

    async def _list_rules(self, _: ListRulesRequest, call: Options) -> ListRulesResponse:
        return await self.client.list_rules(**call)
