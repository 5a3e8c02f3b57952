"""Differences are measured and located: arrays, sparse adjustments, rankings with ties and excluded items."""

from __future__ import annotations

import numpy as np
import pytest

from ebbtide.verify.differences import (
    Difference,
    Differences,
    Ranked,
    compare_arrays,
    compare_ranked,
    compare_sparse,
    compare_with_scores,
    first_failure,
)

CATALOG = {item: index for index, item in enumerate("abcdef")}


def ranked(items: str, *scores: float) -> Ranked:
    return Ranked(list(items), np.array(scores, np.float32))


def test_array_difference_is_located_when_one_number_is_off() -> None:
    got, expected = np.zeros((2, 3)), np.zeros((2, 3))
    got[1, 2] = 0.5
    index = compare_arrays(got, expected)
    assert (index.difference, index.detail) == (0.5, "[1, 2]: got 0.5; expected 0")
    assert compare_arrays(got[:1], expected).difference == np.inf
    assert compare_arrays(np.array([np.nan]), np.array([1.0])).difference == np.inf
    assert compare_arrays(np.array([-np.inf]), np.array([-np.inf])).difference == 0


def test_array_difference_is_located_when_one_id_is_another() -> None:
    expected = np.array([[b"sku-1", b"sku-2"], ["käse".encode(), b""]], dtype=object)
    assert compare_arrays(expected.copy(), expected).difference == 0
    got = expected.copy()
    got[1, 0] = b"sku-3"
    found = compare_arrays(got, expected)
    assert (found.difference, found.detail) == (np.inf, "[1, 0]: got 'sku-3'; expected 'käse'")


def test_sparse_difference_names_the_item_when_one_side_lacks_it() -> None:
    index = compare_sparse({0: -np.inf, 2: 0.5}, {0: -np.inf, 2: 0.5, 4: 0.25}, CATALOG)
    assert (index.difference, index.item) == (0.25, "e")
    assert compare_sparse({1: -np.inf}, {}, CATALOG).difference == np.inf


def test_rankings_are_alike_when_ties_stand_in_another_order_or_others_are_excluded() -> None:
    assert compare_ranked(ranked("abc", 3, 2, 2), ranked("acb", 3, 2, 2)).difference == 0
    # At the last rank, items with the same score may replace each other.
    assert compare_ranked(ranked("abc", 3, 2, 1), ranked("abd", 3, 2, 1)).difference == 0
    assert compare_ranked(ranked("abc", 3, -np.inf, -np.inf), ranked("aef", 3, -np.inf, -np.inf)).difference == 0


@pytest.mark.parametrize(
    ("got", "difference", "item"),
    [
        (ranked("abc", 3, 2, 1.5), 0.5, "c"),
        (ranked("abf", 3, 2.25, 2), 1.0, "f"),
        (ranked("ab", 3, 2), np.inf, None),
        (ranked("abc", 3, 2, -np.inf), np.inf, "c"),
    ],
)
def test_ranking_difference_names_the_item_when_it_is_off(got: Ranked, difference: float, item: str | None) -> None:
    index = compare_ranked(got, ranked("abc", 3, 2, 1))
    assert (index.difference, index.item) == (difference, item)


def test_ranking_is_held_against_scores_of_the_whole_catalog() -> None:
    scores = np.array([5, 4, 3, 2, 1, -np.inf])
    assert compare_with_scores(ranked("abc", 5, 4, 3), scores, CATALOG).difference == 0
    missing = compare_with_scores(ranked("abd", 5, 4, 2), scores, CATALOG)
    assert (missing.difference, missing.item) == (1, "d")
    wrong = compare_with_scores(ranked("abc", 5, 4.5, 3), scores, CATALOG)
    assert (wrong.difference, wrong.item) == (0.5, "b")
    assert compare_with_scores(ranked("aab", 5, 5, 4), scores, CATALOG).difference == np.inf
    assert compare_with_scores(ranked("azb", 5, 4, 4), scores, CATALOG).item == "z"


def test_largest_difference_and_first_failing_stage_stay_when_requests_are_added() -> None:
    found = Differences("a, b", {"scoring_head.score": 0.1})
    found.add("recommend", "score", Difference(3.0), 1, "recommend")
    found.add("scoring_head", "score", Difference(0.05, "x"), 1, "recommend")
    found.add("scoring_head", "score", Difference(0.2, "y"), 2, "recommend_text")
    found.add("scoring_head", "score", Difference(0.15, "z"), 3, "recommend")
    first = first_failure(reversed(found.all()))
    assert first is not None
    assert (first.stage, first.request, first.kind, first.item, first.compared) == (
        "scoring_head",
        2,
        "recommend_text",
        "y",
        3,
    )
    assert [one.stage for one in found.all()] == ["scoring_head", "recommend"]
