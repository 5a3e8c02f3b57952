"""Every method of `InterestClient` and `AsyncInterestClient` as steps, without I/O."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ebbtide.client._catalog_operations import CatalogOperations, Metadata
from ebbtide.client._channel import channel_args, channel_credentials
from ebbtide.client._endpoints import parse_endpoint
from ebbtide.client._failures import RowRefusedError
from ebbtide.client._inference import Inference
from ebbtide.client._packs import RECOMMEND, Kind, Pack, User, clock_ms, encoded_user, failed, read_user
from ebbtide.client._requests import as_listed, explanation_of, nothing_to_explain, recommendation_of
from ebbtide.client._retry import Deadline
from ebbtide.client._rotation import Rotation
from ebbtide.client._steps import Caller, Question, Steps, Wait
from ebbtide.client._triton import MODEL_METADATA, MODEL_READY, SERVER_LIVE, SERVER_METADATA
from ebbtide.client.codec import (
    Arrays,
    EncodedRequest,
    decode_explanation,
    decode_forgotten,
    decode_interest,
    decode_observed,
    decode_ranking,
    decode_recommended,
    decode_vectors,
    encode,
    encode_explain,
    encode_forget,
    encode_interest,
    encode_observe,
    encode_rank,
    encode_texts,
    stack,
    users_of,
)
from ebbtide.client.config import ClientConfig, Unset
from ebbtide.client.errors import (
    ClientClosedError,
    DeadlineExceededError,
    EbbtideError,
    InvalidArgumentError,
    ModelNotReadyError,
    UnavailableError,
)
from ebbtide.client.metadata import ModelMetadata, ServerMetadata, model_metadata, server_metadata
from ebbtide.client.results import A, Explanation, Q, R, Ranking, RecommendResult, UserInterest
from ebbtide.interest import served_models
from ebbtide.v1 import (
    ExplainRequest,
    ForgetRequest,
    InterestRequest,
    ObserveRequest,
    ObserveResponse,
    RankRequest,
    RecommendRequest,
    RecommendResponse,
)

_POLL_S = 0.1
_PROBE_TIMEOUT_S = 1.0


class Operations:
    """The methods of one client as steps."""

    def __init__(self, url: str | Sequence[str], config: ClientConfig | None, client_class: str) -> None:
        """Checks the address and the configuration.

        Raises:
            InvalidArgumentError: The address is not valid, or the configuration does not fit it.
        """
        self.config = config or ClientConfig()
        self.endpoint = parse_endpoint(url)
        self._client_class = client_class
        tls = self.config.tls
        if tls is not None and self.endpoint.servers and tls.server_name is None:
            raise InvalidArgumentError.of_field(
                "server_name", "none", "the name in the servers' certificate, where the address lists several"
            )
        if self.config.shared_memory and (self.endpoint.servers or not self.endpoint.loopback):
            raise InvalidArgumentError.of_field(
                "shared_memory",
                f"True for {self.endpoint.shown}",
                "one server on this machine, at localhost, a loopback address or a unix socket; or False",
            )
        self.credentials = channel_credentials(tls)
        self.channel_args = channel_args(self.config)
        self.rotation = self._rotation()
        plaintext = tls is None and not self.endpoint.loopback
        self._caller = Caller(self.config, self.endpoint.shown, plaintext=plaintext, rotation=self.rotation)
        self._inference = Inference(self.config, self._caller, self.endpoint.shown)
        self.catalog = CatalogOperations(self._inference, self._deadline)
        """The methods about the living catalog."""

    def _rotation(self) -> Rotation | None:
        if not self.endpoint.servers:
            return None
        return Rotation(
            self.endpoint.servers,
            in_turn=self.config.balancing == "round_robin",
            longest_pause_s=self.config.max_reconnect_backoff_ms / 1_000,
        )

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._caller.closed

    def close(self) -> bool:
        """Marks the client as closed; False if it was closed before."""
        was_open = not self._caller.closed
        self._caller.closed = True
        return was_open

    def release(self) -> Steps[None]:
        """Makes the server release the shared memory of this client, before the connection closes."""
        return self._inference.release()

    def __repr__(self) -> str:
        return f"{self._client_class}({self.endpoint.shown!r}{', closed' if self.closed else ''})"

    def recommend(
        self, request: RecommendRequest, timeout_s: float | Unset, metadata: Metadata = None
    ) -> Steps[RecommendResponse]:
        """See `InterestClient.recommend`."""
        encoded = encode(request, clock_ms())
        return (yield from self._recommend("recommend", encoded, request, self._deadline(timeout_s), metadata))

    def rank(self, request: RankRequest, timeout_s: float | Unset, metadata: Metadata = None) -> Steps[Ranking]:
        """See `InterestClient.rank`."""
        encoded = encode_rank(request, clock_ms())

        def read(outputs: Arrays, version: str) -> Ranking:
            return Ranking(decode_ranking(outputs, request, model_version=version))

        return (yield from self._inference.infer("rank", encoded, read, self._deadline(timeout_s), metadata, request))

    def explain(
        self, request: ExplainRequest, timeout_s: float | Unset, metadata: Metadata = None
    ) -> Steps[Explanation]:
        """See `InterestClient.explain`."""
        now_ms, deadline = clock_ms(), self._deadline(timeout_s)
        named, found = request, RecommendResponse()
        if not request.item_ids:
            wanted = recommendation_of(request)
            found = yield from self._recommend("explain", encode(wanted, now_ms), wanted, deadline, metadata)
            if not found.items:
                return Explanation(nothing_to_explain(found))
            named = explanation_of(request, (item.item_id for item in found.items))
        encoded = encode_explain(named, now_ms)

        def read(outputs: Arrays, version: str) -> Explanation:
            explained = decode_explanation(outputs, named, now_ms, model_version=version)
            return Explanation(as_listed(explained, found))

        return (yield from self._inference.infer("explain", encoded, read, deadline, metadata, named))

    def embed(
        self, texts: Sequence[str], timeout_s: float | Unset, metadata: Metadata = None
    ) -> Steps[npt.NDArray[np.float32]]:
        """See `InterestClient.embed`."""
        encoded = encode_texts(texts)
        return (yield from self._inference.infer("embed", encoded, _vectors, self._deadline(timeout_s), metadata, None))

    def observe(
        self, request: ObserveRequest, timeout_s: float | Unset, metadata: Metadata = None
    ) -> Steps[ObserveResponse]:
        """See `InterestClient.observe`."""
        encoded = encode_observe(request)

        def read(outputs: Arrays, version: str) -> ObserveResponse:
            return decode_observed(outputs, model_version=version)

        deadline = self._deadline(timeout_s)
        return (yield from self._inference.infer("observe", encoded, read, deadline, metadata, request))

    def interest(
        self, request: InterestRequest, timeout_s: float | Unset, metadata: Metadata = None
    ) -> Steps[UserInterest]:
        """See `InterestClient.interest`."""
        now_ms = clock_ms()
        encoded = encode_interest(request, now_ms)

        def read(outputs: Arrays, version: str) -> UserInterest:
            return UserInterest(decode_interest(outputs, request, now_ms, model_version=version))

        deadline = self._deadline(timeout_s)
        name = served_models.INTEREST_STATE.name
        return (yield from self._inference.infer(name, encoded, read, deadline, metadata, request))

    def forget(self, request: ForgetRequest, timeout_s: float | Unset, metadata: Metadata = None) -> Steps[int]:
        """See `InterestClient.forget`."""
        encoded = encode_forget(request)

        def read(outputs: Arrays, _: str) -> int:
            return decode_forgotten(outputs).erased_records

        deadline = self._deadline(timeout_s)
        return (yield from self._inference.infer("forget", encoded, read, deadline, metadata, request))

    def recommend_one(self, index: int, request: RecommendRequest, timeout_s: float | Unset) -> Steps[RecommendResult]:
        """The result of one of many requests, see `InterestClient.recommend_stream`; its error is not raised."""
        user = encoded_user(RECOMMEND, index, request)
        return (yield from self._ask_user(RECOMMEND, "recommend_stream", user, self._deadline(timeout_s)))

    def ask_pack(self, kind: Kind[Q, A, R], method: str, pack: Pack[Q], timeout_s: float | Unset) -> Steps[list[R]]:
        """The results of a pack, see `InterestClient.recommend_many`; errors are not raised.

        Args:
            kind: Of the requests.
            method: The client's, for hooks.
            pack: Who is asked for.
            timeout_s: Deadline, seconds.
        """
        try:
            deadline = self._deadline(timeout_s)
            if len(pack) > 1:
                return (yield from self._ask_users(kind, method, pack, deadline))
        except EbbtideError as error:
            return failed(kind, pack, error)
        return [(yield from self._ask_user(kind, method, pack[0], deadline))]

    def check_many(self, timeout_s: float | Unset, **bounds: int) -> None:
        """Checks the arguments that all requests share, once.

        Args:
            timeout_s: Deadline of each call, seconds.
            bounds: Numbers that have to be 1 or more, by name.

        Raises:
            InvalidArgumentError: A number is out of bounds.
            ClientClosedError: The client was closed.
        """
        for name, number in bounds.items():
            if number < 1:
                raise InvalidArgumentError.of_field(name, number, "at least 1")
        self._deadline(timeout_s)

    def is_live(self, timeout_s: float | Unset) -> Steps[bool]:
        """See `InterestClient.is_live`."""
        question = Question("is_live", "ServerLive", SERVER_LIVE(), lambda reply, _: bool(reply.live), retries=False)
        return (yield from self._probe(question, timeout_s))

    def is_ready(self, model_name: str, timeout_s: float | Unset) -> Steps[bool]:
        """See `InterestClient.is_ready`."""
        message = MODEL_READY(name=model_name)
        question = Question(
            "is_ready", "ModelReady", message, lambda reply, _: bool(reply.ready), model_name, retries=False
        )
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
        question = Question(
            "server_metadata", "ServerMetadata", SERVER_METADATA(), lambda reply, _: server_metadata(reply)
        )
        return (yield from self._caller.ask(question, self._deadline(timeout_s)))

    def model_metadata(self, model_name: str, timeout_s: float | Unset) -> Steps[ModelMetadata]:
        """See `InterestClient.model_metadata`."""
        deadline = self._deadline(timeout_s)
        config = yield from self._inference.model_config("model_metadata", model_name, deadline)
        question = Question(
            "model_metadata",
            "ModelMetadata",
            MODEL_METADATA(name=model_name),
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

    def _recommend(
        self, method: str, encoded: EncodedRequest, request: RecommendRequest, deadline: Deadline, metadata: Metadata
    ) -> Steps[RecommendResponse]:
        def read(outputs: Arrays, version: str) -> RecommendResponse:
            return decode_recommended(outputs, request, model_version=version)

        return (yield from self._inference.infer(method, encoded, read, deadline, metadata, request))

    def _ask_user(self, kind: Kind[Q, A, R], method: str, user: User[Q], deadline: Deadline) -> Steps[R]:
        encoded, request = user.encoded, user.request

        def read(outputs: Arrays, version: str) -> A:
            return kind.decode(outputs, request, version)

        try:
            if isinstance(encoded, InvalidArgumentError):
                raise encoded
            response = yield from self._inference.infer(method, encoded, read, deadline, None, request)
        except EbbtideError as error:
            return kind.result(request, error=error, index=user.index)
        return kind.result(request, response=response, index=user.index)

    def _ask_users(self, kind: Kind[Q, A, R], method: str, pack: Pack[Q], deadline: Deadline) -> Steps[list[R]]:
        """Sends as many users in one call as the model takes; a user whose row is refused is asked for alone."""
        known = yield from self._inference.prepare(kind.model_name, deadline)
        most = known.max_users or len(pack)
        # Rows are padded to the longest, so one that is too long would have them all refused.
        waiting = [user for user in pack if user.is_within(known.limits)]
        alone = [user for user in pack if not user.is_within(known.limits)]
        results: list[R] = []
        while waiting:
            users = waiting[:most]
            try:
                if len(users) > 1:
                    results += yield from self._ask_together(kind, method, users, deadline)
                else:
                    alone += users
            except RowRefusedError as error:
                alone.append(waiting.pop(error.row))
                continue
            except InvalidArgumentError:
                alone += users
            except EbbtideError as error:
                results += failed(kind, users, error)
            del waiting[: len(users)]
        for user in alone:
            results.append((yield from self._ask_user(kind, method, user, deadline)))
        return results

    def _ask_together(self, kind: Kind[Q, A, R], method: str, users: Pack[Q], deadline: Deadline) -> Steps[list[R]]:
        stacked = stack([user.encoded for user in users if isinstance(user.encoded, EncodedRequest)])
        requests = [user.request for user in users]

        def read(outputs: Arrays, version: str) -> list[R]:
            answers = users_of(outputs, len(users))
            return [read_user(kind, user, rows, version) for user, rows in zip(users, answers, strict=True)]

        return (yield from self._inference.infer(method, stacked, read, deadline, None, requests))

    def _probe(self, question: Question[bool], timeout_s: float | Unset) -> Steps[bool]:
        try:
            return (yield from self._caller.ask(question, self._deadline(timeout_s)))
        except (UnavailableError, DeadlineExceededError):
            return False


def _vectors(outputs: Arrays, _: str) -> npt.NDArray[np.float32]:
    return decode_vectors(outputs)
