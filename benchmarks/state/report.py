"""Tables of the results, for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.serving.report import Goal, Lines
from benchmarks.state.stores import STORES

Content = dict[str, Any]

GOALS = tuple(
    goal
    for store in STORES
    for goal in (
        Goal(f"{store}.recommend_by_user.throughput_over_recommend_512", 3.0),
        Goal(f"{store}.recommend_by_user.p50_over_recommend_60", 1.0, at_most=True),
        Goal(f"{store}.recommend_by_user.p50_10000_events_over_10", 1.1, at_most=True),
        Goal(f"{store}.observe.events_per_s_per_core", 5_000.0),
        Goal(f"{store}.backfill.peak_gib_10m", 2.0, at_most=True),
    )
)
_FIGURES = (
    ("backfill, events/s", "backfill.events_per_s"),
    ("observe, events/s", "observe.events_per_s"),
    ("bytes of a record, median", "state.bytes_per_user.median"),
    ("bytes of a record, largest", "state.bytes_per_user.largest"),
    ("bytes of the store for each user", "state.store_bytes_per_user"),
)


def tables(content: Content) -> Iterator[Lines]:
    """Yields the tables of every store that was measured."""
    stores = [store for store in STORES if store in content]
    yield Lines(
        "States: rates and sizes",
        ("figure", *stores),
        [(title, *(_number(_at(content[store], key)) for store in stores)) for title, key in _FIGURES],
    )
    for store in stores:
        asked = content[store]["recommend_by_user"]
        yield Lines(
            f"States: recommend, {store} store, through the Python client",
            ("request", f"requests/s, {asked['in_flight']} in flight", "p50, ms, one in flight"),
            [
                (_said(name), f"{busy['requests_per_s']:,.0f}", f"{asked['p50_ms'][name]:.2f}")
                for name, busy in asked["busy"].items()
            ],
        )


def show(console: Console, content: Content) -> None:
    """Prints the goals and the tables."""
    goals = Lines("Goals", ("figure", "measured", "goal", "met"), [goal.judged(content) for goal in GOALS])
    for lines in (goals, *tables(content)):
        table = Table(*lines.headings, title=lines.title, box=box.SIMPLE_HEAD)
        for row in lines.rows:
            table.add_row(*row)
        console.print(table)


def _said(name: str) -> str:
    form, _, events = name.rpartition("_")
    return f"with {events} events" if form == "recommend" else f"by user, {int(events):,} events in the state"


def _at(content: Content, key: str) -> Any:  # noqa: ANN401 - whatever JSON holds
    found: Any = content
    for name in key.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _number(value: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    return f"{value:,.0f}" if isinstance(value, int | float) else "-"
