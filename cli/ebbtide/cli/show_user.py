"""What ``ebbtide serve --show-user`` prints: recommendations for a user by id, and what an observed event changes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path

from rich.table import Table

from ebbtide.cli.console import console, escape
from ebbtide.cli.interest_display import counted_events
from ebbtide.cli.recommend import Query, show_by_state, show_recommendations
from ebbtide.cli.states import COMMAND_TIMEOUT_S
from ebbtide.cli.titles import TitleSource
from ebbtide.client import ClientConfig, InterestClient, InvalidArgumentError, RecommendResponse, event

_MINUTE = timedelta(minutes=1)


def show_user(url: str, bundle: Path, user: str, *, changes: bool) -> None:
    """Prints recommendations for a user, a minute after the user's newest event.

    Args:
        url: gRPC address of the server.
        bundle: Supplies titles; and the events of a user whom the server does not know.
        user: Id of the user.
        changes: Whether to observe that the user takes the first item, and to ask again.
    """
    with InterestClient(url, config=ClientConfig(timeout_s=COMMAND_TIMEOUT_S)) as client:
        newest = _newest_event(client, user)
        if newest is None:
            show_recommendations(client, bundle, user)
            return
        titles = TitleSource(bundle).read()
        now = newest + _MINUTE
        console.print(f"[bold]User {escape(user)}[/bold], asked for by id, at {now:%Y-%m-%d %H:%M} UTC")
        answer = show_by_state(client, user, Query(now=now), titles)
        if changes and isinstance(answer, RecommendResponse) and answer.items:
            taken = answer.items[0].item_id
            client.observe(user, [event(item_id=taken, time=now)])
            after = client.recommend(user_id=user, now=now + _MINUTE)
            _print_change(user, taken, answer, after, now + _MINUTE, titles)


def _newest_event(client: InterestClient, user: str) -> datetime | None:
    """When the newest event of a user was; None for a user whom the server does not know."""
    try:
        known = client.interest(user)
    except InvalidArgumentError:
        # A server without a store.
        return None
    return known.events[0].event.time.ToDatetime(timezone.utc) if known.events else None


def _print_change(
    user: str,
    taken: str,
    before: RecommendResponse,
    after: RecommendResponse,
    now: datetime,
    titles: Mapping[str, str],
) -> None:
    console.print(
        f"[bold]User {escape(user)} takes {escape(titles.get(taken, taken))}[/bold]: observed. "
        f"Recommended at {now:%H:%M}: alpha {after.alpha_used:.2f}, {counted_events(after.events_used)} counted",
        soft_wrap=True,
    )
    ranks = {item.item_id: str(rank) for rank, item in enumerate(before.items, start=1)}
    table = Table()
    for heading in ("", "title", "score", "before"):
        table.add_column(heading, justify="left" if heading == "title" else "right")
    for rank, item in enumerate(after.items, start=1):
        table.add_row(
            str(rank),
            escape(titles.get(item.item_id, item.item_id)),
            f"{item.score:.3f}",
            ranks.get(item.item_id, "new"),
        )
    console.print(table)
