"""How `ebbtide recommend` shows an answer and the state of a user."""

import pytest
import typer

from ebbtide.cli.interest_display import print_interest
from ebbtide.cli.recommend_display import print_answer
from ebbtide.cli.slate_options import slate_of
from ebbtide.client import (
    Explanation,
    RecommendResponse,
    SlateCause,
    SlateCauseKind,
    UserInterest,
    event,
    results,
    slate,
)
from ebbtide.v1 import ExplainResponse, InterestResponse, ItemExplanation, RecommendedItem, RelaxedLimit, StateStatus


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
    why = ExplainResponse(items=[ItemExplanation(item_id="3", score=1.5, dimension_shares=[1.5], rules=["spring"])])
    print_answer("Recommended", Explanation(why), {"3": "Heat"}, [])
    assert "Heat (spring) │ 1.500" in " ".join(capsys.readouterr().out.split())
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


@pytest.fixture
def composed(answer):
    """A slate whose second item was the 12th."""
    del answer.items[:]
    diversity = SlateCause(kind=SlateCauseKind.SLATE_CAUSE_KIND_DIVERSITY)
    cap = SlateCause(kind=SlateCauseKind.SLATE_CAUSE_KIND_AT_MOST, column="genres")
    least = SlateCause(kind=SlateCauseKind.SLATE_CAUSE_KIND_AT_LEAST, column="genres", value="War")
    answer.items.add(item_id="3", score=3, score_rank=1)
    answer.items.add(item_id="1", score=1, score_rank=12, moved_by=[diversity, cap])
    answer.items.add(item_id="2", score=2, score_rank=2, moved_by=[diversity])
    answer.relaxed_limits.append(RelaxedLimit(limit=least, wanted=3, got=1))
    return answer


def test_table_says_what_moved_items_of_a_slate_and_what_gave_way(composed, capsys):
    print_answer("Recommended", composed, {}, [])
    shown = " ".join(capsys.readouterr().out.split())
    assert "up from 12: diversity, at most of genres" in shown
    assert "down from 2: diversity" in shown
    assert "not met: at least of genres=War: wanted 3, got 1" in shown
    text = results.to_text(composed)
    assert "  (up from 12: diversity, at most of genres)" in text
    assert "not met: at least of genres=War: wanted 3, got 1" in text


def test_options_of_a_slate_are_those_of_the_client():
    expected = slate(
        diversity=0.3,
        method="dpp",
        at_most={"brand": 3, "genre=Sci=Fi": 1},
        at_least={"genre=War": 2},
        calibrate={"genre": 0.4},
        exposure={"maker=small": 0.25},
    )
    found = slate_of(0.3, "dpp", ["brand=3", "genre=Sci=Fi=1"], ["genre=War=2"], "genre=.4", ["maker=small=.25"])
    assert found == expected
    assert slate_of(None, "mmr", (), (), None, ()) is None
    assert slate_of(None, "mmr", (), (), "genre", ()) == slate(calibrate="genre")


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("at_most", ["brand"]),
        ("at_most", ["brand=many"]),
        ("at_least", ["brand=3"]),
        ("exposure", ["maker=small=much"]),
    ],
)
def test_option_of_a_slate_is_refused_when_it_has_no_number(option, given):
    wishes = {"at_most": (), "at_least": (), "exposure": (), option: given}
    with pytest.raises(typer.BadParameter, match=f"--{option.replace('_', '-')}: got '{given[0]}'; expected"):
        slate_of(None, "mmr", wishes["at_most"], wishes["at_least"], None, wishes["exposure"])
