"""Answers as text, dicts and frames."""

import json
import math
import subprocess
import sys

import pandas as pd
import polars as pl
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from ebbtide.client import (
    ColdStart,
    ExplainResponse,
    Explanation,
    InvalidArgumentError,
    Ranking,
    RankResponse,
    RecommendRequest,
    RecommendResponse,
    RecommendResult,
)
from ebbtide.client.results import to_dict, to_pandas, to_polars, to_text
from ebbtide.v1 import Event, ExplainedEvent, ItemExplanation, RecommendedItem

ITEMS = [RecommendedItem(item_id="318", score=1.5), RecommendedItem(item_id="7", score=-0.25)]
ANSWER = RecommendResponse(
    items=ITEMS,
    alpha_used=0.5,
    events_used=3,
    history_events_used=3,
    cold_start=ColdStart.COLD_START_NO_SESSION,
    model_version="2",
)
NOTHING = RecommendResponse()
MANY = [
    RecommendResult(RecommendRequest(), response=ANSWER),
    RecommendResult(RecommendRequest(), error=InvalidArgumentError("alpha: got 3; expected 0 to 1")),
    RecommendResult(RecommendRequest(), response=ANSWER),
]
RANKING = Ranking(
    RankResponse(
        items=ITEMS,
        alpha_used=0.5,
        events_used=1,
        unknown_events=1,
        cold_start=ColdStart.COLD_START_NONE,
        unknown_item_ids=["0", "00"],
        excluded_item_ids=["1"],
    )
)
DAY_S = 86_400


def explained_event(event, *, is_current, age_days, decay):
    return ExplainedEvent(event=event, is_current=is_current, age_days=age_days, decay=decay)


EXPLANATION = Explanation(
    ExplainResponse(
        items=[
            ItemExplanation(
                item_id="318",
                score=1.25,
                event_shares=[0.5, 0.25, -0.75],
                history_share=0.75,
                current_share=-0.75,
                prior_share=1.0,
                adjustment_share=0.25,
                dimension_shares=[0.5, -0.5],
            ),
            ItemExplanation(item_id="0"),
            ItemExplanation(
                item_id="7", event_shares=[0, 0, 0], prior_share=2.0, dimension_shares=[0, 0], is_excluded=True
            ),
        ],
        events=[
            explained_event(Event(item_id="2571", time=Timestamp(seconds=1)), is_current=False, age_days=3, decay=0.5),
            explained_event(Event(item_id="99", time=Timestamp(seconds=1)), is_current=False, age_days=800, decay=0.08),
            explained_event(
                Event(text="space opera", time=Timestamp(seconds=1)), is_current=True, age_days=60 / DAY_S, decay=1
            ),
        ],
        half_life_days=[0.5, math.inf],
        alpha_used=0.25,
        events_used=3,
        model_version="1",
        cold_start=ColdStart.COLD_START_NONE,
    )
)
TITLES = {"2571": "Matrix, The (1999)", "318": "Shawshank Redemption, The (1994)"}


def test_dict_has_every_field_and_is_json_when_fields_are_empty():
    assert to_dict(NOTHING) == {
        "items": [],
        "alpha_used": 0.0,
        "events_used": 0,
        "history_events_used": 0,
        "current_events_used": 0,
        "unknown_events": 0,
        "unfilled_items": 0,
        "relaxed_limits": [],
        "slate_candidates": 0,
        "cold_start": "COLD_START_UNSPECIFIED",
        "model_version": "",
        "state_status": "STATE_STATUS_UNSPECIFIED",
    }
    first = {"item_id": "318", "score": 1.5, "rules": [], "score_rank": 0, "moved_by": []}
    assert json.loads(json.dumps(to_dict(ANSWER)))["items"][0] == first
    assert to_dict(RANKING)["unknown_item_ids"] == ["0", "00"]
    assert json.loads(json.dumps(to_dict(EXPLANATION)))["half_life_days"] == [0.5, "Infinity"]


def test_text_of_an_answer_names_the_rules_of_an_item():
    answer = RecommendResponse(items=[RecommendedItem(item_id="318", score=1.5, rules=["sale", "new"])])
    assert to_text(answer).splitlines()[-1] == "  1  318   1.5000  (sale, new)"
    why = ExplainResponse(items=[ItemExplanation(item_id="318", score=1.5, dimension_shares=[1.5], rules=["sale"])])
    assert "  1  318 (sale): score +1.500 =" in to_text(why).splitlines()


