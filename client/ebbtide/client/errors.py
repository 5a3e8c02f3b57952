"""Errors of the client, named for what happened.

    EbbtideError                   any failed call; `status` says how
    ├── InvalidArgumentError       a field of the request is not valid (also a ValueError)
    ├── DeadlineExceededError      no answer within the call's deadline
    ├── UnavailableError           no server answers, or the server refuses work for now
    │   ├── ModelNotReadyError     the server answers, but does not serve the model
    │   ├── OverloadedError        the model's queue is full, or the request waited in it too long
    │   └── StateUnavailableError  the server answers, but cannot reach the store of the users' states
    ├── VersionMismatchError       the model on the server is not the one that this client expects
    ├── UnauthenticatedError       the token is missing or not valid
    ├── PermissionDeniedError      the caller may not do this
    ├── ResourceExhaustedError     a message is larger than allowed, or a quota is used up
    ├── CallCancelledError         the call was cancelled, or its client was closed during it
    ├── ClientClosedError          the client was closed before the call
    └── InternalError              the server failed, or its answer is not that of an Ebbtide model

A status without a class of its own (ABORTED, UNIMPLEMENTED, ...) raises `EbbtideError` itself.
"""

from __future__ import annotations

from enum import IntEnum


class Status(IntEnum):
    """How a call ended; the values are gRPC's status codes."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class EbbtideError(Exception):
    """A call that failed; the root of every error that this package raises on purpose."""

    default_status = Status.UNKNOWN

    def __init__(self, message: str, *, status: Status | None = None) -> None:
        super().__init__(message)
        self.message = message
        """What happened and what to do about it."""
        self.status = self.default_status if status is None else status
        """How the call ended."""
        self.attempts = 0
        """How often the server was asked, retries included; 0 if the client refused the call before that."""


class InvalidArgumentError(EbbtideError, ValueError):
    """A field of the request is not valid; the same request will fail again.

    The field is named as the caller wrote it, in terms of `RecommendRequest`: ``history[3].item_id``.
    """

    default_status = Status.INVALID_ARGUMENT

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        value: str | None = None,
        expected: str | None = None,
        status: Status | None = None,
    ) -> None:
        super().__init__(message, status=status)
        self.field = field
        """Path of the field; None if the server's message names none."""
        self.value = value
        """Value of the field."""
        self.expected = expected
        """Which values are valid."""

    @classmethod
    def of_field(cls, field: str, value: object, expected: str) -> InvalidArgumentError:
        """The error for one field: its path, its value and which values are valid."""
        return cls(f"{field}: got {value}; expected {expected}", field=field, value=str(value), expected=expected)

    def expect(self, expected: str) -> None:
        """Says better than the server could which values are valid."""
        self.expected = expected
        self.message = f"{self.field}: got {self.value}; expected {expected}"
        self.args = (self.message,)


class DeadlineExceededError(EbbtideError):
    """No answer within the deadline of the call. The server may have done the work nevertheless."""

    default_status = Status.DEADLINE_EXCEEDED


class UnavailableError(EbbtideError):
    """No server answers at the address, or it refuses work for now; retries within the deadline failed too."""

    default_status = Status.UNAVAILABLE


class ModelNotReadyError(UnavailableError):
    """The server answers, but the model is not in its repository, is loading, or failed to load."""


class OverloadedError(UnavailableError):
    """The queue of the model is full, or the request waited in it for longer than the model allows."""


class StateUnavailableError(UnavailableError):
    """The server answers, but the store of the users' states does not; the server itself is fine.

    A call with `allow_stateless` is answered without the state instead. Observing and forgetting may be repeated: an
    event counts once.
    """


class VersionMismatchError(EbbtideError):
    """The model at the address has other tensors than this client expects, or is of another export."""

    default_status = Status.FAILED_PRECONDITION

    def __init__(self, message: str, *, expected: str, found: str, status: Status | None = None) -> None:
        super().__init__(message, status=status)
        self.expected = expected
        """What this client expects: a fingerprint, or a tensor of the contract."""
        self.found = found
        """What the server has instead."""


class UnauthenticatedError(EbbtideError):
    """The token is missing, expired or not valid for this server."""

    default_status = Status.UNAUTHENTICATED


class PermissionDeniedError(EbbtideError):
    """The caller may not do this."""

    default_status = Status.PERMISSION_DENIED


class ResourceExhaustedError(EbbtideError):
    """A message is larger than the client or the server allows, or a quota is used up."""

    default_status = Status.RESOURCE_EXHAUSTED


class CallCancelledError(EbbtideError):
    """The call was cancelled, or its client was closed during the call."""

    default_status = Status.CANCELLED


class ClientClosedError(EbbtideError):
    """The client was closed before the call."""

    default_status = Status.FAILED_PRECONDITION


class InternalError(EbbtideError):
    """The server failed while it worked on the request, or its answer is not that of an Ebbtide model."""

    default_status = Status.INTERNAL
