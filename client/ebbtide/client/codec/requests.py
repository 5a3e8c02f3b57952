"""Requests as the tensors of the model that answers them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ebbtide.client.codec.slates import slate_text
from ebbtide.client.codec.tensors import EncodedRequest, Values, encoded
from ebbtide.client.codec.user import checked_ids, user_values
from ebbtide.client.errors import InvalidArgumentError
from ebbtide.interest import contract, served_models
from ebbtide.interest.keys import item_key, item_keys
from ebbtide.interest.numbers import LEAST, MOST, ordered
from ebbtide.interest.served_models import Model
from ebbtide.v1 import AttributeFilter, ExplainRequest, NumberRange, RankRequest, RecommendRequest

_LOWER = ("at_least", "above")
_UPPER = ("at_most", "below")


def encode(request: RecommendRequest, now_ms: int) -> EncodedRequest:
    """The tensors of a request for recommendations.

    Args:
        request: What the caller asks for.
        now_ms: The caller's clock, Unix milliseconds; used when the request carries no `now`.

    Returns:
        For ``recommend``: ``now`` int64 ``[1, 1]``, ``event_item`` and ``event_time`` int64 ``[1, events]`` (neither
        for a user without events in the request), and the optional tensors that the request calls for. For
        ``recommend_text`` the same without the leading dimension, and ``text`` of bytes ``[texts]``; events with a text
        alone stand behind those with an item. For a request with a slate the same for ``recommend_slate`` or
        ``recommend_slate_text``, and ``slate`` of bytes ``[1, 1]``.

    Raises:
        InvalidArgumentError: What the server could not see: `events` mixed with `history` or `current`, an event
            without subject or time, an empty item id, a time that is no valid timestamp, a condition without column or
            without values and range, or a range that no number is in.
    """
    values = user_values(request, now_ms)
    if request.allow:
        values[contract.ALLOW_ATTRIBUTE] = allowed(request.allow)
    if request.HasField("slate"):
        values[contract.SLATE] = [slate_text(request.slate, request.top_n)]
        return _by_text(served_models.RECOMMEND_SLATE, served_models.RECOMMEND_SLATE_TEXT, values)
    return _by_text(served_models.RECOMMEND, served_models.RECOMMEND_TEXT, values)


def encode_rank(request: RankRequest, now_ms: int) -> EncodedRequest:
    """The tensors of a request for the order of some items: as `encode`, and ``candidate_item`` int64 ``[1, items]``.

    Raises:
        InvalidArgumentError: As for `encode`; or there are no candidates.
    """
    values = user_values(request, now_ms)
    _add_candidates(values, "candidate_item_ids", request.candidate_item_ids)
    return _by_text(served_models.RANK, served_models.RANK_TEXT, values)


def encode_explain(request: ExplainRequest, now_ms: int) -> EncodedRequest:
    """The tensors of a request for explanations of the items that it names, none of them with a batch dimension.

    Raises:
        InvalidArgumentError: As for `encode`; no items are named; or beside them, what only serves to find some.
    """
    values = user_values(request, now_ms)
    _add_candidates(values, "item_ids", request.item_ids)
    beside = (("allow", bool(request.allow)), ("top_n", bool(request.top_n)), ("slate", request.HasField("slate")))
    for field, given in beside:
        if given:
            raise InvalidArgumentError.of_field(
                field, "one beside item_ids", "either of them: it finds what to explain"
            )
    return _by_text(served_models.EXPLAIN, served_models.EXPLAIN_TEXT, values)


def encode_texts(texts: Sequence[str]) -> EncodedRequest:
    """The tensors that ask for the vectors of texts: ``text`` of bytes ``[texts]``.

    Raises:
        InvalidArgumentError: No texts at all.
    """
    if not texts:
        raise InvalidArgumentError.of_field("texts", "none", "at least one text")
    return encoded(served_models.EMBED, {contract.TEXT: [text.encode() for text in texts]})


def allowed(filters: Sequence[AttributeFilter]) -> list[int]:
    """The entries of ``allow_attribute``.

    Raises:
        InvalidArgumentError: A condition has no column or no values, a column has two conditions, or no number is in a
            range.
    """
    entries: list[int] = []
    columns: set[str] = set()
    for index, condition in enumerate(filters):
        if not condition.column:
            raise InvalidArgumentError.of_field(f"allow[{index}].column", "''", "the name of a catalog attribute")
        if condition.column in columns:
            raise InvalidArgumentError.of_field(
                f"allow[{index}].column", f"{condition.column!r} again", "each column once, with all its values"
            )
        columns.add(condition.column)
        if condition.HasField("range"):
            if condition.values:
                raise InvalidArgumentError.of_field(
                    f"allow[{index}].range", "one beside values", "either values or a range"
                )
            entries += [item_key(condition.column), *_bounds(f"allow[{index}].range", condition.range)]
            continue
        if not condition.values:
            raise InvalidArgumentError.of_field(f"allow[{index}].values", "none", "at least one value, or a range")
        entries += item_keys(f"{condition.column}={value}" for value in condition.values).tolist()
    return entries


def _bounds(path: str, given: NumberRange) -> tuple[int, int]:
    """The least and the largest integer of the numbers in a range, see `ebbtide.interest.numbers`.

    Raises:
        InvalidArgumentError: It has no bound, two on one side, one that is NaN, or no number lies between them.
    """
    bounds = {field.name: float(value) for field, value in given.ListFields()}
    for name, number in bounds.items():
        if math.isnan(number):
            raise InvalidArgumentError.of_field(f"{path}.{name}", "nan", "a number")
    for side in (_LOWER, _UPPER):
        if all(name in bounds for name in side):
            raise InvalidArgumentError.of_field(path, " and ".join(side), "one of them: they bound the same side")
    if not bounds:
        raise InvalidArgumentError.of_field(path, "no bound", f"at least one of {', '.join((*_LOWER, *_UPPER))}")
    least, most = LEAST, MOST
    for name, number in bounds.items():
        if name in _LOWER:
            least = int(ordered(number)) + (name == "above")
        else:
            most = int(ordered(number)) - (name == "below")
    if least > most:
        shown = ", ".join(f"{name} {number!r}" for name, number in bounds.items())
        raise InvalidArgumentError.of_field(path, shown, "a lower bound that is not greater than the upper bound")
    return least, most


def _add_candidates(values: Values, field: str, item_ids: Sequence[str]) -> None:
    if not item_ids:
        raise InvalidArgumentError.of_field(field, "none", "the id of at least one item")
    values[contract.CANDIDATE_ITEM] = item_keys(checked_ids(field, item_ids))


def _by_text(without: Model, with_text: Model, values: Values) -> EncodedRequest:
    return encoded(with_text if contract.TEXT in values else without, values)
