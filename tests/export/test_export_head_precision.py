"""Scoring heads in fp16 and int8 give the right top N, with exclusions, duplicates and tiny interests too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper

from ebbtide.export.errors import LimitError, ParityError
from ebbtide.export.head.adjusting import adjust
from ebbtide.export.head.check import check_head
from ebbtide.export.head.graph import head_graph
from ebbtide.export.head.int8 import candidate_count, quantise
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.options import ExportOptions
from ebbtide.export.parity import TOLERANCE, ranking_difference
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Size
from ebbtide.interest.lookup import KeyIndex
from ebbtide.interest.modelfile import MODEL_FILE, read_fingerprint, write_fingerprint
from ebbtide.interest.stock import OutOfStock
from ebbtide.train.bundle import InterestBundle

ITEMS, WIDTH, ADJUSTMENTS, TOP_N = 3_000, 20, 96, 10
INPUTS = [tensor.name for tensor in served_models.SCORING_HEAD.inputs]
OUTPUTS = [contract.ITEM_ID.name, contract.SCORE.name]
IDS = [f"item {position}" for position in range(ITEMS)]
INDEX = {item: position for position, item in enumerate(IDS)}


@pytest.fixture(scope="module")
def factors() -> np.ndarray:
    random = np.random.default_rng(5)
    factors = random.standard_normal((ITEMS, WIDTH)).astype(np.float32) * 0.3
    # As the prior's columns: counts, far larger than the rest and never negative; and one that nothing fills.
    factors[:, -2] = np.log1p(random.exponential(500, ITEMS))
    factors[:, -1] = 0
    return factors


def session(factors: np.ndarray, precision: str, top_n: int = TOP_N) -> ort.InferenceSession:
    sizes = {Size.INTEREST: WIDTH, Size.TOP_N: top_n, Size.FILTER: 1}
    graph = head_graph(factors, IDS[: len(factors)], sizes, precision)
    onnx.checker.check_model(graph, full_check=True)
    return ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def int8(factors: np.ndarray) -> ort.InferenceSession:
    return session(factors, "int8")


def feeds_of(interest: np.ndarray, item: np.ndarray, score: np.ndarray) -> dict[str, np.ndarray]:
    """The head's inputs, for requests that do not filter."""
    everything = np.ones((len(interest), 1), np.int64)
    return dict(zip(INPUTS, [interest, item, score, everything], strict=True))


def ask(head: ort.InferenceSession, interest: np.ndarray, adjustments: dict[int, list[float]] | None = None):
    """Item indices and scores; the same adjustments for every row."""
    rows = len(interest)
    item, score = np.zeros((rows, ADJUSTMENTS), np.int64), np.zeros((rows, ADJUSTMENTS), np.float32)
    pairs = [(index, value) for index, values in (adjustments or {}).items() for value in values]
    for position, (index, value) in enumerate(pairs):
        item[:, position], score[:, position] = index, value
    item_id, best = head.run(OUTPUTS, feeds_of(interest, item, score))
    return np.array([[INDEX[name] for name in row] for row in item_id.tolist()]), best


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_head_is_exact_when_thousands_of_items_are_out_of_stock(factors: np.ndarray, precision: str) -> None:
    interest = np.random.default_rng(3).standard_normal((3, WIDTH)).astype(np.float32)
    linear = torch.from_numpy(interest) @ torch.from_numpy(factors).T
    # The best of every row, and most others.
    out = np.union1d(torch.argsort(-linear, dim=1)[:, :300].numpy().reshape(-1), np.arange(2, ITEMS, 3))
    out = np.union1d(out, np.arange(1, ITEMS, 3))
    stock = OutOfStock.of(out, KeyIndex(np.arange(ITEMS), np.arange(ITEMS)), ITEMS)
    assert stock is not None
    # The request's own come before: a score of an item that is out of stock, and one of an item that is not.
    own = np.setdiff1d(np.arange(ITEMS), out)[0]
    item, score = np.zeros((3, ADJUSTMENTS), np.int64), np.zeros((3, ADJUSTMENTS), np.float32)
    item[:, :2], score[:, :2] = (out[0], own), 900.0
    item, score = stock.exclude(item, score, np.array([False, False, True]))
    scores = linear.numpy()
    adjust(scores, item, score)
    item_id, got = session(factors, precision).run(OUTPUTS, feeds_of(interest, item, score))
    for row in range(3):
        scale = 1.0 if precision != "fp16" else np.abs(linear[row].numpy()).max()
        assert ranking_difference(item_id[row].tolist(), got[row], scores[row], INDEX) < 1e-3 * scale
        is_left = {INDEX[one] for one in item_id[row].tolist()}.isdisjoint(out.tolist())
        assert is_left == (row < 2)
        assert IDS[own] in item_id[row]


