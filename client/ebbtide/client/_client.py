"""The client that waits for each answer: `InterestClient`."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from types import TracebackType

import numpy as np
import numpy.typing as npt

from ebbtide.client._events import one_request, recommend_request, strings
from ebbtide.client._operations import Operations
from ebbtide.client._steps import AskToken, Rpc, Steps, T, Wait
from ebbtide.client._triton import Untyped, open_sync
from ebbtide.client.config import UNSET, ClientConfig, Unset
from ebbtide.client.errors import InvalidArgumentError
from ebbtide.client.metadata import ModelMetadata, ServerMetadata
from ebbtide.client.results import RecommendResult
from ebbtide.interest import contract
from ebbtide.v1 import Event, RecommendRequest, RecommendResponse


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
        """The best items of the catalog for one person. No events at all is a valid request: a new person.

        Args:
            request: The whole request as a message, in place of the keywords below, not beside them.
            history: Events before the current session, in any order; see `ebbtide.client.event`.
            current: Events of the current session, in any order.
            events: Events for the server to split into history and current session; not together with those two.
            now: The clock that the events' ages are measured against, with a timezone; this machine's when not given.
            alpha: Share of history in the blend, 0 to 1; what the model learned when not given.
            exclude: Ids of items never to recommend. Errors call it by its name in the message, ``exclude_item_ids``.
            exclude_seen: Whether to leave out the items of the request's own events; the model's policy when not given.
            top_n: Items wanted, at most as many as the model was exported with. When not given: 10, or fewer where the
                model was exported with fewer.
            timeout_s: Deadline of this call, seconds, retries included; the configuration's when not given.
            metadata: gRPC metadata of this call, beside the configuration's.

        Returns:
            Items with their scores, best first, the alpha used and the number of events that counted; see
            `ebbtide.client.results` for tables of it.

        Raises:
            InvalidArgumentError: A field cannot be served; the error names it as the caller wrote it.
            DeadlineExceededError: No answer within the deadline.
            UnavailableError: No server at the address, or one that refuses work for now.
            ModelNotReadyError: The server does not serve the model (yet).
            VersionMismatchError: The server's model is not one that this client speaks to.
            EbbtideError: Anything else; see its `status`.
        """
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
        return self._drive(self._operations.recommend(one_request(request, keywords), timeout_s, metadata))

    def recommend_many(
        self,
        requests: Iterable[RecommendRequest],
        *,
        max_concurrency: int = 16,
        timeout_s: float | Unset = UNSET,
    ) -> list[RecommendResult]:
        """The best items for many people, several calls at a time.

        Args:
            requests: One for each person; see `ebbtide.client.recommend_request`.
            max_concurrency: Calls under way at once, at most. The server puts them into batches.
            timeout_s: Deadline of each call, seconds, counted from its own start.

        Returns:
            One result for each request, in the requests' order, with its `response` or its `error`: a failed call does
            not fail the others.

        Raises:
            InvalidArgumentError: `max_concurrency` or `timeout_s` is out of bounds.
            ClientClosedError: The client was closed before.
        """
        self._operations.check_many(max_concurrency, timeout_s)

        def one(request: RecommendRequest) -> RecommendResult:
            return self._drive(self._operations.recommend_one_of_many(request, timeout_s))

        pool = ThreadPoolExecutor(max_concurrency, thread_name_prefix="ebbtide-recommend-many")
        try:
            return list(pool.map(one, requests))
        finally:
            pool.shutdown(cancel_futures=True)

    def embed(
        self,
        texts: Iterable[str],
        *,
        timeout_s: float | Unset = UNSET,
        metadata: Mapping[str, str] | None = None,
    ) -> npt.NDArray[np.float32]:
        """The vectors of texts, as the interest model sees them.

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
        """Whether a server answers at all, with models or without; False also where nothing answers in time.

        Raises:
            EbbtideError: The server answers, but refuses to say; see its `status`.
        """
        return self._drive(self._operations.is_live(timeout_s))

    def is_ready(self, model_name: str = contract.RECOMMEND.name, *, timeout_s: float | Unset = UNSET) -> bool:
        """Whether the server answers and serves the model; False also where nothing answers in time.

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
            self._triton.close()

    def __enter__(self) -> InterestClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._operations)

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
            return getattr(self._triton, step.method)(**step.arguments)
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
