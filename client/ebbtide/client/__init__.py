"""The client SDK: typed recommendations from a Triton server that serves an Ebbtide repository."""

from ebbtide.client._client import InterestClient
from ebbtide.client._events import event
from ebbtide.client.config import UNSET, ClientConfig, KeepAliveConfig, RetryConfig
from ebbtide.client.errors import (
    CallCancelledError,
    ClientClosedError,
    DeadlineExceededError,
    EbbtideError,
    InternalError,
    InvalidArgumentError,
    ModelNotReadyError,
    ResourceExhaustedError,
    Status,
    UnavailableError,
)
from ebbtide.v1 import Event, RecommendedItem, RecommendRequest, RecommendResponse

__all__ = [
    "UNSET",
    "CallCancelledError",
    "ClientClosedError",
    "ClientConfig",
    "DeadlineExceededError",
    "EbbtideError",
    "Event",
    "InterestClient",
    "InternalError",
    "InvalidArgumentError",
    "KeepAliveConfig",
    "ModelNotReadyError",
    "RecommendRequest",
    "RecommendResponse",
    "RecommendedItem",
    "ResourceExhaustedError",
    "RetryConfig",
    "Status",
    "UnavailableError",
    "event",
]
