"""Scores one request by the formulas, event by event and in double precision: slow, the reference of parity tests.

Shares no code with the served maths, so that a mistake in one shows against the other. Formulas: docs/method.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ebbtide.train.model import InterestModel
from ebbtide.train.reference_checks import checked_request
from ebbtide.train.repeat import RepeatScore

_MS_PER_DAY = 24 * 60 * 60 * 1000
_MS_PER_HOUR = 60 * 60 * 1000
_FLOOR = 1e-12
_NEWEST = 16


@dataclass(frozen=True)
class ReferenceScores:
    """What a request should be answered with."""

    scores: npt.NDArray[np.float64]
    """``[items]``, in catalog order; minus infinity for excluded items."""
    alpha: float
    """Its mean, where it is one per dimension."""
    events: int
    current_events: int
    """Those of `events` that are of the current session."""
    interest: npt.NDArray[np.float64]
    """w, ``[d]``."""
    repeats: frozenset[int]
    """Catalog indices of the items that have a repeat score, unless they are excluded."""
    related: frozenset[int]
    """Of those that the newest events add something to."""
    seen_interest: npt.NDArray[np.float64]
    """What of w is added to repeat scores, ``[d]``: a share, and all that texts and the request's alpha change."""


def score_request(
    model: InterestModel,
    prior_columns: npt.NDArray[np.float32],
    *,
    item: Sequence[int],
    time_ms: Sequence[int],
    now_ms: int,
    is_current: Sequence[bool] | None = None,
    weight: Sequence[float] | None = None,
    alpha: float | None = None,
    decay_scale: float = 1.0,
    exclude: Sequence[int] = (),
    exclude_seen: bool | None = None,
    text_vectors: npt.NDArray[np.float32] | None = None,
) -> ReferenceScores:
    """The scores of the whole catalog for one user.

    Args:
        model: Trained, or not.
        prior_columns: ``[items, p]``.
        item: Catalog index of each event with an item.
        time_ms: Unix milliseconds of each event; those with a text come after those with an item.
        now_ms: The request's clock.
        is_current: Flag of each event; None splits by the session gap.
        weight: v of each event; None for 1.
        alpha: Overrides the model's.
        decay_scale: Factor on every decay rate by age, of the interest and of the repeat score.
        exclude: Catalog indices never to recommend.
        exclude_seen: Whether `item` is left out; None for the model's policy.
        text_vectors: ``[texts, text width]``, the encoder's vectors of the events with a text.

    Raises:
        RequestError: Lengths that differ, an index that is no item's, a time after `now_ms` or in another unit, or a
            number that is not finite; it names the argument.
    """
    item, time_ms, now_ms, exclude = checked_request(
        prior_columns.shape[0],
        model.event_projection.shape[0],
        item=item,
        time_ms=time_ms,
        now_ms=now_ms,
        is_current=is_current,
        weight=weight,
        alpha=alpha,
        decay_scale=decay_scale,
        exclude=exclude,
        text_vectors=text_vectors,
    )
    with torch.no_grad():
        interest, used, current, moved = _interest(
            model, item, time_ms, now_ms, is_current, weight, alpha, decay_scale, text_vectors
        )
        factors = model.gamma.double() * _sum_of_terms(
            [(block.features, block.item_projection) for block in model.blocks.values()]
        )
        scores = factors @ interest + torch.from_numpy(prior_columns).double() @ model.prior_weight.double()
        repeats: dict[int, float] = {}
        if model.repeat is not None:
            share = float(model.repeat.interest_share)
            moved = share * interest + (1 - share) * moved
            repeats = _repeat_scores(model, model.repeat, prior_columns, item, time_ms, now_ms, weight, decay_scale)
        related = _related(model, item, time_ms, weight)
        for index, score in related.items():
            scores[index] += score
        for index, score in repeats.items():
            scores[index] = score + factors[index] @ moved
    seen = model.config.exclude_seen if exclude_seen is None else exclude_seen
    for index in [*exclude, *(item if seen else ())]:
        scores[index] = -math.inf
    return ReferenceScores(
        scores.numpy(),
        float(used.mean()),
        len(time_ms),
        current,
        interest.numpy(),
        frozenset(repeats),
        frozenset(related),
        moved.numpy(),
    )


