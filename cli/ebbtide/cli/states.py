"""``ebbtide observe``, ``interest`` and ``forget``: the state that a running server keeps of a user."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ebbtide.cli.access import Tls, TlsCa, TlsCertificate, TlsKey, TlsServerName, TokenFile, read_access
from ebbtide.cli.console import console, errors, escape
from ebbtide.cli.titles import (
    ITEM_COL,
    TEMPLATE,
    CatalogItemCol,
    TitleBundle,
    TitleCatalog,
    TitleSource,
    TitleTemplate,
)

if TYPE_CHECKING:
    from ebbtide.client import Event, InterestClient

Server = Annotated[str, typer.Option(help="gRPC address of the server (host:port); `ebbtide serve` prints it.")]
User = Annotated[str, typer.Argument(help="Id of the user. Only a hash of it is sent.")]

LOCAL = "localhost:8001"
"""The default of `Server`."""
_OLD_YEARS = 20
"""An event that is older is told: a mistyped year is more likely, and little of such an event is left."""
COMMAND_TIMEOUT_S = 30.0
"""Deadline of a command's calls: whoever typed it waits longer than a page would."""


class UnknownItems(str, Enum):
    """What becomes of items that are not in the catalog."""

    error = "error"
    ignore = "ignore"


def observe(
    user: User,
    items: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ITEM[@TIME]...",
            help="Ids of items, each with the time of the event in ISO 8601 (UTC without an offset). Default: now.",
        ),
    ] = None,
    server: Server = LOCAL,
    weight: Annotated[
        float | None, typer.Option(min=0, help="Weight of each event: a rating or a quantity. Default: 1.")
    ] = None,
    event_type: Annotated[
        str | None,
        typer.Option(
            help="What the user did: an event type of the training, such as dislike. Default: its first target type."
        ),
    ] = None,
    unknown_items: Annotated[
        UnknownItems | None,
        typer.Option(help="What to do with items that are not in the catalog. Default: as the model was exported."),
    ] = None,
    shown: Annotated[
        list[str] | None,
        typer.Option(
            help="Id of an item that the user was shown before. Those that are not among ITEM were not taken: the "
            "server adapts alpha to that if the model learns online. Repeat the option."
        ),
    ] = None,
    reset_learning: Annotated[
        bool, typer.Option("--reset-learning", help="Forget first what was learned online of the user.")
    ] = False,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
    token_file: TokenFile = None,
) -> None:
    """Tell a running server what a user did. Later answers for this user count it.

    An event of the same item and time counts once, so the command may be repeated. Events may be late and in any order.

    **Examples**

    ebbtide observe 547 318 296

    ebbtide observe 547 318@2026-05-01T20:15 --weight 5 --server localhost:8001
    """
    now = datetime.now(timezone.utc)
    events = [_event(text, now, weight, event_type) for text in items or ()]
    with open_client(server, tls, tls_ca, tls_certificate, tls_key, tls_server_name, token_file) as client:
        answer = client.observe(
            user,
            events,
            unknown_items=None if unknown_items is None else unknown_items.value,
            shown=shown or (),
            reset_learning=reset_learning,
        )
    from ebbtide.client.results import to_text

    console.print(f"[green]✓[/green] {to_text(answer)}", soft_wrap=True)


def interest(
    user: User,
    server: Server = LOCAL,
    now: Annotated[str | None, typer.Option(help="Time to read the state at, ISO 8601. Default: now.")] = None,
    bundle: TitleBundle = None,
    catalog: TitleCatalog = None,
    catalog_item_col: CatalogItemCol = ITEM_COL,
    title_template: TitleTemplate = TEMPLATE,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
    token_file: TokenFile = None,
) -> None:
    """Show what a running server knows of a user: the newest events and what is left of them, alpha, half-lives.

    **Examples**

    ebbtide interest 547 --server localhost:8001

    ebbtide interest 547 --now 2026-12-24 --bundle artifacts/bundle
    """
    from ebbtide.cli.interest_display import print_interest

    when = None if now is None else timestamp("--now", now)
    titles = TitleSource(bundle, catalog, catalog_item_col, title_template).read()
    with open_client(server, tls, tls_ca, tls_certificate, tls_key, tls_server_name, token_file) as client:
        answer = client.interest(user, now=when)
    print_interest(user, answer, titles)


def forget(
    user: User,
    server: Server = LOCAL,
    tls: Tls = False,
    tls_ca: TlsCa = None,
    tls_certificate: TlsCertificate = None,
    tls_key: TlsKey = None,
    tls_server_name: TlsServerName = None,
    token_file: TokenFile = None,
) -> None:
    """Erase all that a running server knows of a user, in every model version. This cannot be undone.

    **Example**

    ebbtide forget 547 --server localhost:8001
    """
    with open_client(server, tls, tls_ca, tls_certificate, tls_key, tls_server_name, token_file) as client:
        erased = client.forget(user)
    if erased:
        console.print(
            f"[green]✓[/green] erased: {erased} record{'' if erased == 1 else 's'}, one for each model version"
        )
    else:
        console.print("nothing to erase: the server has no state of this user")


def open_client(
    server: str,
    tls: bool,
    ca: Path | None,
    certificate: Path | None,
    key: Path | None,
    server_name: str | None,
    token_file: Path | None,
) -> InterestClient:
    """A client of the server, with the encryption and token of the options.

    Raises:
        typer.BadParameter: The options contradict each other, or a file cannot be read.
        InvalidArgumentError: The address or the token is not valid.
    """
    from ebbtide.client import ClientConfig, InterestClient

    secured, token = read_access(tls, ca, certificate, key, server_name, token_file)
    return InterestClient(server, config=ClientConfig(timeout_s=COMMAND_TIMEOUT_S, tls=secured, token=token))


def timestamp(option: str, text: str) -> datetime:
    """A time in ISO 8601; UTC if it has no offset.

    Raises:
        typer.BadParameter: It is none; the message names the option.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{option}: got {text!r}; expected ISO 8601, as in 2016-10-16T18:00:00") from error
    return found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)


def _event(text: str, now: datetime, weight: float | None, event_type: str | None) -> Event:
    from ebbtide.client import event

    item_id, at, time = text.rpartition("@")
    if not at:
        return event(item_id=text, time=now, weight=weight, event_type=event_type)
    when = timestamp(f"ITEM[@TIME] {text} (an id with @ needs a time behind it)", time)
    if not item_id:
        raise typer.BadParameter(f"ITEM[@TIME]: got {text!r}; expected the id of an item before @")
    if when < now - timedelta(days=365.25 * _OLD_YEARS):
        errors.print(
            f"[yellow]note:[/yellow] {escape(text)} is over {_OLD_YEARS} years old: correct the time if it is mistyped",
            soft_wrap=True,
        )
    return event(item_id=item_id, time=when, weight=weight, event_type=event_type)
