"""The typed error for each way in which Triton fails a call: shared by the clients and the gateway."""

from __future__ import annotations

from ebbtide.client._fields import caller_error
from ebbtide.client.errors import (
    CallCancelledError,
    DeadlineExceededError,
    EbbtideError,
    InternalError,
    InvalidArgumentError,
    ModelNotReadyError,
    OverloadedError,
    PermissionDeniedError,
    ResourceExhaustedError,
    Status,
    UnauthenticatedError,
    UnavailableError,
)
from ebbtide.interest.errors import RequestError
from ebbtide.v1 import RecommendRequest

# Triton answers UNAVAILABLE in all of these cases; its words tell them apart.
_UNKNOWN_MODEL = ("unknown model", "is not ready")
_OVERLOADED = ("Exceeds maximum queue size", "Request timeout expired")
_RESTRICTED = "protocol is restricted"


def typed_error(
    status: Status,
    said: str,
    *,
    target: str,
    timeout_s: float,
    model_name: str | None = None,
    request: RecommendRequest | None = None,
) -> EbbtideError:
    """The error to raise for a failed call.

    Args:
        status: How the call ended, other than OK.
        said: The server's words, or gRPC's where no server was reached.
        target: Where the server is.
        timeout_s: Deadline of the call, seconds.
        model_name: The model that was called; None where the call asked the server itself.
        request: The request as the caller gave it, so that a bad field is named in the caller's terms.
    """
    said = (said or "the server gave no reason").strip().removesuffix(".")
    asked = f"{model_name} at {target}" if model_name else f"The server at {target}"
    if status is Status.INVALID_ARGUMENT:
        bad_field = RequestError.parse(said)
        return caller_error(bad_field, request) if bad_field else InvalidArgumentError(said)
    if status is Status.DEADLINE_EXCEEDED:
        return DeadlineExceededError(
            f"{asked} did not answer within {timeout_s:g} s. Give the call a longer timeout_s, or give the server less "
            "to do at once (its queue times are in its metrics)."
        )
    if status in (Status.UNAVAILABLE, Status.NOT_FOUND):
        return _unavailable(status, said, asked)
    if status is Status.UNAUTHENTICATED:
        return UnauthenticatedError(
            f"{asked} does not know who calls: {said}. Give ClientConfig a token that is valid now."
        )
    if status is Status.PERMISSION_DENIED:
        return PermissionDeniedError(f"{asked} does not let this caller in: {said}.")
    if status is Status.RESOURCE_EXHAUSTED:
        return ResourceExhaustedError(
            f"{asked}: {said}. Send smaller requests, or raise max_message_bytes in ClientConfig."
        )
    if status is Status.CANCELLED:
        return CallCancelledError(f"{asked}: the call was cancelled: {said}.")
    if status in (Status.INTERNAL, Status.UNKNOWN, Status.DATA_LOSS):
        return InternalError(f"{asked} failed: {said}. The server's log says more.", status=status)
    return EbbtideError(f"{asked} answered {status.name}: {said}.", status=status)


def _unavailable(status: Status, said: str, asked: str) -> EbbtideError:
    if _RESTRICTED in said:
        return PermissionDeniedError(
            f"{asked} does not let this caller in: {said}. Put the header that it expects into ClientConfig's metadata."
        )
    if status is Status.NOT_FOUND or any(words in said for words in _UNKNOWN_MODEL):
        return ModelNotReadyError(
            f"{asked} is not ready: {said}. Wait with wait_until_ready(), or look in the server's log for why the "
            "model did not load.",
            status=status,
        )
    if any(words in said for words in _OVERLOADED):
        return OverloadedError(
            f"{asked} has more to do than it can: {said}. Send less at once, or add servers; its queue times are in "
            "its metrics."
        )
    return UnavailableError(
        f"{asked} is unavailable: {said}. Check the address (it is Triton's gRPC port, 8001 unless set), that the "
        "server runs, and that both sides use TLS or neither does; if all is well, it refuses work for now: send less "
        "at once."
    )
