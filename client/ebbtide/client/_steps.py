"""One call with its attempts, hooks and headers, as steps that need no I/O; so both kinds of client share it.

A call is a generator. It yields what has to be done outside (an RPC, a wait, asking for a token), and is sent the
outcome by its client, which did that by blocking or by awaiting.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from ebbtide.client._failures import Asked, typed_error
from ebbtide.client._retry import Deadline, RetryPolicy
from ebbtide.client._rotation import Rotation, is_the_servers
from ebbtide.client._triton import Untyped, failure_of
from ebbtide.client.config import ClientConfig, checked_metadata
from ebbtide.client.errors import CallCancelledError, EbbtideError, InvalidArgumentError, Status
from ebbtide.client.hooks import Attempt, Call
from ebbtide.client.security import TokenProvider, authorization

logger = logging.getLogger("ebbtide.client")

AUTHORIZATION = "authorization"


class Rpc(NamedTuple):
    """A call of a method of Triton's service; the fields are the arguments of `Connection.call`."""

    method: str
    request: Untyped
    timeout_s: float
    metadata: dict[str, str]
    compression: str = "none"
    server: int | None = None


class Wait(NamedTuple):
    """A wait of so many seconds, or until the client is closed."""

    seconds: float


class AskToken(NamedTuple):
    """A request to the token provider, with a timeout."""

    provider: TokenProvider
    timeout_s: float


T = TypeVar("T")
Steps = Generator[Rpc | Wait | AskToken, Any, T]
"""A call in flight, which returns a T."""


@dataclass(frozen=True)
class Question(Generic[T]):
    """The request of one call, and how its answer is read."""

    method: str
    """The client's method, for hooks."""
    rpc: str
    """Method of Triton's service."""
    message: Untyped
    """Request message of the method."""
    read: Callable[[Untyped, Call], T]
    """Turns the reply into the answer, and may complete the record of the call."""
    model_name: str | None = None
    """The called model; None if the call asks the server itself."""
    request: Asked = None
    """The caller's request, so that errors name fields as the caller wrote them."""
    retries: bool = True
    """Whether the call may be retried."""
    compression: str = "none"
    """Compression of the message."""


