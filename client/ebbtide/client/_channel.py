"""A client's configuration as the arguments and credentials of a gRPC channel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import grpc

from ebbtide.client.config import ClientConfig
from ebbtide.client.errors import InvalidArgumentError
from ebbtide.client.security import TlsConfig

ChannelArgs = list[tuple[str, int | str]]
"""Arguments of a gRPC channel, by gRPC's names for them."""


def channel_args(config: ClientConfig) -> ChannelArgs:
    """The channel's arguments. Retries are not among them: the client itself makes them, so that hooks see each."""
    service_config: dict[str, Any] = {"loadBalancingConfig": [{config.balancing: {}}]}
    if config.wait_for_ready:
        service_config["methodConfig"] = [{"name": [{}], "waitForReady": True}]
    arguments: ChannelArgs = [
        ("grpc.max_send_message_length", config.max_message_bytes),
        ("grpc.max_receive_message_length", config.max_message_bytes),
        ("grpc.initial_reconnect_backoff_ms", min(1_000, config.max_reconnect_backoff_ms)),
        ("grpc.max_reconnect_backoff_ms", config.max_reconnect_backoff_ms),
        ("grpc.service_config", json.dumps(service_config)),
    ]
    if config.keepalive is not None:
        arguments += [
            ("grpc.keepalive_time_ms", config.keepalive.time_ms),
            ("grpc.keepalive_timeout_ms", config.keepalive.timeout_ms),
            ("grpc.keepalive_permit_without_calls", int(config.keepalive.permit_without_calls)),
        ]
    if config.tls is not None and config.tls.server_name is not None:
        arguments.append(("grpc.ssl_target_name_override", config.tls.server_name))
    return arguments


def channel_credentials(tls: TlsConfig | None) -> grpc.ChannelCredentials | None:
    """The credentials of an encrypted channel; None for a plaintext one.

    Raises:
        InvalidArgumentError: A PEM file cannot be read.
    """
    if tls is None:
        return None
    return grpc.ssl_channel_credentials(
        root_certificates=_pem("root_certificates", tls.root_certificates),
        private_key=_pem("client_key", tls.client_key),
        certificate_chain=_pem("client_certificate", tls.client_certificate),
    )


def _pem(name: str, source: Path | bytes | None) -> bytes | None:
    if source is None or isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise InvalidArgumentError.of_field(name, f"{source} ({error.strerror})", "a readable PEM file") from error
