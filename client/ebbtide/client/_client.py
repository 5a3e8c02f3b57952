"""The client that waits for each answer: `InterestClient`."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import chain, islice
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ebbtide.client._events import strings
from ebbtide.client._operations import Operations
from ebbtide.client._packs import Pack, packs
from ebbtide.client._requests import (
    Allowed,
    UserKeywords,
    explain_request,
    one_request,
    rank_request,
    recommend_request,
)
from ebbtide.client._steps import AskToken, Rpc, Steps, T, Wait
from ebbtide.client._triton import Untyped, open_sync
from ebbtide.client.config import UNSET, USERS_PER_REQUEST, ClientConfig, Unset
from ebbtide.client.errors import InvalidArgumentError
from ebbtide.client.metadata import ModelMetadata, ServerMetadata
from ebbtide.client.results import Explanation, Ranking, RecommendResult
from ebbtide.interest import contract
from ebbtide.v1 import ExplainRequest, RankRequest, RecommendRequest, RecommendResponse

if TYPE_CHECKING:
    from typing_extensions import Unpack


class InterestClient:
    """Calls the models of an Ebbtide repository on a Triton server, over gRPC.

    Threads may share one client. Close it, or use it as a context manager:

        with InterestClient("localhost:8001") as client:
            response = client.recommend(history=[event(item_id="318", time=yesterday)], top_n=5)

    Every call has a finite deadline and raises `ebbtide.client.EbbtideError` when it fails. `AsyncInterestClient` has
    the same methods, to await.
    """

    def __init__(self, url: str | Sequence[str] = "localhost:8001", *, config: ClientConfig | None = None) -> None:
        """Prepares a connection, which the first call opens.

        Args:
            url: Host and gRPC port of the server, without a scheme; a gRPC target, such as ``dns:///triton:8001`` for
                all addresses of a name; or several IP addresses with ports. Calls spread over all of them.
            config: Deadline, retries, TLS, token and sizes; the defaults of `ClientConfig` when not given.

        Raises:
            InvalidArgumentError: `url` is no address, or does not go with the configuration.
        """
        self._operations = Operations(url, config, type(self).__name__)
        token = self._operations.config.token
        if token is not None and inspect.iscoroutinefunction(token.value):
            raise _async_provider()
        self._triton = open_sync(
            self._operations.endpoint.target, self._operations.credentials, self._operations.channel_args
        )
        self._closing = threading.Event()

    def recommend(
        self,
        request: RecommendRequest | None = None,
        *,
        top_n: int | None = None,
        allow: Allowed | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
        **user: Unpack[UserKeywords],
    ) -> RecommendResponse:
        """The best items of the catalog for one user. No events at all is a valid request: a new user.

        Args:
            request: The whole request as a message, in place of the keywords below, not beside them.
            top_n: Items wanted, at most as many as the model was exported with. When not given: 10, or fewer where the
                model was exported with fewer.
            allow: Values of catalog attributes that an item must have, as in ``{"genre": ["Comedy", "Drama"],
                "in_stock": "true"}``: one of the given values, for each column.
            timeout_s: Deadline of this call, seconds, retries included; the configuration's when not given.
            metadata: gRPC metadata of this call, beside the configuration's.
            **user: Events, clock and policies; see `UserKeywords`: `history` and `current`, or `events` for the
                server to split; `now`, `alpha`, `decay_scale`, `unknown_items`, `exclude`, `exclude_seen`.

        Returns:
            Items with their scores, best first, the alpha used, the number of events used and which evidence was
            missing (`cold_start`); see `ebbtide.client.results` for tables of it.

        Raises:
            InvalidArgumentError: A field is not valid; the error names it as the caller wrote it.
            DeadlineExceededError: No answer within the deadline.
            UnavailableError: No server at the address, or one that refuses work for now.
            ModelNotReadyError: The server does not serve the model (yet).
            VersionMismatchError: The server's model is not one that this client speaks to.
            EbbtideError: Anything else; see its `status`.
        """
        whole = one_request(request, recommend_request(top_n=top_n, allow=allow, **user))
        return self._drive(self._operations.recommend(whole, timeout_s, metadata))

    def recommend_many(
        self,
        requests: Iterable[RecommendRequest],
        *,
        max_concurrency: int = 16,
        users_per_request: int = USERS_PER_REQUEST,
        timeout_s: float | Unset = UNSET,
    ) -> list[RecommendResult]:
        """The best items for many users, several of them in one call and several calls at a time.

        Args:
            requests: One for each user; see `ebbtide.client.recommend_request`.
            max_concurrency: Largest number of calls in flight. The server batches them.
            users_per_request: Users asked for in one call, at most. Only those share a call whose requests have no
                text and set the same optional fields; a call that is refused for one of them is made again for each.
            timeout_s: Deadline of each call, seconds, counted from its own start.

        Returns:
            One result for each request, in the requests' order, with its `response` or its `error`: a failed request
            does not fail the others.

        Raises:
            InvalidArgumentError: A number is out of bounds.
            ClientClosedError: The client was closed before.
        """
        self._operations.check_many(timeout_s, max_concurrency=max_concurrency, users_per_request=users_per_request)

        def one(pack: Pack) -> list[RecommendResult]:
            return self._drive(self._operations.recommend_pack("recommend_many", pack, timeout_s))

        pool = ThreadPoolExecutor(max_concurrency, thread_name_prefix="ebbtide-recommend-many")
        try:
            of_packs = pool.map(one, packs(requests, users_per_request))
            return sorted(chain.from_iterable(of_packs), key=lambda result: result.index)
        finally:
            pool.shutdown(cancel_futures=True)

    def recommend_stream(
        self,
        requests: Iterable[RecommendRequest],
        *,
        max_concurrency: int = 16,
        timeout_s: float | Unset = UNSET,
    ) -> Iterator[RecommendResult]:
        """The best items for many requests, each as soon as it is answered.

        Args:
            requests: Read as they are needed: never more than `max_concurrency` ahead of the answers.
            max_concurrency: Largest number of calls in flight.
            timeout_s: Deadline of each call, seconds, counted from its own start.

        Returns:
            One result for each request, in the order in which they were answered; `RecommendResult.index` is the
            index of the request. A failed request does not end the stream.

        Raises:
            InvalidArgumentError: A number is out of bounds.
            ClientClosedError: The client was closed before.
        """
        self._operations.check_many(timeout_s, max_concurrency=max_concurrency)
        return self._stream(requests, max_concurrency, timeout_s)

    def rank(
        self,
        request: RankRequest | None = None,
        *,
        candidates: Iterable[str] = (),
        top_n: int | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
        **user: Unpack[UserKeywords],
    ) -> Ranking:
        """The order of given items for one user, such as search results.

        Args:
            request: The whole request as a message, in place of the keywords below, not beside them.
            candidates: Ids of the items to order, 1 to 1024 unless exported with other limits.
            top_n: Items wanted, at most; all when not given.
            timeout_s: As for `recommend`.
            metadata: As for `recommend`.
            **user: As for `recommend`.

        Returns:
            The candidates, best first; unknown and excluded candidates are in lists of their own.

        Raises:
            InvalidArgumentError: A field is not valid; the error names it as the caller wrote it.
            EbbtideError: As for `recommend`.
        """
        whole = one_request(request, rank_request(candidates=candidates, top_n=top_n, **user))
        return self._drive(self._operations.rank(whole, timeout_s, metadata))

    def explain(
        self,
        request: ExplainRequest | None = None,
        *,
        item_ids: Iterable[str] = (),
        top_n: int | None = None,
        allow: Allowed | None = None,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
        **user: Unpack[UserKeywords],
    ) -> Explanation:
        """The scores of items, split into the shares of the events, the popularity prior and the score adjustments.

        Args:
            request: The whole request as a message, in place of the keywords below, not beside them.
            item_ids: The items to explain. Default: the client asks for recommendations first, at the same `now`, and
                explains those.
            top_n: As for `recommend`, where no items are given.
            allow: As for `recommend`, where no items are given.
            timeout_s: As for `recommend`; one deadline for both calls.
            metadata: As for `recommend`.
            **user: As for `recommend`.

        Returns:
            Each score, split into shares that add up to it. It prints as a table, with
            ``results.to_text(explanation, titles)`` with titles in place of ids.

        Raises:
            InvalidArgumentError: A field is not valid; the error names it as the caller wrote it.
            EbbtideError: As for `recommend`.
        """
        whole = one_request(request, explain_request(item_ids=item_ids, top_n=top_n, allow=allow, **user))
        return self._drive(self._operations.explain(whole, timeout_s, metadata))

    def embed(
        self,
        texts: Iterable[str],
        *,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> npt.NDArray[np.float32]:
        """The event vectors of texts.

        Args:
            texts: 1 to 64 texts, each at most 4096 bytes of UTF-8, unless exported with other limits.
            timeout_s: Deadline of this call, seconds, retries included; the configuration's when not given.
            metadata: gRPC metadata of this call, beside the configuration's.

        Returns:
            float32 ``[len(texts), d]``, in the texts' order.

        Raises:
            InvalidArgumentError: No texts, too many, or one too long; the error names it.
            EbbtideError: As for `recommend`.
        """
        return self._drive(self._operations.embed(strings("texts", texts), timeout_s, metadata))

    def is_live(self, *, timeout_s: float | Unset = UNSET) -> bool:
        """Whether a server answers, with or without models; False also if nothing answers in time.

        Raises:
            EbbtideError: The server answers, but refuses to say; see its `status`.
        """
        return self._drive(self._operations.is_live(timeout_s))

    def is_ready(self, model_name: str = contract.RECOMMEND.name, *, timeout_s: float | Unset = UNSET) -> bool:
        """Whether the server answers and serves the model; False also if nothing answers in time.

        Args:
            model_name: A model of the contract: ``recommend``, ``recommend_text``, ``embed``, ...
            timeout_s: Deadline of this call, seconds; the configuration's when not given.

        Raises:
            EbbtideError: The server answers, but refuses to say; see its `status`.
        """
        return self._drive(self._operations.is_ready(model_name, timeout_s))

    def wait_until_ready(self, timeout_s: float, model_name: str = contract.RECOMMEND.name) -> None:
        """Returns once `is_ready` says so.

        Args:
            timeout_s: How long to wait at most, seconds.
            model_name: A model of the contract.

        Raises:
            ModelNotReadyError: It did not within `timeout_s`.
            EbbtideError: The server answers, but refuses to say; see its `status`.
        """
        self._drive(self._operations.wait_until_ready(timeout_s, model_name))

    def server_metadata(self, *, timeout_s: float | Unset = UNSET) -> ServerMetadata:
        """What the server says about itself.

        Raises:
            EbbtideError: As for `recommend`.
        """
        return self._drive(self._operations.server_metadata(timeout_s))

    def model_metadata(
        self, model_name: str = contract.RECOMMEND.name, *, timeout_s: float | Unset = UNSET
    ) -> ModelMetadata:
        """Versions, tensors and fingerprint of a model that the server has ready.

        Raises:
            ModelNotReadyError: The server does not serve the model (yet).
            EbbtideError: As for `recommend`.
        """
        return self._drive(self._operations.model_metadata(model_name, timeout_s))

    def close(self) -> None:
        """Closes the connection; calls that still run fail with `CallCancelledError`. Closing twice is fine."""
        if self._operations.close():
            self._closing.set()
            self._drive(self._operations.release())
            self._triton.close()

    def __enter__(self) -> InterestClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._operations)

    def _stream(
        self, requests: Iterable[RecommendRequest], max_concurrency: int, timeout_s: float | Unset
    ) -> Iterator[RecommendResult]:
        waiting = enumerate(requests)
        running: set[Future[RecommendResult]] = set()
        pool = ThreadPoolExecutor(max_concurrency, thread_name_prefix="ebbtide-recommend-stream")
        try:
            while True:
                for index, request in islice(waiting, max_concurrency - len(running)):
                    steps = self._operations.recommend_one(index, request, timeout_s)
                    running.add(pool.submit(self._drive, steps))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _drive(self, steps: Steps[T]) -> T:
        """Takes the steps of a call one after the other, and waits for each."""
        try:
            step = next(steps)
            while True:
                try:
                    outcome = self._perform(step)
                except BaseException as error:  # the steps know what to do with it
                    step = steps.throw(error)
                else:
                    step = steps.send(outcome)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]

    def _perform(self, step: Rpc | Wait | AskToken) -> Untyped:
        if isinstance(step, Rpc):
            return self._triton.call(*step)
        if isinstance(step, Wait):
            return self._closing.wait(step.seconds)
        token = step.provider()
        if inspect.isawaitable(token):
            if inspect.iscoroutine(token):
                token.close()
            raise _async_provider()
        return token


def _async_provider() -> InvalidArgumentError:
    return InvalidArgumentError.of_field("token", "an async function", "a plain one, or AsyncInterestClient")
