"""Answers as text, as a dict, and as a pandas or polars frame if these are installed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from google.protobuf.json_format import MessageToDict

from ebbtide.client import _tables, _texts
from ebbtide.client.errors import EbbtideError
from ebbtide.v1 import (
    ColdStart,
    ExplainedEvent,
    ExplainResponse,
    InterestResponse,
    ItemExplanation,
    ObserveRequest,
    ObserveResponse,
    RankResponse,
    RecommendedItem,
    RecommendRequest,
    RecommendResponse,
    StateStatus,
)

if TYPE_CHECKING:
    import pandas as pd  # pyright: ignore[reportMissingTypeStubs]
    import polars as pl


Q = TypeVar("Q", bound=RecommendRequest | ObserveRequest)
A = TypeVar("A", bound=RecommendResponse | ObserveResponse)
R = TypeVar("R", bound="Result[Any, Any]")


@dataclass(frozen=True)
class Result(Generic[Q, A]):
    """The result of one request of many: either a response or an error."""

    request: Q = field(repr=False)
    """The request."""
    response: A | None = None
    """The answer; None if the call failed."""
    error: EbbtideError | None = None
    """Why the call failed; None if it was answered."""
    index: int = 0
    """Index of the request in the list of requests."""

    def __str__(self) -> str:
        return to_text(self.response) if self.response is not None else f"{type(self.error).__name__}: {self.error}"


class RecommendResult(Result[RecommendRequest, RecommendResponse]):
    """The result of one request of `InterestClient.recommend_many` or `recommend_stream`."""


class ObserveResult(Result[ObserveRequest, ObserveResponse]):
    """The result of one request of `InterestClient.observe_many`."""


@dataclass(frozen=True)
class Ranking:
    """The answer of `InterestClient.rank`; prints as a table."""

    response: RankResponse = field(repr=False)
    """The whole answer as a message."""

    @property
    def items(self) -> Sequence[RecommendedItem]:
        """The candidates that can be recommended, best first."""
        return self.response.items

    @property
    def unknown_item_ids(self) -> Sequence[str]:
        """Candidates that are not in the catalog, in the order of the request."""
        return self.response.unknown_item_ids

    @property
    def excluded_item_ids(self) -> Sequence[str]:
        """Excluded candidates, in the order of the request."""
        return self.response.excluded_item_ids

    @property
    def out_of_stock_item_ids(self) -> Sequence[str]:
        """Candidates that are out of stock, in the order of the request; they are in `items` too."""
        return self.response.out_of_stock_item_ids

    @property
    def alpha_used(self) -> float:
        """Share of history in the blend."""
        return self.response.alpha_used

    @property
    def cold_start(self) -> ColdStart.ValueType:
        """Which evidence was missing (cold start)."""
        return self.response.cold_start

    def __str__(self) -> str:
        return to_text(self)


@dataclass(frozen=True)
class Explanation:
    """The answer of `InterestClient.explain`; prints as a table of the share of each event in each score."""

    response: ExplainResponse = field(repr=False)
    """The whole answer as a message."""

    @property
    def items(self) -> Sequence[ItemExplanation]:
        """The score of each item split into shares, in the order of the request, or best first."""
        return self.response.items

    @property
    def events(self) -> Sequence[ExplainedEvent]:
        """The events that `event_shares` belong to: the request's `history`, then `current`, then `events`."""
        return self.response.events

    @property
    def state_events(self) -> Sequence[ExplainedEvent]:
        """The events that `state_event_shares` belong to: the newest events of the state, newest first."""
        return self.response.state_events

    @property
    def alpha_used(self) -> float:
        """Share of history in the blend."""
        return self.response.alpha_used

    @property
    def cold_start(self) -> ColdStart.ValueType:
        """Which evidence was missing (cold start)."""
        return self.response.cold_start

    def __str__(self) -> str:
        return to_text(self)


@dataclass(frozen=True)
class UserInterest:
    """The answer of `InterestClient.interest`: the state of a user at a time; prints as a table."""

    response: InterestResponse = field(repr=False)
    """The whole answer as a message."""

    @property
    def is_known(self) -> bool:
        """Whether the store has events of this user."""
        status = self.response.state_status
        return status not in (StateStatus.STATE_STATUS_UNSPECIFIED, StateStatus.STATE_STATUS_UNKNOWN_USER)

    @property
    def events(self) -> Sequence[ExplainedEvent]:
        """The newest events, newest first, with their ages and what is left of their weights."""
        return self.response.events

    @property
    def alpha_used(self) -> float:
        """Share of history in the blend."""
        return self.response.alpha_used

    @property
    def cold_start(self) -> ColdStart.ValueType:
        """Which evidence is missing (cold start)."""
        return self.response.cold_start

    @property
    def median_half_life_days(self) -> float:
        """Half of the interest lies in dimensions with at most this half-life, days; NaN without any interest."""
        pairs = sorted(zip(self.response.half_life_days, self.response.energy, strict=True))
        total = math.fsum(energy for _, energy in pairs)
        passed = 0.0
        for days, energy in pairs:
            passed += energy
            if passed >= total / 2 > 0:
                return days
        return math.nan

    def __str__(self) -> str:
        return to_text(self)


