"""Answers as text, dicts and frames."""

import json
import subprocess
import sys

import pandas as pd
import polars as pl
import pytest

from ebbtide.client import InvalidArgumentError, RecommendRequest, RecommendResponse, RecommendResult
from ebbtide.client.results import to_dict, to_pandas, to_polars, to_text
from ebbtide.v1 import RecommendedItem

ANSWER = RecommendResponse(
    items=[RecommendedItem(item_id="318", score=1.5), RecommendedItem(item_id="7", score=-0.25)],
    alpha_used=0.5,
    events_used=3,
    model_version="2",
)
NOTHING = RecommendResponse()
MANY = [
    RecommendResult(RecommendRequest(), response=ANSWER),
    RecommendResult(RecommendRequest(), error=InvalidArgumentError("alpha: got 3; expected 0 to 1")),
    RecommendResult(RecommendRequest(), response=ANSWER),
]


def test_dict_has_every_field_and_is_json_when_fields_are_empty():
    assert to_dict(NOTHING) == {"items": [], "alpha_used": 0.0, "events_used": 0, "model_version": ""}
    assert json.loads(json.dumps(to_dict(ANSWER)))["items"][0] == {"item_id": "318", "score": 1.5}


def test_text_is_one_line_for_each_item_when_printed():
    assert to_text(ANSWER).splitlines() == [
        "alpha 0.50 (share of history), 3 events counted, model version 2",
        "  1  318   1.5000",
        "  2  7    -0.2500",
    ]
    assert to_text(NOTHING).splitlines() == ["alpha 0.00 (share of history), 0 events counted, model version unknown"]
    assert str(MANY[0]) == to_text(ANSWER)
    assert str(MANY[1]) == "InvalidArgumentError: alpha: got 3; expected 0 to 1"


@pytest.mark.parametrize("answers", [ANSWER, NOTHING, MANY, []])
def test_frames_hold_the_same_rows_and_types_when_made_by_either_library(answers):
    pandas, polars = to_pandas(answers), to_polars(answers)
    assert pandas.to_dict("list") == polars.to_dict(as_series=False)
    assert polars.schema["score"] == pl.Float32
    assert pandas.dtypes["score"] == "float32"
    assert pandas.dtypes["rank"] == "int64"
    assert pd.api.types.is_string_dtype(pandas.dtypes["item_id"])


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
