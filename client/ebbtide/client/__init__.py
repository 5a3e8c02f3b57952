"""The client SDK: typed recommendations from a Triton server that serves an Ebbtide repository."""

from ebbtide.client._async_client import AsyncInterestClient
from ebbtide.client._client import InterestClient
from ebbtide.client._events import event
from ebbtide.client._requests import UserKeywords, explain_request, rank_request, recommend_request
from ebbtide.client.config import UNSET, ClientConfig, KeepAliveConfig, RetryConfig
from ebbtide.client.errors import (
    CallCancelledError,
    ClientClosedError,
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
    VersionMismatchError,
)
from ebbtide.client.hooks import Attempt, Call, Hooks
from ebbtide.client.metadata import ModelMetadata, ServerMetadata, TensorMetadata
from ebbtide.client.results import Explanation, Ranking, RecommendResult
from ebbtide.client.security import BearerToken, TlsConfig
from ebbtide.v1 import (
    ColdStart,
    Event,
    ExplainRequest,
    ExplainResponse,
    RankRequest,
    RankResponse,
    RecommendedItem,
    RecommendRequest,
    RecommendResponse,
    UnknownItemPolicy,
)

__all__ = [
    "UNSET",
    "AsyncInterestClient",
    "Attempt",
    "BearerToken",
    "Call",
    "CallCancelledError",
    "ClientClosedError",
    "ClientConfig",
    "ColdStart",
    "DeadlineExceededError",
    "EbbtideError",
    "Event",
    "ExplainRequest",
    "ExplainResponse",
    "Explanation",
    "Hooks",
    "InterestClient",
    "InternalError",
    "InvalidArgumentError",
    "KeepAliveConfig",
    "ModelMetadata",
    "ModelNotReadyError",
    "OverloadedError",
    "PermissionDeniedError",
    "RankRequest",
    "RankResponse",
    "Ranking",
    "RecommendRequest",
    "RecommendResponse",
    "RecommendResult",
    "RecommendedItem",
    "ResourceExhaustedError",
    "RetryConfig",
    "ServerMetadata",
    "Status",
    "TensorMetadata",
    "TlsConfig",
    "UnauthenticatedError",
    "UnavailableError",
    "UnknownItemPolicy",
    "UserKeywords",
    "VersionMismatchError",
    "event",
    "explain_request",
    "rank_request",
    "recommend_request",
]
