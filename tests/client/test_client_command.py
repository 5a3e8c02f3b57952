"""What `ebbtide recommend` shows of each kind of answer, and which wishes it refuses before it asks anybody."""

import pytest
from typer.testing import CliRunner

from ebbtide.cli import recommend_display
from ebbtide.cli.app import app
from ebbtide.cli.recommend_display import print_answer
from ebbtide.client import ColdStart, ExplainResponse, Explanation, Ranking, RankResponse, RecommendResponse
from ebbtide.v1 import Event, ExplainedEvent, ItemExplanation, RecommendedItem

TITLES = {"1": "Toy Story [1995]", "2": "Heat"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--allow", "genres"], "--allow: got 'genres'; expected COLUMN=VALUE"),
        (["--allow", "=Comedy"], "--allow: got '=Comedy'; expected COLUMN=VALUE"),
        (["--allow", "genres=Comedy", "--candidates", "1"], "--allow: got it together with --candidates"),
        (["--candidates", ","], "--candidates: got ','; expected item ids"),
        (["--now", "yesterday"], "--now: got 'yesterday'; expected ISO 8601"),
    ],
)
def test_recommend_refuses_a_query_when_it_cannot_be_read(options, message):
    done = CliRunner().invoke(app, ["recommend", "15", "--bundle", "nowhere", *options], env={"COLUMNS": "300"})
    assert done.exit_code == 2
    assert message in done.output


@pytest.fixture
def shown(monkeypatch):
    """Prints an answer, and gives what a wide terminal then holds."""
    from rich.console import Console

    console = Console(width=120, record=True, highlight=False)
    monkeypatch.setattr(recommend_display, "console", console)

    def show(answer, texts=()):
        print_answer("Recommended", answer, TITLES, texts)
        return console.export_text()

    return show


ITEM = RecommendedItem(item_id="1", score=1.25)


def test_cold_start_and_unknown_events_are_shown_when_there_are_some(shown):
    answer = RecommendResponse(
        items=[ITEM], events_used=1, unknown_events=2, cold_start=ColdStart.COLD_START_NO_HISTORY, alpha_used=0.5
    )
    lines = shown(answer, ["space [opera]"]).splitlines()
    assert lines[:3] == [
        "  text just typed: space [opera]",
        "Recommended: alpha 0.50 (share of history), 1 event counted, 2 ignored (not in the catalog)",
        "note: no history: the session alone counted",
    ]
    assert any("Toy Story [1995]" in line and "1.250" in line for line in lines)


def test_candidates_are_all_shown_when_some_cannot_be_ranked(shown):
    printed = shown(Ranking(RankResponse(items=[ITEM], unknown_item_ids=["x"], excluded_item_ids=["2"])))
    assert [line.split("│")[2:4] for line in printed.splitlines() if "not in the" in line or "excluded" in line] == [
        [" Heat             ", "           excluded "],
        [" x                ", " not in the catalog "],
    ]
    assert "note" not in printed


def test_parts_of_each_score_are_shown_when_an_answer_is_explained(shown):
    explained = Explanation(
        ExplainResponse(
            items=[
                ItemExplanation(item_id="1", score=1.25, event_shares=[0.75], prior_share=0.5, dimension_shares=[0.75]),
                ItemExplanation(item_id="x"),
            ],
            events=[ExplainedEvent(event=Event(item_id="2"), is_current=True, decay=0.5, age_days=3)],
            half_life_days=[1],
        )
    )
    printed = shown(explained)
    assert "Heat, 3 days ago (session, weighs 0.5)" in printed
    assert [line.split("│")[3].strip() for line in printed.splitlines() if line.startswith("│")] == [
        "1.250",
        "+0.750",
        "+0.500",
        "not in the catalog",
    ]