@pytest.mark.parametrize("batch", [1, 2, 33])
def test_int8_head_equals_torch_when_adjustments_replace_and_exclude(
    int8: ort.InferenceSession, factors: np.ndarray, batch: int
) -> None:
    random = np.random.default_rng(batch)
    interest = random.standard_normal((batch, WIDTH)).astype(np.float32)
    linear = torch.from_numpy(interest) @ torch.from_numpy(factors).T
    # Those that matter: the best of every row are excluded or lowered, others are raised, and excluded ones come again.
    order = torch.argsort(-linear, dim=1).numpy()
    item = np.concatenate([order[:, :24], order[:, -(ADJUSTMENTS - 24) :]], axis=1)
    score = random.choice(np.array([0, 0.5, 3.25, -1.5, -np.inf], np.float32), item.shape)
    item[:, -8:], score[:, -8:] = item[:, :8], -np.inf
    scores = linear.numpy()
    adjust(scores, item, score)
    item_id, got = int8.run(OUTPUTS, feeds_of(interest, item, score))
    for row in range(batch):
        assert ranking_difference(item_id[row].tolist(), got[row], scores[row], INDEX) < 1e-5
        assert np.all(np.diff(got[row]) <= 0)


def test_int8_head_answers_a_request_alike_when_its_neighbours_differ(int8: ort.InferenceSession) -> None:
    interest = np.random.default_rng(0).standard_normal((8, WIDTH)).astype(np.float32)
    interest[1:] *= 1e4
    alone, together = ask(int8, interest[:1]), ask(int8, interest)
    np.testing.assert_array_equal(alone[0][0], together[0][0])
    np.testing.assert_allclose(alone[1][0], together[1][0], atol=1e-5)


def test_int8_head_keeps_excluded_items_out_when_they_also_have_a_score(
    int8: ort.InferenceSession, factors: np.ndarray
) -> None:
    interest = factors[7:8] * 10
    best = int(ask(int8, interest)[0][0, 0])
    items, scores = ask(int8, interest, {best: [-np.inf, 5.0, -np.inf]})
    assert best not in items[0]
    assert np.isfinite(scores).all()


def test_int8_head_marks_every_item_when_all_are_excluded(factors: np.ndarray) -> None:
    few = session(factors[:40], "int8")
    items, scores = ask(few, np.ones((2, WIDTH), np.float32), {position: [-np.inf] for position in range(40)})
    assert np.all(np.isneginf(scores))
    assert all(len(set(row)) == TOP_N for row in items.tolist())


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-12, 1e6])
def test_int8_head_ranks_by_adjustment_and_interest_when_the_interest_is_faint_or_huge(
    int8: ort.InferenceSession, factors: np.ndarray, size: float
) -> None:
    interest = np.random.default_rng(2).standard_normal((1, WIDTH)).astype(np.float32) * np.float32(size)
    items, scores = ask(int8, interest, {11: [0.75], 12: [-np.inf]})
    exact = (interest @ factors.T)[0]
    exact[11] = 0.75
    exact[12] = -np.inf
    scale = max(1.0, float(np.abs(exact[np.isfinite(exact)]).max()))
    assert ranking_difference([IDS[item] for item in items[0]], scores[0], exact, INDEX) < 1e-6 * scale
    assert np.isfinite(scores).all()


def test_int8_head_ranks_the_whole_catalog_when_top_n_equals_it(factors: np.ndarray) -> None:
    few = factors[:30]
    items, scores = ask(session(few, "int8", top_n=30), np.ones((1, WIDTH), np.float32))
    assert ranking_difference([IDS[item] for item in items[0]], scores[0], few.sum(1), INDEX) < 1e-4


def test_integers_fit_int16_pairs_and_give_the_factors_back_when_columns_differ_in_size(factors: np.ndarray) -> None:
    integers, item_scale, column_scale = quantise(factors)
    assert integers.shape == (WIDTH, ITEMS)
    assert 2 * 255 * int(np.abs(integers.astype(np.int16)).max()) < 2**15
    balanced = factors / column_scale
    error = np.abs(integers.T * item_scale[:, None] - balanced)
    assert np.all(error <= 0.5001 * item_scale[:, None])
    # A column of counts leaves the others their steps.
    unbalanced = np.abs(factors).max(1) / 64
    assert np.median(item_scale[:, None] * column_scale[0]) < np.median(unbalanced)


