"""Slates on a real server: what the list has, what moved its items, and which limits gave way; both clients."""

import asyncio
from collections import Counter
from datetime import datetime, timedelta, timezone

import grpc
import pytest

from deadlines import PATIENT
from ebbtide.client import InvalidArgumentError, SlateCauseKind, event, new_item, recommend_request, rule, slate
from ebbtide.gateway import Gateway, GatewayConfig
from ebbtide.v1.interest_pb2_grpc import InterestServiceStub

NOW = datetime(2023, 11, 14, tzinfo=timezone.utc)
EVENTS = [event(item_id=item_id, time=NOW - timedelta(hours=1)) for item_id in ("1", "2", "10")]
ASKED = {"now": NOW, "events": EVENTS, "exclude_seen": False}
KINDS = SlateCauseKind
MOST = 20
"""Candidates: the top N of the export."""


@pytest.fixture
def client(connect, triton):
    with connect(triton.grpc_url, config=PATIENT) as client:
        yield client


@pytest.fixture
def best(client):
    """Ids of all candidates, best first."""
    return [item.item_id for item in client.recommend(top_n=MOST, **ASKED).items]


def ids(answer):
    return [item.item_id for item in answer.items]


def count(answer, genres, genre):
    return sum(genre in genres[item_id] for item_id in ids(answer))


def least_common(best, genres, least=1):
    """A genre that few of the best have, and the first items lack."""
    counts = Counter(genre for item_id in best for genre in genres[item_id])
    first = set().union(*(genres[item_id] for item_id in best[:3]))
    return min((number, genre) for genre, number in counts.items() if number >= least and genre not in first)[1]


def kinds(item):
    return {cause.kind for cause in item.moved_by}


def test_slate_without_wishes_is_the_list_by_score(client, best):
    plain = client.recommend(top_n=5, **ASKED)
    found = client.recommend(top_n=5, slate=slate(), **ASKED)
    assert ids(found) == best[:5]
    assert [item.score for item in found.items] == [item.score for item in plain.items]
    assert [item.score_rank for item in found.items] == [1, 2, 3, 4, 5]
    assert not any(item.moved_by for item in found.items)
    assert found.slate_candidates == MOST
    assert (found.alpha_used, found.events_used, found.model_version) == (plain.alpha_used, 3, plain.model_version)
    assert not plain.slate_candidates
    assert len(client.recommend(slate=slate(), **ASKED).items) == 10


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_diversity_moves_items_and_says_so(client, best, method):
    found = client.recommend(top_n=8, slate=slate(diversity=0.9, method=method), **ASKED)
    assert ids(found)[0] == best[0]
    assert ids(found) != best[:8]
    for position, item in enumerate(found.items, 1):
        assert item.item_id == best[item.score_rank - 1]
        assert kinds(item) == ({KINDS.SLATE_CAUSE_KIND_DIVERSITY} if item.score_rank != position else set())
    assert not found.relaxed_limits


def test_caps_hold_for_each_value_of_a_column_and_for_one_value(client, best, genres):
    genre, _ = Counter(genre for item_id in best[:8] for genre in genres[item_id]).most_common(1)[0]
    found = client.recommend(top_n=8, slate=slate(at_most={f"genres={genre}": 1}), **ASKED)
    assert count(found, genres, genre) <= 1 or found.relaxed_limits
    moved = [item for item in found.items if item.moved_by]
    assert moved
    for item in moved:
        assert [(one.kind, one.column, one.value) for one in item.moved_by] == [
            (KINDS.SLATE_CAUSE_KIND_AT_MOST, "genres", genre)
        ]

    every = client.recommend(top_n=3, slate=slate(at_most={"genres": 1}), **ASKED)
    counts = Counter(genre for item_id in ids(every) for genre in genres[item_id])
    assert max(counts.values()) == 1 or every.relaxed_limits[0].got == max(counts.values())


def test_minimum_brings_items_of_a_value(client, best, genres):
    genre = least_common(best, genres)
    found = client.recommend(top_n=3, slate=slate(at_least={f"genres={genre}": 1}), **ASKED)
    assert count(found, genres, genre) == 1
    assert kinds(found.items[2]) == {KINDS.SLATE_CAUSE_KIND_AT_LEAST}
    assert not found.relaxed_limits


