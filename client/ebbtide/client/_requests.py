"""Makes the messages of the typed schema from the keywords of the clients' methods."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import datetime
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar

from ebbtide.client._events import event_list, strings, timestamp
from ebbtide.client._messages import message
from ebbtide.client.codec import shared_fields
from ebbtide.client.errors import InvalidArgumentError
from ebbtide.v1 import (
    AddItemsRequest,
    AttributeFilter,
    Event,
    ExplainRequest,
    ExplainResponse,
    InterestRequest,
    ItemAttribute,
    NewItem,
    NumberRange,
    ObserveRequest,
    RankRequest,
    RecommendRequest,
    RecommendResponse,
    RemoveItemsRequest,
    RemoveRulesRequest,
    Rule,
    SetRulesRequest,
    SetStockRequest,
    Slate,
    UnknownItemPolicy,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

Allowed = Mapping[str, str | Iterable[str] | NumberRange]
"""Catalog columns, each with the allowed value or values, or with a range of numbers."""

Values = Mapping[str, str | float | Iterable[str]]
"""Catalog columns, each with the value or values of an item, or with its number."""

UnknownItems = Literal["error", "ignore"] | None
"""How the server treats events whose items are not in the catalog. None: by the policy of the model."""

Request = TypeVar(
    "Request",
    RecommendRequest,
    RankRequest,
    ExplainRequest,
    ObserveRequest,
    InterestRequest,
    AddItemsRequest,
    RemoveItemsRequest,
    SetStockRequest,
    SetRulesRequest,
    RemoveRulesRequest,
)

_POLICIES = {
    None: UnknownItemPolicy.UNKNOWN_ITEM_POLICY_UNSPECIFIED,
    "error": UnknownItemPolicy.UNKNOWN_ITEM_POLICY_ERROR,
    "ignore": UnknownItemPolicy.UNKNOWN_ITEM_POLICY_IGNORE,
}


class UserKeywords(TypedDict, total=False):
    """The keywords about one user that `recommend`, `rank` and `explain` share; all are optional."""

    history: Iterable[Event]
    """Events before the current session, in any order; see `ebbtide.client.event`."""
    current: Iterable[Event]
    """Events of the current session, in any order."""
    events: Iterable[Event]
    """Events that the server splits into history and current session; instead of the two above."""
    now: datetime | None
    """Time of the request, with a timezone: ages are measured against it. Default: the clock of this machine."""
    alpha: float | None
    """Share of the history in the blend, 0 to 1. Default: the model's own value."""
    decay_scale: float | None
    """Factor on every decay by age: 2 halves the half-lives, 0 stops the decay. Default: 1."""
    unknown_items: UnknownItems
    """How the server treats events whose items are not in the catalog. Default: the policy of the model."""
    exclude: Iterable[str]
    """Ids of items that are never recommended. Errors use the name of the message's field, ``exclude_item_ids``."""
    exclude_seen: bool | None
    """Whether to leave out seen items, that is, items of the request's events. Default: the policy of the model."""
    user_id: str | None
    """Id of the user whose state counts too, as `InterestClient.observe` made it. Default: only the events given here
    count."""
    allow_stateless: bool
    """Whether the server may answer without the state if its store cannot be reached; `state_status` of the answer says
    so. Default: such a call fails with `StateUnavailableError`."""


def recommend_request(
    *,
    top_n: int | None = None,
    allow: Allowed | None = None,
    slate: Slate | None = None,
    **user: Unpack[UserKeywords],
) -> RecommendRequest:
    """The message that the keywords of `InterestClient.recommend` make; for `recommend_many`, or to store.

    Raises:
        InvalidArgumentError: `now` has no timezone, `top_n` is less than 1, a list is one string, `unknown_items` is no
            policy.
    """
    return message(RecommendRequest, top_n=_top_n(top_n), allow=_filters(allow), slate=slate, **_user(**user))


def rank_request(
    *, candidates: Iterable[str] = (), top_n: int | None = None, **user: Unpack[UserKeywords]
) -> RankRequest:
    """The message that the keywords of `InterestClient.rank` make.

    Raises:
        InvalidArgumentError: As for `recommend_request`.
    """
    return message(
        RankRequest, candidate_item_ids=strings("candidate_item_ids", candidates), top_n=_top_n(top_n), **_user(**user)
    )


