"""Differences between two implementations, kept by model and field: size, tolerance and where they arise."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ebbtide.export.parity import largest_difference, ranking_difference
from ebbtide.interest import contract, served_models
from ebbtide.verify.cases import CATALOG_SCORE, Tensors, by_item

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class StageDifference:
    """The largest difference of one field of one stage, over all requests."""

    between: str
    """The two implementations, as in ``in process, Triton``."""
    stage: str
    """Model of the repository."""
    field: str
    """Output of the model."""
    difference: float
    """Largest absolute difference; infinity where one of them has no answer, or another shape or item."""
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
    """What both say there."""

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= self.tolerance


@dataclass(frozen=True)
class Difference:
    """One difference and where it arises."""

    difference: float
    item: str | None = None
    detail: str = ""


class Differences:
    """Collects differences between two implementations."""

    def __init__(self, between: str, tolerances: Mapping[str, float]) -> None:
        """Starts empty.

        Args:
            between: The two implementations.
            tolerances: By field of a model (``stage.field``); those that are missing must be equal.
        """
        self._between = between
        self._tolerances = tolerances
        self._found: dict[tuple[str, str], StageDifference] = {}
        self._last: dict[tuple[str, str], int] = {}

    def add(self, stage: str, field: str, position: Difference, request: int, kind: str) -> None:
        """Takes one comparison in; the largest of each field stays. A request comes with all its comparisons."""
        key = (stage, field)
        known = self._found.get(key)
        if known is None:
            tolerance = self._tolerances.get(f"{stage}.{field}", 0.0)
            known = StageDifference(self._between, stage, field, 0.0, tolerance, 0)
        if self._last.get(key) != request:
            known = replace(known, compared=known.compared + 1)
            self._last[key] = request
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
        """In the contract's order: models before the ensembles that are made of them."""
        return sorted(self._found.values(), key=_order)


_MERGED = frozenset(tensor.name for tensor in (contract.NEW_ITEM_ID, contract.NEW_ITEM_SCORE, contract.APPLIED_RULES))
"""What is merged into the list of the scoring head."""


def first_failure(found: Iterable[StageDifference]) -> StageDifference | None:
    """The first difference above its tolerance, in the contract's order; None where there is none."""
    return min((one for one in found if not one.passed), key=_order, default=None)


def _order(found: StageDifference) -> int:
    """The position of its model in the contract; models that the contract does not know come last."""
    names = list(served_models.MODELS)
    return names.index(found.stage) if found.stage in names else len(names)


def compare_outputs(got: Tensors, expected: Tensors, catalog: Mapping[str, int]) -> Iterator[tuple[str, Difference]]:
    """Compares the outputs that both have, and names the field of each difference.

    Rankings, score adjustments and padded tokens are compared by their meaning; every other tensor by its values.

    Args:
        got: Of the implementation that is checked.
        expected: Of the other; a ranking may be given as `CATALOG_SCORE`.
        catalog: Item id to catalog index.
    """
    item_id, score, item_index = contract.ITEM_ID.name, contract.SCORE.name, contract.ITEM_INDEX.name
    adjust_item, adjust_score = contract.ADJUST_ITEM.name, contract.ADJUST_SCORE.name
    slate_id, slate_score = contract.SLATE_ITEM_ID.name, contract.SLATE_SCORE.name
    notes = contract.SLATE_NOTES.name
    input_ids, mask = contract.INPUT_IDS.name, contract.ATTENTION_MASK.name
    left = got.keys() & expected.keys()
    if item_id in got and CATALOG_SCORE in expected:
        yield score, compare_with_scores(Ranked.read(got), expected[CATALOG_SCORE], catalog)
        left -= {item_id, score}
    elif {item_id, score} <= left:
        yield score, compare_ranked(Ranked.read(got), Ranked.read(expected))
        left -= {item_id, score}
    if {item_id, item_index} <= got.keys():
        # Of equal scores either item may come first, so indices are compared with the ids beside them.
        yield item_index, _compare_indices(Ranked.read(got).item_id, got[item_index].ravel().tolist(), catalog)
        left -= {item_index}
    if slate_id in got and CATALOG_SCORE in expected:
        yield (
            slate_score,
            compare_with_scores(Ranked.read(got, slate_id, slate_score), expected[CATALOG_SCORE], catalog),
        )
        left -= {slate_id, slate_score}
    elif {slate_id, slate_score} <= left:
        listed = [Ranked.read(tensors, slate_id, slate_score) for tensors in (got, expected)]
        yield slate_score, compare_ranked(*listed)
        # Of equal scores either item may come first; the notes then tell of another list.
        left -= {slate_id, slate_score} if listed[0].item_id == listed[1].item_id else {slate_id, slate_score, notes}
    adjusted = {adjust_item, adjust_score} <= left
    if adjusted:
        left -= {adjust_item, adjust_score}
    if {input_ids, mask} <= left:
        rows = (_token_rows(tensors[input_ids], tensors[mask]) for tensors in (got, expected))
        yield input_ids, _compare_tokens(*rows)
        left -= {input_ids, mask}
    for name in _MERGED & left:
        # An item or a rule that is empty says nothing: others of the batch may have more.
        yield name, compare_arrays(_said(got[name]), _said(expected[name]))
        left -= {name}
    for name in (name for name in got if name in left):
        yield name, compare_with_unknown(got[name], expected[name])
    if adjusted:
        # After the interest, since scores of related items follow from it.
        one, other = (by_item(tensors[adjust_item], tensors[adjust_score]) for tensors in (got, expected))
        yield adjust_score, compare_sparse(one, other, catalog)