def test_candidates_are_four_times_the_answer_and_never_above_the_catalog() -> None:
    assert [candidate_count(10_000, top_n) for top_n in (1, 10, 50, 500)] == [129, 138, 200, 2_000]
    assert candidate_count(60, 50) == 60


def test_fp16_head_stores_half_the_bytes_and_answers_from_the_rounded_factors(factors: np.ndarray) -> None:
    sizes = {Size.INTEREST: WIDTH, Size.TOP_N: TOP_N, Size.FILTER: 1}
    stored = {weight.name: weight for weight in head_graph(factors, IDS, sizes, "fp16").graph.initializer}
    rounded = numpy_helper.to_array(stored["factors_fp16"])
    assert rounded.dtype == np.float16
    assert not any(weight.dims and weight.dims[0] == ITEMS and weight.data_type == 1 for weight in stored.values())
    interest = np.random.default_rng(3).standard_normal((4, WIDTH)).astype(np.float32)
    items, scores = ask(session(factors, "fp16"), interest)
    for row in range(4):
        exact = rounded.astype(np.float32) @ interest[row]
        assert ranking_difference([IDS[item] for item in items[row]], scores[row], exact, INDEX) < 1e-5


def sizes_of(bundle: InterestBundle) -> dict[Size, int]:
    return {
        Size.INTEREST: bundle.model.config.dimensions + bundle.prior_columns.shape[1],
        Size.VECTOR: bundle.model.config.dimensions,
        Size.TOP_N: 10,
        Size.FILTER: 1,
    }


def test_export_is_refused_when_its_integers_miss_best_items(
    write_without_encoder: Callable[..., Path], bundle: InterestBundle
) -> None:
    folder = write_without_encoder(bundle, top_n=10, head_precision="int8")
    sizes = sizes_of(bundle)
    assert check_head(InProcessPipeline(folder), bundle, sizes, "int8").difference < TOLERANCE
    path = folder / served_models.SCORING_HEAD.name / "1" / MODEL_FILE
    graph = onnx.load(str(path))
    weights = {weight.name: weight for weight in graph.graph.initializer}
    # Integers of other items: the candidates are no longer the best.
    integers = numpy_helper.to_array(weights["integer_factors"])
    weights["integer_factors"].CopyFrom(numpy_helper.from_array(np.roll(integers, 1, axis=1), "integer_factors"))
    onnx.save_model(graph, str(path))
    write_fingerprint(path.parent, read_fingerprint(path.parent, hash_files=False))
    with pytest.raises(
        ParityError, match=r"scoring_head in int8: got \d+ of the 10 best items .* --head-precision fp32"
    ):
        check_head(InProcessPipeline(folder), bundle, sizes, "int8")


def test_tolerance_of_rounded_factors_is_stated_from_requests_and_still_refuses_wrong_ones(
    write_without_encoder: Callable[..., Path], bundle: InterestBundle
) -> None:
    folder = write_without_encoder(bundle, top_n=10, head_precision="fp16")
    sizes = sizes_of(bundle)
    found = check_head(InProcessPipeline(folder), bundle, sizes, "fp16")
    assert TOLERANCE < found.tolerance < 0.05
    path = folder / served_models.SCORING_HEAD.name / "1" / MODEL_FILE
    graph = onnx.load(str(path))
    weights = {weight.name: weight for weight in graph.graph.initializer}
    rounded = numpy_helper.to_array(weights["factors_fp16"]).copy()
    rounded[:, 0] *= np.float16(1.02)
    weights["factors_fp16"].CopyFrom(numpy_helper.from_array(rounded, "factors_fp16"))
    onnx.save_model(graph, str(path))
    write_fingerprint(path.parent, read_fingerprint(path.parent, hash_files=False))
    with pytest.raises(ParityError, match="scoring_head"):
        check_head(InProcessPipeline(folder), bundle, sizes, "fp16")


def test_options_are_refused_when_the_precision_is_unknown() -> None:
    with pytest.raises(LimitError, match=r"head_precision: got 'int4'; expected one of \('fp32', 'fp16', 'int8'\)"):
        ExportOptions(head_precision="int4")
