"""What a client does, apart from the I/O: every method of `InterestClient` and `AsyncInterestClient` as steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ebbtide.client._channel import channel_args, channel_credentials
from ebbtide.client._contract_check import check_model
from ebbtide.client._endpoints import parse_endpoint
from ebbtide.client._retry import Deadline
from ebbtide.client._steps import Caller, Question, Steps, T, Wait
from ebbtide.client._triton import Untyped, infer_inputs, read_outputs
from ebbtide.client.codec import Arrays, EncodedRequest, decode, decode_vectors, encode, encode_texts
from ebbtide.client.config import ClientConfig, Unset
from ebbtide.client.errors import (
    ClientClosedError,
    DeadlineExceededError,
    EbbtideError,
    InvalidArgumentError,
    ModelNotReadyError,
    PermissionDeniedError,
    Status,
    UnavailableError,
)
from ebbtide.client.hooks import Call
from ebbtide.client.metadata import ModelMetadata, ServerMetadata, model_metadata, server_metadata
from ebbtide.client.results import RecommendResult
from ebbtide.interest import contract
from ebbtide.v1 import RecommendRequest, RecommendResponse

logger = logging.getLogger("ebbtide.client")

_DATATYPES = {
    model.name: {tensor.name: tensor.dtype.value for tensor in model.inputs} for model in contract.MODELS.values()
}
_POLL_S = 0.1
_PROBE_TIMEOUT_S = 1.0


class Operations:
    """The methods of one client as steps, and what it remembers between calls."""

    def __init__(self, url: str | Sequence[str], config: ClientConfig | None, client_class: str) -> None:
        """Checks the address and the configuration.

        Raises:
            InvalidArgumentError: They do not fit each other, or the address is none.
        """
        self.config = config or ClientConfig()
        self.endpoint = parse_endpoint(url)
        self._client_class = client_class
        tls = self.config.tls
        if tls is not None and self.endpoint.several and tls.server_name is None:
            raise InvalidArgumentError.of_field(
                "server_name", "none", "the name in the servers' certificate, where the address lists several"
            )
        self.credentials = channel_credentials(tls)
        self.channel_args = channel_args(self.config)
        self._caller = Caller(self.config, self.endpoint.shown, plaintext=tls is None and not self.endpoint.loopback)
        self._compression = None if self.config.compression == "none" else self.config.compression
        self._checked: set[str] = set()
        self._versions: dict[str, set[str]] = {}

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._caller.closed

    def close(self) -> bool:
        """Notes that the client is closed; whether this is news."""
        news = not self._caller.closed
        self._caller.closed = True
        return news

    def __repr__(self) -> str:
        return f"{self._client_class}({self.endpoint.shown!r}{', closed' if self.closed else ''})"

    def recommend(
        self, request: RecommendRequest, timeout_s: float | Unset, metadata: Mapping[str, str] | None = None
    ) -> Steps[RecommendResponse]:
        """See `InterestClient.recommend`."""
        encoded = encode(request, now_ms=time.time_ns() // 1_000_000)

        def read(outputs: Arrays, version: str) -> RecommendResponse:
            return decode(outputs, request.top_n, model_version=version)

        return (yield from self._infer("recommend", encoded, read, timeout_s, metadata, request))

    def recommend_one_of_many(self, request: RecommendRequest, timeout_s: float | Unset) -> Steps[RecommendResult]:
        """See `InterestClient.recommend_many`."""
        try:
            return RecommendResult(request, response=(yield from self.recommend(request, timeout_s)))
        except EbbtideError as error:
            return RecommendResult(request, error=error)

    def check_many(self, max_concurrency: int, timeout_s: float | Unset) -> None:
        """Checks once what would fail every request of `recommend_many`.

        Raises:
            InvalidArgumentError: A bound is out of bounds.
            ClientClosedError: The client was closed.
        """
        if max_concurrency < 1:
            raise InvalidArgumentError.of_field("max_concurrency", max_concurrency, "at least 1")
        self._deadline(timeout_s)

    def embed(
        self, texts: Sequence[str], timeout_s: float | Unset, metadata: Mapping[str, str] | None = None
    ) -> Steps[npt.NDArray[np.float32]]:
        """See `InterestClient.embed`."""
        encoded = encode_texts(texts)
        return (yield from self._infer("embed", encoded, _vectors, timeout_s, metadata, None))

    def is_live(self, timeout_s: float | Unset) -> Steps[bool]:
        """See `InterestClient.is_live`."""
        return (yield from self._probe(Question("is_live", "is_server_live", {}, _as_bool, retries=False), timeout_s))

    def is_ready(self, model_name: str, timeout_s: float | Unset) -> Steps[bool]:
        """See `InterestClient.is_ready`."""
        arguments = {"model_name": model_name}
        question = Question("is_ready", "is_model_ready", arguments, _as_bool, model_name, retries=False)
        return (yield from self._probe(question, timeout_s))

    def wait_until_ready(self, timeout_s: float, model_name: str) -> Steps[None]:
        """See `InterestClient.wait_until_ready`."""
        deadline = self._deadline(timeout_s)
        while (left_s := deadline.left_s()) > 0:
            if (yield from self.is_ready(model_name, min(left_s, _PROBE_TIMEOUT_S))):
                return
            yield Wait(min(_POLL_S, deadline.left_s()))
        raise ModelNotReadyError(
            f"{model_name} at {self.endpoint.shown} was not ready after {timeout_s:g} s. Check the address and look "
            "in the server's log for models that did not load."
        )

    def server_metadata(self, timeout_s: float | Unset) -> Steps[ServerMetadata]:
        """See `InterestClient.server_metadata`."""
        question = Question("server_metadata", "get_server_metadata", {}, lambda reply, _: server_metadata(reply))
        return (yield from self._caller.ask(question, self._deadline(timeout_s)))

    def model_metadata(self, model_name: str, timeout_s: float | Unset) -> Steps[ModelMetadata]:
        """See `InterestClient.model_metadata`."""
        deadline = self._deadline(timeout_s)
        config = yield from self._model_config("model_metadata", model_name, deadline)
        question = Question(
            "model_metadata",
            "get_model_metadata",
            {"model_name": model_name},
            lambda reply, _: model_metadata(reply, config),
            model_name,
        )
        return (yield from self._caller.ask(question, deadline))

    def _deadline(self, timeout_s: float | Unset) -> Deadline:
        if self.closed:
            raise ClientClosedError(
                f"This client was closed. Make a new {self._client_class}, and close it after its last call."
            )
        return Deadline.after(self.config.deadline_s(timeout_s))

    def _infer(
        self,
        method: str,
        encoded: EncodedRequest,
        read: Callable[[Arrays, str], T],
        timeout_s: float | Unset,
        metadata: Mapping[str, str] | None,
        request: RecommendRequest | None,
    ) -> Steps[T]:
        deadline = self._deadline(timeout_s)
        model_name = encoded.model_name
        if self.config.check_contract and model_name not in self._checked:
            yield from self._check_contract(model_name, deadline, metadata)

        def read_answer(reply: Untyped, call: Call) -> T:
            outputs, call.model_version = read_outputs(reply)
            self._note_version(model_name, call.model_version)
            return read(outputs, call.model_version)

        arguments = {
            "model_name": model_name,
            "inputs": infer_inputs(encoded.tensors, _DATATYPES[model_name]),
            "compression_algorithm": self._compression,
        }
        question = Question(method, "infer", arguments, read_answer, model_name, request)
        return (yield from self._caller.ask(question, deadline, metadata))

    def _note_version(self, model_name: str, version: str) -> None:
        """Has the model checked again once another version of it answered: a deployment may have switched."""
        known = self._versions.setdefault(model_name, {version})
        if version not in known:
            known.add(version)
            self._checked.discard(model_name)

    def _check_contract(self, model_name: str, deadline: Deadline, metadata: Mapping[str, str] | None) -> Steps[None]:
        try:
            config = yield from self._model_config("check_contract", model_name, deadline, metadata)
        except EbbtideError as error:
            hidden = isinstance(error, PermissionDeniedError) or error.status is Status.UNIMPLEMENTED
            if not hidden or self.config.expected_fingerprint is not None:
                raise
            logger.warning("%s: the model's contract is not checked, since the server does not tell it", error)
        else:
            check_model(config, contract.MODELS[model_name], self.config.expected_fingerprint, self.endpoint.shown)
        self._checked.add(model_name)

    def _model_config(
        self, method: str, model_name: str, deadline: Deadline, metadata: Mapping[str, str] | None = None
    ) -> Steps[Untyped]:
        arguments = {"model_name": model_name}
        question = Question(method, "get_model_config", arguments, lambda reply, _: reply.config, model_name)
        return (yield from self._caller.ask(question, deadline, metadata))

    def _probe(self, question: Question[bool], timeout_s: float | Unset) -> Steps[bool]:
        try:
            return (yield from self._caller.ask(question, self._deadline(timeout_s)))
        except (UnavailableError, DeadlineExceededError):
            return False


def _as_bool(reply: bool, _: Call) -> bool:
    return reply


def _vectors(outputs: Arrays, _: str) -> npt.NDArray[np.float32]:
    return decode_vectors(outputs)