def _interest(
    model: InterestModel,
    item: Sequence[int],
    time_ms: Sequence[int],
    now_ms: int,
    is_current: Sequence[bool] | None,
    weight: Sequence[float] | None,
    alpha: float | None,
    decay_scale: float,
    text_vectors: npt.NDArray[np.float32] | None,
) -> tuple[Tensor, Tensor, int, Tensor]:
    """Interest w ``[d]``, alpha ``[1]`` or ``[d]``, events of the session, and what moves repeat scores, ``[d]``.

    The last is w less the interest of the events with an item alone, with the model's alpha, and norms over all events.
    """
    projection = model.event_projection.double()
    d = projection.shape[1]
    catalog = _sum_of_terms([(block.features, block.event_projection) for block in model.blocks.values()])
    vectors = [catalog[index] for index in item]
    if text_vectors is not None:
        vectors += [torch.from_numpy(row).double() @ projection for row in text_vectors]
    # Python's sort is stable: events of one timestamp keep the order in which they were given.
    order = sorted(range(len(time_ms)), key=lambda event: time_ms[event])
    flags = is_current if is_current is not None else _last_session(time_ms, order, now_ms, model.config.session_gap_ms)
    decay, rank_decay = decay_scale * model.decay_rate_per_day.double(), model.rank_decay_rate.double()
    sets: dict[bool, list[Tensor]] = {False: [], True: []}
    is_item: dict[bool, list[bool]] = {False: [], True: []}
    for position, event in enumerate(order):
        age_days = (now_ms - time_ms[event]) / _MS_PER_DAY
        rank = len(order) - 1 - position
        kept = torch.exp(-decay * age_days) * torch.exp(-rank_decay * rank)
        value = 1.0 if weight is None else float(weight[event])
        sets[bool(flags[event])].append(value * kept * vectors[event])
        is_item[bool(flags[event])].append(event < len(item))
    history, current = (_normalised_sum(sets[flag], d) for flag in (False, True))
    of_items = [_normalised_sum(sets[flag], d, is_item[flag]) for flag in (False, True)]
    idle_hours = (now_ms - max(time_ms)) / _MS_PER_HOUR if len(time_ms) else 0.0
    if model.config.fixed_alpha is not None:
        own = torch.tensor([model.config.fixed_alpha], dtype=torch.float64)
    else:
        own = _gate(model, history, current, len(sets[False]), len(sets[True]), idle_hours)
    used = own if alpha is None else torch.tensor([alpha], dtype=torch.float64)
    interest = used * history + (1 - used) * current
    return interest, used, len(sets[True]), interest - (own * of_items[0] + (1 - own) * of_items[1])


def _sum_of_terms(terms: list[tuple[Tensor | None, Tensor]]) -> Tensor:
    """The sum over feature blocks of features times projection, ``[items, d]``; None for one-hot features."""
    total = torch.zeros((), dtype=torch.float64)
    for features, projection in terms:
        total = total + (projection.double() if features is None else features.double() @ projection.double())
    return total


def _last_session(time_ms: Sequence[int], order: list[int], now_ms: int, gap_ms: int) -> list[bool]:
    """True for the last events that follow each other, and are followed by now, without a pause above the gap."""
    flags = [False] * len(order)
    later = now_ms
    for event in reversed(order):
        if later - time_ms[event] > gap_ms:
            break
        flags[event] = True
        later = time_ms[event]
    return flags


def _normalised_sum(terms: list[Tensor], d: int, chosen: list[bool] | None = None) -> Tensor:
    """(1 / ||X||_F) sum of the rows of X, or of the chosen ones, ``[d]``; zero for no rows."""
    if not terms:
        return torch.zeros(d, dtype=torch.float64)
    matrix = torch.stack(terms)
    summed = matrix if chosen is None else matrix[torch.tensor(chosen)]
    return summed.sum(0) / torch.sqrt(matrix.square().sum() + _FLOOR)


