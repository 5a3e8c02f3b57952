"""The typed gateway: `InterestService` over gRPC for every language, in front of one or many Tritons."""

from ebbtide.gateway.config import GatewayConfig, ServerTls
from ebbtide.gateway.server import Gateway

__all__ = ["Gateway", "GatewayConfig", "ServerTls"]