def explain_request(
    *,
    item_ids: Iterable[str] = (),
    top_n: int | None = None,
    allow: Allowed | None = None,
    slate: Slate | None = None,
    **user: Unpack[UserKeywords],
) -> ExplainRequest:
    """The message that the keywords of `InterestClient.explain` make.

    Raises:
        InvalidArgumentError: As for `recommend_request`.
    """
    return message(
        ExplainRequest,
        item_ids=strings("item_ids", item_ids),
        top_n=_top_n(top_n),
        allow=_filters(allow),
        slate=slate,
        **_user(**user),
    )


def observe_request(
    user_id: str,
    events: Iterable[Event] = (),
    *,
    unknown_items: UnknownItems = None,
    shown: Iterable[str] = (),
    reset_learning: bool = False,
) -> ObserveRequest:
    """The message that the arguments of `InterestClient.observe` make; for `observe_many`, or to store.

    Raises:
        InvalidArgumentError: `unknown_items` is no policy, or `shown` is one string.
    """
    return message(
        ObserveRequest,
        user_id=user_id,
        events=event_list("events", events),
        unknown_items=_policy(unknown_items),
        shown_item_ids=strings("shown_item_ids", shown),
        reset_learning=reset_learning,
    )


def interest_request(user_id: str, *, now: datetime | None, decay_scale: float | None) -> InterestRequest:
    """The message that the arguments of `InterestClient.interest` make.

    Raises:
        InvalidArgumentError: `now` has no timezone.
    """
    return message(InterestRequest, user_id=user_id, now=timestamp("now", now), decay_scale=decay_scale)


def new_item(item_id: str, text: str, *, title: str = "", attributes: Values | None = None) -> NewItem:
    """An item to add to a running server, for `InterestClient.add_items`.

    Args:
        item_id: Its id.
        text: Its text, made as the texts of the catalog were (``--text-template`` of the training).
        title: Title for people; the server keeps it for lists.
        attributes: Catalog columns, each with the item's value or values, or with its number.
    """
    columns = (attributes or {}).items()
    found = [_attribute(name, one) for name, one in columns]
    return message(NewItem, item_id=item_id, text=text, title=title, attributes=found)


