"""The maths of slates: against brute force on small cases, and against pyversity where it does the same."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyversity import Metric
from pyversity.strategies import dpp as pyversity_dpp
from pyversity.strategies import mmr as pyversity_mmr

from ebbtide.interest.slate import ExposedGroup, Groups, Relaxed, Slate, Wishes, compose, relevance
from ebbtide.interest.slate_calibration import SMOOTHING, Calibration, distribution, shares_of
from ebbtide.interest.slate_diversity import Determinantal, MarginalRelevance, unit_rows
from ebbtide.interest.slate_exposure import chance_to_fail, least_by_position, uncorrected

Floats = npt.NDArray[np.float32]

MMR, CALIBRATED, FIRST, SECOND = 0, 1, 2, 3
"""Causes: diversity, calibration, and two limits."""
seeds = st.integers(0, 2**32 - 1)


def drawn(seed: int, candidates: int, d: int = 6) -> tuple[np.random.Generator, Floats, Floats]:
    """A generator, scores from the best down, and directions."""
    rng = np.random.default_rng(seed)
    score = np.sort(rng.normal(size=candidates))[::-1].astype(np.float32)
    return rng, score, unit_rows(rng.normal(size=(candidates, d)).astype(np.float32))


def groups(labels: npt.NDArray[np.int64], counts: dict[int, int], cause: int, *, one_cause: bool = True) -> Groups:
    """Groups of the candidates with each label."""
    causes = [cause + (0 if one_cause else number) for number in range(len(counts))]
    member = labels[:, None] == np.array(list(counts), dtype=np.int64)
    return Groups(member, np.array(list(counts.values())), np.array(causes))


def test_list_is_by_score_when_nothing_is_wished() -> None:
    _, score, _ = drawn(1, 9)

    assert compose(score, Wishes(4)) == Slate([0, 1, 2, 3], [0] * 4, [])
    assert compose(score, Wishes(40)).chosen == list(range(9))


@given(seeds, st.floats(0, 1), st.integers(1, 12))
def test_mmr_is_that_of_pyversity(seed: int, diversity: float, size: int) -> None:
    """Pyversity takes negative cosines as 0, so there are none here."""
    _, score, directions = drawn(seed, 12)
    directions = np.abs(directions)
    theirs = pyversity_mmr(directions, relevance(score), size, diversity, Metric.COSINE)

    ours = compose(score, Wishes(size, diversity, "mmr", directions))

    assert ours.chosen == theirs.indices.tolist()


@given(seeds, st.integers(1, 6))
def test_dpp_is_that_of_pyversity_when_relevance_is_equal(seed: int, size: int) -> None:
    """Theirs weighs relevance by standard deviations, ours by the range; the determinants are the same."""
    _, _, directions = drawn(seed, 12)
    score = np.ones(12, dtype=np.float32)

    ours = compose(score, Wishes(size, 0.5, "dpp", directions))

    assert ours.chosen == pyversity_dpp(directions, score, size, 0.5).indices.tolist()


@given(seeds)
def test_penalty_of_dpp_is_the_fall_of_the_determinant(seed: int) -> None:
    _, _, directions = drawn(seed, 8)
    process = Determinantal(directions, 3)
    chosen: list[int] = []
    for index in (4, 1, 6):
        process.choose(index)
        chosen.append(index)
        cosines = directions.astype(np.float64) @ directions.T.astype(np.float64)
        before = np.linalg.det(cosines[np.ix_(chosen, chosen)])
        for other in set(range(8)) - set(chosen):
            more = [*chosen, other]
            added = np.linalg.det(cosines[np.ix_(more, more)]) / before
            if added > 1e-3:
                assert process.penalty[other] == pytest.approx(-np.log(added), abs=1e-2)


def test_penalty_of_mmr_keeps_negative_cosines() -> None:
    directions = np.array([[1, 0], [-1, 0], [0, 1]], dtype=np.float32)
    likeness = MarginalRelevance(directions, 2)
    likeness.choose(0)

    assert likeness.penalty.tolist() == [1, -1, 0]


def test_items_that_diversity_moves_say_so() -> None:
    score = np.array([3, 2.9, 2.8, 1], dtype=np.float32)
    directions = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], dtype=np.float32)

    found = compose(score, Wishes(3, 0.5, "mmr", directions))

    assert found == Slate([0, 2, 1], [0, 1 << MMR, 1 << MMR], [])


@given(seeds, st.integers(1, 6), st.lists(st.integers(0, 3), min_size=3, max_size=3))
def test_caps_hold_or_are_passed_only_to_fill_the_list(seed: int, size: int, most: list[int]) -> None:
    rng, score, directions = drawn(seed, 8)
    labels = rng.integers(0, 3, size=8)
    caps = groups(labels, dict(enumerate(most)), FIRST)

    found = compose(score, Wishes(size, 0.4, "mmr", directions, caps=caps))

    assert len(set(found.chosen)) == size
    counts = np.bincount(labels[found.chosen], minlength=3)
    room = np.minimum(most, np.bincount(labels, minlength=3)).sum()
    if room >= size:
        assert (counts <= most).all()
        assert not found.relaxed
    else:
        # As many items within the caps as there can be, before the first beyond them.
        inside = np.cumsum(np.eye(3, dtype=int)[labels[found.chosen]], axis=0)[room - 1] if room else np.zeros(3)
        assert (inside <= most).all()
        worst = int((counts - most).argmax())
        assert found.relaxed[0].cause == FIRST
        assert found.relaxed[0].got > found.relaxed[0].wanted
        assert counts[worst] > most[worst]


@given(seeds, st.integers(1, 6), st.integers(1, 4), st.integers(0, 4))
def test_minimum_is_met_as_far_as_brute_force_can(seed: int, size: int, least: int, most: int) -> None:
    """With a cap on each value of one column and a minimum of a value of another."""
    rng, score, directions = drawn(seed, 8)
    brand, kind = rng.integers(0, 3, size=8), rng.integers(0, 2, size=8)
    caps = groups(brand, dict.fromkeys(range(3), most), FIRST)
    minimums = groups(kind, {1: least}, SECOND)
    within = [
        int((kind[list(one)] == 1).sum())
        for one in combinations(range(8), size)
        if (np.bincount(brand[list(one)], minlength=3) <= most).all()
    ]

    found = compose(score, Wishes(size, 0.3, "dpp", directions, caps=caps, minimums=minimums))

    got = int((kind[found.chosen] == 1).sum())
    if within:
        assert got >= min(least, max(within))
        assert (np.bincount(brand[found.chosen], minlength=3) <= most).all()
    told = [one for one in found.relaxed if one.cause == SECOND]
    assert told == ([] if got >= least else [Relaxed(SECOND, least, got)])


@given(seeds, st.integers(1, 7), st.lists(st.integers(1, 3), min_size=2, max_size=2))
def test_last_minimum_gives_way_first_when_there_is_no_room_for_all(seed: int, size: int, least: list[int]) -> None:
    rng, score, _ = drawn(seed, 12)
    labels = np.repeat([0, 1, 2], 4)
    rng.shuffle(labels)
    minimums = groups(labels, dict(enumerate(least)), FIRST, one_cause=False)

    found = compose(score, Wishes(size, minimums=minimums))

    counts = np.bincount(labels[found.chosen], minlength=3)
    assert counts[0] >= min(least[0], size)
    assert counts[1] >= min(least[1], size - min(least[0], size))


def test_minimum_moves_an_item_up_and_says_so() -> None:
    score = np.arange(5, 0, -1).astype(np.float32)
    minimums = groups(np.array([0, 0, 0, 1, 1]), {1: 1}, FIRST)

    found = compose(score, Wishes(3, minimums=minimums))

    assert found == Slate([0, 1, 3], [0, 0, 1 << FIRST], [])


def test_minimum_gives_way_to_a_cap() -> None:
    score = np.arange(5, 0, -1).astype(np.float32)
    labels = np.array([0, 0, 1, 1, 1])

    found = compose(score, Wishes(3, caps=groups(labels, {1: 1}, FIRST), minimums=groups(labels, {1: 2}, SECOND)))

    assert found.chosen == [0, 1, 2]
    assert found.relaxed == [Relaxed(SECOND, 2, 1)]


def test_items_that_a_cap_moves_say_so() -> None:
    score = np.arange(5, 0, -1).astype(np.float32)

    found = compose(score, Wishes(3, caps=groups(np.array([0, 0, 0, 1, 2]), {0: 1, 1: 1, 2: 1}, FIRST)))

    assert found == Slate([0, 3, 4], [0, 1 << FIRST, 1 << FIRST], [])


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (0.1, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (0.3, [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2]),
        (0.5, [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4]),
        (0.7, [0, 1, 1, 2, 2, 3, 3, 4, 5, 5, 6, 6]),
    ],
)
def test_least_protected_items_are_those_of_the_paper(share: float, expected: list[int]) -> None:
    """Rows of the table of Zehlike et al. for a significance of 0.1."""
    assert uncorrected(12, share, 0.1).tolist() == expected


@given(st.integers(1, 8), st.floats(0.05, 0.95), st.floats(0.01, 0.5))
def test_chance_to_fail_is_that_of_all_lists(items: int, share: float, significance: float) -> None:
    least = uncorrected(items, share, significance)
    failing = 0.0
    for number in range(2**items):
        bits = np.array([number >> position & 1 for position in range(items)])
        if (np.cumsum(bits) < least).any():
            failing += share ** bits.sum() * (1 - share) ** (items - bits.sum())

    assert chance_to_fail(least, share) == pytest.approx(failing, abs=1e-9)
    assert chance_to_fail(least_by_position(items, share, significance), share) <= significance + 1e-9


@given(seeds, st.integers(1, 10), st.floats(0.1, 0.9))
def test_exposure_holds_at_every_position_while_items_last(seed: int, size: int, share: float) -> None:
    rng, score, directions = drawn(seed, 10)
    member = rng.random(10) < 0.4
    least = least_by_position(size, share, 0.1)

    found = compose(score, Wishes(size, 0.3, "mmr", directions, exposures=[ExposedGroup(member, least, FIRST)]))

    got = np.cumsum(member[found.chosen])
    assert (got >= np.minimum(least, member.sum())).all()
    short = np.flatnonzero(got < least)
    expected = [Relaxed(FIRST, int(least[one]), int(got[one]), int(one) + 1) for one in short[:1]]
    assert found.relaxed == expected


@given(seeds)
def test_divergence_is_that_of_the_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    member = rng.random((7, 4)) < 0.5
    shares = shares_of(member)
    wanted = distribution(shares_of(rng.random((5, 4)) < 0.7), rng.random(5).astype(np.float32))
    calibration = Calibration(shares, wanted)
    chosen: list[int] = []
    for choice in (3, 0, 5):
        for index in range(7):
            summed = shares[[*chosen, index]].sum(axis=0)
            of_list = summed / summed.sum() if summed.sum() else np.zeros(4)
            smooth = (1 - SMOOTHING) * of_list + SMOOTHING * wanted
            kept = wanted > 0
            divergence = float((wanted[kept] * np.log(wanted[kept] / smooth[kept])).sum())
            assert calibration.penalty[index] == pytest.approx(divergence, abs=1e-4)
        calibration.choose(choice)
        chosen.append(choice)


def test_list_follows_the_distribution_of_the_user_when_it_is_calibrated() -> None:
    """Steck's example: 70 percent romance and 30 percent action in the events, and romance scores best."""
    member = np.zeros((20, 2), dtype=np.bool_)
    member[:10, 0], member[10:, 1] = True, True
    score = np.arange(20, 0, -1).astype(np.float32)
    calibration = Calibration(shares_of(member), np.array([0.7, 0.3], dtype=np.float32))

    found = compose(score, Wishes(10, calibration=calibration, calibration_weight=0.99))

    assert member[found.chosen].sum(axis=0).tolist() == [7, 3]
    assert {moved for index, moved in zip(found.chosen, found.moved_by, strict=True) if index >= 10} == {
        1 << CALIBRATED
    }


def test_pinned_items_keep_their_positions_and_count() -> None:
    score = np.arange(6, 0, -1).astype(np.float32)
    caps = groups(np.array([0, 0, 1, 1, 0, 0]), {0: 2}, FIRST)

    found = compose(score, Wishes(3, caps=caps, pinned={1: 5, 9: 4}))

    assert found.chosen == [2, 5, 4]
    assert not found.relaxed


def test_relevance_is_from_0_to_1() -> None:
    ones: list[Any] = relevance(np.full(3, 7, dtype=np.float32)).tolist()

    assert relevance(np.array([4, 3, 2], dtype=np.float32)).tolist() == [1, 0.5, 0]
    assert ones == [1, 1, 1]