def _said(values: Array) -> Array:
    flat = values.ravel()
    return flat[flat.astype(np.bool_)] if values.dtype.kind == "O" else flat[np.isfinite(flat)]


def compare_arrays(got: Array, expected: Array) -> Difference:
    """The largest difference of two arrays, which must have one shape."""
    if got.shape != expected.shape:
        return Difference(np.inf, detail=f"got shape {list(got.shape)}; expected {list(expected.shape)}")
    if got.dtype.kind == "O":
        index, difference = _first_apart(got, expected)
    else:
        index, difference = _worst(got, expected)
    if difference == 0:
        return Difference(0.0)
    position = [int(axis) for axis in np.unravel_index(index, got.shape)]
    return Difference(
        difference, detail=f"{position}: got {_text(got.flat[index])}; expected {_text(expected.flat[index])}"
    )


def compare_with_unknown(got: Array, expected: Array) -> Difference:
    """The largest difference of two arrays of floats, in which NaN stands for an unknown item and equals itself."""
    if got.shape != expected.shape or got.dtype.kind != "f":
        return compare_arrays(got, expected)
    unknown = np.isnan(got) & np.isnan(expected)
    return compare_arrays(np.where(unknown, 0, got), np.where(unknown, 0, expected))


def compare_sparse(got: Mapping[int, float], expected: Mapping[int, float], catalog: Mapping[str, int]) -> Difference:
    """The largest difference of two sets of values by catalog index; what is missing is 0."""
    worst, index_of_worst = Difference(0.0), -1
    for index in got.keys() | expected.keys():
        one, other = got.get(index, 0.0), expected.get(index, 0.0)
        difference = largest_difference(np.array([one]), np.array([other]))
        if difference > worst.difference:
            worst, index_of_worst = Difference(difference, detail=f"got {_text(one)}; expected {_text(other)}"), index
    if index_of_worst < 0:
        return worst
    return replace(worst, item=next(item for item, index in catalog.items() if index == index_of_worst))


@dataclass(frozen=True)
class Ranked:
    """A top N."""

    item_id: list[str]
    """Best first."""
    score: npt.NDArray[np.float32]
    """``[top N]``."""

    @classmethod
    def read(cls, tensors: Tensors, item_id: str = contract.ITEM_ID.name, score: str = contract.SCORE.name) -> Ranked:
        """The ranking of one user among a model's outputs."""
        ids = tensors[item_id].ravel().tolist()
        texts = [item.decode() if isinstance(item, bytes) else item for item in ids]
        return cls(texts, tensors[score].ravel())