def rule(
    name: str,
    *,
    boost: float | None = None,
    bury: float | None = None,
    pin: int | None = None,
    item_ids: Iterable[str] = (),
    attributes: Mapping[str, str | Iterable[str]] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> Rule:
    """A rule of the house, for `InterestClient.set_rules`.

    Args:
        name: Its name, which answers repeat.
        boost: Added to the scores of its items, log odds, above 0. One of this, `bury` and `pin`.
        bury: Taken off the scores of its items, log odds, above 0.
        pin: Position in the list, from 1, for the one of its items that is best for the user.
        item_ids: Items that it is about.
        attributes: Columns that the model was exported with as attributes, each with a value or values: it is about
            every item that has one of them.
        since: The rule holds from this time on, with a timezone; None for ever.
        until: The rule holds before this time, with a timezone; None for ever.

    Raises:
        InvalidArgumentError: Not exactly one effect, or a time without a timezone.
    """
    effects: dict[str, Any] = {"boost": boost, "bury": bury, "pin": pin}
    given = {kind: amount for kind, amount in effects.items() if amount is not None}
    if len(given) != 1:
        raise InvalidArgumentError.of_field("rule", ", ".join(given) or "no effect", "one of boost, bury and pin")
    columns = (attributes or {}).items()
    return message(
        Rule,
        name=name,
        item_ids=strings("item_ids", item_ids),
        attributes=[_attribute(key, [one] if isinstance(one, str) else one) for key, one in columns],
        since=timestamp("since", since),
        until=timestamp("until", until),
        **given,
    )


def one_request(request: Request | None, from_keywords: Request) -> Request:
    """The request, given either as a message or by keywords.

    Raises:
        InvalidArgumentError: Both were given.
    """
    if request is None:
        return from_keywords
    if from_keywords != type(from_keywords)():
        given = ", ".join(field.name for field, _ in from_keywords.ListFields())
        raise InvalidArgumentError.of_field("request", f"{given} beside it", "either a request or its fields")
    return request


def recommendation_of(request: ExplainRequest) -> RecommendRequest:
    """The request for recommendations to explain, if the request for explanations names no items."""
    return RecommendRequest(**shared_fields(request, RecommendRequest))


def explanation_of(request: ExplainRequest, item_ids: Iterable[str]) -> ExplainRequest:
    """The same request, for the given items instead of recommended ones."""
    named = ExplainRequest()
    named.CopyFrom(request)
    named.ClearField("top_n")
    named.ClearField("allow")
    named.ClearField("slate")
    named.item_ids.extend(item_ids)
    return named


def as_listed(explained: ExplainResponse, recommended: RecommendResponse) -> ExplainResponse:
    """The explanation of recommended items, with what the answer that they come from says of its slate and rules.

    Args:
        explained: Is completed.
        recommended: Without items if the request for the explanation names them.
    """
    explained.slate_candidates = recommended.slate_candidates
    explained.relaxed_limits.extend(recommended.relaxed_limits)
    for item, found in zip(explained.items, recommended.items, strict=bool(recommended.items)):
        item.score_rank = found.score_rank
        item.moved_by.extend(found.moved_by)
        item.rules.extend(found.rules)
    return explained


def nothing_to_explain(recommended: RecommendResponse) -> ExplainResponse:
    """The explanation of an answer without items: the fields about the user."""
    return ExplainResponse(**shared_fields(recommended, ExplainResponse))


def _user(
    *,
    history: Iterable[Event] = (),
    current: Iterable[Event] = (),
    events: Iterable[Event] = (),
    now: datetime | None = None,
    alpha: float | None = None,
    decay_scale: float | None = None,
    unknown_items: UnknownItems = None,
    exclude: Iterable[str] = (),
    exclude_seen: bool | None = None,
    user_id: str | None = None,
    allow_stateless: bool = False,
) -> dict[str, Any]:
    """The fields that all requests share."""
    return {
        "history": event_list("history", history),
        "current": event_list("current", current),
        "events": event_list("events", events),
        "now": timestamp("now", now),
        "alpha": alpha,
        "decay_scale": decay_scale,
        "unknown_items": _policy(unknown_items),
        "exclude_item_ids": strings("exclude_item_ids", exclude),
        "exclude_seen": exclude_seen,
        "user_id": user_id,
        "allow_stateless": allow_stateless,
    }


def _policy(unknown_items: UnknownItems) -> UnknownItemPolicy.ValueType:
    if unknown_items not in _POLICIES:
        raise InvalidArgumentError.of_field("unknown_items", repr(unknown_items), "'error', 'ignore' or None")
    return _POLICIES[unknown_items]


def _top_n(top_n: int | None) -> int:
    if top_n is None:
        return 0
    if not hasattr(top_n, "__index__") or not 1 <= top_n < 2**31:
        raise InvalidArgumentError.of_field("top_n", repr(top_n), "a whole number, at least 1")
    return top_n


def _filters(allow: Allowed | None) -> list[AttributeFilter]:
    """One message per column; a single value need not be in a list."""
    return [
        message(AttributeFilter, column=column, range=values)
        if isinstance(values, NumberRange)
        else message(AttributeFilter, column=column, values=_values(column, values))
        for column, values in (allow or {}).items()
    ]


def _attribute(column: str, values: str | float | Iterable[str]) -> ItemAttribute:
    """The values of a column of an item; of a number the shortest text that is read back as the same."""
    if isinstance(values, (int, float, Real)):
        if not math.isfinite(values):
            raise InvalidArgumentError.of_field(
                f"attributes[{column!r}]", values, "a text or a finite number; leave out a column without a value"
            )
        return message(ItemAttribute, column=column, values=[str(values)])
    return message(ItemAttribute, column=column, values=_values(column, values))


def _values(column: str, values: str | Iterable[str]) -> list[str]:
    if isinstance(values, str):
        return [values]
    if isinstance(values, bytes) or not isinstance(values, Iterable):
        raise InvalidArgumentError.of_field(f"values of {column!r}", repr(values), "a text, or a list of texts")
    return list(values)
