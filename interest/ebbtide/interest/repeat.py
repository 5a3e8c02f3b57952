"""The repeat score: the score of an item that the user has interacted with before, in place of the score by factors.

A low-rank interest vector cannot point at single items; pairs (item, value) beside it can. For each seen item of a user
there are decayed counts c_m = sum_e v_e exp(-lambda_m age_e) at M half-lives, which an event updates in constant time.
The score is a small perceptron of their logarithms plus a bias of the item, which says how often users repeat it: milk
is bought again, a lawn mower is not (docs/method.md, repeat score).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.interest.events import MS_PER_DAY, EventBatch

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

_HOURS_PER_DAY = np.float32(24)
_SMALLEST = np.finfo(np.float32).tiny
_PERIODS_MS = (MS_PER_DAY, 7 * MS_PER_DAY)


@dataclass(frozen=True)
class RepeatParameters:
    """The learned repeat score; M half-lives and T trends, F = M + 2 + T features, or 2 + T without decay.

    C is the width of `time_context`.
    """

    decay_rate_per_day: Floats
    """lambda, ``[M]``: ln 2 over the half-life in days; a single 0 means no decay."""
    direct_weight: Floats
    """``[F]``."""
    item_bias: Floats
    """``[N]``, the bias of each item of the catalog: its text vector times a learned weight, plus a learned bias."""
    trend: Floats
    """``[N, T]``: the logarithm of each item's counts at T half-lives minus that at the longest half-life."""
    time_weights: Floats
    """``[N, C]``: item-time weights: what each item adds by hour, weekday and the time since the user's last event."""
    hidden_weight: Floats
    """``[F, hidden]``."""
    hidden_bias: Floats
    """``[hidden]``."""
    output_weight: Floats
    """``[hidden]``."""
    output_bias: Floats
    """``[1]``."""

    def tensors(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def knows_time(self) -> bool:
        """Whether counts decay. If not, the time since the last event of an item is no feature either."""
        return bool(np.any(self.decay_rate_per_day))


def context_width(*, with_idle_time: bool) -> int:
    """C, the columns of `time_context`."""
    return 2 * len(_PERIODS_MS) + with_idle_time


def time_context(now_ms: Ints, idle_hours: Floats | None) -> Floats:
    """The time features that all items share: sine and cosine of the time of day and of the time of week, in UTC.

    Args:
        now_ms: ``[B]``, Unix milliseconds.
        idle_hours: ``[B]``, since the user's last event; None without decay.

    Returns:
        ``[B, C]``: C is 5, with log(1 + hours since the last event) as the last column; 4 without it.
    """
    angles = [(now_ms % period) * (2 * np.pi / period) for period in _PERIODS_MS]
    columns = [turn(angle) for angle in angles for turn in (np.sin, np.cos)]
    if idle_hours is not None:
        columns.append(np.log1p(idle_hours))
    return np.stack(columns, axis=1).astype(np.float32)  # type: ignore[no-any-return]


def repeat_score(
    batch: EventBatch,
    items: Ints,
    now_ms: Ints,
    parameters: RepeatParameters,
    decay_scale: Floats | None = None,
) -> tuple[Ints, Ints, Floats]:
    """The scores of each user's seen items.

    Args:
        batch: E events of B requests.
        items: ``[E]``, catalog index of each event in the batch's order; a negative one (free text) has none.
        now_ms: ``[B]``, each request's clock.
        parameters: Learned.
        decay_scale: ``[B]``, multiplies every age, as for the interest; None for 1.

    Returns:
        Request, catalog index and score, each ``[pairs]``, ascending by request and index; no item twice in a request,
        and no score of exactly 0, which is padding where adjustments are packed.
    """
    known = items >= 0
    request, item = batch.request[known], items[known]
    age_days, weight = batch.age_days[known], batch.weight[known]
    if not request.size:
        return request, item, np.zeros(0, dtype=np.float32)
    if decay_scale is not None:
        age_days = age_days * decay_scale[request]
    order = np.lexsort((item, request))
    request, item, age_days, weight = request[order], item[order], age_days[order], weight[order]
    starts = np.flatnonzero(np.r_[True, (request[1:] != request[:-1]) | (item[1:] != item[:-1])])
    terms = np.exp(np.multiply.outer(-age_days, parameters.decay_rate_per_day)) * weight[:, None]
    counts = np.add.reduceat(terms, starts, axis=0)
    newest_days = np.minimum.reduceat(age_days, starts)
    request, item = request[starts], item[starts]

    user_events = np.bincount(batch.request, minlength=batch.requests).astype(np.float32)
    columns = [*np.log1p(counts).T, np.log1p(user_events)[request]]
    if parameters.knows_time:
        columns.append(np.log1p(newest_days * _HOURS_PER_DAY))
    columns.extend(parameters.trend.take(item, axis=0).T)
    features = np.stack(columns, axis=1)
    hidden = np.tanh(features @ parameters.hidden_weight + parameters.hidden_bias)
    value = features @ parameters.direct_weight + hidden @ parameters.output_weight + parameters.output_bias
    value += parameters.item_bias.take(item)
    idle_hours = batch.idle_hours if decay_scale is None else batch.idle_hours * decay_scale
    context = time_context(now_ms, idle_hours if parameters.knows_time else None)
    value += np.einsum("gc,gc->g", parameters.time_weights.take(item, axis=0), context[request])
    value[value == 0] = _SMALLEST
    return request, item, np.asarray(value, dtype=np.float32)
