"""Answers as columns, for frames of any library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ebbtide.v1 import ExplainResponse, ItemExplanation, RankResponse, RecommendResponse, RepeatShares

PANDAS_DTYPES = {
    "request": "int64",
    "rank": "int64",
    "item_id": "str",
    "score": "float32",
    "part": "str",
    "share": "float32",
    "event": "Int64",
    "subject": "str",
    "age_days": "float32",
    "decay": "float32",
}
"""The type of every column; ``Int64`` is the one that may be empty."""
POLARS_DTYPES = {
    "request": "Int64",
    "rank": "Int64",
    "item_id": "String",
    "score": "Float32",
    "part": "String",
    "share": "Float32",
    "event": "Int64",
    "subject": "String",
    "age_days": "Float32",
    "decay": "Float32",
}

_RANKED = ("rank", "item_id", "score")
_EXPLAINED = ("item_id", "part", "share", "event", "subject", "age_days", "decay")


def ranked_columns(message: RecommendResponse | RankResponse) -> dict[str, list[Any]]:
    """One row for each item."""
    return _by_column(_RANKED, _ranked(message))


def many_columns(answered: Sequence[tuple[int, RecommendResponse]]) -> dict[str, list[Any]]:
    """One row for each item of each answer, with the index of the answer's request in front."""
    rows = [(index, *row) for index, response in answered for row in _ranked(response)]
    return _by_column(("request", *_RANKED), rows)


def explanation_columns(message: ExplainResponse) -> dict[str, list[Any]]:
    """One row for each part of each score."""
    rows: list[tuple[Any, ...]] = []
    for item in message.items:
        indices = [*range(len(message.events)), *[None] * len(message.state_events)]
        events = [*message.events, *message.state_events]
        shares = [*item.event_shares, *item.state_event_shares]
        for index, event, share in zip(indices, events, shares, strict=False):
            part = "session" if event.is_current else "history"
            subject = event.event.text if event.event.HasField("text") else event.event.item_id
            rows.append((item.item_id, part, share, index, subject, event.age_days, event.decay))
        folded = [("folded", item.folded_share)] if item.folded_share else []
        for part, share in (*folded, ("prior", item.prior_share), *_adjustments(item)):
            rows.append((item.item_id, part, share, None, None, None, None))
    return _by_column(_EXPLAINED, rows)


def _adjustments(item: ItemExplanation) -> list[tuple[str, float]]:
    """The parts of a repeat score, or the adjustment as a whole where it has no parts."""
    if not item.HasField("repeat_shares"):
        return [("adjustment", item.adjustment_share)]
    return [
        (f"repeat {field.name}", getattr(item.repeat_shares, field.name)) for field in RepeatShares.DESCRIPTOR.fields
    ]


def _ranked(message: RecommendResponse | RankResponse) -> list[tuple[Any, ...]]:
    return [(rank, item.item_id, item.score) for rank, item in enumerate(message.items, start=1)]


def _by_column(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, list[Any]]:
    return {name: [row[index] for row in rows] for index, name in enumerate(names)}
