"""Real sessions as requests: for every held-out event of a user, the request that came just before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ebbtide.client import Event, InvalidArgumentError, event, recommend_request
from ebbtide.client.codec import EncodedRequest, encode, encode_rank, encode_texts
from ebbtide.interest import contract
from ebbtide.interest.contract import Limits
from ebbtide.loadtest._triton import infer_message
from ebbtide.loadtest.errors import LoadTestError
from ebbtide.v1 import RankRequest

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

ENDPOINTS = (contract.RECOMMEND.name, contract.RECOMMEND_TEXT.name, contract.RANK.name, contract.EMBED.name)
"""What a mix may ask for: the models that are called from outside."""

CANDIDATES = 100
"""Items that each request of ``rank`` asks for."""

SESSION_GAP_MS = 30 * 60_000
"""A longer pause ends a session."""

CHOICES = 65_521
"""Length of the drawn sequence of endpoints, a prime, so that it does not beat with the number of requests."""


@dataclass(frozen=True)
class SessionLog:
    """n events of U users: those of one user stand together, oldest first."""

    start: Ints
    """``[U + 1]``: the events of user u are ``start[u]`` up to ``start[u + 1]``."""
    item: Ints
    """``[n]``: places in `item_id` and `text`."""
    time_ms: Ints
    """``[n]``: Unix milliseconds, UTC."""
    weight: npt.NDArray[np.float32] | None
    """``[n]``, or None where every event weighs the same."""
    is_held_out: npt.NDArray[np.bool_]
    """``[n]``: events that the model was not trained on: the moments to ask at."""
    item_id: Sequence[str]
    """Ids of the catalog's items."""
    text: Sequence[str]
    """Their texts."""


@dataclass(frozen=True)
class Workload:
    """Encoded requests, and in which order they are sent.

    Request number i of a run is the same whoever sends it: one process, or one of several workers.
    """

    mix: dict[str, float]
    """Share of each endpoint; adds up to 1."""
    messages: dict[str, list[bytes]]
    """Serialised requests of each endpoint, in the order in which the log's users acted."""
    sessions: Sequence[Floats]
    """The requests of each session, in seconds from its first."""
    users: int
    """How many users they come from."""
    seed: int = 0
    """Draws the sequence of endpoints."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints of the mix."""
        return tuple(self.mix)

    def choices(self) -> list[int]:
        """Which endpoint each request calls, as an index into `endpoints`; the sequence repeats."""
        random = np.random.default_rng(self.seed)
        return [int(index) for index in random.choice(len(self.mix), CHOICES, p=list(self.mix.values()))]


def build_workload(log: SessionLog, mix: dict[str, float], *, requests: int = 2_000, seed: int = 0) -> Workload:
    """Requests of held-out users, encoded.

    Args:
        log: Real sessions.
        mix: Share of each endpoint.
        requests: Requests wanted of each endpoint; whole sessions are drawn at random until there are as many.
        seed: Draws the sessions.

    Raises:
        LoadTestError: Nobody was held out with anything before it.
    """
    sessions = _sessions(log)
    if not sessions:
        raise LoadTestError(
            "events: nobody has a held-out event with an earlier one; expected some. Hold out more (--holdout time:0.2)"
        )
    chosen: list[list[_QueryPoint]] = []
    left = requests
    for index in np.random.default_rng(seed).permutation(len(sessions)):
        chosen.append(sessions[index][:left])
        left -= len(chosen[-1])
        if not left:
            break
    points = sorted((point for session in chosen for point in session), key=lambda one: (one.time_ms, one.event))
    messages = {endpoint: [infer_message(_encode(log, endpoint, one)) for one in points] for endpoint in mix}
    pauses = [np.array([(one.time_ms - session[0].time_ms) / 1e3 for one in session]) for session in chosen]
    return Workload(mix, messages, pauses, len({one.first for one in points}), seed)


class _QueryPoint(NamedTuple):
    """Just before a held-out event."""

    first: int
    """The user's first event."""
    event: int
    """The held-out event."""
    time_ms: int


def _sessions(log: SessionLog) -> list[list[_QueryPoint]]:
    """The moments to ask at, session by session."""
    sessions: list[list[_QueryPoint]] = []
    for user in range(len(log.start) - 1):
        first, stop = int(log.start[user]), int(log.start[user + 1])
        last_ms: int | None = None
        for index in range(first + 1, stop):
            time_ms = int(log.time_ms[index])
            # What happens at the same moment is no past, and asks once.
            if not log.is_held_out[index] or time_ms == int(log.time_ms[index - 1]):
                continue
            if last_ms is None or time_ms - last_ms > SESSION_GAP_MS:
                sessions.append([])
            sessions[-1].append(_QueryPoint(first, index, time_ms))
            last_ms = time_ms
    return sessions


def _encode(log: SessionLog, endpoint: str, point: _QueryPoint) -> EncodedRequest:
    try:
        return _encoded(log, endpoint, point)
    except InvalidArgumentError as error:
        raise LoadTestError(f"events: an event of the log cannot be sent: {error}") from error


def _encoded(log: SessionLog, endpoint: str, point: _QueryPoint) -> EncodedRequest:
    text = log.text[int(log.item[point.event])][: Limits().max_text_bytes // 4]
    if endpoint == contract.EMBED.name:
        return encode_texts([text])
    # Free text stands for the search that led to what came next.
    typed = [event(text=text, time_ms=point.time_ms)] if endpoint == contract.RECOMMEND_TEXT.name else []
    past = [*_past(log, point, len(typed)), *typed]
    request = recommend_request(events=past, now=datetime.fromtimestamp(point.time_ms / 1e3, timezone.utc))
    if endpoint == contract.RANK.name:
        asked = RankRequest(events=request.events, now=request.now, candidate_item_ids=_candidates(log, point))
        return encode_rank(asked, point.time_ms)
    return encode(request, point.time_ms)


def _candidates(log: SessionLog, point: _QueryPoint) -> list[str]:
    """What came next, among items as popular as the log's: a draw from all events, each item once."""
    drawn = np.random.default_rng(point.event).choice(log.item, 2 * CANDIDATES)
    items = dict.fromkeys([int(log.item[point.event]), *map(int, drawn)])
    return [log.item_id[item] for item in items][:CANDIDATES]


def _past(log: SessionLog, point: _QueryPoint, typed: int) -> list[Event]:
    begin = max(point.first, point.event - (Limits().max_events - typed))
    return [
        event(
            item_id=log.item_id[int(log.item[index])],
            time_ms=int(log.time_ms[index]),
            weight=None if log.weight is None else float(log.weight[index]),
        )
        for index in range(begin, point.event)
    ]
