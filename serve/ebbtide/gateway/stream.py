"""One request of a stream: its own outcome, answer or failure."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from ebbtide.client.errors import EbbtideError, InternalError, InvalidArgumentError
from ebbtide.gateway.failures import failure_of
from ebbtide.v1 import RecommendRequest, RecommendResponse
from ebbtide.v1.interest_pb2 import RecommendStreamRequest, RecommendStreamResponse

logger = logging.getLogger("ebbtide.gateway")

MAX_REQUEST_ID_BYTES = 256

Ask = Callable[[RecommendRequest], Awaitable[RecommendResponse]]


async def outcome_of(item: RecommendStreamRequest, ask: Ask) -> RecommendStreamResponse:
    """The message to send for one request of a stream.

    Args:
        item: The request and its id.
        ask: Answers a request.

    Raises:
        InvalidArgumentError: The id is too long to be sent back.
    """
    size = len(item.request_id.encode())
    if size > MAX_REQUEST_ID_BYTES:
        raise InvalidArgumentError.of_field("request_id", f"{size} bytes", f"at most {MAX_REQUEST_ID_BYTES} bytes")
    try:
        return RecommendStreamResponse(request_id=item.request_id, response=await ask(item.request))
    except EbbtideError as error:
        failure = failure_of(error)
    except Exception:
        # A defect of the gateway fails this request and not the others of the stream.
        logger.exception("a request of a stream failed in the gateway itself")
        failure = failure_of(InternalError("the gateway failed; its log says more"))
    return RecommendStreamResponse(request_id=item.request_id, failure=failure)
