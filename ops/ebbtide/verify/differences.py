"""Differences between two sides, kept by stage and field: how large, how large it may be, and where it arises."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ebbtide.export.parity import largest_difference, ranking_difference
from ebbtide.interest import contract

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class StageDifference:
    """The largest difference of one field of one stage, over all requests."""

    between: str
    """The two sides, as in ``in process, Triton``."""
    stage: str
    """Model of the contract."""
    field: str
    """Output of the stage."""
    difference: float
    """Largest absolute difference; infinity where one side has no answer, or another shape or item."""
    tolerance: float
    """What it may be at most."""
    compared: int
    """Requests that were compared."""
    request: int | None = None
    """Number of the request where it arises, from 1; None where nothing differs."""
    kind: str = ""
    """Ensemble that this request is for."""
    item: str | None = None
    """Item where it arises; None where the field has none."""
    detail: str = ""
    """What both sides say there."""

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Place:
    """One difference and where it arises."""

    difference: float
    item: str | None = None
    detail: str = ""


class Differences:
    """Collects differences between two sides."""

    def __init__(self, between: str, tolerances: Mapping[str, float]) -> None:
        """Starts empty.

        Args:
            between: The two sides.
            tolerances: By field of a stage (``stage.field``); those that are missing must be equal.
        """
        self._between = between
        self._tolerances = tolerances
        self._found: dict[tuple[str, str], StageDifference] = {}

    def add(self, stage: str, field: str, position: Place, request: int, kind: str) -> None:
        """Takes one comparison in; the largest of each field stays."""
        key = (stage, field)
        known = self._found.get(key)
        if known is None:
            tolerance = self._tolerances.get(f"{stage}.{field}", 0.0)
            known = StageDifference(self._between, stage, field, 0.0, tolerance, 0)
        known = replace(known, compared=known.compared + 1)
        if position.difference > known.difference:
            known = replace(
                known,
                difference=position.difference,
                request=request,
                kind=kind,
                item=position.item,
                detail=position.detail,
            )
        self._found[key] = known

    def all(self) -> list[StageDifference]:
        """In the pipeline's order: stages before the ensembles that are made of them."""
        order = list(contract.MODELS)
        return sorted(self._found.values(), key=lambda found: order.index(found.stage))


def first_failure(found: Iterable[StageDifference]) -> StageDifference | None:
    """The first difference above its tolerance, in the pipeline's order; None where there is none."""
    order = list(contract.MODELS)
    failed = [one for one in found if not one.passed]
    return min(failed, key=lambda one: order.index(one.stage), default=None)


def compare_arrays(got: Array, expected: Array) -> Place:
    """The largest difference of two arrays, which must have one shape."""
    if got.shape != expected.shape:
        return Place(np.inf, detail=f"got shape {list(got.shape)}; expected {list(expected.shape)}")
    index, difference = _worst(got, expected)
    if difference == 0:
        return Place(0.0)
    position = [int(part) for part in np.unravel_index(index, got.shape)]
    return Place(difference, detail=f"{position}: got {_text(got.flat[index])}; expected {_text(expected.flat[index])}")


def compare_with_unknown(got: Array, expected: Array) -> Place:
    """The largest difference of two arrays of floats, in which NaN stands for an unknown item and equals itself."""
    if got.shape != expected.shape or got.dtype.kind != "f":
        return compare_arrays(got, expected)
    unknown = np.isnan(got) & np.isnan(expected)
    return compare_arrays(np.where(unknown, 0, got), np.where(unknown, 0, expected))


def compare_sparse(got: Mapping[int, float], expected: Mapping[int, float], item_ids: Sequence[str]) -> Place:
    """The largest difference of two sets of values by catalog index; what is missing is 0."""
    worst = Place(0.0)
    for index in got.keys() | expected.keys():
        one, other = got.get(index, 0.0), expected.get(index, 0.0)
        difference = largest_difference(np.array([one]), np.array([other]))
        if difference > worst.difference:
            worst = Place(difference, item_ids[index], f"got {_text(one)}; expected {_text(other)}")
    return worst


@dataclass(frozen=True)
class Ranked:
    """A top N."""

    item_id: list[str]
    """Best first."""
    score: npt.NDArray[np.float32]
    """``[top N]``."""


def compare_with_scores(got: Ranked, scores: npt.NDArray[np.float64], catalog: Mapping[str, int]) -> Place:
    """A top N against the known scores of the whole catalog; ties within the tolerance may stand in either order.

    Args:
        got: Of the side that is looked at.
        scores: ``[N]``.
        catalog: Item id to catalog index.
    """
    unknown = [item for item in got.item_id if item not in catalog]
    if unknown or len(set(got.item_id)) != len(got.item_id):
        return Place(np.inf, unknown[0] if unknown else None, "got an item twice, or one that is not in the catalog")
    difference = ranking_difference(got.item_id, got.score, scores, catalog)
    if difference == 0:
        return Place(0.0)
    best = np.sort(scores)[::-1][: len(got.item_id)]
    own = scores[[catalog[item] for item in got.item_id]]
    row = _worst(got.score, own if largest_difference(got.score, own) == difference else best)[0]
    return Place(
        difference,
        got.item_id[row],
        f"place {row + 1}: got {_text(got.score[row])}; expected {_text(own[row])} for this item, "
        f"{_text(best[row])} at this place",
    )


def compare_ranked(got: Ranked, expected: Ranked) -> Place:
    """Two top N with scores; an item that one of them lacks must be within the tolerance of the other's last place."""
    if len(got.item_id) != len(expected.item_id):
        return Place(np.inf, detail=f"got {len(got.item_id)} items; expected {len(expected.item_id)}")
    row, difference = _worst(got.score, expected.score)
    worst = Place(0.0)
    if difference > 0:
        says = f"place {row + 1}: got {_text(got.score[row])}; expected {_text(expected.score[row])}"
        worst = Place(difference, got.item_id[row], says)
    for one, other, says in ((got, expected, "only got"), (expected, got, "only expected")):
        known = dict(zip(other.item_id, other.score, strict=True))
        for item, score in zip(one.item_id, one.score, strict=True):
            # Excluded items fill an answer up; which of them do, nobody is promised.
            if np.isneginf(score):
                continue
            against = known.get(item, other.score[-1])
            difference = largest_difference(np.array([score]), np.array([against]))
            if difference > worst.difference:
                told = f"{_text(score)} and {_text(against)}" if item in known else f"{says}, with {_text(score)}"
                worst = Place(difference, item, told)
    return worst


def _worst(got: Array, expected: Array) -> tuple[int, float]:
    """Flat index and size of the largest difference of two arrays of one shape."""
    if got.size == 0:
        return 0, 0.0
    numbers, wanted = got.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    with np.errstate(invalid="ignore"):
        apart = np.where(numbers == wanted, 0.0, np.abs(numbers - wanted))
    apart = np.where(np.isnan(apart), np.inf, apart)
    index = int(np.argmax(apart))
    return index, float(apart[index])


def _text(value: object) -> str:
    return f"{float(value):.7g}"  # type: ignore[arg-type]
