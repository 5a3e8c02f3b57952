"""What a list shall be like as a tensor, and a composed list as an answer."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from ebbtide.client.codec.answers import decode, fill_user
from ebbtide.client.codec.tensors import Arrays, output
from ebbtide.client.errors import InternalError, InvalidArgumentError
from ebbtide.interest import contract
from ebbtide.interest.keys import item_key
from ebbtide.interest.slate_options import (
    AT_LEAST,
    AT_MOST,
    CALIBRATION,
    CANDIDATES,
    DIVERSITY,
    EXPOSURE,
    METHOD,
    METHODS,
    MOVED_BY,
    RANK,
    RELAXED,
    RELAXED_VALUE,
    RULES,
    SIZE,
)
from ebbtide.v1 import (
    DiversityMethod,
    RecommendRequest,
    RecommendResponse,
    RelaxedLimit,
    Slate,
    SlateCause,
    SlateCauseKind,
    SlateExposure,
    SlateMinimum,
)

DEFAULT_SIGNIFICANCE = 0.1
_MOST_ITEMS = 2**31 - 1
_LIMIT = re.compile(r"(?P<name>at_most|at_least|exposure)\[(?P<index>\d+)\] of column")


def slate_text(slate: Slate, top_n: int) -> bytes:
    """The content of the tensor ``slate``.

    Args:
        slate: Of the request.
        top_n: Of the request.

    Raises:
        InvalidArgumentError: A number is out of its range, or a limit has no column or no value.
    """
    _require_share("slate.diversity", slate.diversity)
    methods = {DiversityMethod.DIVERSITY_METHOD_DPP: METHODS[1]}
    options: dict[str, Any] = {
        SIZE: top_n,
        DIVERSITY: slate.diversity,
        METHOD: methods.get(slate.method, METHODS[0]),
    }
    for field, columns in (
        (AT_MOST, [cap.column for cap in slate.at_most]),
        (AT_LEAST, [least.column for least in slate.at_least]),
        (EXPOSURE, [exposed.column for exposed in slate.exposure]),
    ):
        for index, column in enumerate(columns):
            _require_column(f"slate.{field}[{index}]", column)
    caps = [
        [cap.column, _key(cap.column, cap.value) if cap.HasField("value") else None, cap.count] for cap in slate.at_most
    ]
    for index, cap in enumerate(slate.at_most):
        _require_count(f"slate.{AT_MOST}[{index}].count", cap.count, 0)
    for index, least in enumerate(slate.at_least):
        _require_count(f"slate.{AT_LEAST}[{index}].count", least.count, 1)
        _require_value(f"slate.{AT_LEAST}[{index}]", least)
    minimums = [[least.column, _key(least.column, least.value), least.count] for least in slate.at_least]
    exposures: list[list[Any]] = []
    for index, exposed in enumerate(slate.exposure):
        _require_value(f"slate.{EXPOSURE}[{index}]", exposed)
        significance = exposed.significance or DEFAULT_SIGNIFICANCE
        for name, number in (("share", exposed.share), ("significance", significance)):
            if not 0 < number < 1:
                raise InvalidArgumentError.of_field(
                    f"slate.{EXPOSURE}[{index}].{name}", number, "a number above 0 and below 1"
                )
        exposures.append([exposed.column, _key(exposed.column, exposed.value), exposed.share, significance])
    options |= {
        field: found for field, found in ((AT_MOST, caps), (AT_LEAST, minimums), (EXPOSURE, exposures)) if found
    }
    if slate.HasField("calibration"):
        _require_column("slate.calibration", slate.calibration.column)
        _require_share("slate.calibration.weight", slate.calibration.weight)
        options[CALIBRATION] = [slate.calibration.column, slate.calibration.weight]
    return json.dumps(options, ensure_ascii=False).encode()


def decode_recommended(outputs: Arrays, request: RecommendRequest, *, model_version: str = "") -> RecommendResponse:
    """The recommendations in output tensors: of ``recommend_slate`` if the request has a slate, else of ``recommend``.

    Args:
        outputs: As for `decode`; or ``slate_item_id`` of bytes and ``slate_score`` float32, ``[1, slate items]`` each,
            ``slate_notes`` of bytes ``[1, 1]``, and those about the user. A leading dimension of 1 may be there or not.
        request: What was asked for.
        model_version: Version of the model that answered.

    Raises:
        InvalidArgumentError: `top_n` is more than the model was exported with.
        InternalError: An output is missing or damaged.
    """
    if not request.HasField("slate"):
        return decode(outputs, request.top_n, model_version=model_version)
    response = RecommendResponse()
    fill_user(response, outputs, model_version)
    try:
        notes = json.loads(output(outputs, contract.SLATE_NOTES).reshape(-1)[0])
        ids = [item_id.decode() for item_id in output(outputs, contract.SLATE_ITEM_ID).reshape(-1).tolist() if item_id]
        scores = [one for one in output(outputs, contract.SLATE_SCORE).reshape(-1).tolist() if one != -math.inf]
        causes = _causes(request.slate)
        columns = zip(ids, scores, notes[RANK], notes[MOVED_BY], notes[RULES], strict=True)
        for item_id, score, rank, moved_by, rules in columns:
            moved = [causes[cause] for cause in moved_by]
            response.items.add(item_id=item_id, score=score, score_rank=rank, moved_by=moved, rules=rules)
        # An export from before the notes had values has none.
        values = notes.get(RELAXED_VALUE) or [""] * len(notes[RELAXED])
        for (cause, wanted, got, position), value in zip(notes[RELAXED], values, strict=True):
            limit = RelaxedLimit(limit=causes[cause], wanted=wanted, got=got, position=position)
            limit.limit.value = limit.limit.value or value
            response.relaxed_limits.append(limit)
        response.slate_candidates = notes[CANDIDATES]
        response.unfilled_items = notes[SIZE] - len(ids)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InternalError(
            f"{contract.SLATE_NOTES.name}: got {error!r}; expected what Ebbtide's models say"
        ) from error
    return response


def slate_error(value: str, slate: Slate) -> tuple[str, str]:
    """The field that an error of the server about the tensor means, and its value with the caller's words.

    Args:
        value: Of the error.
        slate: Of the request.
    """
    for limit in _valued(slate):
        value = value.replace(f", key {_key(limit.column, limit.value)}", f", value {limit.value!r}")
    match = _LIMIT.match(value)
    return (f"slate.{match['name']}[{match['index']}]", value) if match else ("slate", value)


def _causes(slate: Slate) -> list[SlateCause]:
    """The causes by the numbers that the server gives them; see `ebbtide.interest.slate_options`."""
    kinds = SlateCauseKind
    found = [
        SlateCause(kind=kinds.SLATE_CAUSE_KIND_DIVERSITY),
        SlateCause(kind=kinds.SLATE_CAUSE_KIND_CALIBRATION, column=slate.calibration.column),
    ]
    found += [
        SlateCause(kind=kinds.SLATE_CAUSE_KIND_AT_MOST, column=one.column, value=one.value) for one in slate.at_most
    ]
    for kind, limits in (
        (kinds.SLATE_CAUSE_KIND_AT_LEAST, slate.at_least),
        (kinds.SLATE_CAUSE_KIND_EXPOSURE, slate.exposure),
    ):
        found += [SlateCause(kind=kind, column=one.column, value=one.value) for one in limits]
    return found


def _valued(slate: Slate) -> Sequence[Any]:
    return [*(cap for cap in slate.at_most if cap.HasField("value")), *slate.at_least, *slate.exposure]


def _key(column: str, value: str) -> int:
    return item_key(f"{column}={value}")


def _require_column(path: str, column: str) -> None:
    if not column:
        raise InvalidArgumentError.of_field(f"{path}.column", "''", "the name of a catalog attribute")


def _require_value(path: str, limit: SlateMinimum | SlateExposure) -> None:
    if not limit.value:
        raise InvalidArgumentError.of_field(f"{path}.value", "''", "a value of the column")


def _require_count(path: str, count: int, least: int) -> None:
    if not least <= count <= _MOST_ITEMS:
        raise InvalidArgumentError.of_field(path, count, f"from {least} to {_MOST_ITEMS}")


def _require_share(path: str, number: float) -> None:
    if not 0 <= number <= 1:
        raise InvalidArgumentError.of_field(path, number, "a number from 0 to 1")
