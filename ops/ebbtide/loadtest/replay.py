"""Real sessions as requests: for every held-out basket of a user, the request just before it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone

import numpy as np
import numpy.typing as npt

from ebbtide.client import Event, InvalidArgumentError, event, new_item, observe_request, recommend_request, slate
from ebbtide.client.codec import (
    EncodedRequest,
    encode,
    encode_add_items,
    encode_observe,
    encode_rank,
    encode_set_stock,
    encode_texts,
    shared_fields,
)
from ebbtide.data.baskets import Ints, Mask, baskets_of
from ebbtide.data.catalog import Catalog
from ebbtide.data.events import EventLog
from ebbtide.data.sessions import session_starts
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Limits
from ebbtide.loadtest._triton import infer_message
from ebbtide.loadtest.errors import LoadTestError
from ebbtide.v1 import AddItemsRequest, ObserveRequest, RankRequest, SetStockRequest

Floats = npt.NDArray[np.float64]

STATELESS_ENDPOINTS = (
    served_models.RECOMMEND.name,
    served_models.RECOMMEND_SLATE.name,
    served_models.RECOMMEND_TEXT.name,
    served_models.RANK.name,
    served_models.EMBED.name,
)
"""Endpoints that need no store of the states of users."""

ENDPOINTS = (
    *STATELESS_ENDPOINTS,
    served_models.OBSERVE.name,
    served_models.ADD_ITEMS.name,
    served_models.STOCK.name,
)
"""Endpoints that a mix may name: models that are called from outside."""

USER_PREFIX = "loadtest/"
"""Begins the ids of users and of new items of a load test, so that it leaves those of the server alone."""

ADDED_ITEMS = 64
"""Items that requests of ``add_items`` add and replace, one in each request."""

STOCKED_ITEMS = 64
"""Items of the catalog that requests of ``stock`` put out of stock and back, at most: those with the fewest events."""

CANDIDATES = 100
"""Candidate items in each request of ``rank``, unless the server allows fewer."""

DIVERSITY = 0.3
"""Of the slate in each request of ``recommend_slate``."""

SHOWN = 20
"""Items that a user was shown, in each request of ``observe`` to a server that learns from them."""

SESSION_GAP_MS = 30 * 60_000
"""A longer pause ends a session."""

CHOICES = 65_521
"""Length of the drawn sequence of endpoints, a prime, so that it does not beat with the number of requests."""


@dataclass(frozen=True)
class Replayed:
    """What a load test replays."""

    log: EventLog
    catalog: Catalog
    is_held_out: Mask
    """``[events]``: events that the model was not trained on; requests are sent just before them."""


@dataclass(frozen=True)
class Workload:
    """Encoded requests, and the order in which they are sent.

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
    by_user: bool = False
    """Whether requests name the user in place of the history."""
    histories: tuple[bytes, ...] = ()
    """Serialised requests of ``observe``: what the server must know of users before it is asked by user, see
    `ebbtide.loadtest.known_users`."""
    user_ids: tuple[str, ...] = ()
    """Users whom the requests name."""
    item_ids: tuple[str, ...] = ()
    """Items that the requests add."""
    stock_ids: tuple[str, ...] = ()
    """Items that the requests put out of stock and back."""

    @property
    def names_users(self) -> bool:
        """Whether some requests name a user."""
        return self.by_user or served_models.OBSERVE.name in self.mix

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints of the mix."""
        return tuple(self.mix)

    def choices(self) -> list[int]:
        """Which endpoint each request calls, as an index into `endpoints`; the sequence repeats."""
        random = np.random.default_rng(self.seed)
        return [int(index) for index in random.choice(len(self.mix), CHOICES, p=list(self.mix.values()))]


def build_workload(
    replayed: Replayed,
    mix: dict[str, float],
    *,
    limits: Limits | None = None,
    requests: int = 2_000,
    seed: int = 0,
    by_user: bool = False,
    with_shown: bool = False,
    clock_ms: int | None = None,
) -> Workload:
    """Requests of held-out users, encoded.

    Args:
        replayed: Real sessions.
        mix: Share of each endpoint.
        limits: The server's (`served_limits`): histories, candidates and texts are cut to them. The defaults of
            `ebbtide export` without it.
        requests: Requests wanted of each endpoint; whole sessions are drawn at random until there are as many.
        seed: Draws the sessions.
        by_user: Whether to name the user in place of sending the history, where a history is needed.
        with_shown: Whether ``observe`` says what the user was shown, for a server that learns from it.
        clock_ms: Time of the requests that name a user, Unix milliseconds; None for the clock of this machine. The
            generator sets it anew when it sends them.

    Raises:
        LoadTestError: No held-out event has an earlier one of the same user.
    """
    log = replayed.log
    sessions = _sessions(replayed)
    if not sessions:
        raise LoadTestError(
            "events: no user has a held-out event with an earlier one; expected some. Hold out more "
            "(--holdout time:0.2)"
        )
    chosen: list[Ints] = []
    left = requests
    for index in np.random.default_rng(seed).permutation(len(sessions)):
        chosen.append(sessions[index][:left])
        left -= len(chosen[-1])
        if not left:
            break
    heads = np.concatenate(chosen)
    heads = heads[np.lexsort((heads, log.time_ms[heads]))]
    clock_ms = time.time_ns() // 1_000_000 if clock_ms is None else clock_ms
    encoder = _Encoder(replayed, limits or Limits(), by_user=by_user, with_shown=with_shown, clock_ms=clock_ms)
    messages = {endpoint: [infer_message(encoder.encode(endpoint, int(head))) for head in heads] for endpoint in mix}
    pauses = [(log.time_ms[session] - log.time_ms[session[0]]) / 1e3 for session in chosen]
    users, first = np.unique(log.user[heads], return_index=True)
    adds = served_models.ADD_ITEMS.name in mix
    item_ids = tuple(sorted({_added_id(int(head)) for head in heads})) if adds else ()
    stock_ids = encoder.stocked if served_models.STOCK.name in mix else ()
    built = Workload(mix, messages, pauses, len(users), seed, by_user=by_user, item_ids=item_ids, stock_ids=stock_ids)
    if not built.names_users:
        return built
    return replace(
        built,
        histories=tuple(infer_message(encoder.known(int(head))) for head in heads[first]) if by_user else (),
        user_ids=tuple(encoder.user_id(int(head)) for head in heads[first]),
    )


def _sessions(replayed: Replayed) -> list[Ints]:
    """The held-out baskets to ask before, by the log index of their first event, session by session."""
    log = replayed.log
    heads = baskets_of(log, replayed.is_held_out).head
    if not len(heads):
        return []
    session = session_starts(log, SESSION_GAP_MS)[heads]
    return np.split(heads, np.flatnonzero(np.diff(session)) + 1)


def _added_id(head: int) -> str:
    """The id of the item that the request before an event adds."""
    return f"{USER_PREFIX}{head % ADDED_ITEMS}"


def _uncounted(request: ObserveRequest) -> EncodedRequest:
    """Events that do not count for the server's popularity, which is that of all users and outlasts the test."""
    encoded = encode_observe(request)
    return replace(encoded, tensors={**encoded.tensors, contract.AS_EXPORTED.name: np.ones((1, 1), dtype=np.bool_)})