class Caller:
    """Asks questions: with attempts inside one deadline, and the client's headers, hooks and retry budget."""

    def __init__(self, config: ClientConfig, target: str, *, plaintext: bool, rotation: Rotation | None = None) -> None:
        """Makes the caller of one client.

        Args:
            config: The client's.
            target: Where the server is, for errors and hooks.
            plaintext: Whether messages leave this machine unencrypted.
            rotation: The turns among several servers; None where gRPC chooses.

        Raises:
            InvalidArgumentError: A token would leave this machine unencrypted.
        """
        self.closed = False
        self._target = target
        self._rotation = rotation
        self._hooks = config.hooks
        self._retry = RetryPolicy(config.retry)
        self._metadata = dict(config.metadata)
        self._provider: TokenProvider | None = None
        self._plaintext = plaintext and not (config.token and config.token.allow_plaintext)
        if config.token is not None:
            if isinstance(config.token.value, str):
                self._metadata[AUTHORIZATION] = authorization(config.token.value)
            else:
                self._provider = config.token.value
        if config.token is not None or AUTHORIZATION in self._metadata:
            self._refuse_plaintext()

    def ask(self, question: Question[T], deadline: Deadline, metadata: Mapping[str, str] | None = None) -> Steps[T]:
        """Calls the server, with retries, until there is an answer or the call fails.

        Args:
            question: What to ask.
            deadline: When the whole call ends.
            metadata: Sent with this call beside the client's own.

        Raises:
            EbbtideError: The call failed.
        """
        sent = self._sent(metadata)
        call = Call(question.method, question.model_name, self._target, deadline.timeout_s)
        began_s = time.monotonic()
        self._run("before_call", call)
        try:
            answer = question.read((yield from self._attempts(question, call, deadline, sent)), call)
            call.status = Status.OK
        except BaseException as error:
            call.error, call.status = error, _status(error)
            raise
        finally:
            call.duration_s = time.monotonic() - began_s
            self._run("after_call", call)
        return answer

    def _attempts(self, question: Question[Any], call: Call, deadline: Deadline, sent: dict[str, str]) -> Steps[Any]:
        tried: set[int] = set()
        while True:
            call.attempts += 1
            server = self._rotation.choose(tried) if self._rotation is not None else None
            attempt = Attempt(call, call.attempts, deadline.left_s(), dict(sent))
            self._run("before_attempt", attempt)
            began_s = time.monotonic()
            try:
                if self._provider is not None:
                    token = yield AskToken(self._provider, deadline.left_s())
                    attempt.metadata[AUTHORIZATION] = authorization(token)
                left_s = deadline.left_s()
                if left_s <= 0:
                    raise self._error(question, deadline, server, Status.DEADLINE_EXCEEDED, "")
                answer = yield Rpc(
                    question.rpc, question.message, left_s, attempt.metadata, question.compression, server
                )
            except BaseException as raised:
                error = self._typed(raised, question, deadline, server)
                attempt.duration_s = time.monotonic() - began_s
                attempt.error, attempt.status = error, _status(error)
                if isinstance(error, EbbtideError):
                    error.attempts = call.attempts
                    others = server is not None and self._leave(server, error, tried)
                    if question.retries:
                        attempt.retry_in_s = self._retry.wait_s(
                            call.attempts, error, deadline.left_s(), other_server=others
                        )
                self._run("after_attempt", attempt)
                if attempt.retry_in_s is None:
                    if error is raised:
                        raise
                    raise error from raised
                logger.debug(
                    "%s, attempt %d: %s Trying again in %.3f s.", call.method, call.attempts, error, attempt.retry_in_s
                )
            else:
                self._retry.budget.succeeded()
                if self._rotation is not None and server is not None:
                    self._rotation.answered(server)
                attempt.duration_s = time.monotonic() - began_s
                attempt.status = Status.OK
                self._run("after_attempt", attempt)
                return answer
            yield Wait(attempt.retry_in_s)
            if self.closed:
                raise self._cancelled()

    def _leave(self, server: int, error: EbbtideError, tried: set[int]) -> bool:
        """Leaves out a server that cannot answer; whether another one is there that has not failed this call."""
        tried.add(server)
        if self._rotation is None or self.closed:
            return False
        if isinstance(error, InvalidArgumentError):
            # A server that reads requests is in service.
            self._rotation.answered(server)
            return False
        if not is_the_servers(error):
            return False
        self._rotation.failed(server)
        return self._rotation.has_other(tried)

    def _typed(
        self, raised: BaseException, question: Question[Any], deadline: Deadline, server: int | None
    ) -> BaseException:
        failure = failure_of(raised)
        if failure is not None:
            return self._error(question, deadline, server, *failure)
        # The errors of gRPC about a closed channel have no common class.
        if self.closed and isinstance(raised, Exception) and not isinstance(raised, EbbtideError):
            return self._cancelled()
        return raised

    def _error(
        self, question: Question[Any], deadline: Deadline, server: int | None, status: Status, said: str
    ) -> EbbtideError:
        return typed_error(
            status,
            said,
            target=self._target if self._rotation is None or server is None else self._rotation.servers[server],
            timeout_s=deadline.timeout_s,
            model_name=question.model_name,
            request=question.request,
        )

    def _cancelled(self) -> CallCancelledError:
        return CallCancelledError(f"The server at {self._target}: the client was closed while the call ran.")

    def _sent(self, metadata: Mapping[str, str] | None) -> dict[str, str]:
        if not metadata:
            return self._metadata
        if AUTHORIZATION in metadata:
            self._refuse_plaintext()
        return {**self._metadata, **checked_metadata(metadata)}

    def _refuse_plaintext(self) -> None:
        if self._plaintext:
            raise InvalidArgumentError.of_field(
                "token",
                f"one for {self._target} without TLS",
                "TLS, or an address on this machine; BearerToken(..., allow_plaintext=True) sends it without",
            )

    def _run(self, hook_name: str, record: Call | Attempt) -> None:
        for hooks in self._hooks:
            hook = getattr(hooks, hook_name)
            if hook is None:
                continue
            try:
                hook(record)
            except Exception:
                # A hook is foreign code: its exceptions are logged and do not end the call.
                logger.exception("hook %s of %s failed; the call goes on", hook_name, self._target)


def _status(error: BaseException) -> Status:
    if isinstance(error, EbbtideError):
        return error.status
    # A cancelled task and Ctrl-C are no Exceptions.
    return Status.UNKNOWN if isinstance(error, Exception) else Status.CANCELLED
