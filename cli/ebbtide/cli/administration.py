"""Who may administer a server: the key that it asks for, the key that a command sends, and addresses that all reach."""

from __future__ import annotations

import ipaddress
import os
import secrets
from pathlib import Path
from typing import Annotated

import typer

from ebbtide.cli.console import console
from ebbtide.cli.errors import CommandError

KeyToAskFor = Annotated[
    Path | None,
    typer.Option(
        "--admin-key-file",
        help="File with the key that the server asks for before it loads models or changes shared memory, tracing "
        "or logging: 16 to 128 letters, digits, - and _. Default: the environment variable EBBTIDE_ADMIN_KEY, "
        "else a key made at the first start, in REPOSITORY.admin-key (mode 600).",
    ),
]
KeyToSend = Annotated[
    Path | None,
    typer.Option(
        "--admin-key-file",
        help="File with the key to the server's administration. Default: the key that `ebbtide serve` uses for the "
        "folder (see the docs on security).",
    ),
]


def key_to_ask_for(repository: Path, file: Path | None) -> tuple[str, str]:
    """The key to the administration of a server that is to start, and where it is, for people.

    Raises:
        CommandError: There is one that cannot be used.
    """
    from ebbtide.interest import admin_key

    beside = admin_key.key_file(repository)
    try:
        given = admin_key.given(file, os.environ)
        if given is not None:
            return given, f"key from {file or admin_key.VARIABLE}"
        return admin_key.made(beside), f"key in {beside}"
    except admin_key.AdminKeyError as error:
        raise CommandError(str(error)) from None
    except OSError as error:
        # A folder that cannot be written to is served, too; its administration is closed to all.
        where = f"closed, because no key can be kept ({error}); {admin_key.VARIABLE} gives one"
        return secrets.token_urlsafe(32), where


def key_to_send(repository: Path, file: Path | None) -> str | None:
    """The key of the servers of a repository; None for servers that ask for none.

    Raises:
        CommandError: There is one that cannot be read.
    """
    from ebbtide.interest import admin_key

    try:
        return admin_key.given(file, os.environ) or admin_key.kept(admin_key.key_file(repository))
    except admin_key.AdminKeyError as error:
        raise CommandError(str(error)) from None


def bound(host: str, url: str) -> str:
    """A server's URL, with the address that it listens at in place of the one by which this machine reaches it."""
    from ebbtide.serve import connect_host

    return url.replace(connect_host(host), host, 1)


def warn_of_open_ports(host: str, *, allows_deploy: bool) -> None:
    """Tells what others can do to a server that they reach; nothing for a server on loopback."""
    if _is_loopback(host):
        return
    deploys = (
        " Whoever also has the key above can load models into it, and run code on this machine with them: start it "
        "without --allow-deploy where no deployment is due."
        if allows_deploy
        else ""
    )
    console.print(
        "[yellow]warning:[/yellow] other machines can reach this server. Triton asks nobody who they are: whoever "
        "reaches a port can send it requests, observe and forget users, and change items and stock; a malformed "
        f"request can stop it. Let `ebbtide gateway` stand in front of it, and a firewall around it.{deploys}",
        soft_wrap=True,
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
