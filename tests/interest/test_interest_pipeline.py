"""Requests give adaptive weights or named errors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.interest.batch import run_guarded
from ebbtide.interest.checks import Request
from ebbtide.interest.contract import Limits
from ebbtide.interest.errors import RequestError
from ebbtide.interest.lookup import KeyIndex
from ebbtide.interest.parameters import InterestConfig, InterestParameters
from ebbtide.interest.pipeline import AdaptiveWeights, InterestPipeline

NOW = 1_000_000
KEYS = np.array([70, -10, 30], np.int64)
LIMITS = Limits(max_events=4, max_exclude_items=2, max_attributes=2, max_candidates=2, max_texts=2)


@pytest.fixture
def pipeline(make_model):
    config = InterestConfig("f" * 16, 500, 0.5, True, False, LIMITS)
    zeros = np.zeros(2, np.float32)
    parameters = InterestParameters(config, zeros, zeros, None, np.array([0.25], np.float32))
    vectors = np.array([[3, 4], [1, 0], [0, 2]], np.float32)
    return InterestPipeline(parameters, KeyIndex.build(KEYS), vectors, make_model().attributes)


def request(items=(70,), times=None, now=NOW, **optional):
    times = [NOW] * len(items) if times is None else times
    arrays = {
        "event_is_current": np.bool_,
        "event_weight": np.float32,
        "event_count": np.int32,
        "alpha": np.float32,
        "decay_scale": np.float32,
        "exclude_item": np.int64,
        "exclude_seen": np.bool_,
        "ignore_unknown": np.bool_,
        "allow_attribute": np.int64,
        "candidate_item": np.int64,
        "text_vector": np.float32,
        "text_event": np.int64,
    }
    return Request(
        np.array(items, np.int64),
        np.array(times, np.int64),
        np.array([now], np.int64),
        **{name: np.array(value, arrays[name]) for name, value in optional.items()},
    )


def test_pipeline_gives_interest_and_prior_weights_when_the_request_is_sound(pipeline):
    (answer,) = pipeline.run([request([70], event_is_current=[False])])
    assert answer.interest == pytest.approx([0.5 * 0.6, 0.5 * 0.8, 0.25])
    assert answer.alpha_used.tolist() == [0.5]
    assert answer.event_counts.tolist() == [1, 0, 0]


def test_pipeline_takes_text_vectors_after_items_when_both_are_given(pipeline):
    (answer,) = pipeline.run(
        [request([-10], times=[NOW - 9, NOW - 5], text_vector=[[0, 7]], event_is_current=[True, False])]
    )
    assert answer.interest == pytest.approx([0.5, 0.5, 0.25])
    assert answer.event_counts.tolist() == [1, 1, 0]


def test_pipeline_excludes_seen_and_named_items_when_the_policy_says_so(pipeline):
    (answer,) = pipeline.run([request([70], exclude_item=[30, 12345])])
    excluded = answer.adjust_item[np.isneginf(answer.adjust_score)]
    assert sorted(excluded.tolist()) == [0, 2]
    assert answer.adjust_item.shape == (LIMITS.adjustments,)


def test_pipeline_excludes_nothing_when_the_request_turns_it_off(pipeline):
    (answer,) = pipeline.run([request([70], exclude_seen=[False])])
    assert not answer.adjust_score.any()


TEXT = [[0, 7]]
BAD = [
    (request([70, 5]), "event_item[1]", "5", "catalog"),
    (request([70, 5], ignore_unknown=[False]), "event_item[1]", "5", "`ignore_unknown`"),
    (request([5, 6], text_vector=TEXT, text_event=[0]), "event_item[1]", "6", "catalog"),
    (request([70] * 5), "event_item", "5 events", "at most 4"),
    (request([70] * 4, times=[1] * 5, text_vector=TEXT), "event_item", "5 events", "at most 4"),
    (request([70], times=[-1]), "event_time[0]", "-1", "Unix milliseconds"),
    (request([70], times=[NOW + 1]), "event_time[0]", str(NOW + 1), "to `now`"),
    (request([70], times=[1, 2]), "event_time", "2 entries", "1 entries"),
    (request([70], text_vector=TEXT), "event_time", "1 entries", "2 entries"),
    (request([70], event_is_current=[True, False]), "event_is_current", "2 entries", "1 entries"),
    (request([70], event_weight=[]), "event_weight", "0 entries", "1 entries"),
    (request([70], event_weight=[np.nan]), "event_weight[0]", "nan", "finite"),
    (request([70], event_weight=[-1]), "event_weight[0]", "-1", "0 to 1e15"),
    (request([70], event_weight=[np.inf]), "event_weight[0]", "inf", "finite"),
    (request([70], event_weight=[2e15]), "event_weight[0]", "2000000000000000.0", "0 to 1e15"),
    (request([70], event_count=[-1]), "event_count", "-1", "0 to 1"),
    (request([70], event_count=[2]), "event_count", "2", "0 to 1"),
    (request([], times=[1], event_count=[0], text_vector=TEXT), "event_count", "0", "none along with texts"),
    (request([70], alpha=[1.5]), "alpha", "1.5", "0 to 1"),
    (request([70], alpha=[np.nan]), "alpha", "nan", "0 to 1"),
    (request([70], decay_scale=[-0.5]), "decay_scale", "-0.5", "0 or more"),
    (request([70], decay_scale=[np.inf]), "decay_scale", "inf", "finite"),
    (request([70], decay_scale=[np.nan]), "decay_scale", "nan", "finite"),
    (request([70], exclude_item=[1, 2, 3]), "exclude_item", "3 items", "at most 2"),
    (request([70], allow_attribute=[11, 12, 11]), "allow_attribute", "3 attribute values", "at most 2"),
    (request([70], allow_attribute=[11, 99]), "allow_attribute[1]", "99", "attribute values"),
    (request([70], candidate_item=[1, 2, 3]), "candidate_item", "3 items", "at most 2"),
    (request([], times=[1] * 3, text_vector=TEXT * 3), "text_vector", "3 texts", "at most 2"),
    (request([70], text_event=[0]), "text_event", "1 entries", "0 entries"),
    (request([70], times=[1, 1], text_vector=TEXT, text_event=[-1, 0]), "text_event", "2 entries", "1 entries"),
    (request([70], text_vector=TEXT, text_event=[1]), "text_event[0]", "1", "one of the 1 events"),
    (request([70], text_vector=TEXT, text_event=[-2]), "text_event[0]", "-2", "or -1"),
    (request([5], text_vector=TEXT * 2, text_event=[0, 0]), "text_event[1]", "0", "one text at most"),
    (request([70], now=-5), "now", "-5", "0 or more"),
    (request([70], now=1_715_700_000, times=[5]), "now", "1715700000", "a time between 1995 and 2200 in seconds"),
    (request([], now=1_715_700_000, times=[]), "now", "1715700000", "in seconds"),
    (
        request([70], now=1_715_700_000_000_000),
        "now",
        "1715700000000000",
        "before 2200; this is a time between 1995 and 2200 in us",
    ),
    (request([], now=1_715_700_000 * 10**9, times=[]), "now", "1715700000000000000", "2200 in ns"),
    (request([70], now=7_258_118_400_000), "now", "7258118400000", "Unix milliseconds before 2200"),
    (request([70], times=[1_715_700_000], now=1_715_700_000_000), "event_time[0]", "1715700000", "in seconds"),
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


def test_pipeline_answers_24_and_names_8_errors_when_8_of_32_are_bad_in_8_ways(pipeline):
    fields = ("event_item[1]", "event_time[0]", "event_weight[0]", "alpha", "decay_scale", "exclude_item", "now")
    bad = {field: next(case for case, name, *_ in BAD if name == field) for field in fields}
    bad["allow_attribute[1]"] = next(case for case, name, *_ in BAD if name == "allow_attribute[1]")
    good = [request([key], event_is_current=[current]) for key in KEYS.tolist() for current in (True, False)] * 4
    batch = []
    for index, case in enumerate(bad.values()):
        batch += [*good[3 * index : 3 * index + 3], case]
    answers = pipeline.run(batch)
    assert [str(answer.field) for answer in answers if isinstance(answer, RequestError)] == list(bad)
    served = [answer for answer in answers if isinstance(answer, AdaptiveWeights)]
    assert len(served) == 24
    for one, answer in zip(good, served, strict=True):
        (alone,) = pipeline.run([one])
        for name, value in vars(alone).items():
            np.testing.assert_array_equal(getattr(answer, name), value)


def test_pipeline_answers_in_order_when_every_other_request_is_bad(pipeline):
    answers = pipeline.run([request([key]) for key in (70, 1, -10, 2, 30)])
    assert [isinstance(answer, RequestError) for answer in answers] == [False, True, False, True, False]


def test_pipeline_answers_nobody_when_all_are_bad(pipeline):
    assert all(isinstance(answer, RequestError) for answer in pipeline.run([case for case, *_ in BAD]))
    assert pipeline.run([]) == []


def test_unknown_events_are_left_out_and_counted_when_the_request_says_so(pipeline):
    times = [NOW - 900_000, NOW - 5, NOW - 1]
    answer, same = pipeline.run(
        [request([70, 5, -10], times, ignore_unknown=[True]), request([70, -10], [times[0], times[2]])]
    )
    assert answer.event_counts.tolist() == [1, 1, 1]
    assert same.event_counts.tolist() == [1, 1, 0]
    np.testing.assert_array_equal(answer.interest, same.interest)
    assert sorted(answer.adjust_item[np.isneginf(answer.adjust_score)].tolist()) == [0, 1]


def test_counts_state_a_cold_start_when_no_event_is_left(pipeline):
    empty, unknown = pipeline.run([request([]), request([5, 6], ignore_unknown=[True])])
    assert empty.event_counts.tolist() == [0, 0, 0]
    assert unknown.event_counts.tolist() == [0, 0, 2]
    assert empty.interest.tolist() == unknown.interest.tolist() == [0, 0, 0.25]


def test_text_stands_in_when_the_item_is_unknown_and_is_dropped_when_it_is_known(pipeline):
    texts = {"text_vector": [[5, 0], [0, 7]], "text_event": [1, 0]}
    unknown, known, items = pipeline.run(
        [
            request([5, 30], event_is_current=[False, True], **texts),
            request([-10, 30], event_is_current=[False, True], **texts),
            request([-10, 30], event_is_current=[False, True]),
        ]
    )
    # The text of event 0 is [0, 7], that of event 1 goes unused.
    assert unknown.interest == pytest.approx([0, 1, 0.25])
    assert unknown.event_counts.tolist() == [1, 1, 0]
    np.testing.assert_array_equal(known.interest, items.interest)
    assert np.isneginf(unknown.adjust_score).sum() == 1


def test_texts_of_their_own_stand_behind_items_when_others_stand_in(pipeline):
    answer, plain = pipeline.run(
        [
            request(
                [5],
                times=[NOW - 2, NOW - 1],
                event_is_current=[False, True],
                text_vector=[[4, 0], [0, 3]],
                text_event=[-1, 0],
            ),
            request(
                [],
                times=[NOW - 2, NOW - 1],
                event_is_current=[False, True],
                text_vector=[[0, 3], [4, 0]],
            ),
        ]
    )
    np.testing.assert_array_equal(answer.interest, plain.interest)
    assert answer.event_counts.tolist() == [1, 1, 0]


def test_filter_has_first_bits_and_those_of_allowed_values_when_a_column_is_given(pipeline):
    nothing, genre, both = (
        answer.item_filter.view(np.uint64).tolist()
        for answer in pipeline.run([request(), request(allow_attribute=[11, 12]), request(allow_attribute=[-13, 12])])
    )
    assert nothing == [1, 0, 1]
    assert genre == [1 << 63, 1, 1]
    assert both == [0, 1, 2]


def test_filter_is_one_word_when_the_catalog_has_no_attributes(make_model):
    model = make_model()
    plain = InterestPipeline(model.parameters, model.pipeline.index, model.vectors)
    assert plain.run([request([])])[0].item_filter.tolist() == [1]


def users(*requests):
    """One request to the server with a row for each user; their tensors must have the same shapes."""
    return {
        name: np.stack([getattr(one, name) for one in requests])
        for name in vars(requests[0])
        if getattr(requests[0], name) is not None
    }


def test_padding_does_not_count_when_several_users_share_a_request(pipeline):
    short = request([70, 0, 0], [NOW - 3, -1, NOW + 1], event_weight=[2, np.nan, -1], event_count=[1])
    none = request([0, 0, 0], [0, 0, 0], event_weight=[1, 1, 1], event_count=[0])
    full = request([30, -10, 70], [NOW - 3, NOW - 2, NOW - 1], event_weight=[1, 2, 3], event_count=[3])
    (rows,) = pipeline.run_requests([users(short, none, full)])
    alone = [
        request([70], [NOW - 3], event_weight=[2]),
        request([]),
        request([30, -10, 70], [NOW - 3, NOW - 2, NOW - 1], event_weight=[1, 2, 3]),
    ]
    for row, answer in enumerate(pipeline.run(alone)):
        for name, value in vars(answer).items():
            np.testing.assert_array_equal(rows[name][row], value)


def test_requests_are_served_alike_when_some_have_several_users_and_some_one(pipeline):
    one, two = request([70], alpha=[0.25]), request([30], alpha=[0.75])
    outputs = pipeline.run_requests([users(one, two), users(two), users(request([70, 30]), request([30, 30]))])
    assert [len(rows["interest"]) for rows in outputs] == [2, 1, 2]
    np.testing.assert_array_equal(outputs[0]["interest"][1], outputs[1]["interest"][0])
    assert outputs[2]["alpha_used"].tolist() == [[0.5], [0.5]]


def test_error_names_the_row_when_one_of_several_users_is_bad(pipeline):
    error, good = pipeline.run_requests([users(request([70]), request([70], alpha=None, times=[-1])), users(request())])
    assert str(error).startswith("row 1: event_time[0]: got -1; expected Unix")
    assert isinstance(error, RequestError)
    assert good["event_counts"].shape == (1, 3)


def test_only_the_culprit_fails_when_an_error_is_one_that_nobody_foresaw(pipeline):
    # Vectors of the wrong width, which Triton would have refused.
    culprit = users(request([], times=[NOW], text_vector=[[1, 2, 3]]))
    requests = [request([70]).tensors(), {name: value[0] for name, value in culprit.items()}, request([30]).tensors()]
    first, error, last = run_guarded(requests, frozenset({"alpha_used"}), pipeline.run_requests)
    assert isinstance(error, ValueError)
    assert not isinstance(error, RequestError)
    assert first["alpha_used"].shape == last["alpha_used"].shape == (1, 1)


def test_only_what_is_asked_for_is_built(pipeline):
    (answer,) = pipeline.run_requests([users(request())], {"alpha_used"})
    assert "adjust_item" not in answer
    assert "interest" not in answer
    assert answer["alpha_used"].tolist() == [[0.5]]


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_batch_gives_each_request_the_answer_that_it_gets_alone(make_model, ask_at_random, seed):
    random = np.random.default_rng(seed)
    model = make_model(seed % 7, alpha=["learned", "per-dimension", "fixed"][seed % 3])
    requests = [ask_at_random(random, model) for _ in range(6)]
    for one, answer in zip(requests, model.pipeline.run(requests), strict=True):
        (alone,) = model.pipeline.run([one])
        assert isinstance(answer, AdaptiveWeights), answer
        assert answer.new_item_id.tolist() == alone.new_item_id.tolist() == []
        assert answer.applied_rules.size == alone.applied_rules.size == 0
        for name in vars(alone).keys() - {"new_item_id", "applied_rules"}:
            np.testing.assert_allclose(getattr(answer, name), getattr(alone, name), rtol=1e-5, atol=1e-6)


@settings(max_examples=100)
@given(st.integers(0, 2**32 - 1))
def test_batch_refuses_each_request_in_the_words_that_it_gets_alone(make_model, ask_at_random, seed):
    random = np.random.default_rng(seed)
    model = make_model()
    requests = [spoiled(random, ask_at_random(random, model)) for _ in range(4)]
    while not isinstance(model.pipeline.run(requests[:1])[0], RequestError):
        requests[0] = spoiled(random, ask_at_random(random, model))
    for one, answer in zip(requests, model.pipeline.run(requests), strict=True):
        (alone,) = model.pipeline.run([one])
        assert type(answer) is type(alone)
        assert not isinstance(alone, RequestError) or str(answer) == str(alone)


def spoiled(random, one):
    """A request with one entry of one tensor changed, or cut off."""
    tensors = {name: value.copy() for name, value in vars(one).items() if value is not None}
    names = [name for name in tensors if name not in ("text_vector", "event_item") and tensors[name].size]
    name = names[random.integers(len(names))]
    value = tensors[name]
    if value.size > 1 and random.random() < 0.4:
        tensors[name] = value[:-1]
    elif value.dtype != np.bool_:
        value[random.integers(value.size)] = random.choice([-3, 10**18 if value.dtype == np.int64 else 1e9])
    return Request(**tensors)
