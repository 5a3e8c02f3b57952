"""How ``ebbtide recommend`` shows a user's events and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from rich.padding import Padding
from rich.table import Table

from ebbtide.cli.console import console, escape
from ebbtide.cli.interest_display import age, counted_events
from ebbtide.client import Explanation, Ranking, RecommendResponse
from ebbtide.client.results import (
    blocks_text,
    cold_start_text,
    moved_text,
    parts_of_score,
    relaxed_texts,
    state_text,
)
from ebbtide.interest.decay import event_decays
from ebbtide.interest.events import order_events

if TYPE_CHECKING:
    from ebbtide.train.model import InterestModel

_SHOWN_EVENTS = 8
_EXPLAINED_EVENTS = 3


@dataclass(frozen=True)
class PastEvents:
    """Events of a user before the request, oldest first."""

    time_ms: npt.NDArray[np.int64]
    """Unix milliseconds."""
    title: list[str]
    """Title of each event's item."""


def print_events(
    user: str, past: PastEvents, now: datetime, model: InterestModel, decay_scale: float | None = None
) -> None:
    """Prints a user's newest events with their ages and decayed weights."""
    batch = order_events(
        counts=np.array([len(past.time_ms)]),
        time_ms=past.time_ms,
        now_ms=np.array([round(now.timestamp() * 1000)]),
        weight=None,
        is_current=None,
        session_gap_ms=model.config.session_gap_ms,
    )
    rates = model.decay_rate_per_day.detach().numpy(), model.rank_decay_rate.detach().numpy()
    scale = None if decay_scale is None else np.array([decay_scale], dtype=np.float32)
    left = event_decays(batch, *rates, decay_scale=scale).mean(axis=1)
    table = Table(
        title=f"Newest events of user {escape(user)} at {now:%Y-%m-%d %H:%M} UTC",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("item")
    table.add_column("age", justify="right")
    table.add_column("part of")
    table.add_column("weight", justify="right")
    events = len(past.title)
    for index in range(events - 1, max(-1, events - 1 - _SHOWN_EVENTS), -1):
        table.add_row(
            escape(past.title[batch.source[index]]),
            age(float(batch.age_days[index])),
            "session" if batch.is_current[index] else "history",
            f"{left[index]:.3f}",
        )
    if events > _SHOWN_EVENTS:
        older = float(left[:-_SHOWN_EVENTS].mean())
        table.add_row(f"[dim]{events - _SHOWN_EVENTS:,} earlier events[/dim]", "", "", f"[dim]mean {older:.3f}[/dim]")
    table.caption = "weight: decay by age and rank, mean over the interest dimensions"
    console.print(table)


def print_answer(
    heading: str, answer: RecommendResponse | Ranking | Explanation, titles: Mapping[str, str], texts: Sequence[str]
) -> None:
    """Prints titles with scores, and for an explanation the parts of each score."""
    for text in texts:
        console.print(f"  text just typed: [italic]{escape(text)}[/italic]")
    message = answer if isinstance(answer, RecommendResponse) else answer.response
    events = counted_events(message.events_used)
    unknown = f", {message.unknown_events} ignored (not in the catalog)" if message.unknown_events else ""
    console.print(
        f"[italic]{heading}: alpha {message.alpha_used:.2f} (share of history), {events} counted{unknown}[/italic]"
    )
    if lacking := state_text(answer):
        console.print(f"[yellow]note[/yellow]: {lacking}")
    if missing := cold_start_text(answer):
        console.print(f"[yellow]note[/yellow]: {missing}")
    table = Table()
    table.add_column("", justify="right")
    table.add_column("title" if titles else "item")
    table.add_column("score", justify="right")
    if isinstance(answer, Explanation):
        _add_explained(table, answer, titles)
    else:
        is_ruled = any(item.rules for item in answer.items)
        if is_ruled:
            table.add_column("rules")
        is_slate = any(item.moved_by for item in answer.items)
        if is_slate:
            table.add_column("moved")
        for index, item in enumerate(answer.items, start=1):
            rules = [escape(", ".join(item.rules))] if is_ruled else []
            moved = [escape(moved_text(item, index))] if is_slate else []
            table.add_row(str(index), _title(item.item_id, titles), f"{item.score:.3f}", *rules, *moved)
    if isinstance(answer, Ranking):
        for why, item_ids in (("excluded", answer.excluded_item_ids), ("not in the catalog", answer.unknown_item_ids)):
            for item_id in item_ids:
                table.add_row("", f"[dim]{_title(item_id, titles)}[/dim]", f"[dim]{why}[/dim]")
    if not answer.items and not isinstance(answer, Ranking):
        console.print(
            "[yellow]no items:[/yellow] the filters, the exclusions and the seen items leave none of the catalog; "
            "--seen also lists items that the user has seen",
            soft_wrap=True,
        )
        return
    console.print(table)
    if not isinstance(answer, Ranking):
        for relaxed in relaxed_texts(answer):
            console.print(f"[yellow]not met[/yellow]: {escape(relaxed)}")


def _add_explained(table: Table, answer: Explanation, titles: Mapping[str, str]) -> None:
    """A row for each score and, below it, one row for each part of the score."""
    for index, item in enumerate(answer.items, start=1):
        name = f"[bold]{_title(item.item_id, titles)}[/bold]"
        if not item.dimension_shares:
            table.add_row("", name, "[dim]not in the catalog[/dim]", end_section=True)
            continue
        reasons = (", ".join(item.rules), moved_text(item, index))
        name += "".join(f" [dim]({escape(reason)})[/dim]" for reason in reasons if reason)
        table.add_row(str(index), name, "excluded" if item.is_excluded else f"[bold]{item.score:.3f}[/bold]")
        parts = parts_of_score(answer, item, titles, events=_EXPLAINED_EVENTS)
        blocks = blocks_text(answer, item)
        for number, (share, what) in enumerate(parts, start=1):
            is_last = number == len(parts) and not blocks
            table.add_row("", Padding(escape(what), (0, 0, 0, 2)), f"{share:+.3f}", end_section=is_last)
        if blocks:
            table.add_row("", Padding(f"[dim]by feature block: {escape(blocks)}[/dim]", (0, 0, 0, 2)), end_section=True)


def _title(item_id: str, titles: Mapping[str, str]) -> str:
    return escape(titles.get(item_id, item_id))
