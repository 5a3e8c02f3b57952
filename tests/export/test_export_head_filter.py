"""Attribute filters in the scoring head: only allowed items, for every precision and every batch."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from ebbtide.export.errors import LimitError
from ebbtide.export.head.adjusting import adjust
from ebbtide.export.head.attributes import ItemAttributes, allowed_items
from ebbtide.export.head.graph import head_graph
from ebbtide.export.parity import ranking_difference
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Size
from ebbtide.interest.numbers import LEAST, MISSING, MOST, ordered

ITEMS, WIDTH, ADJUSTMENTS, TOP_N = 2_000, 12, 16, 20
IDS = [f"item {index}" for index in range(ITEMS)]
INDEX = {item: index for index, item in enumerate(IDS)}
COLUMNS = ((0, 1), (1, 3), (3, 6))
PRECISIONS = ["fp32", "fp16", "int8"]
INPUTS = [tensor.name for tensor in served_models.SCORING_HEAD.inputs]
OUTPUTS = [contract.ITEM_ID.name, contract.SCORE.name]


@pytest.fixture(scope="module")
def factors() -> np.ndarray:
    # Of half precision, so that one answer is right for every precision.
    factors = np.random.default_rng(1).standard_normal((ITEMS, WIDTH)).astype(np.float16)
    return factors.astype(np.float32)


@pytest.fixture(scope="module")
def words() -> np.ndarray:
    # Every bit is used, the sign too.
    words = np.random.default_rng(2).integers(-(2**63), 2**63 - 1, (ITEMS, COLUMNS[-1][1]), dtype=np.int64)
    words &= np.random.default_rng(3).integers(-(2**63), 2**63 - 1, words.shape, dtype=np.int64)
    for first, _ in COLUMNS:
        words[:, first] |= 1
    return words


@pytest.fixture(scope="module")
def heads(factors: np.ndarray, words: np.ndarray) -> dict[str, ort.InferenceSession]:
    sizes = {Size.INTEREST: WIDTH, Size.TOP_N: TOP_N, Size.FILTER: words.shape[1]}
    found = {}
    for precision in PRECISIONS:
        graph = head_graph(factors, IDS, sizes, precision, ItemAttributes(words, COLUMNS))
        onnx.checker.check_model(graph, full_check=True)
        found[precision] = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    return found


def filters(*rows: dict[int, list[int]]) -> np.ndarray:
    """The words of requests: for each column with a condition, the bits of its allowed values."""
    found = np.zeros((len(rows), COLUMNS[-1][1]), np.int64)
    for row, allowed in zip(found, rows, strict=True):
        for column, (first, _) in enumerate(COLUMNS):
            if column not in allowed:
                row[first] = 1
            for bit in allowed.get(column, []):
                row[first + bit // 64] |= np.array(1 << bit % 64, np.uint64).astype(np.int64)
    return found


def check(
    head: ort.InferenceSession,
    factors: np.ndarray,
    words: np.ndarray,
    item_filter: np.ndarray,
    item: np.ndarray | None = None,
    score: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Asks for the best and compares them with NumPy's; also gives which items are allowed."""
    rows = len(item_filter)
    interest = np.random.default_rng(rows).standard_normal((rows, WIDTH)).astype(np.float32)
    item = np.zeros((rows, ADJUSTMENTS), np.int64) if item is None else item
    score = np.zeros((rows, ADJUSTMENTS), np.float32) if score is None else score
    known = interest @ factors.T
    allowed = np.ones(known.shape, bool)
    adjust(known, item, score)
    for row in range(rows):
        for first, end in COLUMNS:
            allowed[row] &= np.any(words[:, first:end] & item_filter[row, first:end], axis=1)
    known[~allowed] = -np.inf
    item_id, got = head.run(OUTPUTS, dict(zip(INPUTS, [interest, item, score, item_filter], strict=True)))
    for row in range(rows):
        assert ranking_difference(item_id[row].tolist(), got[row], known[row], INDEX) < 1e-4
    return item_id, got, allowed


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    "asked",
    [
        [{}],
        [{0: [3]}],
        [{0: [63]}],
        [{1: [64, 127]}],
        [{0: [1, 2], 1: [5, 99], 2: [1, 70, 191]}],
        [{}, {0: [7]}, {2: [130]}, {}],
    ],
    ids=["nothing", "one value", "sign bit", "second word", "every column", "only some of a batch"],
)
def test_head_answers_with_allowed_items_when_requests_filter(
    heads: dict[str, ort.InferenceSession],
    factors: np.ndarray,
    words: np.ndarray,
    precision: str,
    asked: list[dict[int, list[int]]],
) -> None:
    item_id, score, allowed = check(heads[precision], factors, words, filters(*asked))
    for row in range(len(asked)):
        assert np.isfinite(score[row]).all()
        assert all(allowed[row, INDEX[item]] for item in item_id[row])
        assert allowed[row].all() == (not asked[row])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_head_rejects_items_with_a_score_of_their_own_and_excludes_allowed_ones_when_requests_filter(
    heads: dict[str, ort.InferenceSession], factors: np.ndarray, words: np.ndarray, precision: str
) -> None:
    item_filter = filters({0: [4]})
    _, _, allowed = check(heads[precision], factors, words, item_filter)
    rejected, passed = np.flatnonzero(~allowed[0])[:4], np.flatnonzero(allowed[0])[:4]
    item, score = np.zeros((1, ADJUSTMENTS), np.int64), np.zeros((1, ADJUSTMENTS), np.float32)
    item[0, :4], score[0, :4] = rejected, 1e3
    item[0, 4:8], score[0, 4:8] = passed, [-np.inf, -np.inf, 1e3, 1e3]
    item_id, _, _ = check(heads[precision], factors, words, item_filter, item, score)
    named = [INDEX[one] for one in item_id[0]]
    assert set(named[:2]) == set(passed[2:].tolist())
    assert not set(named) & {*rejected.tolist(), *passed[:2].tolist()}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_head_marks_what_is_left_over_when_fewer_items_are_allowed_than_asked_for(
    heads: dict[str, ort.InferenceSession], factors: np.ndarray, words: np.ndarray, precision: str
) -> None:
    # A column with a condition that no value meets.
    _, score, allowed = check(heads[precision], factors, words, filters({1: []}))
    assert not allowed.any()
    assert np.isneginf(score).all()