def test_minimum_that_too_few_candidates_can_meet_is_met_as_far_as_they_can(client, best, genres):
    genre = least_common(best, genres)
    there = sum(genre in genres[item_id] for item_id in best)
    found = client.recommend(top_n=10, slate=slate(at_least={f"genres={genre}": there + 2}), **ASKED)
    assert count(found, genres, genre) == there
    (relaxed,) = found.relaxed_limits
    assert (relaxed.limit.kind, relaxed.limit.value) == (KINDS.SLATE_CAUSE_KIND_AT_LEAST, genre)
    assert (relaxed.wanted, relaxed.got) == (there + 2, there)


def test_cap_is_passed_when_the_list_would_be_shorter(client, best, genres):
    found = client.recommend(top_n=MOST, slate=slate(at_most={"genres": 1}), **ASKED)
    assert sorted(ids(found)) == sorted(best)
    (relaxed,) = found.relaxed_limits
    counts = Counter(genre for item_id in best for genre in genres[item_id])
    assert (relaxed.limit.kind, relaxed.limit.column) == (KINDS.SLATE_CAUSE_KIND_AT_MOST, "genres")
    assert (relaxed.wanted, relaxed.got) == (1, max(counts.values()))
    assert counts[relaxed.limit.value] == relaxed.got


def test_minimums_give_way_to_caps(client, best, genres):
    genre = least_common(best, genres, 2)
    both = slate(at_most={f"genres={genre}": 1}, at_least={f"genres={genre}": 2})
    found = client.recommend(top_n=5, slate=both, **ASKED)
    assert count(found, genres, genre) == 1
    assert [one.limit.kind for one in found.relaxed_limits] == [KINDS.SLATE_CAUSE_KIND_AT_LEAST]


def test_exposure_holds_at_every_position_or_says_where_not(client, best, genres):
    genre = least_common(best, genres, 2)
    there = sum(genre in genres[item_id] for item_id in best)
    found = client.recommend(top_n=4, slate=slate(exposure={f"genres={genre}": 0.5}, significance=0.5), **ASKED)
    assert count(found, genres, genre) >= 1
    assert any(KINDS.SLATE_CAUSE_KIND_EXPOSURE in kinds(item) for item in found.items)

    # All but always: more than there are.
    most = client.recommend(top_n=MOST, slate=slate(exposure={f"genres={genre}": 0.99}), **ASKED)
    (relaxed,) = most.relaxed_limits
    assert relaxed.limit.kind == KINDS.SLATE_CAUSE_KIND_EXPOSURE
    assert relaxed.got == there < relaxed.wanted <= relaxed.position
    assert [genre in genres[item_id] for item_id in ids(most)[:there]] == [True] * there


def test_calibrated_list_follows_the_events_of_the_request_and_of_the_state(client, best, genres):
    genre = least_common(best, genres)
    liked = next(item_id for item_id in best if genre in genres[item_id])
    events = [event(item_id=liked, time=NOW - timedelta(hours=1))]
    asked = {"now": NOW, "exclude_seen": False, "top_n": 5}
    plain = client.recommend(events=events, **asked)
    wishes = slate(calibrate={"genres": 1.0})
    found = client.recommend(events=events, slate=wishes, **asked)

    def shared(answer):
        return sum(len(genres[item_id] & genres[liked]) / len(genres[item_id]) for item_id in ids(answer))

    assert shared(found) > shared(plain)
    assert {kind for item in found.items for kind in kinds(item)} == {KINDS.SLATE_CAUSE_KIND_CALIBRATION}

    client.observe("calibrated", events)
    try:
        assert ids(client.recommend(user_id="calibrated", slate=wishes, **asked)) == ids(found)
    finally:
        client.forget("calibrated")


def test_text_goes_to_the_model_that_embeds_it(client):
    found = client.recommend(
        now=NOW, events=[*EVENTS, event(text="a western", time=NOW)], top_n=4, slate=slate(diversity=0.5)
    )
    assert len(found.items) == 4
    assert found.slate_candidates == MOST


def test_many_users_get_the_same_lists_as_one(client):
    wishes = [slate(), slate(diversity=0.7), slate(at_most={"genres": 2})]
    requests = [recommend_request(slate=one, top_n=6, **ASKED) for one in wishes]
    wrong = recommend_request(slate=slate(at_most={"color": 1}), **ASKED)
    results = client.recommend_many([*requests, recommend_request(**ASKED), wrong])
    assert [one.response for one in results[:3]] == [client.recommend(one) for one in requests]
    assert not results[3].response.slate_candidates
    assert results[4].error.field == "slate.at_most[0]"


