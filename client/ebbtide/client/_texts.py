"""Answers as small tables for users to read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ebbtide.v1 import ColdStart, ExplainedEvent, ExplainResponse, ItemExplanation, RankResponse, RecommendResponse

_COLD_START = {
    ColdStart.COLD_START_NO_HISTORY: "no history: the session alone counted",
    ColdStart.COLD_START_NO_SESSION: "no session: the history alone counted",
    ColdStart.COLD_START_NO_EVENTS: "no events: the popularity prior alone ranked",
}
_AGES = ((60, 1, "second"), (3_600, 60, "minute"), (172_800, 3_600, "hour"), (63_072_000, 86_400, "day"))
"""Up to so many seconds, the unit of an age in seconds, and its name."""
_HALF_LIVES = ((1.0, "under a day"), (30.0, "1 to 30 days"), (365.0, "30 days to a year"), (math.inf, "over a year"))
"""Up to so many days, what to call the half-lives."""
_REPEAT_PARTS = {
    "frequency": "repeat: how often, recent events more",
    "recency": "repeat: time since the item's last event",
    "item": "repeat: how often users repeat the item",
    "trend": "repeat: trend of the item",
    "time": "repeat: hour, weekday, time since any event",
    "level": "repeat: level of all seen items",
}
"""Fields of `RepeatShares` and what to call them, in the order in which they are shown."""


def cold_start(kind: ColdStart.ValueType) -> str:
    """What was missing, in words; empty where nothing was."""
    return _COLD_START.get(kind, "")


def age(days: float) -> str:
    """A readable age: ``1 minute``, ``5 hours``, ``3 days``, ``2.1 years``."""
    seconds = days * 86_400
    for most, unit, name in _AGES:
        if seconds < most:
            number = round(seconds / unit)
            return f"{number} {name}{'' if number == 1 else 's'}"
    return f"{days / 365.25:.1f} years"


def head(message: RecommendResponse | RankResponse | ExplainResponse) -> list[str]:
    """What an answer says of the user, in one or more lines."""
    lines = [
        f"alpha {message.alpha_used:.2f} (share of history), {_events(message.events_used)} counted, model version "
        f"{message.model_version or 'unknown'}"
    ]
    if missing := cold_start(message.cold_start):
        lines.append(f"cold start, {missing}")
    if message.unknown_events:
        lines.append(f"{_events(message.unknown_events)} left out: not in the catalog")
    return lines


def ranked(message: RecommendResponse | RankResponse, titles: Mapping[str, str]) -> str:
    """One line for each item, best first."""
    names = [titles.get(item.item_id, item.item_id) for item in message.items]
    width = max(map(len, names), default=0)
    rows = [
        f"{rank:3d}  {name:<{width}}  {item.score: .4f}"
        for rank, (name, item) in enumerate(zip(names, message.items, strict=True), 1)
    ]
    apart: list[str] = []
    if isinstance(message, RankResponse):
        for kind, item_ids in (
            ("not in the catalog", message.unknown_item_ids),
            ("left out", message.excluded_item_ids),
        ):
            if item_ids:
                apart.append(f"     {kind}: {', '.join(titles.get(item_id, item_id) for item_id in item_ids)}")
    return "\n".join([*head(message), *rows, *apart])


def explanation(message: ExplainResponse, titles: Mapping[str, str], events: int) -> str:
    """For each item its score and, indented, what adds up to it."""
    lines = head(message)
    for index, item in enumerate(message.items, 1):
        name = titles.get(item.item_id, item.item_id)
        if not item.dimension_shares:
            lines.append(f"{index:3d}  {name}: not in the catalog")
            continue
        score = "excluded; without that" if item.is_excluded else f"score {item.score:+.3f}"
        lines.append(f"{index:3d}  {name}: {score} =")
        lines += [f"       {share:+.3f}  {what}" for share, what in parts(message, item, titles, events)]
        if message.events:
            lines.append(f"       by half-life: {_by_half_life(message.half_life_days, item.dimension_shares)}")
    return "\n".join(lines)


def parts(
    message: ExplainResponse, item: ItemExplanation, titles: Mapping[str, str], events: int
) -> list[tuple[float, str]]:
    """What adds up to the score of an item: the strongest events, the others together, the prior; or repeat parts."""
    if item.HasField("repeat_shares"):
        repeats = [(getattr(item.repeat_shares, name), what) for name, what in _REPEAT_PARTS.items()]
        return [(share, what) for share, what in repeats if share]
    strongest = sorted(enumerate(item.event_shares), key=lambda share: -abs(share[1]))
    found = [(share, _event(message.events[index], titles)) for index, share in strongest[:events] if share]
    rest = strongest[len(found) :]
    if rest and any(share for _, share in rest):
        found.append((math.fsum(share for _, share in rest), f"{len(rest)} other event{'' if len(rest) == 1 else 's'}"))
    found.append((item.prior_share, "popularity prior"))
    if item.adjustment_share:
        found.append((item.adjustment_share, "repeat score"))
    return found


def _event(explained: ExplainedEvent, titles: Mapping[str, str]) -> str:
    event = explained.event
    name = repr(event.text) if event.HasField("text") else titles.get(event.item_id, f"item {event.item_id}")
    part = "session" if explained.is_current else "history"
    return f"{name}, {age(explained.age_days)} ago ({part}, weighs {explained.decay:.2g})"


def _by_half_life(half_life_days: Sequence[float], shares: Sequence[float]) -> str:
    shown: list[str] = []
    least = -math.inf
    for most, name in _HALF_LIVES:
        among = [share for days, share in zip(half_life_days, shares, strict=True) if least < days <= most]
        if among:
            shown.append(f"{name} {math.fsum(among):+.3f}")
        least = most
    return ", ".join(shown)


def _events(number: int) -> str:
    return f"{number} event{'' if number == 1 else 's'}"
