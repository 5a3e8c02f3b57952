"""Rank, explain, filters, policies and many users, by both clients, on a real Triton with a whole export."""

import math
import random
from datetime import datetime, timedelta, timezone

import pytest

from deadlines import PATIENT
from ebbtide.client import (
    ClientConfig,
    ColdStart,
    Hooks,
    InterestClient,
    InvalidArgumentError,
    event,
    explain_request,
    recommend_request,
)

NOW = datetime(2024, 5, 1, tzinfo=timezone.utc)
TEXT = "space opera with robots"
WAIT_S = 60


def ago(**span):
    return NOW - timedelta(**span)


HISTORY = [event(item_id="1", time=ago(days=40)), event(item_id="6", time=ago(days=3), weight=2)]
CURRENT = [event(item_id="10", time=ago(minutes=2))]
UNKNOWN = [event(item_id="new", time=ago(minutes=1))]
USER = {"history": HISTORY, "current": CURRENT, "now": NOW}


def scores_of(answer):
    return {item.item_id: item.score for item in answer.items}


def test_rank_gives_the_scores_of_recommend_when_its_items_are_the_candidates(connect, triton):
    with connect(triton.grpc_url) as client:
        recommended = scores_of(client.recommend(**USER, top_n=10))
        ranking = client.rank(**USER, candidates=[*reversed(recommended), "unknown", "1"], exclude=["1"])
        assert scores_of(ranking) == pytest.approx(recommended, abs=1e-4)
        assert [item.item_id for item in ranking.items] == sorted(recommended, key=recommended.get, reverse=True)
        assert (list(ranking.unknown_item_ids), list(ranking.excluded_item_ids)) == (["unknown"], ["1"])
        assert (ranking.cold_start, ranking.response.events_used) == (ColdStart.COLD_START_NONE, 3)
        assert len(client.rank(**USER, candidates=recommended, top_n=2).items) == 2
        with_text = [event(text=TEXT, time=ago(minutes=1))]
        asked = {"history": HISTORY, "current": with_text, "now": NOW, "timeout_s": WAIT_S}
        found = scores_of(client.recommend(**asked, top_n=5))
        assert scores_of(client.rank(**asked, candidates=found)) == pytest.approx(found, abs=1e-4)


def random_user(rng, *, texts):
    def events(most):
        kinds = [{"item_id": str(rng.randint(1, 40))}, {"item_id": f"new-{rng.randint(1, 9)}"}]
        if texts:
            kinds += [
                {"text": TEXT},
                {"item_id": "new", "fallback_text": TEXT},
                {"item_id": "1", "fallback_text": TEXT},
            ]
        return [
            event(**rng.choice(kinds), time=ago(minutes=rng.randint(1, 500_000)), weight=rng.choice([None, 0.5, 3]))
            for _ in range(rng.randint(0, most))
        ]

    return {
        "history": events(20),
        "current": events(4),
        "now": NOW,
        "alpha": rng.choice([None, 0.25]),
        "decay_scale": rng.choice([None, 0.0, 2.0]),
        "unknown_items": "ignore",
    }


def test_explanation_adds_up_to_the_scores_of_recommend_when_users_are_random(connect, triton):
    rng = random.Random(3)  # noqa: S311
    with connect(triton.grpc_url) as client:
        for number in range(40):
            user = random_user(rng, texts=number % 4 == 0)
            recommended = client.recommend(**user, top_n=5, timeout_s=WAIT_S)
            explained = client.explain(**user, top_n=5, timeout_s=WAIT_S)
            assert scores_of(explained) == pytest.approx(scores_of(recommended), abs=1e-4)
            assert [one.event for one in explained.events] == [*user["history"], *user["current"]]
            for item in explained.items:
                rest = item.prior_share + item.adjustment_share
                assert math.fsum(item.event_shares) + rest == pytest.approx(item.score, abs=1e-5)
                assert math.fsum(item.dimension_shares) + rest == pytest.approx(item.score, abs=1e-5)
                assert item.history_share + item.current_share + rest == pytest.approx(item.score, abs=1e-5)
            counted = sum(one.decay > 0 for one in explained.events)
            told = explained.response
            assert (told.events_used, told.unknown_events) == (counted, len(explained.events) - counted)
            assert (told.cold_start, told.alpha_used) == (recommended.cold_start, pytest.approx(recommended.alpha_used))