def test_head_ignores_the_filter_when_the_catalog_has_no_attributes(factors: np.ndarray) -> None:
    sizes = {Size.INTEREST: WIDTH, Size.TOP_N: TOP_N, Size.FILTER: 1}
    graph = head_graph(factors, IDS, sizes)
    assert [value.name for value in graph.graph.input] == INPUTS
    assert not any(contract.ITEM_FILTER.name in node.input for node in graph.graph.node)
    assert not any(weight.name.startswith("item_words") for weight in graph.graph.initializer)
    session = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    item, score = np.zeros((1, ADJUSTMENTS), np.int64), np.zeros((1, ADJUSTMENTS), np.float32)
    interest = factors[:1].copy()
    answers = [
        session.run(OUTPUTS, dict(zip(INPUTS, [interest, item, score, words], strict=True)))[1]
        for words in (np.ones((1, 1), np.int64), np.zeros((1, 1), np.int64))
    ]
    np.testing.assert_array_equal(*answers)


def test_attributes_are_refused_when_their_columns_do_not_share_out_the_words(words: np.ndarray) -> None:
    for columns in (((0, 1), (1, 3)), ((0, 2), (1, 6)), ((0, 0), (0, 6))):
        with pytest.raises(LimitError, match="attribute columns: got words"):
            ItemAttributes(words, columns)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_head_answers_with_items_of_a_range_when_requests_filter_by_a_number(
    factors: np.ndarray, words: np.ndarray, precision: str
) -> None:
    # Numbers of every size and sign, one of them many times, and some missing.
    random = np.random.default_rng(4)
    price = random.standard_normal(ITEMS) * 10.0 ** random.integers(-9, 9, ITEMS)
    price[random.random(ITEMS) < 0.2] = 19.99
    price[random.random(ITEMS) < 0.1] = np.nan
    of_price = np.stack([np.ones(ITEMS, np.int64), ordered(price), np.zeros(ITEMS, np.int64)], axis=1)
    attributes = ItemAttributes(np.concatenate([words[:, :1], of_price], axis=1), ((0, 1), (1, 4)), frozenset([1]))
    sizes = {Size.INTEREST: WIDTH, Size.TOP_N: TOP_N, Size.FILTER: 4}
    graph = head_graph(factors, IDS, sizes, precision, attributes)
    onnx.checker.check_model(graph, full_check=True)
    head = ort.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    below = np.nextafter(19.99, 0)
    item_filter = np.array(
        [
            [1, 1, 0, 0],
            [1, 0, LEAST, ordered(19.99)],
            [1, 0, LEAST, ordered(below)],
            [1, 0, ordered(-1), ordered(19.99)],
            [2, 0, ordered(0), MOST],
            [1, 0, LEAST, MOST],
        ]
    )
    with np.errstate(invalid="ignore"):
        expected = [
            np.ones(ITEMS, bool),
            price <= 19.99,
            price < 19.99,
            (price >= -1) & (price <= 19.99),
            (words[:, 0] & 2 != 0) & (price >= 0),
            ~np.isnan(price),
        ]
    np.testing.assert_array_equal(allowed_items(attributes, item_filter), expected)
    assert 0 < expected[2].sum() < expected[1].sum() < expected[5].sum() < ITEMS
    interest = random.standard_normal((len(item_filter), WIDTH)).astype(np.float32)
    known = interest @ factors.T
    known[~np.array(expected)] = -np.inf
    none = np.zeros((len(item_filter), ADJUSTMENTS), np.int64)
    feeds = dict(zip(INPUTS, [interest, none, none.astype(np.float32), item_filter], strict=True))
    item_id, score = head.run(OUTPUTS, feeds)
    for row in range(len(item_filter)):
        assert ranking_difference(item_id[row].tolist(), score[row], known[row], INDEX) < 1e-4


def test_integers_of_numbers_are_in_their_order_and_below_them_is_what_is_missing() -> None:
    numbers = np.array([-np.inf, -1e300, -2.5, -5e-324, 0.0, 5e-324, 1 / 3, 19.99, np.nextafter(19.99, 20), np.inf])
    integers = ordered(numbers)
    assert (np.diff(integers) > 0).all()
    assert ordered(-0.0) == ordered(0.0)
    assert ordered(np.nan) == MISSING < integers[0] == LEAST
    assert integers[-1] == MOST