def test_gateway_answers_as_the_client(client, triton):
    request = recommend_request(slate=slate(diversity=0.6, at_most={"genres": 2}), top_n=6, **ASKED)

    async def ask():
        async with (
            Gateway(GatewayConfig(triton=triton.grpc_url, client=PATIENT)) as gateway,
            grpc.aio.insecure_channel(gateway.url) as channel,
        ):
            return await InterestServiceStub(channel).Recommend(request)

    assert asyncio.run(ask()) == client.recommend(request)


def test_explanations_are_of_the_slate(client):
    wishes = slate(diversity=0.8)
    found = client.recommend(top_n=4, slate=wishes, **ASKED)
    explained = client.explain(top_n=4, slate=wishes, **ASKED)
    assert ids(explained) == ids(found)
    assert [item.score_rank for item in explained.items] == [item.score_rank for item in found.items]
    assert [kinds(item) for item in explained.items] == [kinds(item) for item in found.items]
    assert explained.response.slate_candidates == MOST
    with pytest.raises(InvalidArgumentError, match="slate: got one beside item_ids"):
        client.explain(item_ids=["1"], slate=wishes, **ASKED)


@pytest.mark.parametrize(
    ("wishes", "field", "said"),
    [
        ({"at_most": {"color": 1}}, "slate.at_most[0]", "expected a column .* genres"),
        ({"at_least": {"genres=Opera": 1}}, "slate.at_least[0]", "value 'Opera'; expected a value"),
        ({"exposure": {"genres=Opera": 0.5}}, "slate.exposure[0]", "value 'Opera'"),
        ({"calibrate": "color"}, "slate", "calibration by column 'color'"),
        ({"diversity": 1.5}, "slate.diversity", "from 0 to 1"),
        ({"exposure": {"genres=Drama": 1.0}}, "slate.exposure[0].share", "below 1"),
        ({"at_least": {"genres=Drama": 0}}, "slate.at_least[0].count", "from 1"),
    ],
)
def test_wrong_wish_is_named(client, wishes, field, said):
    with pytest.raises(InvalidArgumentError, match=said) as error:
        client.recommend(slate=slate(**wishes), **ASKED)
    assert error.value.field == field


def test_too_long_list_is_refused_as_without_slate(client):
    said = []
    for wishes in (None, slate(diversity=0.1)):
        with pytest.raises(InvalidArgumentError) as error:
            client.recommend(top_n=MOST + 1, slate=wishes, **ASKED)
        said.append((error.value.field, str(error.value.value), error.value.expected))
    assert said[0] == said[1]


@pytest.mark.parametrize("wishes", [{"at_least": {"genres": 1}}, {"at_most": {"genres": -1}}, {"method": "random"}])
def test_slate_refuses_what_is_no_wish(wishes):
    with pytest.raises(InvalidArgumentError):
        slate(**wishes)


def test_lists_have_added_items_and_pins_of_the_house(connect, triton_of_items):
    with connect(triton_of_items.grpc_url, config=PATIENT) as client:
        client.add_items([new_item("new-drama", "A drama about a slate.", attributes={"genres": "Drama"})])
        client.set_rules([rule("front page", pin=2, item_ids=["new-drama"])])
        try:
            for _ in range(200):
                found = client.recommend(top_n=5, slate=slate(at_most={"genres=Drama": 1}), **ASKED)
                if len(found.items) > 1 and found.items[1].item_id == "new-drama":
                    break
            assert found.items[1].item_id == "new-drama"
            assert list(found.items[1].rules) == ["front page"]
            assert found.slate_candidates > 0
            explained = client.explain(top_n=5, slate=slate(at_most={"genres=Drama": 1}), **ASKED)
            for item, why in zip(found.items, explained.items, strict=True):
                assert (why.item_id, why.score_rank, why.rules) == (item.item_id, item.score_rank, item.rules)
                assert why.moved_by == item.moved_by
            assert not client.explain(item_ids=["new-drama"], **ASKED).items[0].rules
        finally:
            client.remove_rules(["front page"])
            client.remove_items(["new-drama"])
