"""How the state of a user is shown: the newest events with what is left of them, alpha, half-lives and counts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from ebbtide.cli.console import console, escape
from ebbtide.interest.time_units import ENDLESS, duration

if TYPE_CHECKING:
    from ebbtide.client import UserInterest

_SHOWN_EVENTS = 8
_LONG_AGO_DAYS = 365


def print_interest(user: str, interest: UserInterest, titles: Mapping[str, str]) -> None:
    """Prints the state of a user; ids are shown where there is no title."""
    from ebbtide.client.results import cold_start_text, state_text

    message = interest.response
    if not interest.is_known:
        console.print(
            f"[yellow]the server has no state of user {escape(user)}[/yellow]; "
            f"`ebbtide observe {escape(user)} ITEM` adds events",
            soft_wrap=True,
        )
        return
    table = Table(
        title=f"Newest events of user {escape(user)} in the server's state",
        title_justify="left",
        caption="weight: decay by age and rank, mean over the interest dimensions",
        caption_justify="left",
    )
    table.add_column("item")
    table.add_column("age", justify="right")
    table.add_column("part of")
    table.add_column("weight", justify="right")
    for explained in interest.events[:_SHOWN_EVENTS]:
        item_id = explained.event.item_id
        table.add_row(
            escape(titles.get(item_id, item_id)) if item_id else "[dim]not in the catalog[/dim]",
            age(explained.age_days),
            "session" if explained.is_current else "history",
            f"{explained.decay:.3f}",
        )
    earlier = len(interest.events) - _SHOWN_EVENTS
    if earlier > 0:
        table.add_row(f"[dim]{earlier} earlier events[/dim]", "", "", "")
    if message.folded_events:
        table.add_row(f"[dim]{message.folded_events:,} older events, kept as sums[/dim]", "", "", "")
    console.print(table)
    newest = interest.events[0].age_days if interest.events else 0.0
    if newest > _LONG_AGO_DAYS:
        console.print(
            f"[yellow]note[/yellow]: the newest event is {age(newest)} old; for a log that ended long ago, ask as of "
            "its end with --now",
            soft_wrap=True,
        )
    for lacking in (state_text(interest), cold_start_text(interest)):
        if lacking:
            console.print(f"[yellow]note[/yellow]: {lacking}")
    half_life = interest.median_half_life_days
    fades = duration(half_life) != ENDLESS
    lasting = f"has a half-life of at most {age(half_life)}" if fades else "never fades"
    half = "" if math.isnan(half_life) else f"; half of the interest {lasting}"
    counts = f"{counted_events(message.events_used)} counted{half}"
    console.print(f"[italic]alpha {interest.alpha_used:.2f} (share of history), {counts}[/italic]", soft_wrap=True)
    if message.alpha_offset:
        console.print(f"learned online: {message.alpha_offset:+.2f} on the logit of alpha", soft_wrap=True)
    if message.late_events or message.dropped_events:
        late = f"{message.late_events:,} events came late and count by their age alone"
        console.print(f"{late}; {message.dropped_events:,} were dropped", soft_wrap=True)


def counted_events(number: int) -> str:
    """``1 event``, ``1,234 events``."""
    return "1 event" if number == 1 else f"{number:,} events"


def age(days: float) -> str:
    """A readable age: ``40 s``, ``12 min``, ``5 h``, ``3 d``, ``2.1 y``."""
    seconds = days * 86_400
    for limit, unit, name in ((120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h"), (63_072_000, 86_400, "d")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{days / 365.25:.1f} y"
