"""Learning online: the step against the loss itself, and the bounds that no feedback can pass."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.interest.gate import gate_alpha
from ebbtide.interest.online import (
    LARGEST_OFFSET,
    LARGEST_STEP,
    OnlineLearning,
    feedback_direction,
    shifted_alpha,
)
from ebbtide.interest.parameters import GateParameters

D, ITEMS = 4, 9
SEEDS = st.integers(0, 2**32 - 1)
OFFSETS = st.floats(-LARGEST_OFFSET, LARGEST_OFFSET, width=32)
RATES = st.floats(0, 1e6)


def draw(seed, *, per_dimension=False, scale=1.0):
    """Alpha, w_H, w_C, factors and the prior of one user and a small catalog."""
    random = np.random.default_rng(seed)
    alpha = random.uniform(0.01, 0.99, (1, D if per_dimension else 1)).astype(np.float32)
    halves = (random.standard_normal((2, 1, D)) * scale).astype(np.float32)
    return alpha, *halves, random.standard_normal((ITEMS, D)).astype(np.float32), random.standard_normal(ITEMS)


def scores_of(alpha, long_term, current, factors, prior, share=1.0):
    """Of the catalog, ``[items]``."""
    return share * (factors.astype(np.float64) @ (alpha * long_term + (1 - alpha) * current)[0]) + prior


@pytest.mark.parametrize("per_dimension", [False, True])
@given(seed=SEEDS, offset=OFFSETS, taken=st.sets(st.integers(0, ITEMS - 1), min_size=1), data=st.data())
def test_step_follows_the_gradient_of_the_loss_when_it_is_differentiated_numerically(
    per_dimension, seed, offset, taken, data
):
    alpha, long_term, current, factors, prior = draw(seed, per_dimension=per_dimension)
    share = np.array(
        data.draw(st.lists(st.sampled_from([0, 0.3, 1]), min_size=ITEMS, max_size=ITEMS)), dtype=np.float32
    )
    is_taken = np.isin(np.arange(ITEMS), list(taken))

    def loss(offset):
        odds = alpha.astype(np.float64) * np.exp(offset)
        scores = scores_of(odds / (odds + 1 - alpha), long_term, current, factors, prior, share)
        return np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[is_taken].mean()

    expected = (loss(offset + 1e-4) - loss(offset - 1e-4)) / 2e-4
    given_offset = np.array([offset], dtype=np.float32)
    used = shifted_alpha(alpha, given_offset)
    scores = scores_of(used, long_term, current, factors, prior, share)
    direction = feedback_direction(factors, scores, is_taken, share)
    rate = 1e-3
    after = OnlineLearning(rate).step(given_offset, used, long_term - current, direction[None])
    at_most = np.clip(offset - np.clip(rate * expected, -LARGEST_STEP, LARGEST_STEP), -LARGEST_OFFSET, LARGEST_OFFSET)
    assert after[0] == pytest.approx(at_most, abs=1e-6)


@given(seed=SEEDS, rate=RATES, scale=st.sampled_from([1e-6, 1.0, 1e6]), steps=st.lists(st.integers(0, ITEMS - 1)))
def test_offset_stays_bounded_when_feedback_and_rate_are_of_any_size(seed, rate, scale, steps):
    alpha, long_term, current, factors, prior = draw(seed, scale=scale)
    offset = np.zeros(1, dtype=np.float32)
    for item in steps:
        used = shifted_alpha(alpha, offset)
        scores = scores_of(used, long_term, current, factors, prior)
        direction = feedback_direction(factors, scores, np.arange(ITEMS) == item)
        after = OnlineLearning(rate).step(offset, used, long_term - current, direction[None])
        assert np.abs(after - offset) <= LARGEST_STEP * (1 + 1e-6)
        assert np.abs(after) <= LARGEST_OFFSET
        offset = after


@given(seed=SEEDS, offset=OFFSETS, item=st.integers(0, ITEMS - 1))
def test_nothing_changes_when_the_learning_rate_is_0(seed, offset, item):
    alpha, long_term, current, factors, prior = draw(seed)
    before = np.array([offset], dtype=np.float32)
    scores = scores_of(alpha, long_term, current, factors, prior)
    direction = feedback_direction(factors, scores, np.arange(ITEMS) == item)
    after = OnlineLearning(0).step(before, alpha, long_term - current, direction[None])
    np.testing.assert_array_equal(after, before)


@given(seed=SEEDS, offset=OFFSETS, rate=st.floats(0.01, 10))
def test_alpha_rises_when_an_item_is_taken_that_history_ranks_first_and_the_session_last(seed, offset, rate):
    alpha, long_term, current, factors, prior = draw(seed)
    along = factors @ (long_term - current)[0]
    taken = np.arange(ITEMS) == along.argmax()
    before = np.array([offset], dtype=np.float32)
    used = shifted_alpha(alpha, before)
    scores = scores_of(used, long_term, current, factors, prior)
    after = OnlineLearning(rate).step(
        before, used, long_term - current, feedback_direction(factors, scores, taken)[None]
    )
    assert after >= before
    assert (shifted_alpha(alpha, after) >= used).all()
    back = OnlineLearning(rate).step(
        before, used, long_term - current, feedback_direction(factors, scores, np.arange(ITEMS) == along.argmin())[None]
    )
    assert back <= before
    assert after > back


@given(seed=SEEDS, offset=OFFSETS)
def test_shifted_alpha_equals_the_gate_with_that_offset(seed, offset):
    random = np.random.default_rng(seed)
    gate = GateParameters(
        *(random.standard_normal(shape).astype(np.float32) for shape in ((2 * D + 4, 3), (3,), (3, D), (D,)))
    )
    halves = random.standard_normal((2, 3, D)).astype(np.float32)
    context = (np.array([3, 0, 5]), np.array([2, 4, 0]), np.array([0.5, 2, 40], dtype=np.float32))
    offsets = np.full(3, offset, dtype=np.float32)
    expected = gate_alpha(gate, *halves, *context, offsets)
    found = shifted_alpha(gate_alpha(gate, *halves, *context), offsets)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (found[1] == 0).all()
    assert (found[2] == 1).all()


def test_shifted_alpha_is_the_very_same_when_the_offset_is_0():
    alpha = np.random.default_rng(0).uniform(0, 1, (100_000, 1)).astype(np.float32)
    np.testing.assert_array_equal(shifted_alpha(alpha, np.zeros(alpha.size, dtype=np.float32)), alpha)


def test_taken_item_is_no_feedback_when_it_could_not_be_shown():
    *_, factors, prior = draw(5)
    prior[2] = -np.inf
    none = feedback_direction(factors, prior, np.arange(ITEMS) == 2)
    np.testing.assert_array_equal(none, np.zeros(D, dtype=np.float32))
    both = feedback_direction(factors, prior, np.isin(np.arange(ITEMS), [2, 3]))
    np.testing.assert_array_equal(both, feedback_direction(factors, prior, np.arange(ITEMS) == 3))


@pytest.mark.parametrize("rate", [-0.1, float("inf"), float("nan")])
def test_learning_rate_is_refused_when_it_is_not_a_number_from_0_on(rate):
    with pytest.raises(ValueError, match=r"learning_rate: got .* expected a number from 0 on"):
        OnlineLearning(rate)
