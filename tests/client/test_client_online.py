"""Users that a real server knows by their ids: what is observed counts, by every way of asking."""

import asyncio
from datetime import datetime, timedelta, timezone

import pytest

from deadlines import PATIENT
from ebbtide.client import (
    AsyncInterestClient,
    ColdStart,
    InterestClient,
    InvalidArgumentError,
    StateStatus,
    StateUnavailableError,
    event,
    observe_request,
    recommend_request,
)
from ebbtide.serve import NO_STATE, ServerConfig
from servers import only, serving

NOW = datetime(2024, 5, 1, 12, tzinfo=timezone.utc)


ITEMS = [str(number) for number in range(1, 61) if number not in (33, 51, 56)]
"""Ids of the shipped catalog."""


def history(count, first=1):
    """Events a day apart, the last one an hour before `NOW`."""
    return [
        event(
            item_id=ITEMS[first - 1 + index],
            time=NOW - timedelta(days=count - 1 - index, hours=1),
            weight=1 + index % 3,
        )
        for index in range(count)
    ]


def items_of(answer):
    return [(item.item_id, pytest.approx(item.score, abs=1e-4)) for item in answer.items]


def test_user_is_recommended_what_the_same_events_give_when_they_were_observed(connect, triton, request):
    user, events = request.node.name, history(12)
    with connect(triton.grpc_url) as client:
        assert client.observe(user, events[:7]).added_events == 7
        assert client.observe(user, events[7:]).added_events == 5
        by_user = client.recommend(user_id=user, now=NOW, top_n=10)
        by_events = client.recommend(events=events, now=NOW, top_n=10)
        assert client.forget(user) == 1
    assert by_user.state_status == StateStatus.STATE_STATUS_USED
    assert by_events.state_status == StateStatus.STATE_STATUS_UNSPECIFIED
    assert [(item.item_id, item.score) for item in by_user.items] == items_of(by_events)
    assert by_user.events_used == by_events.events_used == 12
    assert by_user.cold_start == by_events.cold_start
    assert by_user.alpha_used == pytest.approx(by_events.alpha_used, abs=1e-5)


def test_ranks_and_shares_are_those_of_the_same_events_when_they_were_observed(connect, triton, request):
    user, events = request.node.name, history(6)
    candidates = ["3", "30", "31", "no such item"]
    with connect(triton.grpc_url) as client:
        client.observe(user, events[:4])
        # What is not observed comes with the request, and both count.
        by_user = client.rank(user_id=user, events=events[4:], now=NOW, candidates=candidates)
        by_events = client.rank(events=events, now=NOW, candidates=candidates)
        why = client.explain(user_id=user, events=events[4:], now=NOW, item_ids=["30", "31"])
        known = client.explain(events=events, now=NOW, item_ids=["30", "31"])
    assert [(item.item_id, item.score) for item in by_user.items] == items_of(by_events)
    assert [one.event.item_id for one in why.state_events] == ["4", "3", "2", "1"]
    for mine, theirs in zip(why.items, known.items, strict=True):
        shares = [*reversed(mine.state_event_shares), *mine.event_shares]
        assert shares == pytest.approx(list(theirs.event_shares), abs=1e-4)
        assert mine.score == pytest.approx(sum(shares) + mine.folded_share + mine.prior_share, abs=1e-4)
        assert mine.history_share == pytest.approx(theirs.history_share, abs=1e-4)


def test_event_counts_once_when_it_is_observed_again(connect, triton, request):
    user = request.node.name
    named = [event(item_id="5", time=NOW, event_id=f"click {index}") for index in range(3)]
    with connect(triton.grpc_url) as client:
        first = client.observe(user, history(3))
        again = client.observe(user, history(4, first=1)[:3])
        assert (first.added_events, first.duplicate_events) == (3, 0)
        assert client.observe(user, history(3)).duplicate_events == 3
        assert again.added_events == 3  # other times
        assert client.observe(user, named).added_events == 3
        assert client.observe(user, named).duplicate_events == 3
        assert client.interest(user, now=NOW).response.events_used == 9


def test_unknown_items_follow_the_policy_when_they_are_observed(connect, triton, request):
    user = request.node.name
    events = [*history(2), event(item_id="no such item", time=NOW)]
    with connect(triton.grpc_url) as client:
        with pytest.raises(InvalidArgumentError) as caught:
            client.observe(user, events, unknown_items="error")
        assert (caught.value.field, caught.value.value) == ("events[2].item_id", "'no such item'")
        observed = client.observe(user, events, unknown_items="ignore")
        assert (observed.added_events, observed.unknown_events) == (2, 1)


