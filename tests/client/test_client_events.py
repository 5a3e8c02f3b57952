"""Plain Python values into messages: events and the requests of `recommend`, `rank` and `explain`."""

from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.client import (
    ExplainRequest,
    InvalidArgumentError,
    RankRequest,
    RecommendRequest,
    UserKeywords,
    event,
    explain_request,
    rank_request,
    recommend_request,
    slate,
)
from ebbtide.client._events import strings
from ebbtide.client._requests import explanation_of, one_request, recommendation_of

aware = st.datetimes(
    datetime(1, 1, 2),
    datetime(9999, 12, 30),
    timezones=st.builds(
        timezone,
        st.timedeltas(timedelta(hours=-14), timedelta(hours=14)).map(
            lambda offset: timedelta(minutes=offset // timedelta(minutes=1))
        ),
    ),
)


@given(aware)
def test_event_time_is_the_same_basket_when_given_as_datetime(time):
    since_epoch = time - datetime(1970, 1, 1, tzinfo=timezone.utc)
    assert event(item_id="a", time=time).time.ToMicroseconds() == since_epoch // timedelta(microseconds=1)


FIRST_S, END_S = 788_918_400, 7_258_118_400
"""1995 and 2200 in Unix seconds."""


@given(
    st.integers(-62_135_596_800_000, 20_000_000)
    | st.integers(END_S, 199_401_010_000)
    | st.integers(FIRST_S * 1000, END_S * 1000)
    | st.integers(30_000_000_000_000, 253_402_300_799_999)
)
def test_event_time_is_the_same_basket_when_given_in_milliseconds(time_ms):
    assert event(text="a", time_ms=time_ms).time.ToMilliseconds() == time_ms


@pytest.mark.parametrize(
    ("arguments", "field", "expected"),
    [
        ({"time_ms": 1}, "event", "one of item_id and text"),
        ({"item_id": "a", "text": "b", "time_ms": 1}, "event", "one of item_id and text"),
        ({"item_id": "", "time_ms": 1}, "item_id", "not empty"),
        ({"item_id": "a"}, "event", "one of time and time_ms"),
        ({"item_id": "a", "time": datetime.now(timezone.utc), "time_ms": 1}, "event", "one of time and time_ms"),
        ({"item_id": "a", "time": datetime(2024, 1, 1)}, "time", "timezone"),
        ({"item_id": "a", "time_ms": 10**18}, "time_ms", "Unix milliseconds"),
        ({"text": "a", "fallback_text": "b", "time_ms": 1}, "fallback_text", "item_id beside it"),
    ],
)
def test_event_names_the_field_when_it_cannot_be_made(arguments, field, expected):
    with pytest.raises(InvalidArgumentError, match=expected) as caught:
        event(**arguments)
    assert caught.value.field == field
    assert isinstance(caught.value, ValueError)


def test_event_fields_are_absent_when_not_given():
    bare = event(item_id="a", time_ms=1)
    assert not bare.HasField("weight")
    assert not bare.HasField("fallback_text")
    assert event(item_id="a", time_ms=1, weight=0).HasField("weight")
    assert event(item_id="a", time_ms=1, fallback_text="").HasField("fallback_text")


ONE = event(item_id="a", time_ms=1)
USER: UserKeywords = {
    "history": [ONE],
    "current": (ONE,),
    "events": [ONE, ONE],
    "now": datetime(2024, 1, 1, tzinfo=timezone.utc),
    "alpha": 0.0,
    "decay_scale": 0.0,
    "unknown_items": "ignore",
    "exclude": {"b"},
    "exclude_seen": False,
    "user_id": "u",
    "allow_stateless": True,
}
BUILDERS = [
    (recommend_request, {"allow": {"genre": ("Drama", "Comedy"), "in_stock": "true"}, "top_n": 3, "slate": slate()}),
    (rank_request, {"candidates": ["c"], "top_n": 3}),
    (explain_request, {"item_ids": ["c"], "allow": {"genre": ["Drama"]}, "top_n": 3, "slate": slate()}),
]


@pytest.mark.parametrize(("build", "own"), BUILDERS)
def test_request_carries_every_field_when_all_keywords_are_given(build, own):
    built = build(**USER, **own)
    assert {field.name for field, _ in built.ListFields()} == {field.name for field in built.DESCRIPTOR.fields}
    assert build() == type(built)()
    with pytest.raises(TypeError, match="histroy"):
        build(histroy=[])


def test_request_lists_all_values_of_a_column_when_attributes_are_allowed():
    allow = recommend_request(allow={"genre": ("Drama", "Comedy"), "in_stock": "true"}).allow
    assert [(condition.column, list(condition.values)) for condition in allow] == [
        ("genre", ["Drama", "Comedy"]),
        ("in_stock", ["true"]),
    ]


def test_recommendation_says_the_same_of_the_user_when_made_for_an_explanation():
    user = {**USER, "events": ()}
    own = {"allow": {"genre": "Drama"}, "top_n": 3}
    assert recommendation_of(explain_request(**user, **own)) == recommend_request(**user, **own)
    assert recommendation_of(explain_request()) == recommend_request()
    assert explanation_of(explain_request(**user, **own), ["x", "y"]) == explain_request(**user, item_ids=["x", "y"])


@pytest.mark.parametrize("kind", [RecommendRequest, RankRequest, ExplainRequest])
def test_request_is_taken_as_it_is_when_given_whole(kind):
    whole = kind(top_n=3)
    assert one_request(whole, kind()) is whole


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"top_n": 0}, "top_n"),
        ({"now": datetime(2024, 1, 1)}, "now"),
        ({"exclude": "318"}, "exclude_item_ids"),
        ({"unknown_items": "drop"}, "unknown_items"),
    ],
)
def test_request_names_the_field_when_it_cannot_be_built(arguments, field):
    with pytest.raises(InvalidArgumentError) as caught:
        recommend_request(**arguments)
    assert caught.value.field == field


