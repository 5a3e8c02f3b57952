"""Output tensors of the explaining models as explanations, in the order of the request's events."""

from __future__ import annotations

import math

import numpy as np

from ebbtide.client.codec.answers import fill_user
from ebbtide.client.codec.tensors import Arrays, flat, matrix
from ebbtide.client.codec.user import event_groups, now_ms_of, tensor_order
from ebbtide.client.errors import InternalError
from ebbtide.interest import contract
from ebbtide.v1 import ExplainRequest, ExplainResponse, RepeatShares

_DAY_MS = 86_400_000


def decode_explanation(
    outputs: Arrays, request: ExplainRequest, now_ms: int, *, model_version: str = ""
) -> ExplainResponse:
    """The scores of the items of a request, split into shares.

    Args:
        outputs: Those of the model ``explain``, for ``C`` items and ``E`` events: ``candidate_score`` float32
            ``[1, C]``, ``event_share`` float32 ``[C, E]``, ``event_current`` bool and ``event_decay`` float32 ``[E]``,
            ``dimension_share`` float32 ``[C, d]``, ``prior_share`` and ``adjustment_share`` float32 ``[C]``,
            ``half_life_days`` float32 ``[d]``, and the outputs about the user. ``repeat_share`` float32 ``[C, parts]``
            may be missing.
        request: The request, for its events and item ids.
        now_ms: The clock that the request was encoded with.
        model_version: Version of the model that answered.

    Raises:
        InternalError: An output is missing, or its shape is not that of the request.
    """
    positions = _positions_of_events(request)
    items, events = len(request.item_ids), len(positions)
    scores = flat(outputs, contract.CANDIDATE_SCORE, items)
    shares = matrix(outputs, contract.EVENT_SHARE, items)
    if shares.shape[1] != events:
        raise InternalError(
            f"{contract.EVENT_SHARE.name}: got shares of {shares.shape[1]} events; expected {events}. "
            "Is the model at this address exported by Ebbtide?"
        )
    shares = shares[:, positions]
    current = flat(outputs, contract.EVENT_CURRENT, events)[positions]
    decay = flat(outputs, contract.EVENT_DECAY, events)[positions]
    dimensions = matrix(outputs, contract.DIMENSION_SHARE, items)
    prior = flat(outputs, contract.PRIOR_SHARE, items)
    adjustments = flat(outputs, contract.ADJUSTMENT_SHARE, items)
    repeats = None
    if contract.REPEAT_SHARE.name in outputs:
        repeats = matrix(outputs, contract.REPEAT_SHARE, items)
    response = ExplainResponse()
    fill_user(response, outputs, model_version)
    response.half_life_days.extend(flat(outputs, contract.HALF_LIFE_DAYS, dimensions.shape[1]).tolist())

    timestamp_ms = now_ms_of(request, now_ms)
    in_order = (event for _, group in event_groups(request) for event in group)
    for position, event in enumerate(in_order):
        age_days = (timestamp_ms - event.time.ToMilliseconds()) / _DAY_MS
        response.events.add(
            event=event, is_current=bool(current[position]), decay=float(decay[position]), age_days=max(0.0, age_days)
        )
    for row, item_id in enumerate(request.item_ids):
        explained = response.items.add(item_id=item_id)
        score = float(scores[row])
        if math.isnan(score):
            continue
        explained.is_excluded = score == -math.inf
        if not explained.is_excluded:
            explained.score = score
            explained.adjustment_share = float(adjustments[row])
            if repeats is not None and explained.adjustment_share:
                parts = dict(zip(contract.REPEAT_PARTS, repeats[row].tolist(), strict=True))
                explained.repeat_shares.CopyFrom(RepeatShares(**parts))
        explained.event_shares.extend(shares[row].tolist())
        explained.history_share = float(shares[row, ~current].sum(dtype=np.float64))
        explained.current_share = float(shares[row, current].sum(dtype=np.float64))
        explained.prior_share = float(prior[row])
        explained.dimension_shares.extend(dimensions[row].tolist())
    return response


def _positions_of_events(request: ExplainRequest) -> list[int]:
    """For each event of the request, in its order, the index of its entry in tensors that describe every event."""
    order = tensor_order(request)
    entry = {(event.group, event.position): index for index, event in enumerate([*order.items, *order.texts])}
    return [entry[group, position] for group, events in event_groups(request) for position in range(len(events))]