def test_explanation_is_of_the_items_asked_for_when_they_are_named(connect, triton):
    with connect(triton.grpc_url) as client:
        explained = client.explain(
            explain_request(**USER, item_ids=["20", "unknown", "1"], exclude=["1"], decay_scale=2)
        )
        assert [item.item_id for item in explained.items] == ["20", "unknown", "1"]
        known, unknown, excluded = explained.items
        assert [item.HasField("score") for item in explained.items] == [True, False, False]
        assert (len(unknown.event_shares), excluded.is_excluded) == (0, True)
        assert len(known.event_shares) == 3
        assert [round(one.age_days, 3) for one in explained.events] == [40, 3, 0.001]
        assert [one.is_current for one in explained.events] == [False, False, True]
        plain = client.explain(**USER, item_ids=["20"]).response.half_life_days
        assert list(explained.response.half_life_days) == pytest.approx([days / 2 for days in plain])


def test_explanation_is_empty_when_everything_is_excluded(connect, triton, tiny_bundle):
    with connect(triton.grpc_url) as client:
        explained = client.explain(**USER, exclude=tiny_bundle.catalog.item_id)
        assert not explained.items
        assert (explained.response.events_used, explained.cold_start) == (3, ColdStart.COLD_START_NONE)


def test_only_allowed_items_are_recommended_when_attributes_are_filtered(connect, triton, genres):
    with connect(triton.grpc_url) as client:
        for allowed in (["Comedy"], ["Drama", "Crime"]):
            for asked in ({}, {"current": [event(text=TEXT, time=NOW)], "timeout_s": WAIT_S}):
                answer = client.recommend(**{**USER, **asked}, allow={"genres": allowed}, top_n=20)
                assert answer.items
                assert all(genres[item.item_id] & set(allowed) for item in answer.items)
        explained = client.explain(**USER, allow={"genres": "Comedy"}, top_n=3)
        assert all("Comedy" in genres[item.item_id] for item in explained.items)
        with pytest.raises(InvalidArgumentError, match="genres=Polka") as caught:
            client.recommend(allow={"genres": ["Comedy", "Polka"]})
        assert caught.value.field == "allow[0].values[1]"


@pytest.mark.parametrize(
    ("allow", "expected"),
    [
        ({"genres": "Comdey"}, "genres, nearest: 'Comedy'"),
        ({"genres": "SCI-FI"}, "genres, nearest: 'Sci-Fi'"),
        ({"genres": "xyz"}, "genres, such as: 'Action', "),
        ({"genre": "Comedy"}, "a value of a column that requests may filter by: genres"),
    ],
)
def test_refusal_names_the_nearest_values_when_no_item_has_the_value(connect, triton, allow, expected):
    with connect(triton.grpc_url) as client, pytest.raises(InvalidArgumentError) as caught:
        client.recommend(**USER, allow=allow)
    assert expected in str(caught.value)
    assert expected in caught.value.message
    assert expected in (caught.value.expected or "")


def test_unknown_items_are_refused_left_out_or_embedded_when_the_request_says_so(connect, triton):
    with connect(triton.grpc_url) as client:
        with pytest.raises(InvalidArgumentError) as caught:
            client.recommend(history=HISTORY, current=UNKNOWN, now=NOW, unknown_items="error")
        assert (caught.value.field, caught.value.value) == ("current[0].item_id", "'new'")
        ignored = client.recommend(history=HISTORY, current=UNKNOWN, now=NOW, unknown_items="ignore")
        assert (ignored.events_used, ignored.unknown_events) == (2, 1)
        assert ignored.cold_start == ColdStart.COLD_START_NO_SESSION
        asked = {"history": HISTORY, "now": NOW, "timeout_s": WAIT_S, "unknown_items": "error"}
        embedded = client.recommend(current=[event(item_id="new", fallback_text=TEXT, time=ago(minutes=1))], **asked)
        as_text = client.recommend(current=[event(text=TEXT, time=ago(minutes=1))], **asked)
        assert (embedded.events_used, embedded.unknown_events) == (3, 0)
        assert scores_of(embedded) == pytest.approx(scores_of(as_text), abs=1e-5)
        known = client.recommend(current=[event(item_id="10", fallback_text=TEXT, time=ago(minutes=2))], **asked)
        assert scores_of(known) == pytest.approx(scores_of(client.recommend(**USER)), abs=1e-4)


