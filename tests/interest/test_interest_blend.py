"""The interest formulas, compared with numbers calculated by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.interest.blend import blend_interest
from ebbtide.interest.contract import Limits
from ebbtide.interest.decay import event_decays
from ebbtide.interest.events import MS_PER_DAY, EventBatch, order_events
from ebbtide.interest.parameters import GateParameters, InterestConfig, InterestParameters

NOW_MS = 10_000 * MS_PER_DAY


def parameters(d, *, fixed_alpha=0.5, half_life_days=None, rank_half_life=None, gate=None):
    def rates(half_life):
        return np.zeros(d, np.float32) if half_life is None else (np.log(2) / np.asarray(half_life)).astype(np.float32)

    config = InterestConfig("0" * 16, 1_800_000, None if gate else fixed_alpha, True, False, Limits())
    return InterestParameters(config, rates(half_life_days), rates(rank_half_life), gate, np.zeros(0, np.float32))


def batch_of(ages_days, is_current, weight=None) -> EventBatch:
    times = NOW_MS - (np.asarray(ages_days, float) * MS_PER_DAY).astype(np.int64)
    return order_events(
        np.array([len(times)]),
        times,
        np.array([NOW_MS]),
        None if weight is None else np.asarray(weight, np.float32),
        np.asarray(is_current, bool),
        1_800_000,
    )


def test_blend_gives_the_corrected_worked_example_when_nothing_decays():
    # The source prints [.2 .2 .2 .2 .2]; its own formula gives the numbers below. Two events t + v and t - v sum to 2 t
    # and have the Frobenius norm sqrt(2 (|t|^2 + |v|^2)), which is 2, so that w is t, where |v|^2 = 2 - |t|^2.
    def events(t):
        v = np.array([0, 0, 0, 0, (2 - t @ t) ** 0.5], np.float32)
        return [t + v, t - v]

    long_term = np.array([0.4, 0.4, 0.2, 0, 0], np.float32)
    current = np.array([0, 0, 0, 0.6, 0.4], np.float32)
    vectors = np.stack([*events(long_term), *events(current)])
    blend = blend_interest(batch_of([4, 3, 2, 1], [False, False, True, True]), vectors, parameters(5))
    assert blend.long_term[0] == pytest.approx(long_term, abs=1e-6)
    assert blend.current[0] == pytest.approx(current, abs=1e-6)
    assert blend.interest[0] == pytest.approx([0.2, 0.2, 0.1, 0.3, 0.2], abs=1e-6)


def test_blend_divides_by_the_frobenius_norm_when_a_set_has_several_events():
    # H = [[3, 0], [0, 4]]: ||H||_F = 5, w_H = [3/5, 4/5]; C = [[1, 1]]: w_C = [1, 1] / sqrt 2; alpha = .25.
    vectors = np.array([[3, 0], [0, 4], [1, 1]], np.float32)
    blend = blend_interest(batch_of([3, 2, 1], [False, False, True]), vectors, parameters(2, fixed_alpha=0.25))
    assert blend.long_term[0] == pytest.approx([0.6, 0.8])
    assert blend.current[0] == pytest.approx([2**-0.5, 2**-0.5])
    assert blend.interest[0] == pytest.approx([0.25 * 0.6 + 0.75 * 2**-0.5, 0.25 * 0.8 + 0.75 * 2**-0.5])


@pytest.mark.parametrize(("is_current", "empty"), [([True], "long_term"), ([False], "current")])
def test_blend_gives_the_zero_vector_when_a_set_is_empty(is_current, empty):
    blend = blend_interest(batch_of([1], is_current), np.ones((1, 3), np.float32), parameters(3))
    assert not getattr(blend, empty).any()
    assert blend.interest[0] == pytest.approx(np.full(3, 0.5 / 3**0.5))


def test_blend_gives_zero_interest_when_there_is_no_event():
    blend = blend_interest(batch_of([], []), np.empty((0, 3), np.float32), parameters(3))
    assert blend.interest.shape == (1, 3)
    assert not blend.interest.any()


def test_decay_is_one_half_when_an_event_is_one_half_life_old():
    p = parameters(2, half_life_days=[7, 14])
    decay = event_decays(batch_of([7, 0], [False, False]), p.decay_rate_per_day, p.rank_decay_rate)
    assert decay[0] == pytest.approx([0.5, 0.5**0.5])
    assert decay[1] == pytest.approx([1, 1])


def test_decay_halves_when_rank_half_life_later_events_follow():
    p = parameters(1, rank_half_life=[2])
    decay = event_decays(batch_of([3, 2, 1], [False] * 3), p.decay_rate_per_day, p.rank_decay_rate)
    assert decay[:, 0] == pytest.approx([0.5, 0.5**0.5, 1])


@pytest.mark.parametrize(("scale", "left"), [(1, 0.5), (2, 0.25), (0, 1), (3e38, 0)])
def test_decay_by_age_follows_the_scale_when_a_request_gives_one(scale, left):
    p = parameters(2, half_life_days=[7, np.inf])
    decay = event_decays(batch_of([7], [False]), p.decay_rate_per_day, p.rank_decay_rate, np.array([scale], np.float32))
    assert decay[0] == pytest.approx([left, 1])


def test_decay_by_rank_stays_when_a_request_turns_the_decay_by_age_off():
    p = parameters(1, half_life_days=[7], rank_half_life=[1])
    decay = event_decays(
        batch_of([9, 7], [False] * 2), p.decay_rate_per_day, p.rank_decay_rate, np.zeros(1, np.float32)
    )
    assert decay[:, 0] == pytest.approx([0.5, 1])


def test_blend_weighs_an_event_thrice_when_its_weight_is_three():
    # H = [[3, 0], [0, 1]] after weighting: the sum is [3, 1], the norm sqrt 10.
    blend = blend_interest(batch_of([2, 1], [False, False], weight=[3, 1]), np.eye(2, dtype=np.float32), parameters(2))
    assert blend.long_term[0] == pytest.approx(np.array([3, 1]) / 10**0.5)


def test_blend_fades_to_zero_when_every_event_is_far_older_than_every_half_life():
    blend = blend_interest(
        batch_of([9_000], [False]), np.ones((1, 2), np.float32), parameters(2, half_life_days=[1, 2])
    )
    assert np.isfinite(blend.interest).all()
    assert not blend.interest.any()


def gate_of(bias, d=2, outputs=1):
    return GateParameters(
        np.zeros((2 * d + 4, 3), np.float32),
        np.zeros(3, np.float32),
        np.zeros((3, outputs), np.float32),
        np.full(outputs, bias, np.float32),
    )


@pytest.mark.parametrize(
    ("is_current", "alpha"), [([False, True], 1 / (1 + np.exp(1))), ([True, True], 0), ([False, False], 1)]
)
def test_gate_gives_the_only_set_all_weight_when_the_other_is_empty(is_current, alpha):
    blend = blend_interest(batch_of([2, 1], is_current), np.ones((2, 2), np.float32), parameters(2, gate=gate_of(-1)))
    assert blend.alpha[0] == pytest.approx([alpha])


def test_gate_gives_one_alpha_per_dimension_when_it_has_as_many_outputs():
    gate = gate_of(0, outputs=2)
    gate.output_bias[:] = [-2, 2]
    blend = blend_interest(batch_of([2, 1], [False, True]), np.ones((2, 2), np.float32), parameters(2, gate=gate))
    assert blend.alpha[0] == pytest.approx(1 / (1 + np.exp([2, -2])))


def test_alpha_given_with_a_request_wins_when_the_others_in_the_batch_have_none():
    batch = order_events(
        np.array([1, 1]),
        np.full(2, NOW_MS),
        np.full(2, NOW_MS),
        None,
        np.array([False, False]),
        1_800_000,
    )
    override = np.array([np.nan, 0.125], np.float32)
    blend = blend_interest(batch, np.ones((2, 2), np.float32), parameters(2), override)
    assert blend.alpha[:, 0] == pytest.approx([0.5, 0.125])


@given(
    ages=st.lists(st.floats(0, 4000), min_size=1, max_size=12),
    seed=st.integers(0, 2**32 - 1),
)
def test_blend_of_a_batch_equals_the_blends_of_its_requests(ages, seed):
    random = np.random.default_rng(seed)
    p = parameters(4, half_life_days=[0.5, 5, 50, 500], rank_half_life=[1, 2, 4, 8], gate=gate_of(0.3, d=4))
    flags = random.random(len(ages)) < 0.5
    vectors = random.standard_normal((len(ages), 4)).astype(np.float32)
    times = NOW_MS - (np.asarray(ages) * MS_PER_DAY).astype(np.int64)
    alone = order_events(np.array([len(ages)]), times, np.array([NOW_MS]), None, flags, 1_800_000)
    twice = order_events(
        np.array([len(ages), 0, len(ages)]), np.r_[times, times], np.full(3, NOW_MS), None, np.r_[flags, flags], 1
    )
    one = blend_interest(alone, vectors[alone.source], p)
    three = blend_interest(twice, np.r_[vectors, vectors][twice.source], p)
    np.testing.assert_allclose(three.interest[[0, 2]], np.repeat(one.interest, 2, axis=0), rtol=1e-5, atol=1e-6)
    assert not three.interest[1].any()
