"""The comparison under an open model, on servers whose true limits are known."""

import numpy as np
import pytest

from ebbtide.tune.errors import TuneError
from ebbtide.tune.ratios import log_ratio, ratio_of
from ebbtide.tune.verdict import FEWEST_REPEATS, compare


def limited_to(rate, random, spread=0.03):
    """Holds rates below its limit, which moves a little from trial to trial."""
    return lambda asked, _draw: asked < rate * np.exp(random.normal(0, spread))


@pytest.mark.parametrize("seed", range(5))
def test_verdict_finds_both_limits_and_their_ratio_when_guesses_are_rough(seed):
    random = np.random.default_rng(seed)
    trials = (limited_to(1_000, random), limited_to(1_300, random))
    found = compare(*trials, (700, 1_900), repeats=8, time_is_up=lambda: False)
    assert found.default_rate == pytest.approx(1_000, rel=0.05)
    assert found.winner_rate == pytest.approx(1_300, rel=0.05)
    assert found.ratio.low < 1.3 < found.ratio.high
    assert found.is_proven


def test_verdict_proves_nothing_when_both_are_alike():
    random = np.random.default_rng(1)
    trials = [limited_to(1_000, random) for _ in range(2)]
    assert not compare(*trials, (900, 1_100), repeats=8, time_is_up=lambda: False).is_proven


def test_verdict_has_the_fewest_repeats_when_the_time_is_up():
    random = np.random.default_rng(2)
    trials = [limited_to(1_000, random) for _ in range(2)]
    assert len(compare(*trials, (900, 900), repeats=8, time_is_up=lambda: True).default_rates) == FEWEST_REPEATS


def test_both_meet_the_same_arrivals_when_they_are_tried_in_turn():
    seen = ([], [])

    def trial(index):
        return lambda asked, draw: (seen[index].append(draw), asked < 1_000)[1]

    compare(trial(0), trial(1), (900, 900), repeats=3, time_is_up=lambda: False)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == len(seen[0])


def test_verdict_is_refused_when_the_default_holds_nothing():
    with pytest.raises(
        TuneError, match="slo: got an objective that the default settings did not hold at any rate tried"
    ):
        compare(lambda *_: False, lambda *_: True, (100, 100), repeats=3, time_is_up=lambda: False)


def test_interval_holds_the_true_ratio_about_as_often_as_it_says():
    random = np.random.default_rng(3)
    inside = [
        found.low < 1.1 < found.high
        for found in (ratio_of(list(np.log(1.1) + random.normal(0, 0.05, 5))) for _ in range(2_000))
    ]
    assert 0.93 < np.mean(inside) < 0.97


def test_ratio_is_bounded_when_nothing_was_answered():
    assert ratio_of([log_ratio(0.0, 1_000.0)]).mean == pytest.approx(1e-3)
