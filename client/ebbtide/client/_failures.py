"""The typed error for each way in which Triton fails a call: shared by the clients and the gateway."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ebbtide.client._fields import caller_error
from ebbtide.client.codec import EventRequest, ItemsRequest, RulesRequest, StateRequest, UserRequest
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
    StateUnavailableError,
    Status,
    UnauthenticatedError,
    UnavailableError,
)
from ebbtide.interest import triton_texts
from ebbtide.interest.errors import STORE_FAILED, RequestError

_ROW = re.compile(r"\brow (?P<row>\d+): ")

Asked = UserRequest | StateRequest | ItemsRequest | RulesRequest | Sequence[EventRequest] | None
"""The request of a call: of one user; of several users, one per row; or None."""


class RowRefusedError(InvalidArgumentError):
    """The request of one of several users in a call is not valid; never raised outside of this package."""

    def __init__(self, message: str, row: int) -> None:
        super().__init__(message)
        self.row = row
        """Index of the user in the call."""


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
        said: The server's message, or gRPC's if no server was reached.
        target: Where the server is.
        timeout_s: Deadline of the call, seconds.
        model_name: The model that was called; None where the call asked the server itself.
        request: The caller's request, so that the error names the field as the caller wrote it.

    Returns:
        A `RowRefusedError` if the call asked for several users and the server names the row.
    """
    said = (said or "the server gave no reason").strip().removesuffix(".")
    asked = f"{model_name} at {target}" if model_name else f"The server at {target}"
    if status is Status.INVALID_ARGUMENT:
        return _invalid(said, request)
    if status is Status.DEADLINE_EXCEEDED:
        return DeadlineExceededError(
            f"{asked} did not answer within {timeout_s:g} s. Give the call a longer timeout_s, or send fewer "
            "requests at once (the server's metrics show its queue times)."
        )
    if status in (Status.UNAVAILABLE, Status.NOT_FOUND):
        return _unavailable(status, said, asked)
    if status is Status.UNAUTHENTICATED:
        return UnauthenticatedError(
            f"{asked} does not accept the caller's credentials: {said}. Give ClientConfig a token that is valid now."
        )
    if status is Status.PERMISSION_DENIED:
        return PermissionDeniedError(f"{asked} does not permit this call: {said}.")
    if status is Status.RESOURCE_EXHAUSTED:
        return ResourceExhaustedError(
            f"{asked}: {said}. Send smaller requests, or raise max_message_bytes in ClientConfig."
        )
    if status is Status.CANCELLED:
        return CallCancelledError(f"{asked}: the call was cancelled: {said}.")
    if status is Status.INTERNAL and triton_texts.PROCESS_DEAD in said:
        return UnavailableError(
            f"{asked} is unavailable: {said}. The process of a Python model has died; `ebbtide serve` starts the "
            "server again by itself, and any other Triton has to be restarted."
        )
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
            f"{asked} does not permit this call: {said}. Put the expected header into ClientConfig's metadata."
        )
    if status is Status.NOT_FOUND or triton_texts.UNKNOWN_MODEL in said:
        return ModelNotReadyError(
            f"{asked} is not ready: {said}. Wait with wait_until_ready(), or look in the server's log for why the "
            "model did not load.",
            status=status,
        )
    if triton_texts.QUEUE_FULL in said or triton_texts.QUEUE_TIMEOUT in said:
        return OverloadedError(
            f"{asked} is overloaded: {said}. Send fewer requests at once, or add servers; the server's metrics show "
            "its queue times."
        )
    if STORE_FAILED in said:
        why = said.partition(STORE_FAILED)[2].removeprefix(": ")
        return StateUnavailableError(
            f"{asked} answers, but {STORE_FAILED}: {why}. Try again when the store is back; with allow_stateless the "
            "server answers without the state."
        )
    return UnavailableError(
        f"{asked} is unavailable: {said}. Check the address (it is Triton's gRPC port, 8001 unless set), that the "
        "server runs, and that client and server both use TLS or neither does. If all of this is right, the server "
        "refuses work for now: send fewer requests at once."
    )