def test_interest_shows_what_is_left_of_each_event_when_read_at_a_time(connect, triton, request):
    user = request.node.name
    with connect(triton.grpc_url) as client:
        client.observe(user, history(5))
        soon, late = client.interest(user, now=NOW), client.interest(user, now=NOW + timedelta(days=300))
        assert client.interest(user, now=NOW).response == soon.response
        still = client.interest(user, now=NOW + timedelta(days=300), decay_scale=0)
    assert [one.event.item_id for one in soon.events] == ["5", "4", "3", "2", "1"]
    assert [one.age_days for one in soon.events] == pytest.approx([index + 1 / 24 for index in range(5)], abs=1e-4)
    assert all(before.decay >= after.decay for before, after in zip(soon.events, late.events, strict=True))
    assert late.events[-1].decay <= still.events[-1].decay
    assert len(soon.response.half_life_days) == len(soon.response.energy) > 0
    assert soon.is_known
    assert "item 5, 1 hour ago" in str(soon) or "item 5, 60 minutes ago" in str(soon)


def test_nothing_is_left_when_a_user_is_forgotten(connect, triton, request):
    user = request.node.name
    with connect(triton.grpc_url) as client:
        client.observe(user, history(3))
        assert client.forget(user) == 1
        assert client.forget(user) == 0
        assert not client.interest(user).is_known
        answer = client.recommend(user_id=user, now=NOW)
        assert answer.state_status == StateStatus.STATE_STATUS_UNKNOWN_USER
        assert answer.cold_start == ColdStart.COLD_START_NO_EVENTS
        assert [one.item_id for one in answer.items] == [one.item_id for one in client.recommend(now=NOW).items]


def test_many_users_are_observed_and_asked_for_when_they_share_calls(connect, triton, request):
    names = [f"{request.node.name} {index}" for index in range(40)]
    with connect(triton.grpc_url) as client:
        observed = client.observe_many([observe_request(name, history(2, 1 + i)) for i, name in enumerate(names)])
        assert [result.response.added_events for result in observed] == [2] * 40
        asked = [recommend_request(user_id=name, now=NOW, top_n=3) for name in names]
        asked.append(recommend_request(now=NOW, top_n=3))
        answers = client.recommend_many(asked)
        for index in (0, 17, 39):
            alone = client.recommend(events=history(2, 1 + index), now=NOW, top_n=3)
            assert [(item.item_id, item.score) for item in answers[index].response.items] == items_of(alone)
    assert answers[-1].response.state_status == StateStatus.STATE_STATUS_UNSPECIFIED


def test_no_event_is_lost_when_tasks_observe_one_user_at_once(triton, request):
    user = request.node.name

    async def run():
        async with AsyncInterestClient(triton.grpc_url, config=PATIENT) as client:
            await asyncio.gather(*(client.observe(user, [one]) for one in history(24)))
            return await client.interest(user, now=NOW), await client.recommend(user_id=user, now=NOW, top_n=5)

    interest, answer = asyncio.run(run())
    with InterestClient(triton.grpc_url, config=PATIENT) as client:
        at_once = client.recommend(events=history(24), now=NOW, top_n=5)
    assert interest.response.events_used == 24
    assert [(item.item_id, item.score) for item in answer.items] == items_of(at_once)


def test_user_is_refused_with_what_to_do_when_the_server_keeps_no_states(repository):
    with (
        serving(
            ServerConfig(repository, state=NO_STATE, **only("recommend", "observe", "interest", "forget"))
        ) as running,
        InterestClient(running.grpc_url, config=PATIENT) as client,
    ):
        for call in (
            lambda: client.observe("u", history(1)),
            lambda: client.interest("u"),
            lambda: client.forget("u"),
            lambda: client.recommend(user_id="u"),
            lambda: client.recommend(user_id="u", allow_stateless=True),
        ):
            with pytest.raises(InvalidArgumentError, match="--state") as caught:
                call()
            assert caught.value.field == "user_id"
        assert client.recommend(events=history(2), now=NOW).state_status == StateStatus.STATE_STATUS_UNSPECIFIED


def test_answer_comes_without_the_state_or_not_at_all_when_the_store_is_down(repository, free_address):
    with (
        serving(ServerConfig(repository, state=f"redis://{free_address}/0", **only("recommend", "observe"))) as running,
        InterestClient(running.grpc_url, config=PATIENT) as client,
    ):
        with pytest.raises(StateUnavailableError, match=free_address):
            client.recommend(user_id="u", events=history(2), now=NOW)
        with pytest.raises(StateUnavailableError, match=free_address):
            client.observe("u", history(2))
        answer = client.recommend(user_id="u", events=history(2), now=NOW, allow_stateless=True)
        without = client.recommend(events=history(2), now=NOW)
        assert answer.state_status == StateStatus.STATE_STATUS_UNAVAILABLE
        assert [(item.item_id, item.score) for item in answer.items] == items_of(without)
