"""The messages of the typed schema, version 1; the service's stubs are in ``ebbtide.v1.interest_pb2_grpc``."""

from ebbtide.v1.interest_pb2 import (
    Embedding,
    EmbedRequest,
    EmbedResponse,
    Event,
    RecommendedItem,
    RecommendRequest,
    RecommendResponse,
)

__all__ = [
    "EmbedRequest",
    "EmbedResponse",
    "Embedding",
    "Event",
    "RecommendRequest",
    "RecommendResponse",
    "RecommendedItem",
]
