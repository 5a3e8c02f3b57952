"""Requests in, adaptive weights or named errors out."""

from dataclasses import replace

import numpy as np
import pytest

from ebbtide.interest.checks import Request
from ebbtide.interest.contract import Limits
from ebbtide.interest.errors import RequestError
from ebbtide.interest.lookup import KeyIndex
from ebbtide.interest.parameters import InterestConfig, InterestParameters
from ebbtide.interest.pipeline import InterestPipeline

NOW = 1_000_000
KEYS = np.array([70, -10, 30], np.int64)
LIMITS = Limits(max_events=4, max_exclude_items=2)


@pytest.fixture
def pipeline():
    config = InterestConfig("f" * 16, 500, 0.5, True, LIMITS)
    zeros = np.zeros(2, np.float32)
    parameters = InterestParameters(config, zeros, zeros, None, np.array([0.25], np.float32))
    return InterestPipeline(parameters, KeyIndex.build(KEYS), np.array([[3, 4], [1, 0], [0, 2]], np.float32))


def request(items=(70,), times=None, **optional):
    times = [NOW] * len(items) if times is None else times
    arrays = {
        "event_is_current": np.bool_,
        "event_weight": np.float32,
        "alpha": np.float32,
        "exclude_item": np.int64,
        "exclude_seen": np.bool_,
        "text_vector": np.float32,
    }
    return Request(
        np.array(items, np.int64),
        np.array(times, np.int64),
        np.array([NOW], np.int64),
        **{name: np.array(value, arrays[name]) for name, value in optional.items()},
    )


def test_pipeline_gives_interest_and_prior_weights_when_the_request_is_sound(pipeline):
    (answer,) = pipeline.run([request([70], event_is_current=[False])])
    assert answer.interest == pytest.approx([0.5 * 0.6, 0.5 * 0.8, 0.25])
    assert answer.alpha_used.tolist() == [0.5]
    assert answer.events_used.tolist() == [1]


def test_pipeline_takes_text_vectors_after_items_when_both_are_given(pipeline):
    (answer,) = pipeline.run(
        [request([-10], times=[NOW - 9, NOW - 5], text_vector=[[0, 7]], event_is_current=[True, False])]
    )
    assert answer.interest == pytest.approx([0.5, 0.5, 0.25])
    assert answer.events_used.tolist() == [2]


def test_pipeline_excludes_seen_and_named_items_when_the_policy_says_so(pipeline):
    (answer,) = pipeline.run([request([70], exclude_item=[30, 12345])])
    excluded = answer.adjust_item[np.isneginf(answer.adjust_score)]
    assert sorted(excluded.tolist()) == [0, 2]
    assert answer.adjust_item.shape == (LIMITS.adjustments,)


def test_pipeline_excludes_nothing_when_the_request_turns_it_off(pipeline):
    (answer,) = pipeline.run([request([70], exclude_seen=[False])])
    assert not answer.adjust_score.any()


BAD = [
    (request([70, 5]), "event_item[1]", "5", "catalog"),
    (request([70] * 5), "event_item", "5 events", "at most 4"),
    (request([70], times=[-1]), "event_time[0]", "-1", "Unix milliseconds"),
    (request([70], times=[NOW + 1]), "event_time[0]", str(NOW + 1), "to `now`"),
    (request([70], times=[1, 2]), "event_time", "2 entries", "1 entries"),
    (request([70], event_is_current=[True, False]), "event_is_current", "2 entries", "1 entries"),
    (request([70], event_weight=[]), "event_weight", "0 entries", "1 entries"),
    (request([70], event_weight=[np.nan]), "event_weight[0]", "nan", "finite"),
    (request([70], event_weight=[-1]), "event_weight[0]", "-1", "0 or more"),
    (request([70], event_weight=[np.inf]), "event_weight[0]", "inf", "finite"),
    (request([70], alpha=[1.5]), "alpha", "1.5", "0 to 1"),
    (request([70], alpha=[np.nan]), "alpha", "nan", "0 to 1"),
    (request([70], exclude_item=[1, 2, 3]), "exclude_item", "3 items", "at most 2"),
    (replace(request([70]), now=np.array([-5], np.int64)), "now", "-5", "0 or more"),
]


@pytest.mark.parametrize(
    ("bad", "field", "value", "expected"), BAD, ids=[f"{field}-{value}" for _, field, value, _ in BAD]
)
def test_pipeline_names_field_value_and_expectation_when_a_request_is_bad(pipeline, bad, field, value, expected):
    good = request([30], event_is_current=[True])
    first, error, last = pipeline.run([good, bad, good])
    assert isinstance(error, RequestError)
    assert (error.field, expected in error.expected) == (field, True), error
    assert value in error.value
    np.testing.assert_array_equal(first.interest, last.interest)
    assert first.interest == pytest.approx([0, 0.5, 0.25])


def test_pipeline_answers_in_order_when_every_other_request_is_bad(pipeline):
    answers = pipeline.run([request([key]) for key in (70, 1, -10, 2, 30)])
    assert [isinstance(answer, RequestError) for answer in answers] == [False, True, False, True, False]
