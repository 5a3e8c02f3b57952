"""Options of commands that call a server: TLS and a token.

The token itself is no option, because ``ps`` shows options.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ebbtide.client import BearerToken, TlsConfig

TOKEN_VARIABLE = "EBBTIDE_TOKEN"  # noqa: S105 - the variable's name
"""Environment variable with the token; used if no file is given."""

Tls = Annotated[bool, typer.Option("--tls", help="Call over TLS. Any option that begins with --tls- implies it.")]
TlsCa = Annotated[
    Path | None,
    typer.Option(help="PEM file with the authority for the server's certificate. Default: the public authorities."),
]
TlsCertificate = Annotated[Path | None, typer.Option(help="PEM file with the client certificate (mutual TLS).")]
TlsKey = Annotated[Path | None, typer.Option(help="PEM file with its private key.")]
TlsServerName = Annotated[
    str | None, typer.Option(help="Host name in the server's certificate, if it differs from the address.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(help=f"File with a bearer token. Default: the environment variable {TOKEN_VARIABLE}."),
]


def read_access(
    tls: bool,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    server_name: str | None,
    token_file: Path | None,
) -> tuple[TlsConfig | None, BearerToken | None]:
    """The TLS configuration and token that the options give.

    Raises:
        typer.BadParameter: The token's file cannot be read, or half of a certificate and key is missing.
        InvalidArgumentError: The token is not valid.
    """
    from ebbtide.client import BearerToken, TlsConfig

    if (certificate is None) != (key is None):
        raise typer.BadParameter("give both --tls-certificate and --tls-key, or neither")
    secured = None
    if tls or any(one is not None for one in (ca, certificate, server_name)):
        secured = TlsConfig(
            root_certificates=ca, client_certificate=certificate, client_key=key, server_name=server_name
        )
    if token_file is not None:
        try:
            token = token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"--token-file: {token_file}: {error}; expected a readable text file") from error
        return secured, BearerToken(token)
    value = os.environ.get(TOKEN_VARIABLE)
    return secured, BearerToken(value) if value else None
