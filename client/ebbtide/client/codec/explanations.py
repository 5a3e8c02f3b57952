"""Output tensors of the explaining models as explanations, in the order of the request's events."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ebbtide.client.codec.answers import fill_user
from ebbtide.client.codec.states import add_state_events
from ebbtide.client.codec.tensors import Arrays, flat, matrix
from ebbtide.client.codec.user import event_groups, now_ms_of, tensor_order
from ebbtide.client.errors import InternalError
from ebbtide.interest import contract
from ebbtide.interest.contract import Tensor
from ebbtide.v1 import ExplainRequest, ExplainResponse, RepeatShares

_DAY_MS = 86_400_000


def decode_explanation(
    outputs: Arrays, request: ExplainRequest, now_ms: int, *, model_version: str = ""
) -> ExplainResponse:
    """The scores of the items of a request, split into shares.

    Args:
        outputs: Those of the model ``explain``: ``candidate_score`` float32 ``[1, items]``, ``event_share`` float32
            ``[items, events]``, ``event_current`` bool and ``event_decay`` float32 ``[events]``, ``dimension_share``
            float32 ``[items, d]``, ``prior_share`` and ``adjustment_share`` float32 ``[items]``, ``half_life_days``
            float32 ``[d]``, and the outputs about the user. May be missing: ``repeat_share`` float32
            ``[items, parts]``, ``block_name`` bytes ``[blocks]`` and ``block_share`` float32 ``[items, blocks]``,
            ``candidate_in_stock`` bool ``[1, items]``, and for the newest events of the state ``state_event_share``
            float32 ``[items, state events]``, ``folded_share`` float32 ``[items]`` and ``state_event_item``,
            ``state_event_time``, ``state_event_current`` and ``state_event_decay``, ``[state events]`` each.
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
        raise _wrong_events(contract.EVENT_SHARE, shares.shape[1], events)
    shares = shares[:, positions]
    current = flat(outputs, contract.EVENT_CURRENT, events)[positions]
    decay = flat(outputs, contract.EVENT_DECAY, events)[positions]
    dimensions = matrix(outputs, contract.DIMENSION_SHARE, items)
    prior = flat(outputs, contract.PRIOR_SHARE, items)
    adjustments = flat(outputs, contract.ADJUSTMENT_SHARE, items)
    repeats = None
    if contract.REPEAT_SHARE.name in outputs:
        repeats = matrix(outputs, contract.REPEAT_SHARE, items)
    in_stock = np.ones(items, dtype=np.bool_)
    if contract.CANDIDATE_IN_STOCK.name in outputs:
        in_stock = flat(outputs, contract.CANDIDATE_IN_STOCK, items)
    response = ExplainResponse()
    fill_user(response, outputs, model_version)
    response.half_life_days.extend(flat(outputs, contract.HALF_LIFE_DAYS, dimensions.shape[1]).tolist())

    blocks = np.zeros((items, 0), dtype=np.float32)
    if contract.BLOCK_NAME.name in outputs:
        blocks = matrix(outputs, contract.BLOCK_SHARE, items)
        names = flat(outputs, contract.BLOCK_NAME, blocks.shape[1]).tolist()
        response.block_names.extend(name.decode() for name in names)

    timestamp_ms = now_ms_of(request, now_ms)
    in_order = (event for _, group in event_groups(request) for event in group)
    for position, event in enumerate(in_order):
        age_days = (timestamp_ms - event.time.ToMilliseconds()) / _DAY_MS
        response.events.add(
            event=event, is_current=bool(current[position]), decay=float(decay[position]), age_days=max(0.0, age_days)
        )
    state_shares = _state_shares(outputs, items, add_state_events(response, outputs, timestamp_ms))
    folded = flat(outputs, contract.FOLDED_SHARE, items) if contract.FOLDED_SHARE.name in outputs else np.zeros(items)
    is_current = np.append(current, [explained.is_current for explained in response.state_events]).astype(np.bool_)
    all_shares = np.hstack([shares, state_shares])
    for row, item_id in enumerate(request.item_ids):
        explained = response.items.add(item_id=item_id, is_out_of_stock=not in_stock[row])
        score = float(scores[row])
        if math.isnan(score):
            continue
        explained.is_excluded = score == -math.inf
        if not explained.is_excluded:
            explained.score = score
            explained.adjustment_share = float(adjustments[row])
            if repeats is not None and repeats[row].any():
                parts = dict(zip(contract.REPEAT_PARTS, repeats[row].tolist(), strict=True))
                explained.repeat_shares.CopyFrom(RepeatShares(**parts))
        explained.event_shares.extend(shares[row].tolist())
        explained.state_event_shares.extend(state_shares[row].tolist())
        explained.folded_share = float(folded[row])
        explained.history_share = float(all_shares[row, ~is_current].sum(dtype=np.float64))
        explained.current_share = float(all_shares[row, is_current].sum(dtype=np.float64))
        explained.prior_share = float(prior[row])
        explained.dimension_shares.extend(dimensions[row].tolist())
        explained.block_shares.extend(blocks[row].tolist())
    return response


def _state_shares(outputs: Arrays, items: int, events: int) -> npt.NDArray[np.float32]:
    """The share of each newest event of the state in each score, ``[items, events]``."""
    if not events:
        return np.zeros((items, 0), dtype=np.float32)
    shares = matrix(outputs, contract.STATE_EVENT_SHARE, items)
    if shares.shape[1] != events:
        raise _wrong_events(contract.STATE_EVENT_SHARE, shares.shape[1], events)
    return shares


def _wrong_events(tensor: Tensor, found: int, expected: int) -> InternalError:
    return InternalError(
        f"{tensor.name}: got shares of {found} events; expected {expected}. "
        "Is the model at this address exported by Ebbtide?"
    )


def _positions_of_events(request: ExplainRequest) -> list[int]:
    """For each event of the request, in its order, the index of its entry in tensors that describe every event."""
    order = tensor_order(request)
    entry = {(event.group, event.position): index for index, event in enumerate([*order.items, *order.texts])}
    return [entry[group, position] for group, events in event_groups(request) for position in range(len(events))]
