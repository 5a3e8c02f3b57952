"""The typed error for each way in which Triton fails a call: shared by the clients and the gateway."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ebbtide.client._fields import caller_error
from ebbtide.client.codec import UserRequest
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
from ebbtide.interest import triton_texts
from ebbtide.interest.errors import RequestError

_ROW = re.compile(r"\brow (?P<row>\d+): ")

Asked = UserRequest | Sequence[UserRequest] | None
"""What a call asked: of one user; of several, row by row; or None."""


class RowRefusedError(InvalidArgumentError):
    """One of the users that a call asked for cannot be served; never seen outside of this package."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row
        """The place of the user among those asked for."""


def typed_error(
    status: Status,
    said: str,
    *,
    target: str,
    timeout_s: float,
    model_name: str | None = None,
    request: Asked = None,
) -> EbbtideError:
    """The error to raise for a failed call.

    Args:
        status: How the call ended, other than OK.
        said: The server's words, or gRPC's where no server was reached.
        target: Where the server is.
        timeout_s: Deadline of the call, seconds.
        model_name: The model that was called; None where the call asked the server itself.
        request: The request as the caller gave it, so that a bad field is named in the caller's terms.

    Returns:
        A `RowRefusedError` where the call asked for several users, and the server says whose row is bad.
    """
    said = (said or "the server gave no reason").strip().removesuffix(".")
    asked = f"{model_name} at {target}" if model_name else f"The server at {target}"
    if status is Status.INVALID_ARGUMENT:
        return _invalid(said, request)
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


def _invalid(said: str, request: Asked) -> InvalidArgumentError:
    if isinstance(request, Sequence):
        row = _ROW.search(said)
        known = row is not None and int(row["row"]) < len(request)
        return RowRefusedError(said, int(row["row"])) if row and known else InvalidArgumentError(said)
    bad_field = RequestError.parse(said)
    return caller_error(bad_field, request) if bad_field else InvalidArgumentError(said)


def _unavailable(status: Status, said: str, asked: str) -> EbbtideError:
    if triton_texts.PROTOCOL_RESTRICTED in said:
        return PermissionDeniedError(
            f"{asked} does not let this caller in: {said}. Put the header that it expects into ClientConfig's metadata."
        )
    if status is Status.NOT_FOUND or triton_texts.UNKNOWN_MODEL in said:
        return ModelNotReadyError(
            f"{asked} is not ready: {said}. Wait with wait_until_ready(), or look in the server's log for why the "
            "model did not load.",
            status=status,
        )
    if triton_texts.QUEUE_FULL in said or triton_texts.QUEUE_TIMEOUT in said:
        return OverloadedError(
            f"{asked} has more to do than it can: {said}. Send less at once, or add servers; its queue times are in "
            "its metrics."
        )
    return UnavailableError(
        f"{asked} is unavailable: {said}. Check the address (it is Triton's gRPC port, 8001 unless set), that the "
        "server runs, and that both sides use TLS or neither does; if all is well, it refuses work for now: send less "
        "at once."
    )
