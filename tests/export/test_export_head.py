"""The scoring head's graph gives the same results as torch."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from ebbtide.export.head.adjusting import adjust, random_adjustments
from ebbtide.export.head.graph import head_graph
from ebbtide.export.parity import ranking_difference
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Size

ITEMS, WIDTH, ADJUSTMENTS = 40, 6, 64


def session(top_n: int = 10, width: int = WIDTH) -> tuple[ort.InferenceSession, np.ndarray, dict[str, int]]:
    random = np.random.default_rng(1)
    factors = random.standard_normal((ITEMS, width)).astype(np.float32)
    ids = [f"número {position}" for position in range(ITEMS)]
    sizes = {Size.INTEREST: width, Size.TOP_N: top_n, Size.FILTER: 1}
    graph = head_graph(factors, ids, sizes)
    onnx.checker.check_model(graph, full_check=True)
    return (
        ort.InferenceSession(graph.SerializeToString()),
        factors,
        {item: position for position, item in enumerate(ids)},
    )


def run(head: ort.InferenceSession, interest, adjust_item, adjust_score):
    names = [contract.ITEM_ID.name, contract.SCORE.name]
    inputs = [tensor.name for tensor in served_models.SCORING_HEAD.inputs]
    everything = np.ones((len(interest), 1), np.int64)
    return head.run(names, dict(zip(inputs, [interest, adjust_item, adjust_score, everything], strict=True)))


def padding(batch: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((batch, ADJUSTMENTS), np.int64), np.zeros((batch, ADJUSTMENTS), np.float32)


@pytest.mark.parametrize("batch", [1, 2, 33])
def test_head_equals_numpy_when_adjustments_replace_and_exclude(batch: int) -> None:
    head, factors, index = session()
    random = np.random.default_rng(batch)
    interest = random.standard_normal((batch, WIDTH)).astype(np.float32)
    adjust_item, adjust_score = random_adjustments(random, batch, ADJUSTMENTS, ITEMS).values()
    scores = interest @ factors.T
    adjust(scores, adjust_item, adjust_score)
    item_id, score = run(head, interest, adjust_item, adjust_score)
    assert score.shape == (batch, 10)
    for row in range(batch):
        assert ranking_difference(item_id[row].tolist(), score[row], scores[row], index) < 1e-5
        assert np.all(np.diff(score[row][np.isfinite(score[row])]) <= 0)


def test_head_marks_every_item_when_all_are_excluded() -> None:
    head, _, _ = session()
    adjust_item, adjust_score = padding(1)
    adjust_item[0, :ITEMS] = np.arange(ITEMS)
    adjust_score[0, :ITEMS] = -np.inf
    item_id, score = run(head, np.ones((1, WIDTH), np.float32), adjust_item, adjust_score)
    assert np.all(np.isneginf(score))
    assert len(set(item_id[0].tolist())) == 10


def test_head_excludes_an_item_when_it_is_listed_twice_and_has_a_score() -> None:
    head, factors, index = session(top_n=ITEMS)
    adjust_item, adjust_score = padding(1)
    adjust_item[0, :3] = 7
    adjust_score[0, :3] = [-np.inf, 5.0, -np.inf]
    item_id, score = run(head, factors[7:8], adjust_item, adjust_score)
    (position,) = np.flatnonzero([index[item] == 7 for item in item_id[0]])
    assert np.isneginf(score[0, position])
    assert np.isfinite(np.delete(score[0], position)).all()


def test_head_ignores_padding_when_item_zero_is_the_best() -> None:
    head, factors, index = session()
    item_id, score = run(head, factors[:1] * 10, *padding(1))
    assert index[item_id[0, 0]] == 0
    np.testing.assert_allclose(score[0, 0], 10 * (factors[0] ** 2).sum(), rtol=1e-5)


def test_head_ranks_the_whole_catalog_when_top_n_equals_it() -> None:
    head, factors, index = session(top_n=ITEMS)
    interest = np.ones((2, WIDTH), np.float32)
    item_id, score = run(head, interest, *padding(2))
    assert ranking_difference(item_id[0].tolist(), score[0], factors.sum(1), index) < 1e-5
    assert score.shape == (2, ITEMS)


def test_head_gives_the_adjustment_itself_when_the_item_scored_otherwise() -> None:
    head, factors, index = session(top_n=ITEMS)
    adjust_item, adjust_score = padding(1)
    adjust_item[0, :2], adjust_score[0, :2] = (7, 0), (0.25, 1e3)
    item_id, score = run(head, factors[7:8] * 10, adjust_item, adjust_score)
    found = dict(zip((index[item] for item in item_id[0]), score[0].tolist(), strict=True))
    assert index[item_id[0, 0]] == 0
    assert found[0] == pytest.approx(1e3)
    assert found[7] == pytest.approx(0.25, abs=1e-4)
