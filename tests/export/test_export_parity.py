"""Each difference of a graph from the contract or from torch has its own error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from ebbtide.export import writer
from ebbtide.export.errors import (
    DynamicAxesError,
    ExportError,
    OutputShapeError,
    OutputValueError,
    ParityError,
    TensorNamesError,
)
from ebbtide.export.head.graph import head_graph, item_factors
from ebbtide.export.parity import TOLERANCE, Case, check_graph, largest_difference, ranking_difference
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Size
from ebbtide.train.bundle import InterestBundle

from .conftest import Export

SIZES = {Size.INTEREST: 3, Size.FILTER: 1, Size.TOP_N: 4}
FACTORS = np.arange(15, dtype=np.float32).reshape(5, 3)


def graph() -> onnx.ModelProto:
    return head_graph(FACTORS, list("abcde"), SIZES)


def checked(model: onnx.ModelProto, score: np.ndarray, sizes: dict[Size, int] = SIZES) -> float:
    feeds = {
        tensor.name: np.zeros([max(1, size) for size in (1, *tensor.config_dims(SIZES, batching=True))], dtype)
        for tensor, dtype in zip(
            served_models.SCORING_HEAD.inputs, (np.float32, np.int64, np.float32, np.int64), strict=True
        )
    }
    session = ort.InferenceSession(model.SerializeToString())
    return check_graph(session, served_models.SCORING_HEAD, sizes, [Case(feeds, {contract.SCORE.name: score})])


ZEROS = np.zeros((1, 4), np.float32)


def test_check_gives_the_difference_when_within_the_tolerance() -> None:
    assert checked(graph(), ZEROS) == 0
    assert checked(graph(), ZEROS + np.float32(5e-5)) == pytest.approx(5e-5)


def test_check_refuses_names_when_an_output_is_called_otherwise() -> None:
    model = graph()
    onnx.compose.add_prefix(model, "x_", inplace=True)
    with pytest.raises(TensorNamesError, match=r"scoring_head: got tensors \['x_interest'.*expected \['interest'"):
        checked(model, ZEROS)


def test_check_refuses_axes_when_the_batch_is_fixed() -> None:
    model = graph()
    for tensor in model.graph.input:
        tensor.type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(DynamicAxesError, match=r"tensor interest: got axes \[1, 3\]; expected \[-1, 3\]"):
        checked(model, ZEROS)


def test_check_refuses_axes_when_a_size_is_another() -> None:
    with pytest.raises(DynamicAxesError, match=r"tensor item_id: got axes \[-1, 4\]; expected \[-1, 5\]"):
        checked(graph(), ZEROS, {**SIZES, Size.TOP_N: 5})


def test_check_refuses_shapes_when_torch_gives_another() -> None:
    with pytest.raises(OutputShapeError, match=r"output score: got shape \[1, 4\].*expected \[1, 5\]"):
        checked(graph(), np.zeros((1, 5), np.float32))


@pytest.mark.parametrize("value", [0.01, np.nan, np.inf])
def test_check_names_difference_and_tolerance_when_values_differ(value: float) -> None:
    with pytest.raises(OutputValueError, match=r"largest absolute difference of .*; expected at most 0.0001") as caught:
        checked(graph(), np.full((1, 4), value, np.float32))
    assert caught.value.tolerance == TOLERANCE
    assert caught.value.difference > TOLERANCE
    assert isinstance(caught.value, ParityError)
    assert isinstance(caught.value, ExportError)


def test_difference_is_zero_when_both_are_the_same_infinity() -> None:
    values = np.array([-np.inf, 1.0], np.float32)
    assert largest_difference(values, values) == 0
    assert largest_difference(values, -values) == np.inf


def test_ranking_differs_when_items_are_swapped_missing_or_repeated() -> None:
    index = {"a": 0, "b": 1, "c": 2}
    scores = np.array([3.0, 2.0, 1.0])
    assert ranking_difference(["a", "b"], np.array([3.0, 2.0]), scores, index) == 0
    assert ranking_difference(["b", "a"], np.array([3.0, 2.0]), scores, index) == 1
    assert ranking_difference(["b", "c"], np.array([2.0, 1.0]), scores, index) == 1
    with pytest.raises(ParityError):
        ranking_difference(["a", "a"], np.array([3.0, 3.0]), scores, index)


def test_export_leaves_the_earlier_one_when_parity_fails(
    export: Export,
    tiny_bundle: InterestBundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    export(tiny_bundle, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    # The served factors are then not those of the model that is asked.
    monkeypatch.setattr(writer, "item_factors", lambda bundle: item_factors(bundle) * np.float32(1.01))
    with pytest.raises(OutputValueError, match=r"scoring_head in ONNX against torch: got .*; expected at most 0.0001"):
        export(tiny_bundle, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
