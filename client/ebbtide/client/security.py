"""TLS, mutual TLS and bearer tokens. No secret is ever shown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from ebbtide.client.errors import InvalidArgumentError

TokenProvider = Callable[[], str] | Callable[[], Awaitable[str]]
"""Returns the current token: a plain function, or with `AsyncInterestClient` also an async one."""


@dataclass(frozen=True)
class TlsConfig:
    """Encryption of the connection, and the certificates of client and server; PEM, as a file or as its bytes."""

    root_certificates: Path | bytes | None = field(default=None, repr=False)
    """Certificate authorities for the server; None uses the public ones that gRPC ships."""
    client_certificate: Path | bytes | None = field(default=None, repr=False)
    """Certificate of this client, for mutual TLS, leaf first."""
    client_key: Path | bytes | None = field(default=None, repr=False)
    """The private key of `client_certificate`."""
    server_name: str | None = None
    """Name in the server's certificate, if it differs from the address: several addresses, a tunnel, an IP address."""

    def __post_init__(self) -> None:
        if (self.client_certificate is None) != (self.client_key is None):
            missing = "client_key" if self.client_key is None else "client_certificate"
            raise InvalidArgumentError.of_field(missing, "none", "both client_certificate and client_key, or neither")


@dataclass(frozen=True)
class BearerToken:
    """Token of the caller, sent as ``authorization: Bearer ...``."""

    value: str | TokenProvider = field(repr=False)
    """The token, or its provider. The client asks a provider before every attempt: let it keep its token until that
    expires. For `AsyncInterestClient`, make it async if it waits for anything."""
    allow_plaintext: bool = False
    """Whether the token may be sent unencrypted to another machine, for example inside a mesh that encrypts by itself.
    If not, the client refuses to; loopback is always allowed."""

    def __post_init__(self) -> None:
        if isinstance(self.value, str):
            authorization(self.value)
        elif not callable(self.value):
            raise InvalidArgumentError.of_field("value", f"a {type(self.value).__name__}", "a string or a function")


def authorization(token: object) -> str:
    """The value of the ``authorization`` header.

    Raises:
        InvalidArgumentError: The token is not a string of printable ASCII without spaces; the error does not show it.
    """
    if not isinstance(token, str):
        raise InvalidArgumentError.of_field("token", f"a {type(token).__name__}", "a string")
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidArgumentError.of_field(
            "token", f"{len(token)} characters, some of another kind", "printable ASCII without spaces, not empty"
        )
    return f"Bearer {token}"
