"""Compares exported graphs with the torch model in a fixed order: names, dynamic axes, shapes, values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ebbtide.export.errors import DynamicAxesError, OutputShapeError, OutputValueError, ParityError, TensorNamesError
from ebbtide.interest.contract import Size, Tensor
from ebbtide.interest.served_models import Model

TOLERANCE = 1e-4
"""Largest absolute difference allowed between two implementations, for scores and for vectors."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Case:
    """Inputs of a graph, and torch's outputs for them."""

    feeds: Mapping[str, Array]
    expected: Mapping[str, Array]
    """Numeric outputs by name."""


def check_graph(
    session: Any,  # noqa: ANN401 - onnxruntime carries no types
    model: Model,
    sizes: Mapping[Size, int],
    cases: Iterable[Case],
    tolerance: float = TOLERANCE,
) -> float:
    """The largest absolute difference between a graph and torch, over all cases.

    Args:
        session: ONNX Runtime's session of a batching model.
        model: The model's entry in the contract.
        sizes: Sizes of the export.
        cases: Cases of several shapes, since one shape does not reveal an axis that is fixed by mistake.
        tolerance: Largest difference allowed.

    Raises:
        TensorNamesError: Inputs or outputs have other names than in the contract.
        DynamicAxesError: An axis is fixed but must vary, or varies but must be fixed.
        OutputShapeError: An output has another shape than in torch.
        OutputValueError: The difference is above the tolerance.
    """
    for found, tensors in ((session.get_inputs(), model.inputs), (session.get_outputs(), model.outputs)):
        _check_names(model, [node.name for node in found], [tensor.name for tensor in tensors])
        shapes = {node.name: node.shape for node in found}
        for tensor in tensors:
            _check_axes(model, tensor, shapes[tensor.name], sizes)
    answers: list[tuple[Mapping[str, Array], dict[str, Array]]] = []
    for case in cases:
        names = list(case.expected)
        outputs = dict(zip(names, session.run(names, dict(case.feeds)), strict=True))
        for name, output in outputs.items():
            if output.shape != case.expected[name].shape:
                raise OutputShapeError(
                    f"{model.name}, output {name}: got shape {list(output.shape)} for inputs of "
                    f"{ {key: list(feed.shape) for key, feed in case.feeds.items()} }; "
                    f"expected {list(case.expected[name].shape)}"
                )
        answers.append((case.expected, outputs))
    difference = max(
        largest_difference(outputs[name], expected[name]) for expected, outputs in answers for name in outputs
    )
    return require_tolerance(f"{model.name} in ONNX against torch", difference, tolerance)


def largest_difference(got: Array, expected: Array) -> float:
    """The largest absolute difference; two equal infinities differ by 0, a NaN counts as infinity."""
    if got.size == 0:
        return 0.0
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    same = got == expected
    with np.errstate(invalid="ignore"):
        difference = np.where(same, 0.0, np.abs(got - expected))
    return float(np.where(np.isnan(difference), np.inf, difference).max())


def ranking_difference(
    item_id: Sequence[str], score: Array, scores: Array, catalog: Mapping[str, int], *, complete: bool = True
) -> float:
    """The difference of a top N from the ranking by known scores: 0 for the same items with the same scores.

    Items may be swapped only if their scores are equal within the tolerance.

    Args:
        item_id: Ids of the top N, best first.
        score: ``[top N]``, the scores of these items.
        scores: ``[items]``, the known scores of the whole catalog.
        catalog: Catalog index by item id.
        complete: Whether the top N must hold all of the best items; an approximate index may miss some.

    Raises:
        ParityError: An item occurs twice or is not in the catalog.
    """
    if len(set(item_id)) != len(item_id) or not set(item_id) <= catalog.keys():
        raise ParityError(f"ranking: got {list(item_id)}; expected distinct items of the catalog")
    known = scores[[catalog[item] for item in item_id]]
    best = np.sort(scores)[::-1][: len(item_id)] if complete else known
    return max(largest_difference(score, best), largest_difference(score, known))


def require_tolerance(subject: str, difference: float, tolerance: float = TOLERANCE) -> float:
    """Returns the difference if it is within the tolerance.

    Raises:
        OutputValueError: The difference is above the tolerance.
    """
    if not difference <= tolerance:
        raise OutputValueError(subject, difference, tolerance)
    return difference


def _check_names(model: Model, got: list[str], expected: list[str]) -> None:
    if sorted(got) != sorted(expected):
        raise TensorNamesError(f"{model.name}: got tensors {got}; expected {expected}")


def _check_axes(model: Model, tensor: Tensor, shape: Sequence[int | str | None], sizes: Mapping[Size, int]) -> None:
    """Compares the axes of a graph's tensor with the contract; a varying axis has a name instead of a size."""
    expected = (-1, *tensor.config_dims(sizes, batching=True))
    found = tuple(size if isinstance(size, int) else -1 for size in shape)
    if found != expected:
        raise DynamicAxesError(
            f"{model.name}, tensor {tensor.name}: got axes {list(found)}; expected {list(expected)}, "
            "where -1 is an axis that varies"
        )
