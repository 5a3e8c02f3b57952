"""How `ebbtide recommend` shows an answer and the state of a user."""

import pytest

from ebbtide.cli.interest_display import print_interest
from ebbtide.cli.recommend_display import print_answer
from ebbtide.client import RecommendResponse, UserInterest, event
from ebbtide.v1 import InterestResponse, RecommendedItem, StateStatus


@pytest.fixture
def answer():
    return RecommendResponse(
        items=[
            RecommendedItem(item_id="3", score=1.5, rules=["front page", "spring"]),
            RecommendedItem(item_id="1", score=2),
        ],
        events_used=1,
    )


def test_table_names_the_rules_when_they_moved_an_item(answer, capsys):
    print_answer("Recommended", answer, {"3": "Heat"}, [])
    shown = capsys.readouterr().out
    assert "1 event counted" in shown
    assert "rules" in shown
    assert "Heat │ 1.500 │ front page, spring" in " ".join(shown.split())
    del answer.items[0]
    print_answer("Recommended", answer, {}, [])
    assert "rules" not in capsys.readouterr().out


def test_state_that_is_missing_is_a_sentence_when_the_user_is_unknown(answer, capsys):
    answer.state_status = StateStatus.STATE_STATUS_UNKNOWN_USER
    print_answer("Recommended", answer, {}, [])
    assert "note: the store has no event of this user" in capsys.readouterr().out


@pytest.mark.parametrize(("age_days", "is_told"), [(5700.0, True), (3.0, False)])
def test_old_state_comes_with_advice_when_its_newest_event_is_long_ago(capsys, age_days, is_told):
    state = InterestResponse(state_status=StateStatus.STATE_STATUS_USED, events_used=1)
    state.events.add(event=event(item_id="1", time_ms=0), age_days=age_days, decay=0.5)
    print_interest("u1", UserInterest(state), {})
    shown = capsys.readouterr().out
    assert ("the newest event is 15.6 y old" in shown) == ("--now" in shown) == is_told
    assert "1 event counted" in shown
