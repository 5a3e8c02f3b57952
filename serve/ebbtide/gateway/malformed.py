"""Messages that are none of the schema's: refused in the schema's words instead of as an unknown failure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from ebbtide.client.errors import InvalidArgumentError


@dataclass(frozen=True)
class Malformed:
    """Stands for a message that could not be read."""

    size: int
    """Bytes."""

    def error(self) -> InvalidArgumentError:
        """What the caller is told."""
        return InvalidArgumentError.of_field("message", f"{self.size} bytes that are none", "a message of the schema")


class ReadMalformed(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    """Hands a method `Malformed` in place of what cannot be read; gRPC itself would end the call as UNKNOWN."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:  # noqa: ANN401 - a handler, a named tuple without a public type
        """Finds a call's handler, and lets it read tolerantly."""
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_deserializer is None:
            return handler
        return handler._replace(request_deserializer=_tolerant(handler.request_deserializer))


def _tolerant(read: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read_or_mark(data: bytes) -> Any:  # noqa: ANN401 - any message
        try:
            return read(data)
        except DecodeError:
            return Malformed(len(data))

    return read_or_mark