Answer = RecommendResponse | RankResponse | ExplainResponse | Ranking | Explanation
"""One answer."""
StateAnswer = ObserveResponse | InterestResponse | UserInterest
"""One answer about the state of a user."""
Answers = Answer | Sequence[RecommendResult]
"""One answer, or the results of many requests."""

_Message = RecommendResponse | RankResponse | ExplainResponse | ObserveResponse | InterestResponse


def to_dict(answer: Answer | StateAnswer) -> dict[str, Any]:
    """The answer as plain Python values, with the names of the message's fields; ready for JSON.

    Numbers that JSON lacks, such as the half-life of what never ebbs, are words: ``Infinity``.
    """
    return MessageToDict(_message(answer), preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def to_text(answer: Answer | StateAnswer, titles: Mapping[str, str] | None = None, *, events: int = 5) -> str:
    """The answer as a small table for users to read.

    Args:
        answer: Of `recommend`, `rank`, `explain`, `observe` or `interest`.
        titles: What to show in place of item ids; an id without a title is shown itself.
        events: Of an explanation, how many of the events that add or take most are shown for each item; of a state, how
            many of the newest events.
    """
    message = _message(answer)
    if isinstance(message, ObserveResponse):
        return _texts.observed(message)
    if isinstance(message, InterestResponse):
        return _texts.interest(message, titles or {}, events)
    if isinstance(message, ExplainResponse):
        return _texts.explanation(message, titles or {}, events)
    return _texts.ranked(message, titles or {})


def parts_of_score(
    explanation: Explanation, item: ItemExplanation, titles: Mapping[str, str] | None = None, *, events: int = 5
) -> list[tuple[float, str]]:
    """The shares of the score of an item, each with its description, as `to_text` shows them.

    Args:
        explanation: The answer.
        item: One of its items.
        titles: What to show in place of item ids.
        events: How many events to show one by one, those with the largest shares; the others are summed up.
    """
    return _texts.parts(explanation.response, item, titles or {}, events)


def blocks_text(explanation: Explanation, item: ItemExplanation) -> str:
    """What each feature block of an item adds to its score, as `to_text` shows it.

    Empty if the model was trained without vectors of items, and for an item that is not in the catalog.

    Args:
        explanation: The answer.
        item: One of its items.
    """
    return _texts.by_block(explanation.response, item)


def cold_start_text(answer: Answer | UserInterest) -> str:
    """Which evidence was missing, in words; empty if none was."""
    return _texts.cold_start(answer.cold_start)


def moved_text(item: RecommendedItem | ItemExplanation, position: int) -> str:
    """What moved an item of a slate, in words, as in ``up from 52: diversity``; empty if nothing did.

    Args:
        item: Of an answer.
        position: Its position in the answer, from 1.
    """
    return _texts.moved(item, position)


def relaxed_texts(answer: RecommendResponse | ExplainResponse | Explanation) -> list[str]:
    """The limits of a slate that the list does not meet, in words."""
    return _texts.relaxed(answer.response if isinstance(answer, Explanation) else answer)


def state_text(answer: Answer | UserInterest) -> str:
    """What the answer says of the state of the user, in words; empty if no user was named or the state was used."""
    message = _message(answer)
    return "" if isinstance(message, ObserveResponse) else _texts.state(message.state_status)


def to_pandas(answers: Answers) -> pd.DataFrame:
    """One row for each recommended or ranked item: ``rank`` (from 1), ``item_id`` and ``score`` (float32).

    Of an explanation, one row for each part of each score: ``item_id``, ``part`` (history, session, folded, prior,
    adjustment; or ``repeat frequency`` and the other fields of `RepeatShares` in place of the adjustment),
    ``share`` (float32), and for events ``event`` (their index in `Explanation.events`; empty for those of the state),
    ``subject`` (item id or text), ``age_days`` and ``decay``, empty for the rest. ``folded`` is there only if the state
    holds older events as sums. The shares of an item add up to its score.

    Args:
        answers: One answer; or many results, whose rows begin with ``request``, the result's index; failed ones have
            none.

    Raises:
        ModuleNotFoundError: pandas is not installed.
    """
    import pandas as pd  # pyright: ignore[reportMissingTypeStubs]

    columns = _columns(answers)
    return pd.DataFrame(
        {name: pd.Series(values, dtype=_tables.PANDAS_DTYPES[name]) for name, values in columns.items()}
    )


def to_polars(answers: Answers) -> pl.DataFrame:
    """As `to_pandas`, in polars.

    Raises:
        ModuleNotFoundError: polars is not installed.
    """
    import polars as pl

    columns = _columns(answers)
    return pl.DataFrame(columns, schema={name: getattr(pl, _tables.POLARS_DTYPES[name]) for name in columns})


def _message(answer: Answer | StateAnswer) -> _Message:
    return answer.response if isinstance(answer, (Ranking, Explanation, UserInterest)) else answer


def _columns(answers: Answers) -> dict[str, list[Any]]:
    if isinstance(answers, Sequence):
        answered = [(index, result.response) for index, result in enumerate(answers) if result.response is not None]
        return _tables.many_columns(answered)
    if isinstance(answers, (ExplainResponse, Explanation)):
        return _tables.explanation_columns(answers if isinstance(answers, ExplainResponse) else answers.response)
    return _tables.ranked_columns(answers.response if isinstance(answers, Ranking) else answers)
