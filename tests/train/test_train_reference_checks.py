"""What the reference of the formulas refuses, in place of a wrong score: the arguments that a notebook gets wrong."""

import numpy as np
import pandas as pd
import pytest
import torch

from ebbtide.train.config import ModelConfig
from ebbtide.train.errors import RequestError
from ebbtide.train.model import InterestModel
from ebbtide.train.reference import score_request

NOW = 1_715_700_000_000
TIMES = [NOW - 86_400_000, NOW - 60_000]
DAYS = pd.to_datetime(TIMES, unit="ms")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    return InterestModel(ModelConfig(dimensions=4, prior_half_life_days=()), torch.randn(6, 8))


def score(model, **changes):
    request = {"item": [0, 1], "time_ms": TIMES, "now_ms": NOW, "exclude_seen": False} | changes
    return score_request(model, np.zeros((6, 0), np.float32), **request)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item": [-1, 1]}, r"item\[0\]: got -1; expected a catalog index from 0 to 5"),
        ({"item": [6, 1]}, r"item\[0\]: got 6; expected a catalog index from 0 to 5"),
        ({"item": [0.0, 1.2]}, r"item\[0\]: got 0.0; expected a whole number"),
        ({"item": ["0", "1"]}, r"item\[0\]: got '0'; expected a whole number"),
        ({"exclude": [-1]}, r"exclude\[0\]: got -1; expected a catalog index"),
        ({"time_ms": [NOW]}, "time_ms: got 1 entries; expected 2, one for each event"),
        ({"time_ms": [one // 1000 for one in TIMES]}, r"time_ms\[0\]: got 1715613600; .*it is 2024-05-13 in s"),
        ({"time_ms": [NOW, NOW + 1]}, r"time_ms\[1\]: got 1715700000001; expected a time not after now_ms"),
        ({"time_ms": [float("nan"), NOW]}, r"time_ms\[0\]: got nan; expected a whole number"),
        ({"time_ms": pd.Series(DAYS)}, r"time_ms\[0\]: got Timestamp.*; expected a whole number"),
        ({"time_ms": np.array([DAYS[0].to_datetime64(), np.datetime64("NaT")])}, r"time_ms\[0\]: got .*2024"),
        ({"now_ms": str(NOW)}, "now_ms: got '1715700000000'; expected a whole number"),
        ({"weight": [1]}, "weight: got 1 entries; expected 2"),
        ({"weight": [float("nan"), 1]}, r"weight\[0\]: got nan; expected a finite number"),
        ({"weight": ["five", 1]}, r"weight\[0\]: got 'five'; expected a finite number"),
        ({"is_current": [True]}, "is_current: got 1 entries; expected 2"),
        ({"is_current": ["False", "False"]}, r"is_current\[0\]: got 'False'; expected True or False"),
        ({"alpha": 2}, "alpha: got 2; expected a number from 0 to 1"),
        ({"alpha": float("nan")}, "alpha: got nan; expected a finite number"),
        ({"decay_scale": -1}, "decay_scale: got -1; expected 0 or more"),
        ({"text_vectors": np.zeros((1, 5), np.float32)}, r"text_vectors: got the shape \(1, 5\); expected \(1, 8\)"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(model, changes, message):
    with pytest.raises(RequestError, match=message):
        score(model, **changes)


def test_numbers_of_other_kinds_score_the_same(model):
    expected = score(model, weight=[1, 2]).scores
    for kind in (object, np.int64):
        found = score(model, item=np.array([0, 1], kind), time_ms=np.array(TIMES, kind), weight=np.array([1, 2], "f2"))
        np.testing.assert_array_equal(found.scores, expected)


def test_a_negative_weight_moves_away_from_the_item(model):
    # The weight of an event type may be negative.
    assert score(model, weight=[-1, 1]).scores[0] != score(model).scores[0]


def test_no_events_score_as_a_new_user(model):
    found = score(model, item=np.array([], int), time_ms=np.array([]))
    assert (found.events, found.current_events) == (0, 0)