def compare_with_scores(got: Ranked, scores: npt.NDArray[np.float64], catalog: Mapping[str, int]) -> Difference:
    """A top N against the known scores of the whole catalog; ties within the tolerance may stand in either order.

    Args:
        got: Of the implementation that is checked.
        scores: ``[N]``.
        catalog: Item id to catalog index.
    """
    unknown = [item for item in got.item_id if item not in catalog]
    if unknown or len(set(got.item_id)) != len(got.item_id):
        return Difference(
            np.inf, unknown[0] if unknown else None, "got an item twice, or one that is not in the catalog"
        )
    difference = ranking_difference(got.item_id, got.score, scores, catalog)
    if difference == 0:
        return Difference(0.0)
    best = np.sort(scores)[::-1][: len(got.item_id)]
    known = scores[[catalog[item] for item in got.item_id]]
    row = _worst(got.score, known if largest_difference(got.score, known) == difference else best)[0]
    return Difference(
        difference,
        got.item_id[row],
        f"rank {row + 1}: got {_text(got.score[row])}; expected {_text(known[row])} for this item, "
        f"{_text(best[row])} at this rank",
    )


def compare_ranked(got: Ranked, expected: Ranked) -> Difference:
    """Two top N with scores; an item that one of them lacks must be within the tolerance of the other's last score."""
    if len(got.item_id) != len(expected.item_id):
        return Difference(np.inf, detail=f"got {len(got.item_id)} items; expected {len(expected.item_id)}")
    row, difference = _worst(got.score, expected.score)
    worst = Difference(0.0)
    if difference > 0:
        says = f"rank {row + 1}: got {_text(got.score[row])}; expected {_text(expected.score[row])}"
        worst = Difference(difference, got.item_id[row], says)
    for one, other, says in ((got, expected, "only got"), (expected, got, "only expected")):
        known = dict(zip(other.item_id, other.score, strict=True))
        for item, score in zip(one.item_id, one.score, strict=True):
            # Excluded items fill an answer up; which of them is not defined.
            if np.isneginf(score):
                continue
            against = known.get(item, other.score[-1])
            difference = largest_difference(np.array([score]), np.array([against]))
            if difference > worst.difference:
                told = f"{_text(score)} and {_text(against)}" if item in known else f"{says}, with {_text(score)}"
                worst = Difference(difference, item, told)
    return worst


def _compare_indices(item_id: Sequence[str], item_index: Sequence[int], catalog: Mapping[str, int]) -> Difference:
    """Catalog indices that belong to the ids of a ranking; any other is an infinite difference."""
    for item, index in zip(item_id, item_index, strict=True):
        if catalog.get(item) != index:
            return Difference(np.inf, item, f"got catalog index {index}; expected {catalog.get(item)}")
    return Difference(0.0)


def _token_rows(input_ids: Array, mask: Array) -> list[list[int]]:
    """The ids of each text, without padding."""
    return [ids[kept != 0].tolist() for ids, kept in zip(input_ids, mask, strict=True)]


def _compare_tokens(got: list[list[int]], expected: list[list[int]]) -> Difference:
    """Equal ids, text by text. Ids have no distance: any difference is infinite."""
    if len(got) != len(expected):
        return Difference(np.inf, detail=f"got {len(got)} texts; expected {len(expected)}")
    for number, (one, other) in enumerate(zip(got, expected, strict=True)):
        if len(one) != len(other):
            return Difference(np.inf, detail=f"text {number}: got {len(one)} tokens; expected {len(other)}")
        if one != other:
            position = next(index for index, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
            return Difference(
                np.inf, detail=f"text {number}, token {position}: got id {one[position]}; expected {other[position]}"
            )
    return Difference(0.0)


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


def _first_apart(got: Array, expected: Array) -> tuple[int, float]:
    """Flat index of the first texts that differ, and infinity; or 0 and 0."""
    for index, (one, other) in enumerate(zip(got.flat, expected.flat, strict=True)):
        if one != other:
            return index, np.inf
    return 0, 0.0


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return repr(value.decode(errors="replace"))
    return f"{float(value):.7g}"  # type: ignore[arg-type]
