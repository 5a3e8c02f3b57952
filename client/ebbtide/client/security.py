"""Who the two sides of a connection are: TLS, mutual TLS and bearer tokens. No secret is ever shown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from ebbtide.client.errors import InvalidArgumentError

TokenProvider = Callable[[], str] | Callable[[], Awaitable[str]]
"""Gives the token of the moment: a plain function, or with `AsyncInterestClient` also an async one."""


@dataclass(frozen=True)
class TlsConfig:
    """Encryption of the connection, and the certificates of both sides; PEM, as a file or as its bytes."""

    root_certificates: Path | bytes | None = field(default=None, repr=False)
    """Who may vouch for the server; None takes the public authorities that gRPC ships."""
    client_certificate: Path | bytes | None = field(default=None, repr=False)
    """Who this client is, for servers that ask (mutual TLS), leaf first."""
    client_key: Path | bytes | None = field(default=None, repr=False)
    """The private key of `client_certificate`."""
    server_name: str | None = None
    """Name that the server's certificate must carry, where it is not the one in the address: several addresses, a
    tunnel, an IP address."""

    def __post_init__(self) -> None:
        if (self.client_certificate is None) != (self.client_key is None):
            missing = "client_key" if self.client_key is None else "client_certificate"
            raise InvalidArgumentError.of_field(missing, "none", "both client_certificate and client_key, or neither")


@dataclass(frozen=True)
class BearerToken:
    """A token that says who calls, sent as ``authorization: Bearer ...``."""

    value: str | TokenProvider = field(repr=False)
    """The token, or what gives it. A provider is asked before every attempt: let it keep its token until that expires,
    and, in `AsyncInterestClient`, be async if it waits for anything."""
    allow_plaintext: bool = False
    """Whether the token may travel unencrypted to another machine, for example inside a mesh that encrypts by itself.
    Without it such a client is refused; loopback is always allowed."""

    def __post_init__(self) -> None:
        if isinstance(self.value, str):
            authorization(self.value)
        elif not callable(self.value):
            raise InvalidArgumentError.of_field("value", f"a {type(self.value).__name__}", "a string or a function")


def authorization(token: object) -> str:
    """The value of the ``authorization`` header.

    Raises:
        InvalidArgumentError: The token is no string of printable ASCII without spaces; the error keeps it to itself.
    """
    if not isinstance(token, str):
        raise InvalidArgumentError.of_field("token", f"a {type(token).__name__}", "a string")
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise InvalidArgumentError.of_field(
            "token", f"{len(token)} characters, some of another kind", "printable ASCII without spaces, not empty"
        )
    return f"Bearer {token}"