def _gate(
    model: InterestModel, history: Tensor, current: Tensor, histories: int, currents: int, idle_hours: float
) -> Tensor:
    """Alpha = sigmoid(f(w_H, w_C, cosine, log counts, log idle hours)); 1 without a session, 0 without a history."""
    hidden, output = model.gate_hidden, model.gate_output
    if histories == 0:
        return torch.zeros(output.out_features, dtype=torch.float64)
    if currents == 0:
        return torch.ones(output.out_features, dtype=torch.float64)
    norms = torch.sqrt((history.square().sum() + _FLOOR) * (current.square().sum() + _FLOOR))
    scalars = [float(history @ current / norms), math.log1p(histories), math.log1p(currents), math.log1p(idle_hours)]
    features = torch.cat([history, current, torch.tensor(scalars, dtype=torch.float64)])
    units = torch.tanh(hidden.weight.double() @ features + hidden.bias.double())
    return torch.sigmoid(output.weight.double() @ units + output.bias.double())


def _related(
    model: InterestModel, item: Sequence[int], time_ms: Sequence[int], weight: Sequence[float] | None
) -> dict[int, float]:
    """What the newest events add to related items; events with a text count as events, but add nothing."""
    if model.related is None:
        return {}
    newest = sorted(range(len(time_ms)), key=lambda event: time_ms[event])[-_NEWEST:]
    added: dict[int, float] = {}
    for event in newest:
        if event >= len(item) or (weight is not None and not weight[event] > 0):
            continue
        seen = item[event]
        for near, score in zip(model.related.item[seen].tolist(), model.related.score[seen].tolist(), strict=True):
            if score:
                added[near] = added.get(near, 0.0) + score
    return added


def _repeat_scores(
    model: InterestModel,
    repeat: RepeatScore,
    prior_columns: npt.NDArray[np.float32],
    item: Sequence[int],
    time_ms: Sequence[int],
    now_ms: int,
    weight: Sequence[float] | None,
    decay_scale: float,
) -> dict[int, float]:
    """The scores of the user's seen items; the decay scale multiplies every age that they depend on."""
    rates = repeat.decay_rate_per_day.double().tolist()
    timestamp = []
    for days in (1, 7):
        angle = 2 * math.pi * (now_ms / _MS_PER_DAY % days) / days
        timestamp += [math.sin(angle), math.cos(angle)]
    if repeat.decays and len(time_ms):
        timestamp.append(math.log1p(decay_scale * (now_ms - max(time_ms)) / _MS_PER_HOUR))
    scores = {}
    for seen in sorted(set(item)):
        indices = [event for event, index in enumerate(item) if index == seen]
        counts = [0.0] * len(rates)
        for event in indices:
            value = 1.0 if weight is None else float(weight[event])
            age_days = decay_scale * (now_ms - time_ms[event]) / _MS_PER_DAY
            counts = [count + value * math.exp(-rate * age_days) for count, rate in zip(counts, rates, strict=True)]
        features = [math.copysign(math.log1p(abs(count)), count) for count in counts] + [math.log1p(len(time_ms))]
        if repeat.decays:
            newest = max(time_ms[event] for event in indices)
            features.append(math.log1p(decay_scale * (now_ms - newest) / _MS_PER_HOUR))
        popularity = prior_columns[seen].tolist()
        features += [recent - popularity[-1] for recent in popularity[:-1]]
        row = (torch.tensor(features, dtype=torch.float64) - repeat.centre.double()) / repeat.spread.double()
        hidden = torch.tanh(repeat.hidden.weight.double() @ row + repeat.hidden.bias.double())
        score = repeat.direct_weight.double() @ row + repeat.output.weight[0].double() @ hidden
        score = score + repeat.output.bias[0].double() + repeat.repeat_offset.double()
        score = score + repeat.text_weight.double() @ model.text_vectors[seen].double()
        context = torch.tensor(timestamp, dtype=torch.float64) - repeat.context_centre.double()
        score = score + repeat.item_time_weights[seen].double() @ (context / repeat.context_spread.double())
        scores[seen] = float(score + repeat.item_bias[seen].double())
    return scores