def test_text_of_an_answer_has_one_line_for_each_item():
    assert to_text(ANSWER).splitlines() == [
        "alpha 0.50 (share of history), 3 events counted, model version 2",
        "no current session: the history alone counted",
        "  1  318   1.5000",
        "  2  7    -0.2500",
    ]
    assert to_text(NOTHING).splitlines() == ["alpha 0.00 (share of history), 0 events counted, model version unknown"]
    assert str(MANY[0]) == to_text(ANSWER)
    assert str(MANY[1]) == "InvalidArgumentError: alpha: got 3; expected 0 to 1"
    assert str(RANKING).splitlines() == [
        "alpha 0.50 (share of history), 1 event counted, model version unknown",
        "1 event left out: not in the catalog",
        "  1  318   1.5000",
        "  2  7    -0.2500",
        "     not in the catalog: 0, 00",
        "     left out: 1",
    ]


def test_text_tells_what_adds_up_to_each_score_when_an_explanation_is_printed():
    assert to_text(EXPLANATION, TITLES, events=2).splitlines() == [
        "alpha 0.25 (share of history), 3 events counted, model version 1",
        "  1  Shawshank Redemption, The (1994): score +1.250 =",
        "       -0.750  'space opera', 1 minute ago (session, weighs 1)",
        "       +0.500  Matrix, The (1999), 3 days ago (history, weighs 0.5)",
        "       +0.250  1 other event",
        "       +1.000  popularity prior",
        "       +0.250  related to the newest events",
        "       by half-life: under a day +0.500, over a year -0.500",
        "  2  0: not in the catalog",
        "  3  7: excluded; without that =",
        "       +2.000  popularity prior",
        "       by half-life: under a day +0.000, over a year +0.000",
    ]
    assert "item 99, 2.2 years ago (history, weighs 0.08)" in str(EXPLANATION)


@pytest.mark.parametrize("answers", [ANSWER, NOTHING, RANKING, MANY, []])
def test_frames_hold_the_same_rows_and_types_when_made_by_either_library(answers):
    pandas, polars = to_pandas(answers), to_polars(answers)
    assert pandas.to_dict("list") == polars.to_dict(as_series=False)
    assert polars.schema["score"] == pl.Float32
    assert pandas.dtypes["score"] == "float32"
    assert pandas.dtypes["rank"] == "int64"
    assert pd.api.types.is_string_dtype(pandas.dtypes["item_id"])


def test_frames_hold_shares_that_add_up_when_made_of_an_explanation():
    pandas, polars = to_pandas(EXPLANATION), to_polars(EXPLANATION)
    assert polars.columns == list(pandas.columns)
    assert polars.rows()[:5] == [
        ("318", "history", 0.5, 0, "2571", 3.0, 0.5),
        ("318", "history", 0.25, 1, "99", 800.0, pytest.approx(0.08)),
        ("318", "session", -0.75, 2, "space opera", pytest.approx(60 / DAY_S), 1.0),
        ("318", "prior", 1.0, None, None, None, None),
        ("318", "adjustment", 0.25, None, None, None, None),
    ]
    assert polars.filter(pl.col("item_id") == "318")["share"].sum() == EXPLANATION.items[0].score
    for column in polars.columns:
        assert pandas[column].isna().tolist() == polars[column].is_null().to_list()
        assert pandas[column].dropna().tolist() == polars[column].drop_nulls().to_list()


def test_results_give_what_their_message_says():
    assert [item.item_id for item in RANKING.items] == ["318", "7"]
    assert (list(RANKING.unknown_item_ids), list(RANKING.excluded_item_ids)) == (["0", "00"], ["1"])
    assert (RANKING.alpha_used, RANKING.cold_start) == (0.5, ColdStart.COLD_START_NONE)
    assert [item.item_id for item in EXPLANATION.items] == ["318", "0", "7"]
    assert [event.is_current for event in EXPLANATION.events] == [False, False, True]
    assert (EXPLANATION.alpha_used, EXPLANATION.cold_start) == (0.25, ColdStart.COLD_START_NONE)


def test_frames_name_the_request_of_each_row_when_some_failed():
    assert to_polars(MANY).rows() == [
        (0, 1, "318", 1.5),
        (0, 2, "7", -0.25),
        (2, 1, "318", 1.5),
        (2, 2, "7", -0.25),
    ]


def test_frame_says_what_is_missing_when_its_library_is_not_installed():
    program = (
        "import sys; sys.modules['pandas'] = None\n"
        "from ebbtide.client import RecommendResponse, results\n"
        "try: results.to_pandas(RecommendResponse())\n"
        "except ModuleNotFoundError as error: print(error.name)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "pandas"
