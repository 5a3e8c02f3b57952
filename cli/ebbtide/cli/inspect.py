"""``ebbtide inspect``: what a bundle has learned, for people."""

from __future__ import annotations

import json
import math
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ebbtide.cli.console import console, escape, working
from ebbtide.cli.interest_display import age
from ebbtide.interest.time_units import ENDLESS, duration, events_duration

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from ebbtide.train.bundle import InterestBundle
    from ebbtide.train.inspection import Inspection

_LEAST_SHARE = 0.0005
_BLOCKS_OF_ALL = 2
"""Text and residual, which every bundle has."""


def command(
    bundle: Annotated[Path, typer.Argument(help="Bundle written by `ebbtide train`.")],
    items: Annotated[int, typer.Option(min=1, help="Number of items in each list.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as one JSON object.")] = False,
) -> None:
    """Show what a bundle has learned: half-lives, alpha, what popularity counts, and what items rest on.

    **Examples**

    ebbtide inspect artifacts/bundle

    ebbtide inspect artifacts/bundle --json
    """
    with working("Loading the bundle"):
        from ebbtide.train.bundle import InterestBundle
        from ebbtide.train.inspection import inspect_bundle

        loaded = InterestBundle.load(bundle)
        found = inspect_bundle(loaded)
    if as_json:
        typer.echo(json.dumps(_as_json(loaded, found, items), indent=2))
        return
    console.print(
        f"bundle {loaded.fingerprint}: {found.items:,} items, {found.dimensions} interest dimensions; best epoch "
        f"{loaded.config.best_epoch}, validation NDCG@10 {loaded.config.validation_ndcg_at_10:.4f}",
        soft_wrap=True,
    )
    console.print(half_life_table(found) if found.half_life_days else "interest does not decay")
    alpha = {"learned": "learned, one for each user", "per-dimension": "learned, one for each user and dimension"}
    console.print(f"alpha (share of history): {alpha.get(found.alpha, found.alpha.replace(':', ' '))}")
    if found.event_types:
        console.print(event_type_table(found.event_types, found.target_types))
    _print_prior(found)
    if found.related_gain:
        console.print(f"an event adds {found.related_gain:.2f} to the item with the nearest text (median over items)")
    if _has_vectors(found):
        _print_blocks(found)
    _print_items(loaded, found, items)


def half_life_text(days: float) -> str:
    """A half-life as people say it."""
    return ENDLESS if duration(days) == ENDLESS else age(days)


def event_type_table(weights: Mapping[str, float], targets: Collection[str]) -> Table:
    """The learned weight of each event type."""
    table = Table(title="Event types", title_justify="left")
    for heading in ("", "weight in the interest", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for name, weight in weights.items():
        table.add_row(escape(name), f"{weight:.3f}", "predicted" if name in targets else "")
    return table


def half_life_table(found: Inspection) -> Table:
    """The learned half-lives of a model with decay."""
    table = Table(title="Learned half-lives over the interest dimensions", title_justify="left")
    for heading in ("", "shortest", "quarter", "half", "three quarters", "longest"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row("by age", *map(duration, found.half_life_days))
    table.add_row("by later events", *map(events_duration, found.half_life_events))
    return table


def _print_prior(found: Inspection) -> None:
    if not found.prior:
        console.print("no popularity prior")
        return
    counted = datetime.fromtimestamp(found.counted_at_ms / 1000, timezone.utc)
    weights = ", ".join(f"{weight:.3f}" for weight in found.prior_weights)
    console.print(f"popularity counts events before {counted:%Y-%m-%d %H:%M:%S} UTC; weights in a score: {weights}")
    table = Table(title="Where popularity comes from", title_justify="left")
    for heading in ("counts with a half-life of", "smoothing, events", "share"):
        table.add_column(heading, justify="right")
    for one in found.prior:
        share = "-" if one.share is None else f"{one.share:.1%}"
        if one.share is None or one.share >= _LEAST_SHARE:
            events = "no effect" if math.isinf(one.smoothing_events) else f"{one.smoothing_events:,.1f}"
            table.add_row(half_life_text(one.days), events, share)
    if table.row_count:
        console.print(table)
    else:
        console.print("popularity has no effect: it did not help to predict the validation events")


def _has_vectors(found: Inspection) -> bool:
    return len(found.blocks) > _BLOCKS_OF_ALL


def _print_blocks(found: Inspection) -> None:
    table = Table(title="Feature blocks of the items", title_justify="left")
    for heading in ("", "items that have it", "share of the item factors"):
        table.add_column(heading, justify="right" if heading else "left")
    for block in found.blocks:
        table.add_row(escape(block.name), f"{block.items:,}", f"{block.share:.1%}")
    console.print(table)


def _print_items(bundle: InterestBundle, found: Inspection, count: int) -> None:
    share = found.residual_share
    by_share = (-share).argsort(kind="stable")
    lists: list[tuple[str, Sequence[int]]] = [
        ("most popular", found.popular[:count].tolist()),
        ("rest most on their events", by_share[:count].tolist()),
        (
            f"rest most on their {'text and vectors' if _has_vectors(found) else 'text'}",
            by_share[::-1][:count].tolist(),
        ),
    ]
    table = Table(title="Items", title_justify="left")
    table.add_column("")
    table.add_column("title")
    table.add_column("learned from events", justify="right")
    for name, chosen in lists:
        for index, item in enumerate(chosen):
            table.add_row("" if index else name, escape(bundle.catalog.title[item]), f"{share[item]:.0%}")
    console.print(table)


def _as_json(bundle: InterestBundle, found: Inspection, count: int) -> dict[str, object]:
    """Everything as JSON; a half-life without decay is null."""
    by_share = (-found.residual_share).argsort(kind="stable")

    def listed(chosen: Sequence[int]) -> list[dict[str, object]]:
        return [
            {
                "item_id": bundle.catalog.item_id[item],
                "title": bundle.catalog.title[item],
                "learned_from_events": round(float(found.residual_share[item]), 4),
            }
            for item in chosen
        ]

    return {
        "fingerprint": bundle.fingerprint,
        "items": found.items,
        "dimensions": found.dimensions,
        "half_life_days": [_finite(days) for days in found.half_life_days],
        "half_life_later_events": [_finite(events) for events in found.half_life_events],
        "alpha": found.alpha,
        "event_types": found.event_types,
        "target_types": list(found.target_types),
        "blocks": [{"name": one.name, "items": one.items, "share": round(one.share, 4)} for one in found.blocks],
        "prior_weights": list(found.prior_weights),
        "related_gain": found.related_gain,
        "prior": [
            {
                "half_life_days": _finite(one.days),
                "smoothing_events": _finite(one.smoothing_events),
                "share": one.share,
            }
            for one in found.prior
        ],
        "counted_at_ms": found.counted_at_ms,
        "most_popular": listed(found.popular[:count].tolist()),
        "most_learned_from_events": listed(by_share[:count].tolist()),
        "most_from_text": listed(by_share[::-1][:count].tolist()),
    }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
