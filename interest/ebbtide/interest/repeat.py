"""The repeat score of seen items, which replaces their score by factors.

A low-rank interest vector cannot single out items; separate scores of the seen items can. Each seen item of a user has
decayed counts c_m = sum_e v_e exp(-lambda_m age_e) at M half-lives, which an event updates in constant time.
The score is a small perceptron of their logarithms plus an item bias, which states how often users repeat the item:
high for milk, low for a lawn mower (docs/method.md, repeat score).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import combinations
from math import factorial
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest.contract import REPEAT_PARTS
from ebbtide.interest.decay import scaled_ages
from ebbtide.interest.events import COUNTED_EVENTS, MS_PER_DAY, EventBatch

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Doubles = npt.NDArray[np.float64]

_HOURS_PER_DAY = np.float32(24)
_SMALLEST = np.finfo(np.float32).tiny
_PERIODS_MS = (MS_PER_DAY, 7 * MS_PER_DAY)


@dataclass(frozen=True)
class RepeatParameters:
    """The learned repeat score.

    The features are one for each half-life and each trend, and 2 more; without decay, 2 and one for each trend. The
    context axis is the width of `time_context`.
    """

    decay_rate_per_day: Floats
    """lambda, ``[half-lives]``: ln 2 over the half-life in days; a single 0 means no decay."""
    direct_weight: Floats
    """``[features]``, of the linear term."""
    item_bias: Floats
    """``[items]``, the bias of each item of the catalog: its text vector times a learned weight, plus a learned
    bias."""
    trend: Floats
    """``[items, trends]``: log count of each item at one half-life per trend, minus that at the longest half-life."""
    time_weights: Floats
    """``[items, context]``: item-time weights, which multiply hour, weekday and the time since the user's last
    event."""
    hidden_weight: Floats
    """``[features, hidden]``."""
    hidden_bias: Floats
    """``[hidden]``."""
    output_weight: Floats
    """``[hidden]``."""
    output_bias: Floats
    """``[1]``."""
    interest_share: Floats | None = None
    """``[1]``: how much of the score by factors a seen item has beside its repeat score. None in an export from before:
    nothing, and neither free texts nor a request's alpha move it."""

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: array for name, array in arrays.items() if array is not None}

    @property
    def knows_time(self) -> bool:
        """Whether counts decay. Without decay, the time since the last event of an item is not a feature."""
        return bool(np.any(self.decay_rate_per_day))


def context_width(*, with_idle_time: bool) -> int:
    """The number of columns of `time_context`."""
    return 2 * len(_PERIODS_MS) + with_idle_time


def time_context(now_ms: Ints, idle_hours: Floats | None) -> Floats:
    """The time features that all items share: sine and cosine of the time of day and of the time of week, in UTC.

    Args:
        now_ms: ``[requests]``, Unix milliseconds.
        idle_hours: ``[requests]``, hours since the user's last event; None without decay.

    Returns:
        ``[requests, context]``: 5 columns, the last of which is log(1 + hours since the last event); 4 without it.
    """
    angles = [(now_ms % period) * (2 * np.pi / period) for period in _PERIODS_MS]
    columns = [turn(angle) for angle in angles for turn in (np.sin, np.cos)]
    if idle_hours is not None:
        columns.append(np.log1p(idle_hours))
    return np.stack(columns, axis=1).astype(np.float32)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class FoldedCounts:
    """The decayed counts of events that are not in the batch, of B requests."""

    request: Ints
    """``[pairs]``, ascending."""
    item: Ints
    """``[pairs]``: catalog index; each item once in a request."""
    counts: Doubles
    """``[pairs, half-lives]``, as of `now`."""
    newest_days: Floats
    """``[pairs]``: from the newest of these events of the item to `now`."""
    events: Ints
    """``[B]``: all these events."""
    idle_hours: Floats
    """``[B]``: from the newest event, in the batch or not, to `now`."""


def repeat_score(
    batch: EventBatch,
    items: Ints,
    now_ms: Ints,
    parameters: RepeatParameters,
    decay_scale: Floats | None = None,
    folded: FoldedCounts | None = None,
) -> tuple[Ints, Ints, Floats]:
    """The scores of each user's seen items.

    Args:
        batch: The events of the requests.
        items: ``[events]``, catalog index of each event's item, in the batch's order; negative for a text event.
        now_ms: ``[requests]``, each request's clock.
        parameters: The learned parameters.
        decay_scale: ``[requests]``, factor on every age, as for the interest; None for 1.
        folded: Counts of earlier events, which contain their decay and the scale; None for none.

    Returns:
        Request, catalog index and score, each ``[pairs]``, sorted by request and index. Each item occurs once in a
        request. No score is exactly 0, since 0 marks padding among score adjustments.
    """
    seen = _seen_items(batch, items, now_ms, parameters, decay_scale, folded)
    value = _perceptron(seen.features, parameters)
    value += parameters.item_bias.take(seen.item)
    value += np.einsum("gc,gc->g", parameters.time_weights.take(seen.item, axis=0), seen.context)
    return seen.request, seen.item, not_zero(np.asarray(value, dtype=np.float32))


def not_zero(scores: Floats) -> Floats:
    """The scores, ``[pairs]``, with a tiny number in place of 0, which marks padding among score adjustments."""
    scores[scores == 0] = _SMALLEST
    return scores