class _Encoder:
    """Encodes the request just before an event, within the server's limits."""

    def __init__(self, replayed: Replayed, limits: Limits, *, by_user: bool, with_shown: bool, clock_ms: int) -> None:
        self._by_user, self._with_shown, self._clock_ms = by_user, with_shown, clock_ms
        self._log, self._catalog, self._limits = replayed.log, replayed.catalog, limits
        self._first = np.repeat(self._log.start[:-1], np.diff(self._log.start))
        # A weight of 1 is what an event without weight has.
        self._is_weighted = bool((self._log.weight != 1).any())
        events = np.bincount(self._log.item, minlength=len(self._catalog))
        rarest = np.argsort(events, kind="stable")[:STOCKED_ITEMS]
        self.stocked = tuple(self._catalog.item_id[item] for item in rarest.tolist())

    def user_id(self, head: int) -> str:
        """The id of the user of an event."""
        return f"{USER_PREFIX}{self._log.users[int(self._log.user[head])]}"

    def known(self, head: int) -> EncodedRequest:
        """The history before an event, as old at the time of the requests as it was before that event."""
        later_ms = self._clock_ms - int(self._log.time_ms[head])
        history = self._history(head, self._limits.max_events, later_ms)
        return _uncounted(observe_request(self.user_id(head), history, unknown_items="ignore"))

    def encode(self, endpoint: str, head: int) -> EncodedRequest:
        try:
            return self._encode(endpoint, head)
        except InvalidArgumentError as error:
            raise LoadTestError(f"events: an event of the log cannot be sent: {error}") from error

    def _encode(self, endpoint: str, head: int) -> EncodedRequest:
        if endpoint == served_models.OBSERVE.name:
            shown = self._candidates(head, SHOWN) if self._with_shown else ()
            return _uncounted(observe_request(self.user_id(head), self._basket(head), shown=shown))
        limits, now_ms = self._limits, self._clock_ms if self._by_user else int(self._log.time_ms[head])
        text = self._catalog.text[int(self._log.item[head])].encode()[: limits.max_text_bytes].decode(errors="ignore")
        if endpoint == served_models.EMBED.name:
            return encode_texts([text])
        if endpoint == served_models.ADD_ITEMS.name:
            # New items look like those of the catalog.
            return encode_add_items(AddItemsRequest(items=[new_item(_added_id(head), text)]))
        if endpoint == served_models.STOCK.name:
            ids = self.stocked
            out, back = ids[head % len(ids)], ids[(head + len(ids) // 2) % len(ids)]
            in_stock = [back] if back != out else []
            return encode_set_stock(SetStockRequest(out_of_stock_item_ids=[out], in_stock_item_ids=in_stock))
        # The text of the next item stands for the search that led to it.
        searches = [event(text=text, time_ms=now_ms)] if endpoint == served_models.RECOMMEND_TEXT.name else []
        history = [] if self._by_user else self._history(head, limits.max_events - len(searches))
        request = recommend_request(
            events=[*history, *searches],
            user_id=self.user_id(head) if self._by_user else None,
            now=datetime.fromtimestamp(now_ms / 1e3, timezone.utc),
            slate=slate(diversity=DIVERSITY) if endpoint == served_models.RECOMMEND_SLATE.name else None,
        )
        if endpoint == served_models.RANK.name:
            asked = RankRequest(
                candidate_item_ids=self._candidates(head, CANDIDATES), **shared_fields(request, RankRequest)
            )
            return encode_rank(asked, now_ms)
        return encode(request, now_ms)

    def _candidates(self, head: int, most: int) -> list[str]:
        """The next item, and items drawn from all events, so as popular as the log's; each item once."""
        wanted = min(most, self._limits.max_candidates)
        drawn = np.random.default_rng(head).choice(self._log.item, 2 * wanted)
        items = dict.fromkeys([int(self._log.item[head]), *map(int, drawn)])
        return [self._catalog.item_id[item] for item in items][:wanted]

    def _history(self, head: int, most: int, later_ms: int = 0) -> list[Event]:
        """The last events strictly before a basket of the same user, at most so many, later by so many milliseconds."""
        return self._events(range(max(int(self._first[head]), head - most), head), later_ms)

    def _basket(self, head: int) -> list[Event]:
        """The events of a basket, at the time of the requests; each item once, since their times are the same."""
        log = self._log
        stop = head + 1
        while stop < log.events and (log.user[stop], log.time_ms[stop]) == (log.user[head], log.time_ms[head]):
            stop += 1
        items = log.item[head:stop]
        kept = head + np.sort(np.unique(items, return_index=True)[1])[: self._limits.max_events]
        return self._events(kept.tolist(), self._clock_ms - int(log.time_ms[head]))

    def _events(self, indices: Sequence[int], later_ms: int) -> list[Event]:
        log = self._log
        return [
            event(
                item_id=self._catalog.item_id[int(log.item[index])],
                time_ms=int(log.time_ms[index]) + later_ms,
                weight=float(log.weight[index]) if self._is_weighted else None,
                event_type=log.type_of(index),
            )
            for index in indices
        ]
