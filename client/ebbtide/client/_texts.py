"""Answers as small tables for users to read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ebbtide.v1 import (
    ColdStart,
    ExplainedEvent,
    ExplainResponse,
    InterestResponse,
    ItemExplanation,
    ObserveResponse,
    RankResponse,
    RecommendedItem,
    RecommendResponse,
    SlateCause,
    SlateCauseKind,
    StateStatus,
)

_COLD_START = {
    ColdStart.COLD_START_NO_HISTORY: "no history: the session alone counted",
    ColdStart.COLD_START_NO_SESSION: "no current session: the history alone counted",
    ColdStart.COLD_START_NO_EVENTS: "cold start, no events: the popularity prior alone ranked",
}
_STATE = {
    StateStatus.STATE_STATUS_UNKNOWN_USER: "the store has no event of this user",
    StateStatus.STATE_STATUS_UNAVAILABLE: "the store could not be reached: only the events of the request counted",
    StateStatus.STATE_STATUS_OTHER_VERSION: "only the newest events counted: the state is of another model version",
    StateStatus.STATE_STATUS_PARTLY_SCALED: "decay_scale reached the older events, kept as sums, in part only",
}
_CAUSES = {
    SlateCauseKind.SLATE_CAUSE_KIND_DIVERSITY: "diversity",
    SlateCauseKind.SLATE_CAUSE_KIND_CALIBRATION: "calibration of",
    SlateCauseKind.SLATE_CAUSE_KIND_AT_MOST: "at most of",
    SlateCauseKind.SLATE_CAUSE_KIND_AT_LEAST: "at least of",
    SlateCauseKind.SLATE_CAUSE_KIND_EXPOSURE: "exposure of",
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


def state(status: StateStatus.ValueType) -> str:
    """What an answer lacks of the state, in words; empty where nothing or where no user was named."""
    return _STATE.get(status, "")


def moved(item: RecommendedItem | ItemExplanation, position: int) -> str:
    """What moved an item of a slate; empty where nothing did."""
    if not item.moved_by:
        return ""
    way = "up" if item.score_rank > position else "down"
    return f"{way} from {item.score_rank}: {', '.join(map(_cause, item.moved_by))}"


def relaxed(message: RecommendResponse | ExplainResponse) -> list[str]:
    """One line for each limit of a slate that the list does not meet."""
    return [
        f"{_cause(one.limit)}: wanted {one.wanted}, got {one.got}"
        + (f" in the first {one.position}" if one.position else "")
        for one in message.relaxed_limits
    ]


def _reasons(item: RecommendedItem | ItemExplanation, position: int) -> list[str]:
    """Rules and slate, where they moved an item."""
    return [reason for reason in (", ".join(item.rules), moved(item, position)) if reason]


def _cause(cause: SlateCause) -> str:
    name = f"{cause.column}={cause.value}" if cause.value else cause.column
    return f"{_CAUSES.get(cause.kind, 'unknown cause')} {name}".rstrip()


def age(days: float) -> str:
    """A readable age: ``1 minute``, ``5 hours``, ``3 days``, ``2.1 years``."""
    seconds = days * 86_400
    for most, unit, name in _AGES:
        if seconds < most:
            number = round(seconds / unit)
            return f"{number} {name}{'' if number == 1 else 's'}"
    return f"{days / 365.25:.1f} years"


def head(message: RecommendResponse | RankResponse | ExplainResponse | InterestResponse) -> list[str]:
    """What an answer says of the user, in one or more lines."""
    lines = [
        f"alpha {message.alpha_used:.2f} (share of history), {_events(message.events_used)} counted, model version "
        f"{message.model_version or 'unknown'}"
    ]
    if lacking := state(message.state_status):
        lines.append(lacking)
    if missing := cold_start(message.cold_start):
        lines.append(missing)
    if message.unknown_events:
        lines.append(f"{_events(message.unknown_events)} left out: not in the catalog")
    return lines


def ranked(message: RecommendResponse | RankResponse, titles: Mapping[str, str]) -> str:
    """One line for each item, best first."""
    names = [titles.get(item.item_id, item.item_id) for item in message.items]
    width = max(map(len, names), default=0)
    rows = [
        f"{rank:3d}  {name:<{width}}  {item.score: .4f}" + "".join(f"  ({reason})" for reason in _reasons(item, rank))
        for rank, (name, item) in enumerate(zip(names, message.items, strict=True), 1)
    ]
    apart: list[str] = []
    if isinstance(message, RankResponse):
        for kind, item_ids in (
            ("not in the catalog", message.unknown_item_ids),
            ("left out", message.excluded_item_ids),
            ("out of stock", message.out_of_stock_item_ids),
        ):
            if item_ids:
                apart.append(f"     {kind}: {', '.join(titles.get(item_id, item_id) for item_id in item_ids)}")
    else:
        apart += [f"     not met: {one}" for one in relaxed(message)]
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
        stock = ", out of stock" if item.is_out_of_stock else ""
        why = "".join(f" ({reason})" for reason in _reasons(item, index))
        lines.append(f"{index:3d}  {name}{stock}{why}: {score} =")
        lines += [f"       {share:+.3f}  {what}" for share, what in parts(message, item, titles, events)]
        if message.events or message.state_events or item.folded_share:
            lines.append(f"       by half-life: {_by_half_life(message.half_life_days, item.dimension_shares)}")
        if item.block_shares:
            lines.append(f"       by feature block: {by_block(message, item)}")
    lines += [f"     not met: {one}" for one in relaxed(message)]
    return "\n".join(lines)


def observed(message: ObserveResponse) -> str:
    """What became of the events, in one line."""
    late = f", {message.late_events} of them late" if message.late_events else ""
    parts = [f"{_events(message.added_events)} added{late}"]
    if message.duplicate_events:
        parts.append(f"{_events(message.duplicate_events)} known before")
    if message.unknown_events:
        parts.append(f"{_events(message.unknown_events)} left out: not in the catalog")
    return "; ".join(parts)


def interest(message: InterestResponse, titles: Mapping[str, str], events: int) -> str:
    """What a state says of its user, and the newest events with what is left of their weights."""
    lines = head(message)
    beside = (
        (message.folded_events, "kept as sums"),
        (message.late_events, "late, by age alone"),
        (message.dropped_events, "dropped"),
    )
    if any(count for count, _ in beside):
        lines.append(f"events beside the newest: {', '.join(f'{count} {what}' for count, what in beside if count)}")
    if message.alpha_offset:
        lines.append(f"learned online: {message.alpha_offset:+.2f} on the logit of alpha")
    total = math.fsum(message.energy)
    if total:
        shares = [energy / total for energy in message.energy]
        lines.append(f"interest by half-life: {_by_half_life(message.half_life_days, shares)}")
    lines += [f"     {_event(explained, titles)}" for explained in message.events[:events]]
    if len(message.events) > events:
        lines.append(f"     and {_events(len(message.events) - events)} more")
    return "\n".join(lines)


def by_block(message: ExplainResponse, item: ItemExplanation) -> str:
    """What each feature block of an item adds to its score, beside prior and adjustment; empty without blocks."""
    pairs = zip(message.block_names, item.block_shares, strict=False)
    return ", ".join(f"{name} {share:+.3f}" for name, share in pairs)


def parts(
    message: ExplainResponse, item: ItemExplanation, titles: Mapping[str, str], events: int
) -> list[tuple[float, str]]:
    """What adds up to the score of an item: repeat parts or the prior, the strongest events, the others together.

    From an export without repeat parts, a repeat score is known by the prior that it replaces.
    """
    known = [*message.events, *message.state_events]
    strongest = sorted(enumerate([*item.event_shares, *item.state_event_shares]), key=lambda share: -abs(share[1]))
    found = [(share, _event(known[index], titles)) for index, share in strongest[:events] if share]
    rest = strongest[len(found) :]
    if rest and any(share for _, share in rest):
        found.append((math.fsum(share for _, share in rest), f"{len(rest)} other event{'' if len(rest) == 1 else 's'}"))
    if item.folded_share:
        found.append((item.folded_share, "older events of the state"))
    if item.HasField("repeat_shares"):
        repeats = [(getattr(item.repeat_shares, name), what) for name, what in _REPEAT_PARTS.items()]
        return [(share, what) for share, what in repeats if share] + found
    found.append((item.prior_share, "popularity prior"))
    if item.adjustment_share:
        found.append((item.adjustment_share, "related to the newest events" if item.prior_share else "repeat score"))
    return found


def _event(explained: ExplainedEvent, titles: Mapping[str, str]) -> str:
    event = explained.event
    if event.HasField("text"):
        name = repr(event.text)
    elif event.item_id:
        name = titles.get(event.item_id, f"item {event.item_id}")
    else:
        name = "an item that is not in the catalog"
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
