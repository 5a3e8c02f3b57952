"""Requests of users with a record: what joins, what counts once, and what an explanation says of it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebbtide.interest.contract import Limits, StateStatus
from ebbtide.interest.errors import RequestError
from ebbtide.interest.explanation import Explanation
from ebbtide.interest.record import TAIL_EVENTS, NewEvents, Records, tail_only

NOW = 1_700_000_000_000
MINUTE = 60_000
DAY = 86_400_000


def record_of(model, items, times, weight=None):
    """The record of a user who had items, given by their catalog indices, at these times."""
    weights = np.ones(len(items)) if weight is None else np.array(weight)
    events = NewEvents(
        np.array([len(items)]), model.keys[np.array(items, int)], np.array(times, np.int64), weights.astype(np.float32)
    )
    return model.pipeline.recorder().observe([None], events).records[0]


def long_record(model, events=60, *, before=NOW):
    """Half of the events long ago, half in a session that still goes on."""
    times = before - MINUTE * np.arange(events, 0, -1)
    times[: events // 2] -= 30 * DAY
    return record_of(model, np.arange(events) % 40, times)


def answers(model, requests, records):
    return model.pipeline.run_requests([one.tensors() for one in requests], records=[[record] for record in records])


def test_users_have_their_own_records_when_some_requests_of_a_batch_are_refused(make_model, ask):
    model = make_model()
    records = [record_of(model, [index], [NOW - MINUTE]) for index in range(4)]
    requests = [ask([]), ask([], now=[-1]), ask([]), ask([])]
    found = answers(model, requests, records)
    assert isinstance(found[1], RequestError)
    for index in (0, 2, 3):
        (alone,) = answers(model, [ask([])], records[index : index + 1])
        np.testing.assert_array_equal(found[index]["interest"], alone["interest"])


def test_requests_are_answered_as_before_when_their_users_have_no_record(make_model, ask_at_random):
    random = np.random.default_rng(0)
    model = make_model(repeats=True)
    requests = [ask_at_random(random, model) for _ in range(40)]
    plain = model.pipeline.run_requests([one.tensors() for one in requests])
    for right, found in zip(plain, answers(model, requests, [None] * 40), strict=True):
        for name in ("interest", "alpha_used", "event_counts", "item_filter"):
            np.testing.assert_allclose(found[name], right[name], rtol=1e-6, atol=1e-6, err_msg=name)
        assert adjusted(found) == pytest.approx(adjusted(right), abs=1e-5)
        assert found["state_status"].tolist() == [[StateStatus.UNKNOWN_USER]]


def adjusted(answer):
    """The adjustment of each item of the first user."""
    item, score = answer["adjust_item"][0], answer["adjust_score"][0]
    return dict(zip(item[score != 0].tolist(), score[score != 0].tolist(), strict=True))


def test_rows_of_one_request_have_a_record_each(make_model, ask):
    model = make_model()
    records = [record_of(model, [1], [NOW - MINUTE]), None, record_of(model, [2, 3], [NOW - DAY, NOW - MINUTE])]
    row = ask([model.keys[0]]).tensors()
    rows = {name: np.stack([value] * 3) for name, value in row.items()}
    (found,) = model.pipeline.run_requests([rows], records=[records])
    assert found["event_counts"].tolist() == [[0, 2, 0], [0, 1, 0], [1, 2, 0]]
    for index, record in enumerate(records):
        (alone,) = model.pipeline.run_requests([row], records=[[record]])
        np.testing.assert_allclose(found["interest"][index], alone["interest"][0], atol=1e-6)


def test_requests_without_tensors_of_events_have_none_when_others_of_the_batch_have_some(make_model, ask):
    model = make_model(repeats=True)
    record = long_record(model)
    plain, named, no_times = ask([model.keys[3]]).tensors(), ask([]).tensors(), ask([model.keys[3]]).tensors()
    left_out = {name: value for name, value in named.items() if not name.startswith("event_")}
    no_times = {name: value for name, value in no_times.items() if name != "event_time"}
    for records in (None, [[record], [None], [record], [record]]):
        requests = [left_out, plain, named, no_times]
        first, _, empty, refused = model.pipeline.run_requests(requests, records=records)
        (alone,) = model.pipeline.run_requests([left_out], records=None if records is None else [[record]])
        for name, value in empty.items():
            np.testing.assert_array_equal(first[name], value, err_msg=name)
            if name.startswith("seen_"):
                # As wide as the request of the batch with most seen items; the rest is filled up.
                width = alone[name].shape[1]
                assert (value[:, width:] == {"seen_item": -1, "seen_weight": 0.0}[name]).all()
                np.testing.assert_allclose(alone[name], value[:, :width], atol=1e-6, err_msg=name)
            elif name not in ("new_item_id", "applied_rules"):
                np.testing.assert_allclose(alone[name], value, atol=1e-6, err_msg=name)
        assert str(refused) == "event_time: got 0 entries; expected 1 entries, one for each event"
    (explained,) = model.explainer.run_requests([left_out | {"candidate_item": model.keys[:3]}], [[record]])
    assert explained["event_share"].shape == (3, 0)


def test_an_event_of_the_request_counts_once_when_the_record_has_it_too(make_model, ask):
    model = make_model(alpha="fixed")
    times = [NOW - 2 * MINUTE, NOW - MINUTE, NOW]
    record = record_of(model, [0, 1, 2], times)
    again = ask(model.keys[[1, 3]], event_time=[times[1], NOW], event_weight=[4, 1])
    right = ask(model.keys[[0, 1, 2, 3]], event_time=[*times, NOW], event_weight=[1, 4, 1, 1])
    (found,) = answers(model, [again], [record])
    (plain,) = model.pipeline.run_requests([right.tensors()])
    assert found["event_counts"].tolist() == [[0, 4, 0]]
    np.testing.assert_allclose(found["interest"], plain["interest"], atol=1e-6)


def test_flags_of_a_request_hold_for_its_own_events_only(make_model, ask):
    model = make_model(alpha="fixed")
    record = record_of(model, [0, 1], [NOW - DAY, NOW - MINUTE])
    flagged = ask(model.keys[[2, 3]], event_time=[NOW - 2 * DAY, NOW], event_is_current=[True, False])
    plain = ask(model.keys[[2, 3]], event_time=[NOW - 2 * DAY, NOW])
    found, other = answers(model, [flagged, plain], [record, record])
    # Of the record the newer event is of the session; of the request the one that says so.
    assert found["event_counts"].tolist() == [[2, 2, 0]]
    assert other["event_counts"].tolist() == [[2, 2, 0]]
    weighed = model.pipeline.weigh([flagged.tensors()], [[record]])
    assert weighed.batch.is_current.tolist() == [True, False, True, False]
    assert weighed.sources.kept[weighed.batch.source].tolist() == [0, -1, -1, 1]


def test_texts_of_a_request_join_the_events_of_a_record(make_model, ask):
    model = make_model(alpha="fixed")
    record = record_of(model, [0, 1], [NOW - 3 * MINUTE, NOW - MINUTE])
    text = ask([], event_time=[NOW - 2 * MINUTE], text_vector=model.vectors[2:3])
    right = ask(model.keys[[0, 2, 1]], event_time=[NOW - 3 * MINUTE, NOW - 2 * MINUTE, NOW - MINUTE])
    (found,) = answers(model, [text], [record])
    (plain,) = model.pipeline.run_requests([right.tensors()])
    np.testing.assert_allclose(found["interest"], plain["interest"], atol=1e-6)


def test_events_after_now_have_age_0_and_reading_changes_nothing(make_model, ask):
    model = make_model(alpha="fixed")
    model.parameters.rank_decay_rate[:] = 0
    early = record_of(model, [0, 1, 2], [NOW - DAY, NOW + MINUTE, NOW + 3 * DAY])
    at_once = record_of(model, [0, 1, 2], [NOW - DAY, NOW, NOW])
    found, right = answers(model, [ask([]), ask([])], [early, at_once])
    np.testing.assert_allclose(found["interest"], right["interest"], atol=1e-6)
    folded = long_record(model, before=NOW + DAY)
    late = model.pipeline.weigh([ask([], now=[NOW - 5 * DAY]).tensors()], [[folded]])
    newest_ms = int(Records.decode([folded]).headers["newest_ms"][0])
    right = model.pipeline.weigh([ask([], now=[newest_ms]).tensors()], [[folded]])
    np.testing.assert_array_equal(late.blend.interest, right.blend.interest)


def test_raw_events_of_another_export_count_and_those_of_unknown_items_are_left_out(make_model, ask):
    model, other = make_model(), make_model(1, items=100, d=4)
    events = NewEvents(
        np.array([3]), np.r_[model.keys[:2], other.keys[:1]], NOW - MINUTE * np.array([3, 2, 1], dtype=np.int64)
    )
    raw = tail_only(replace_known(other, events, model.keys[:2]))
    found, right = answers(model, [ask([])] * 2, [raw, record_of(model, [0, 1], events.time_ms[:2])])
    assert found["event_counts"].tolist() == [[0, 2, 1]]
    np.testing.assert_array_equal(found["interest"], right["interest"])


def replace_known(model, events, keys):
    """The record of an export whose catalog has other keys as well."""
    model.keys[1 : 1 + keys.size] = keys
    index = type(model.pipeline.index).build(model.keys)
    model.pipeline = type(model.pipeline)(model.parameters, index, model.vectors)
    return model.pipeline.recorder().observe([None], events).records[0]


def test_offset_of_alpha_moves_the_gate_of_its_user_only(make_model, ask):
    model = make_model(0, alpha="per-dimension")
    record = long_record(model)
    decoded = Records.decode([record])
    headers = decoded.headers.copy()
    headers["alpha_offset"] = 0.75
    (moved,) = replace(decoded, headers=headers).encode()
    requests = [ask([]).tensors()] * 3
    alpha = model.pipeline.weigh(requests, [[record], [moved], [record]]).blend.alpha
    logit = np.log(alpha / (1 - alpha))
    np.testing.assert_allclose(logit[1] - logit[0], 0.75, atol=1e-4)
    np.testing.assert_array_equal(alpha[2], alpha[0])
    # It outlives updates, folded ones and others.
    later = NewEvents(np.array([40]), model.keys[:40], NOW + np.arange(40))
    for events in (later, NewEvents(np.array([1]), model.keys[:1], np.array([NOW]))):
        (updated,) = model.pipeline.recorder().observe([moved], events).records
        assert model.pipeline.recorder().read([updated]).alpha_offset.tolist() == [0.75]


def test_decay_scale_holds_from_the_newest_folded_event_on_and_the_status_says_so(make_model, ask):
    model = make_model(repeats=True, alpha="fixed")
    long, short = long_record(model), record_of(model, [0, 1], [NOW - DAY, NOW - MINUTE])
    scaled = [ask([], now=[NOW + DAY], decay_scale=[scale]) for scale in (2, 2, 1)]
    found = answers(model, scaled, [long, short, long])
    assert [one["state_status"].item() for one in found] == [
        StateStatus.PARTLY_SCALED,
        StateStatus.USED,
        StateStatus.USED,
    ]
    # Without anything folded it is the scale of a request.
    (plain,) = model.pipeline.run_requests(
        [ask(model.keys[:2], event_time=[NOW - DAY, NOW - MINUTE], now=[NOW + DAY], decay_scale=[2]).tensors()]
    )
    np.testing.assert_allclose(found[1]["interest"], plain["interest"], atol=1e-6)
    assert adjusted(found[1]) == pytest.approx(adjusted(plain), abs=1e-5)
    # With folded events it is what a clock says that runs so much faster from the newest of them on.
    weighed = model.pipeline.weigh([scaled[0].tensors()], [[long]])
    newest_ms = weighed.from_records.states.folded.time_ms[0]
    faster = model.pipeline.weigh([ask([], now=[2 * (NOW + DAY) - newest_ms]).tensors()], [[long]])
    np.testing.assert_allclose(weighed.from_records.base.sums, faster.from_records.base.sums, rtol=1e-6)
    repeat = model.parameters.repeat
    np.testing.assert_allclose(weighed.folded_counts(repeat).counts, faster.folded_counts(repeat).counts, rtol=1e-6)


@pytest.mark.parametrize("repeats", [False, True])
def test_named_exclusions_come_first_when_there_is_no_room_for_all_seen_items(make_model, ask, repeats):
    limits = Limits(max_events=30, max_exclude_items=10)
    model = make_model(repeats=repeats, limits=limits, exclude_seen=not repeats)
    record = record_of(model, np.arange(60), NOW - MINUTE * np.arange(60, 0, -1))
    named, own = model.keys[150:160], np.arange(100, 118)
    request = ask(model.keys[own], event_time=[NOW] * own.size, exclude_item=named)
    neighbour = record_of(model, [5], [NOW - MINUTE])
    (found, other) = answers(model, [request, ask([])], [record, neighbour])
    adjusted = found["adjust_item"][0].tolist()
    assert len(set(adjusted)) == len(adjusted) == limits.adjustments == 40
    excluded = found["adjust_item"][0][np.isneginf(found["adjust_score"][0])]
    tail = set(range(60 - TAIL_EVENTS, 60))
    assert set(range(150, 160)) <= set(excluded)
    # 40 places less 10 for the named items and 18 of the request leave 12 for what the record holds.
    seen = set(adjusted) - set(range(150, 160))
    assert set(own.tolist()) <= seen
    if repeats:
        assert len(seen & tail) == 12, "the record's newest"
    else:
        assert seen - set(own.tolist()) <= tail
    assert (other["adjust_score"] != 0).sum() == 1


@settings(max_examples=200)
@given(st.integers(0, 2**32 - 1))
def test_shares_add_up_to_the_score_when_the_user_has_a_record(make_model, ask_at_random, seed):
    random = np.random.default_rng(seed)
    model = make_model(seed % 5, alpha=["learned", "per-dimension", "fixed"][seed % 3], repeats=seed % 2 == 0)
    request = ask_at_random(random, model, candidates=True)
    events = int(random.integers(0, 50))
    record = record_of(
        model,
        random.integers(0, 40, events),
        NOW - np.sort(np.exp(random.uniform(5, np.log(1000 * DAY), events)))[::-1].astype(np.int64),
        random.random(events) + 0.1,
    )
    answer = model.explainer.run(request, [record])
    assert isinstance(answer, Explanation), answer
    (score,) = answer.candidate_score
    shares = (answer.event_share.sum(axis=1, dtype=float), answer.state_event_share.sum(axis=1, dtype=float))
    rest = answer.prior_share + answer.adjustment_share
    np.testing.assert_allclose(sum(shares) + answer.folded_share + rest, score, rtol=0, atol=1e-5)
    np.testing.assert_allclose(answer.dimension_share.sum(axis=1, dtype=float) + rest, score, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        answer.repeat_share.sum(axis=1),
        np.where(np.isfinite(answer.adjustment_share), answer.adjustment_share, answer.repeat_share.sum(axis=1)),
        atol=1e-4,
    )
    # The scores are those of the way that `rank` takes.
    (weights,) = model.pipeline.run_requests([request.tensors()], records=[[record]])
    head = {name: weights[name] for name in ("interest", "adjust_item", "adjust_score")}
    (ranked,) = model.scorer.run_requests([head | {"candidate_item": request.candidate_item[None]}])
    np.testing.assert_allclose(ranked["candidate_score"][0], score, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(weights["event_counts"], answer.event_counts)
    if events > TAIL_EVENTS:
        assert answer.event_counts[0, :2].sum() > events - TAIL_EVENTS
    else:
        assert (np.nan_to_num(answer.folded_share) == 0).all()