def test_each_bad_request_fails_in_its_own_way_when_good_ones_share_its_call(connect, triton):
    bad = {
        3: (recommend_request(events=HISTORY, now=ago(days=10)), "events[1].time"),
        7: (recommend_request(alpha=2), "alpha"),
        8: (recommend_request(decay_scale=-1), "decay_scale"),
        12: (
            recommend_request(events=[event(item_id="a", time=NOW)], now=NOW, unknown_items="error"),
            "events[0].item_id",
        ),
        15: (recommend_request(events=[event(item_id="1", time=NOW, weight=-1)], now=NOW), "events[0].weight"),
        20: (recommend_request(exclude=[str(number) for number in range(600)]), "exclude_item_ids"),
        27: (recommend_request(events=CURRENT * 513, now=NOW), "events"),
        31: (recommend_request(top_n=21), "top_n"),
    }
    good = recommend_request(events=HISTORY, now=NOW, top_n=3)
    requests = [bad[index][0] if index in bad else good for index in range(32)]
    calls = []
    config = ClientConfig(hooks=(Hooks(after_call=lambda call: calls.append(call.method)),))
    with connect(triton.grpc_url, config=config) as client:
        expected = scores_of(client.recommend(good))
        results = client.recommend_many(requests)
        # Three packs of those alike, each at most five calls more for those whom the server refuses.
        assert calls.count("recommend_many") < 20
        for index, result in enumerate(results):
            assert result.index == index
            if index in bad:
                assert isinstance(result.error, InvalidArgumentError)
                assert result.error.field == bad[index][1]
                with pytest.raises(InvalidArgumentError) as alone:
                    client.recommend(result.request)
                assert str(alone.value) == str(result.error)
            else:
                assert scores_of(result.response) == pytest.approx(expected, abs=1e-4)


def test_limits_are_told_by_the_server_and_kept_before_anything_is_sent(connect, triton):
    config = ClientConfig(check_contract=False)
    with_text = [event(text=TEXT, time=ago(minutes=1))]
    with connect(triton.grpc_url) as client, connect(triton.grpc_url, config=config) as unchecked:
        too_much = (
            lambda one: one.recommend(exclude=[str(number) for number in range(513)]),
            lambda one: one.recommend(events=CURRENT * 513, now=NOW),
            lambda one: one.rank(candidates=[str(number) for number in range(1025)]),
            lambda one: one.explain(item_ids=[str(number) for number in range(1025)], events=with_text, now=NOW),
            lambda one: one.embed(["a"] * 65),
            lambda one: one.embed(["a" * 4097]),
            lambda one: one.recommend(events=[event(text="a" * 4097, time_ms=1)]),
        )
        for ask in too_much:
            with pytest.raises(InvalidArgumentError) as kept:
                ask(client)
            with pytest.raises(InvalidArgumentError) as told:
                ask(unchecked)
            assert str(kept.value) == str(told.value)
            assert (kept.value.attempts, told.value.attempts) == (0, 1)


def test_stream_answers_every_request_once_when_one_is_bad(triton):
    requests = [recommend_request(top_n=1 + index % 5) for index in range(30)]
    requests[4] = recommend_request(alpha=2)
    with InterestClient(triton.grpc_url, config=PATIENT) as client:
        results = list(client.recommend_stream(iter(requests), max_concurrency=4))
        assert sorted(result.index for result in results) == list(range(30))
        for result in results:
            if result.index == 4:
                assert result.error.field == "alpha"
            else:
                assert len(result.response.items) == 1 + result.index % 5
        with pytest.raises(InvalidArgumentError, match="max_concurrency"):
            client.recommend_stream([], max_concurrency=0)
