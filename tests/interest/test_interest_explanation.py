"""The shares of an explanation sum to the score; candidate scores are equal in all models."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.interest.contract import Limits
from ebbtide.interest.errors import RequestError
from ebbtide.interest.explanation import Explanation
from ebbtide.interest.served_models import CANDIDATE_HEAD

KINDS = ["learned", "per-dimension", "fixed"]
DAY = 86_400_000
NOW = 1_700_000_000_000


def total(explanation):
    """What the shares of each candidate add up to, in double precision."""
    parts = (explanation.event_share.sum(axis=1, dtype=float), explanation.prior_share, explanation.adjustment_share)
    return np.sum(parts, axis=0)


def head_scores(model, requests):
    """The scores on the way of `rank`: adaptive weights, then the candidate head, all requests together."""
    weights = model.pipeline.run(requests)
    parts = [
        {name: np.asarray(getattr(answer, name))[None] for name in ("interest", "adjust_item", "adjust_score")}
        | {"candidate_item": one.candidate_item[None]}
        for one, answer in zip(requests, weights, strict=True)
    ]
    return [answer["candidate_score"] for answer in model.scorer.run_requests(parts)]


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_shares_add_up_to_the_score_on_random_requests(make_model, ask_at_random, seed):
    random = np.random.default_rng(seed)
    model = make_model(seed % 5, alpha=KINDS[seed % 3], repeats=seed % 2 == 0, interest_share=[0.0, 0.3][seed // 2 % 2])
    asked = ask_at_random(random, model, candidates=True)
    answer = model.explainer.run(asked)
    assert isinstance(answer, Explanation), answer
    (score,) = answer.candidate_score
    known = np.isin(asked.candidate_item, model.keys)
    assert np.isnan(score[~known]).all()
    np.testing.assert_allclose(total(answer), score, rtol=0, atol=1e-5)
    rest = answer.prior_share + answer.adjustment_share
    np.testing.assert_allclose(answer.dimension_share.sum(axis=1, dtype=float) + rest, score, rtol=0, atol=1e-5)
    ((served,),) = (scores for scores in head_scores(model, [asked]))
    np.testing.assert_allclose(served, score, rtol=1e-5, atol=1e-4)
    assert answer.event_share.shape == (asked.candidate_item.size, asked.event_time.size)
    assert ((answer.event_decay >= 0) & (answer.event_decay <= 1)).all()


def test_share_is_what_the_score_loses_when_one_of_several_events_of_a_fixed_norm_goes(make_model, ask):
    # With nothing decayed and equal lengths, leaving one of four out changes the norm from 2 to sqrt 3 lengths.
    model = make_model(alpha="fixed")
    model.parameters.decay_rate_per_day[:] = 0
    model.parameters.rank_decay_rate[:] = 0
    model.vectors /= np.linalg.norm(model.vectors, axis=1, keepdims=True)
    keys, flags = model.keys[:4], [False] * 4
    whole = model.explainer.run(ask(keys, event_is_current=flags, candidate_item=model.keys[9:10]))
    fewer = model.explainer.run(ask(keys[:3], event_is_current=flags[:3], candidate_item=model.keys[9:10]))
    np.testing.assert_allclose(
        (fewer.candidate_score[0] - fewer.prior_share) * 3**0.5,
        (whole.candidate_score[0] - whole.prior_share - whole.event_share[:, 3]) * 2,
        rtol=1e-4,
        atol=1e-5,
    )


def test_events_keep_the_order_given_when_times_do_not_and_some_are_left_out(make_model, ask):
    model = make_model(alpha="fixed")
    items = [model.keys[0], 5, model.keys[1]]
    times = [NOW - DAY, NOW - 2 * DAY, NOW - 3 * DAY, NOW - 4 * DAY]
    flags = [True, True, False, False]
    texts = {"text_vector": model.vectors[7:8], "text_event": [-1]}
    given = {"event_is_current": flags, "candidate_item": model.keys[:2], "ignore_unknown": [True], **texts}
    answer = model.explainer.run(ask(items, event_time=times, **given))
    assert answer.event_counts.tolist() == [[2, 1, 1]]
    assert answer.event_current.tolist() == [True, False, False, False]
    assert answer.event_decay[1] == 0
    assert (answer.event_share[:, 1] == 0).all()
    kept = answer.event_decay[[0, 2, 3]]
    assert (np.diff(kept) < 0).all(), "older and earlier events have less left"
    # The only event of the session adds (1 - alpha) x / ||x|| . a.
    x, a = model.vectors[0] * decay_of(model, age_days=1, rank=0), model.factors[:2, :8]
    assert answer.event_share[:, 0] == pytest.approx(0.5 * a @ x / np.linalg.norm(x), abs=1e-5)


def decay_of(model, age_days, rank):
    return np.exp(-model.parameters.decay_rate_per_day * age_days - model.parameters.rank_decay_rate * rank)


def test_half_lives_follow_the_scale_when_a_request_gives_one(make_model, ask):
    model = make_model()
    model.parameters.decay_rate_per_day[0] = 0
    plain, twice, still = (
        model.explainer.run(ask([], candidate_item=model.keys[:1], **scale)).half_life_days
        for scale in ({}, {"decay_scale": [2]}, {"decay_scale": [0]})
    )
    assert plain[0] == np.inf
    assert plain[1:] == pytest.approx(np.geomspace(0.01, 900, 8)[1:], rel=1e-5)
    assert twice[1:] == pytest.approx(plain[1:] / 2)
    assert np.isinf(still).all()


def test_explanation_is_the_prior_alone_when_there_is_no_event(make_model, ask):
    model = make_model()
    answer = model.explainer.run(ask([], candidate_item=model.keys[:3]))
    assert answer.event_share.shape == (3, 0)
    assert answer.event_counts.tolist() == [[0, 0, 0]]
    np.testing.assert_array_equal(answer.candidate_score[0], answer.prior_share)


def test_adjustment_share_is_minus_infinity_when_a_candidate_is_excluded(make_model, ask):
    model = make_model(exclude_seen=True)
    keys = model.keys
    answer = model.explainer.run(ask(keys[:1], exclude_item=[keys[1], 99], candidate_item=[*keys[:3], 99]))
    assert answer.adjustment_share[:3].tolist() == [-np.inf, -np.inf, 0]
    assert answer.candidate_score[0, :2].tolist() == [-np.inf, -np.inf]
    assert np.isfinite(answer.event_share[:3]).all()
    assert np.isnan(answer.event_share[3]).all()
    assert np.isnan([answer.candidate_score[0, 3], answer.prior_share[3], answer.adjustment_share[3]]).all()


def test_seen_items_have_no_share_but_their_repeat_score_when_the_model_has_one(make_model, ask):
    model = make_model(repeats=True)
    own, new, excluded = model.keys[:3]
    times = {"event_time": [NOW - DAY, NOW - DAY], "candidate_item": [own, new, excluded]}
    answer = model.explainer.run(ask([own, excluded], exclude_item=[excluded], **times))
    plain = make_model().explainer.run(ask([own, excluded], **times))
    assert answer.candidate_score[0, 0] == answer.adjustment_share[0] != 0
    assert answer.repeat_share[0].sum() == pytest.approx(answer.adjustment_share[0], abs=1e-5)
    assert (answer.repeat_share[0] != 0).all()
    assert not answer.repeat_share[1:].any()
    assert not plain.repeat_share.any()
    assert not answer.event_share[0].any()
    assert not answer.dimension_share[0].any()
    assert answer.prior_share[0] == 0
    assert answer.candidate_score[0, 1] == plain.candidate_score[0, 1]
    assert np.isneginf(answer.candidate_score[0, 2])
    np.testing.assert_array_equal(answer.event_share[2], plain.event_share[2])


@pytest.mark.parametrize("alpha", ["learned", "per-dimension", "fixed"])
@pytest.mark.parametrize(
    "said",
    [{"text": True}, {"alpha": [0.2]}, {"text": True, "alpha": [0.9]}],
    ids=["text", "alpha", "both"],
)
def test_seen_items_move_as_the_interest_does_when_a_request_has_a_text_or_an_alpha(make_model, ask, said, alpha):
    seen, unseen = (make_model(3, alpha=alpha, repeats=repeats) for repeats in (True, False))
    items, flags = seen.keys[:3], [False, True, True]
    times = {"event_time": [NOW - 3 * DAY, NOW - 1000, NOW - 500]}
    plain = ask(items, event_is_current=flags, candidate_item=items, **times)
    moved = {"candidate_item": items, **{name: value for name, value in said.items() if name != "text"}}
    if "text" in said:
        text = {"text_vector": seen.vectors[9:10], "text_event": [-1]}
        moved |= {"event_time": [*times["event_time"], NOW], "event_is_current": [*flags, True], **text}
    else:
        moved |= {"event_is_current": flags, **times}
    before, after = seen.explainer.run(plain), seen.explainer.run(ask(items, **moved))
    blend = unseen.pipeline.weigh([ask(items, **moved).tensors()]).blend
    # The text is the newest event, of the current session: its rank is 0 and it has no age.
    text = seen.vectors[9] / blend.norm[1] if "text" in said else np.zeros(8)
    without = [blend.long_term[0], blend.current[0] - text]
    expected = blend.interest[0] - blend.model_alpha[0] * without[0] - (1 - blend.model_alpha[0]) * without[1]
    np.testing.assert_allclose(after.dimension_share.sum(axis=1), seen.factors[:3, :8] @ expected, rtol=1e-4, atol=1e-5)
    assert np.abs(after.dimension_share).max() > 0.05
    ((served,),) = head_scores(seen, [ask(items, **moved)])
    np.testing.assert_allclose(served, after.candidate_score[0], atol=1e-4)
    assert not before.dimension_share.any()


def test_seen_items_stay_when_an_export_is_from_before_they_moved(make_model, ask):
    said = {"text_vector": np.ones((1, 8)), "text_event": [-1], "alpha": [0.1]}
    model = make_model(repeats=True, interest_share=None)
    request = ask(model.keys[:1], candidate_item=model.keys[:1], event_time=[NOW - DAY, NOW], **said)
    answer = model.explainer.run(request)
    assert answer.candidate_score[0, 0] == answer.adjustment_share[0]
    ((served,),) = head_scores(model, [request])
    np.testing.assert_allclose(served, answer.candidate_score[0], rtol=1e-6)


@pytest.mark.parametrize("excludes", [True, False])
def test_seen_items_have_one_adjustment_each_when_the_model_has_repeat_scores(make_model, ask, excludes):
    model = make_model(repeats=True)
    most = model.limits.max_events
    (answer,) = model.pipeline.run([ask(model.keys[:most], exclude_seen=[excludes], exclude_item=model.keys[:10])])
    adjusted = answer.adjust_score != 0
    assert adjusted.sum() == most + 10
    assert np.isneginf(answer.adjust_score).sum() == (most + 10 if excludes else 10)


@pytest.mark.parametrize(
    ("tensors", "field"),
    [
        ({"candidate_item": range(31)}, "candidate_item"),
        ({}, "candidate_item"),
        ({"candidate_item": [1], "alpha": [2]}, "alpha"),
        ({"candidate_item": [1], "items": [5]}, "event_item[0]"),
    ],
)
def test_explanation_is_refused_by_name_when_a_request_is_bad(make_model, ask, tensors, field):
    error = make_model().explainer.run(
        ask(tensors.get("items", []), **{k: v for k, v in tensors.items() if k != "items"})
    )
    assert isinstance(error, RequestError)
    assert error.field == field


def test_candidates_score_alike_alone_and_in_a_ragged_batch(make_model, ask_at_random):
    random = np.random.default_rng(5)
    model = make_model(items=500, limits=Limits(max_events=60, max_exclude_items=20))
    requests = [ask_at_random(random, model, candidates=True) for _ in range(32)]
    lengths = [one.candidate_item.size for one in requests]
    assert len(set(lengths)) > 5
    for one, scores in zip(requests, head_scores(model, requests), strict=True):
        # The gate's product rounds differently in batches of another size.
        np.testing.assert_allclose(scores, head_scores(model, [one])[0], rtol=1e-5, atol=1e-5)


def head_part(users=1, candidates=(1, 2), width=4, **tensors):
    part = {
        "interest": np.ones((users, 11), np.float32),
        "adjust_item": np.zeros((users, width), np.int64),
        "adjust_score": np.zeros((users, width), np.float32),
        "candidate_item": np.tile(np.array(candidates, np.int64), (users, 1)),
    }
    assert part.keys() == {tensor.name for tensor in CANDIDATE_HEAD.inputs if not tensor.optional}
    return part | tensors


def test_candidate_scores_are_the_adjustments_of_each_user_when_several_share_a_request(make_model):
    model = make_model()
    adjust_item = np.array([[3, 4, 4, 0], [3, 0, 0, 0]])
    adjust_score = np.array([[0.75, -np.inf, -np.inf, 0], [2, 0, 0, 0]], np.float32)
    candidates = [*model.keys[[3, 4]], 5, model.keys[0]]
    part = head_part(2, candidates, adjust_item=adjust_item, adjust_score=adjust_score)
    (answer,) = model.scorer.run_requests([part])
    plain = model.factors.sum(axis=1)
    expected = [[0.75, -np.inf, np.nan, plain[0]], [2, plain[4], np.nan, plain[0]]]
    np.testing.assert_allclose(answer["candidate_score"], expected, rtol=1e-5)


def test_candidate_scores_are_empty_when_no_candidate_is_given(make_model):
    (answer,) = make_model().scorer.run_requests([head_part(candidates=())])
    assert answer["candidate_score"].shape == (1, 0)


@pytest.mark.parametrize("wrong", [-1, 200])
def test_candidate_head_names_the_error_when_others_in_the_batch_are_sound(make_model, wrong):
    model = make_model()
    bad = head_part(adjust_item=np.array([[0, wrong, 0, 0]]))
    first, error, many, last = model.scorer.run_requests(
        [head_part(), bad, head_part(candidates=range(31)), head_part()]
    )
    assert str(error) == f"adjust_item[1]: got {wrong}; expected a catalog index from 0 to 199"
    assert str(many) == "candidate_item: got 31 items; expected at most 30 items"
    np.testing.assert_array_equal(first["candidate_score"], last["candidate_score"])
