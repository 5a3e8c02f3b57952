"""Failed calls in gRPC: a status code, a message, and `google.rpc` details for programs."""

from __future__ import annotations

import re

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from ebbtide.client.errors import EbbtideError, InvalidArgumentError
from ebbtide.v1.interest_pb2 import Failure

DOMAIN = "ebbtide"
"""The domain of `ErrorInfo`."""

_SHOWN_BYTES = 700
"""Of a message or value: metadata has room for 8 KiB in all, and the caller knows what was sent."""
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_WORDS = re.compile(r"(?<!^)(?=[A-Z])")


def shown(text: str) -> str:
    """A text that an error repeats, cut in its middle if it is long."""
    data = text.encode()
    if len(data) <= _SHOWN_BYTES:
        return text
    half = _SHOWN_BYTES // 2
    return f"{data[:half].decode(errors='ignore')} [...] {data[-half:].decode(errors='ignore')}"


def code_of(error: EbbtideError) -> grpc.StatusCode:
    """The status code that a caller sees."""
    return _CODES[int(error.status)]


def reason_of(error: EbbtideError) -> str:
    """The error's name as programs read it: `ModelNotReadyError` is MODEL_NOT_READY."""
    return _WORDS.sub("_", type(error).__name__.removesuffix("Error")).upper()


def failure_of(error: EbbtideError) -> Failure:
    """The failure of one request of a stream."""
    failure = Failure(code=int(error.status), reason=reason_of(error), message=shown(error.message))
    if isinstance(error, InvalidArgumentError) and error.field is not None:
        failure.field = error.field
        failure.value = shown(error.value or "")
        failure.expected = error.expected or ""
    return failure


def details_of(error: EbbtideError) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata with the failure as `google.rpc.Status`.

    Returns:
        `ErrorInfo` with the error's name as reason, such as MODEL_NOT_READY; and `BadRequest` with the field's path
        where one field is wrong.
    """
    details = [error_details_pb2.ErrorInfo(reason=reason_of(error), domain=DOMAIN)]
    if isinstance(error, InvalidArgumentError) and error.field is not None:
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.field, description=shown(f"got {error.value}; expected {error.expected}")
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    packed = [AnyMessage() for _ in details]
    for container, detail in zip(packed, details, strict=True):
        container.Pack(detail)
    status = status_pb2.Status(
        code=code_pb2.Code.Value(error.status.name), message=shown(error.message), details=packed
    )
    trailing: tuple[tuple[str, str | bytes], ...] = rpc_status.to_status(status).trailing_metadata
    return trailing