def repeat_parts(
    batch: EventBatch,
    items: Ints,
    now_ms: Ints,
    parameters: RepeatParameters,
    decay_scale: Floats | None = None,
    folded: FoldedCounts | None = None,
) -> tuple[Ints, Ints, Doubles]:
    """The scores of `repeat_score`, split into the parts that `contract.REPEAT_PARTS` names.

    ``item`` is the item bias, ``time`` the term of the time context, and ``level`` the output of the perceptron for the
    number of the user's events alone, with all other features 0; it is equal for all items of a user. Each of
    ``frequency``, ``recency`` and ``trend`` is the Shapley value of its features: the mean, over all orders of adding
    the three, of what it adds to the output of the perceptron (Shapley, 1953). So it includes its share of the hidden
    layer.

    Args:
        batch: As for `repeat_score`, as are the others.
        items: ``[events]``.
        now_ms: ``[requests]``.
        parameters: The learned parameters.
        decay_scale: ``[requests]``; None for 1.
        folded: None for none.

    Returns:
        Request, catalog index, each ``[pairs]``, and float64 ``[pairs, parts]``, in the order of `repeat_score`. The
        parts of a pair sum to its score.
    """
    seen = _seen_items(batch, items, now_ms, parameters, decay_scale, folded)
    counts = parameters.decay_rate_per_day.size
    first_trend = counts + 1 + parameters.knows_time
    kinds = {
        "frequency": slice(0, counts),
        "recency": slice(counts + 1, first_trend),
        "trend": slice(first_trend, None),
    }

    def output(present: frozenset[str]) -> Doubles:
        features = seen.features.astype(np.float64)
        for kind in kinds.keys() - present:
            features[:, kinds[kind]] = 0
        return _perceptron(features, parameters).astype(np.float64)

    outputs = {
        frozenset(present): output(frozenset(present))
        for size in range(len(kinds) + 1)
        for present in combinations(kinds, size)
    }
    parts = {
        "level": outputs[frozenset()],
        "item": parameters.item_bias.take(seen.item),
        "time": np.einsum("gc,gc->g", parameters.time_weights.take(seen.item, axis=0), seen.context, dtype=np.float64),
    }
    for kind in kinds:
        parts[kind] = np.zeros(seen.item.shape)
        for before, value in outputs.items():
            if kind not in before:
                orders = factorial(len(before)) * factorial(len(kinds) - len(before) - 1)
                parts[kind] += orders / factorial(len(kinds)) * (outputs[before | {kind}] - value)
    return seen.request, seen.item, np.stack([parts[name] for name in REPEAT_PARTS], axis=1)


@dataclass(frozen=True)
class _SeenItems:
    """The seen items of each user and their features; sorted by request and index, each item once in a request."""

    request: Ints
    """``[pairs]``."""
    item: Ints
    """``[pairs]``: catalog index."""
    features: Floats
    """``[pairs, features]``."""
    context: Floats
    """``[pairs, context]``: the time context of the request."""


def _perceptron(features: npt.NDArray[Any], parameters: RepeatParameters) -> npt.NDArray[Any]:
    """The part of the score that depends on the features, ``[pairs]``."""
    hidden = np.tanh(features @ parameters.hidden_weight + parameters.hidden_bias)
    value: npt.NDArray[Any] = features @ parameters.direct_weight + hidden @ parameters.output_weight
    value += parameters.output_bias
    return value


def _seen_items(
    batch: EventBatch,
    items: Ints,
    now_ms: Ints,
    parameters: RepeatParameters,
    decay_scale: Floats | None,
    folded: FoldedCounts | None,
) -> _SeenItems:
    """The features of each user's seen items; arguments as for `repeat_score`."""
    known = items >= 0
    request, item = batch.request[known], items[known]
    age_days, weight = batch.age_days[known], batch.weight[known]
    if decay_scale is not None:
        age_days = scaled_ages(age_days, decay_scale[request])
    order = np.lexsort((item, request))
    request, item, age_days, weight = request[order], item[order], age_days[order], weight[order]
    terms = np.exp(np.multiply.outer(-age_days, parameters.decay_rate_per_day)) * weight[:, None]
    user_events = np.bincount(batch.request, minlength=batch.requests)
    idle_hours = batch.idle_hours
    if folded is not None:
        folded_days = folded.newest_days
        if decay_scale is not None:
            folded_days = scaled_ages(folded_days, decay_scale[folded.request])
        request, item = np.concatenate([request, folded.request]), np.concatenate([item, folded.item])
        order = np.lexsort((item, request))
        request, item = request[order], item[order]
        age_days = np.concatenate([age_days, folded_days])[order]
        terms = np.concatenate([terms, folded.counts.astype(np.float32)])[order]
        # Training counts no more events than a request carries.
        user_events = np.minimum(user_events + folded.events, COUNTED_EVENTS)
        idle_hours = folded.idle_hours
    if not request.size:
        width, context_width = parameters.direct_weight.size, parameters.time_weights.shape[1]
        nothing = np.zeros((0, width + context_width), dtype=np.float32)
        return _SeenItems(request, item, nothing[:, :width], nothing[:, width:])
    starts = np.flatnonzero(np.r_[True, (request[1:] != request[:-1]) | (item[1:] != item[:-1])])
    counts = np.add.reduceat(terms, starts, axis=0)
    newest_days = np.minimum.reduceat(age_days, starts)
    request, item = request[starts], item[starts]

    # A count is negative where what the user did with the item weighs less than nothing.
    columns = [*np.copysign(np.log1p(np.abs(counts)), counts).T, np.log1p(user_events.astype(np.float32))[request]]
    if parameters.knows_time:
        columns.append(np.log1p(newest_days * _HOURS_PER_DAY))
    columns.extend(parameters.trend.take(item, axis=0).T)
    if decay_scale is not None:
        idle_hours = scaled_ages(idle_hours, decay_scale)
    context = time_context(now_ms, idle_hours if parameters.knows_time else None)
    return _SeenItems(request, item, np.stack(columns, axis=1), context[request])
