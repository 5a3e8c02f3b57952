"""The client that waits for each answer: `InterestClient`."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import datetime
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferenceServerClient
from tritonclient.utils import InferenceServerException

from ebbtide.client._events import build_request, strings
from ebbtide.client._wire import infer_inputs, read_outputs, typed_error
from ebbtide.client.codec import EncodedRequest, decode, decode_vectors, encode, encode_texts
from ebbtide.client.config import UNSET, ClientConfig, Unset
from ebbtide.client.errors import (
    ClientClosedError,
    DeadlineExceededError,
    InvalidArgumentError,
    ModelNotReadyError,
    UnavailableError,
)
from ebbtide.interest import contract
from ebbtide.v1 import Event, RecommendRequest, RecommendResponse

_POLL_S = 0.1
_PROBE_TIMEOUT_S = 1.0


class InterestClient:
    """Calls the models of an Ebbtide repository on a Triton server, over gRPC.

    Threads may share one client. Close it, or use it as a context manager:

        with InterestClient("localhost:8001") as client:
            response = client.recommend(history=[event(item_id="318", time=yesterday)], top_n=5)

    Every call has a finite deadline and raises `ebbtide.client.EbbtideError` when it fails.
    """

    def __init__(self, url: str = "localhost:8001", *, config: ClientConfig | None = None) -> None:
        """Prepares a connection, which the first call opens.

        Args:
            url: Host and gRPC port of the server, without a scheme.
            config: Deadline, retries and sizes; the defaults of `ClientConfig` when not given.

        Raises:
            InvalidArgumentError: `url` has a scheme.
        """
        if "://" in url:
            raise InvalidArgumentError.of_field("url", repr(url), "host:port, without a scheme: localhost:8001")
        self._url = url
        self._config = config or ClientConfig()
        self._closed = False
        self._triton = InferenceServerClient(url, channel_args=self._config._channel_args())

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

        Returns:
            Items with their scores, best first, the alpha used and the number of events that counted.

        Raises:
            InvalidArgumentError: A field cannot be served; the error names it as the caller wrote it.
            DeadlineExceededError: No answer within the deadline.
            UnavailableError: No server at the address, or one that refuses work for now.
            ModelNotReadyError: The server does not serve the model (yet).
            EbbtideError: Anything else; see its `status`.
        """
        request = build_request(
            request,
            history=history,
            current=current,
            events=events,
            now=now,
            alpha=alpha,
            exclude=exclude,
            exclude_seen=exclude_seen,
            top_n=top_n,
        )
        encoded = encode(request, now_ms=time.time_ns() // 1_000_000)
        outputs, model_version = self._infer(encoded, timeout_s, request)
        return decode(outputs, request.top_n, model_version=model_version)

    def embed(self, texts: Iterable[str], *, timeout_s: float | Unset = UNSET) -> npt.NDArray[np.float32]:
        """The vectors of texts, as the interest model sees them.

        Args:
            texts: 1 to 64 texts, each at most 4096 bytes of UTF-8, unless exported with other limits.
            timeout_s: Deadline of this call, seconds, retries included; the configuration's when not given.

        Returns:
            float32 ``[len(texts), d]``, in the texts' order.

        Raises:
            InvalidArgumentError: No texts, too many, or one too long; the error names it.
            EbbtideError: As for `recommend`.
        """
        outputs, _ = self._infer(encode_texts(strings("texts", texts)), timeout_s, None)
        return decode_vectors(outputs)

    def is_ready(self, *, timeout_s: float | Unset = UNSET) -> bool:
        """Whether the server answers and serves the model ``recommend``; False also where nothing answers in time.

        Raises:
            EbbtideError: The server answers, but refuses to say; see its `status`.
        """
        self._require_open()
        deadline_s = self._config.deadline_s(timeout_s)
        try:
            return bool(self._triton.is_model_ready(contract.RECOMMEND.name, client_timeout=deadline_s))
        except InferenceServerException as failure:
            error = typed_error(failure, url=self._url, timeout_s=deadline_s, model_name=contract.RECOMMEND.name)
            if isinstance(error, (UnavailableError, DeadlineExceededError)):
                return False
            raise error from failure

    def wait_until_ready(self, timeout_s: float) -> None:
        """Returns once `is_ready` says so.

        Args:
            timeout_s: How long to wait at most, seconds.

        Raises:
            ModelNotReadyError: It did not within `timeout_s`.
            EbbtideError: The server answers, but refuses to say; see its `status`.
        """
        end = time.monotonic() + self._config.deadline_s(timeout_s)
        while (left_s := end - time.monotonic()) > 0:
            if self.is_ready(timeout_s=min(left_s, _PROBE_TIMEOUT_S)):
                return
            time.sleep(max(0.0, min(_POLL_S, end - time.monotonic())))
        raise ModelNotReadyError(
            f"{contract.RECOMMEND.name} at {self._url} was not ready after {timeout_s:g} s. Check the address and look "
            "in the server's log for models that did not load."
        )

    def close(self) -> None:
        """Closes the connection; calls that still run fail with `CallCancelledError`. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            self._triton.close()

    def __enter__(self) -> InterestClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"InterestClient({self._url!r}{', closed' if self._closed else ''})"

    def _require_open(self) -> None:
        if self._closed:
            raise ClientClosedError(
                "This client was closed. Make a new InterestClient, and close it after its last call."
            )

    def _infer(
        self, encoded: EncodedRequest, timeout_s: float | Unset, request: RecommendRequest | None
    ) -> tuple[dict[str, npt.NDArray[Any]], str]:
        self._require_open()
        deadline_s = self._config.deadline_s(timeout_s)
        try:
            result = self._triton.infer(encoded.model_name, infer_inputs(encoded), client_timeout=deadline_s)
        except InferenceServerException as failure:
            raise typed_error(
                failure, url=self._url, timeout_s=deadline_s, model_name=encoded.model_name, request=request
            ) from failure
        return read_outputs(result)
