"""Output tensors as answers: recommendations, rankings and vectors."""

from __future__ import annotations

import math
from itertools import islice
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ebbtide.client.codec.rules import apply_rules
from ebbtide.client.codec.tensors import Arrays, flat, matrix
from ebbtide.client.errors import InternalError, InvalidArgumentError
from ebbtide.interest import contract
from ebbtide.v1 import (
    ColdStart,
    ExplainResponse,
    InterestResponse,
    RankRequest,
    RankResponse,
    RecommendResponse,
    StateStatus,
)

DEFAULT_TOP_N = 10
"""Items of an answer when the request does not say how many."""


class Counts(NamedTuple):
    """How many events of a request the model used."""

    history: int
    """Events of the history that the model used."""
    current: int
    """Events of the current session that the model used."""
    unknown: int
    """Events that were left out because their items are not in the catalog."""

    @property
    def cold_start(self) -> ColdStart.ValueType:
        """Which evidence was missing."""
        if self.history and self.current:
            return ColdStart.COLD_START_NONE
        if self.history:
            return ColdStart.COLD_START_NO_SESSION
        return ColdStart.COLD_START_NO_HISTORY if self.current else ColdStart.COLD_START_NO_EVENTS


def fill_user(
    response: RecommendResponse | RankResponse | ExplainResponse | InterestResponse, outputs: Arrays, model_version: str
) -> None:
    """Writes the fields that all answers have: alpha used, counts of events, cold start, state, model version.

    Raises:
        InternalError: An output is missing or has another shape.
    """
    counts = Counts(*flat(outputs, contract.EVENT_COUNTS, 3).tolist())
    response.alpha_used = float(flat(outputs, contract.ALPHA_USED)[0])
    response.events_used = counts.history + counts.current
    response.history_events_used = counts.history
    response.current_events_used = counts.current
    response.unknown_events = counts.unknown
    response.cold_start = counts.cold_start
    response.model_version = model_version
    # A model that was exported before there were states does not give it.
    if contract.STATE_STATUS.name in outputs:
        response.state_status = StateStatus.ValueType(flat(outputs, contract.STATE_STATUS, 1)[0])


def decode(outputs: Arrays, top_n: int = 0, *, model_version: str = "") -> RecommendResponse:
    """The answer that the output tensors carry.

    Args:
        outputs: ``item_id`` of bytes ``[1, N]``, ``score`` float32 ``[1, N]``, best first, ``alpha_used`` float32 one
            value, ``event_counts`` int32 three, and ``state_status`` int32 one, which may be missing; and
            ``new_item_id`` and ``new_item_score``, ``[1, new items]`` each, of items that were added to the server,
            which may be missing too; and ``applied_rules``, see `apply_rules`. A leading dimension of 1 may be there or
            not.
        top_n: Items wanted, as in `RecommendRequest`; 0 is 10, or fewer where the model gives fewer.
        model_version: Version of the model that answered.

    Returns:
        The best `top_n` items. Excluded ones, whose score is minus infinity, are left out and counted.

    Raises:
        InvalidArgumentError: `top_n` is more than the model was exported with.
        InternalError: An output is missing, or ids and scores do not pair up.
    """
    ids = flat(outputs, contract.ITEM_ID)
    scores = flat(outputs, contract.SCORE)
    if len(ids) != len(scores):
        raise InternalError(
            f"{contract.SCORE.name}: got {len(scores)} scores; expected one for each of the {len(ids)} ids. "
            "Is the model at this address exported by Ebbtide?"
        )
    if top_n > len(ids):
        raise InvalidArgumentError.of_field(
            "top_n", top_n, f"at most {len(ids)}: the model was exported with --top-n {len(ids)}"
        )
    response = RecommendResponse()
    fill_user(response, outputs, model_version)
    values: list[float] = scores.tolist()
    listed = list(zip(ids, values, strict=True))
    if contract.NEW_ITEM_SCORE.name in outputs and outputs[contract.NEW_ITEM_SCORE.name].size:
        added = flat(outputs, contract.NEW_ITEM_SCORE)
        listed.extend(zip(flat(outputs, contract.NEW_ITEM_ID, len(added)), added.tolist(), strict=True))
        listed.sort(key=lambda pair: -pair[1])
    kept = ((item_id, score) for item_id, score in listed if score != -math.inf)
    wanted = top_n or min(DEFAULT_TOP_N, len(ids))
    for item_id, score in islice(kept, wanted):
        response.items.add(item_id=item_id, score=score)
    apply_rules(response, outputs, wanted)
    response.unfilled_items = wanted - len(response.items)
    return response


def decode_ranking(outputs: Arrays, request: RankRequest, *, model_version: str = "") -> RankResponse:
    """The order of the candidates of a request.

    Args:
        outputs: ``candidate_score`` float32 ``[1, candidates]``, in their order, and the outputs about the user as
            for `decode`; and ``candidate_in_stock`` bool ``[1, candidates]``, which may be missing.
        request: The request, for the candidates' ids and the number wanted.
        model_version: Version of the model that answered.

    Returns:
        Best first; if scores are equal, the earlier candidate first. Unknown and excluded candidates are in their own
        lists.

    Raises:
        InternalError: An output is missing, or there is not one score for each candidate.
    """
    item_ids = request.candidate_item_ids
    scores = flat(outputs, contract.CANDIDATE_SCORE, len(item_ids))
    response = RankResponse()
    fill_user(response, outputs, model_version)
    values: list[float] = scores.tolist()
    scored = list(zip(item_ids, values, strict=True))
    response.unknown_item_ids.extend(item_id for item_id, score in scored if math.isnan(score))
    response.excluded_item_ids.extend(item_id for item_id, score in scored if score == -math.inf)
    if contract.CANDIDATE_IN_STOCK.name in outputs:
        in_stock = flat(outputs, contract.CANDIDATE_IN_STOCK, len(item_ids)).tolist()
        response.out_of_stock_item_ids.extend(
            item_id for item_id, is_there in zip(item_ids, in_stock, strict=True) if not is_there
        )
    kept = np.flatnonzero(np.isfinite(scores))
    order = kept[np.argsort(-scores[kept], kind="stable")]
    for index in order[: request.top_n or None]:
        response.items.add(item_id=item_ids[index], score=float(scores[index]))
    return response


def decode_vectors(outputs: Arrays) -> npt.NDArray[np.float32]:
    """The vectors of texts, float32 ``[texts, d]``.

    Raises:
        InternalError: The output is missing, or no matrix.
    """
    return matrix(outputs, contract.TEXT_VECTOR)