def test_request_is_refused_when_it_is_given_both_whole_and_by_keywords():
    with pytest.raises(InvalidArgumentError, match="request: got top_n beside it"):
        one_request(RecommendRequest(), recommend_request(top_n=5))


def test_strings_refuses_one_string_when_a_list_is_meant():
    assert strings("texts", ("a", "b")) == ["a", "b"]
    with pytest.raises(InvalidArgumentError, match="a list of strings"):
        strings("texts", "ab")


@given(st.integers(FIRST_S * 1000, END_S * 1000 - 1), st.sampled_from([1, 10**6, 10**9]), st.integers(0, 10**6))
def test_event_time_in_another_unit_is_refused_with_the_right_value(time_ms, per_second, below):
    given_time = time_ms // 1000 if per_second == 1 else time_ms * (per_second // 1000) + below % (per_second // 1000)
    right = time_ms // 1000 * 1000 if per_second == 1 else time_ms
    for number in (given_time, np.int64(given_time)):
        with pytest.raises(InvalidArgumentError) as caught:
            event(item_id="a", time_ms=number)
        unit = {1: "s", 10**6: "us", 10**9: "ns"}[per_second]
        assert (caught.value.field, caught.value.value) == ("time_ms", str(given_time))
        year = datetime.fromtimestamp(time_ms // 1000, timezone.utc).year
        assert caught.value.expected == (
            f"a whole number of Unix milliseconds: it is {caught.value.expected.split(' is ')[1].split(' in ')[0]} in "
            f"{unit}, send {right}"
        )
        assert f"it is {year}-" in caught.value.expected


@pytest.mark.parametrize(
    ("time_ms", "expected"),
    [
        (1_700_000_000.25, "it is 2023-11-14 in s, send 1700000000250"),
        (np.float64(1_700_000_000_123.4), "it is 2023-11-14 in ms, send 1700000000123"),
        (20240501, "it looks like the date 2024-05-01, send 1714521600000"),
        (202405011230, "it looks like the date 2024-05-01, send 1714566600000"),
        (20240501123000, "it looks like the date 2024-05-01, send 1714566600000"),
        (float("nan"), "it is no number"),
        (float("inf"), "it is no number"),
        ("1700000000000", "a whole number of Unix milliseconds"),
        (datetime(2024, 1, 1, tzinfo=timezone.utc), "a datetime is given as time"),
    ],
)
def test_event_time_that_is_no_milliseconds_is_refused(time_ms, expected):
    with pytest.raises(InvalidArgumentError) as caught:
        event(item_id="a", time_ms=time_ms)
    assert caught.value.field == "time_ms"
    assert expected in caught.value.expected


@pytest.mark.parametrize("time", [1_700_000_000, "2024-01-01T00:00:00Z", np.datetime64("2024-01-01")])
def test_event_time_that_is_no_datetime_is_refused(time):
    with pytest.raises(InvalidArgumentError, match="a number is given as time_ms"):
        event(item_id="a", time=time)
