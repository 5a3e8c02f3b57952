"""Plain Python values into messages: events and requests."""

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.client import InvalidArgumentError, RecommendRequest, event, recommend_request
from ebbtide.client._events import one_request, strings

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
def test_event_time_is_the_same_instant_when_given_as_datetime(time):
    since_epoch = time - datetime(1970, 1, 1, tzinfo=timezone.utc)
    assert event(item_id="a", time=time).time.ToMicroseconds() == since_epoch // timedelta(microseconds=1)


@given(st.integers(-62_135_596_800_000, 253_402_300_799_999))
def test_event_time_is_the_same_instant_when_given_in_milliseconds(time_ms):
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
    ],
)
def test_event_names_the_field_when_it_cannot_be_made(arguments, field, expected):
    with pytest.raises(InvalidArgumentError, match=expected) as caught:
        event(**arguments)
    assert caught.value.field == field
    assert isinstance(caught.value, ValueError)


def test_event_weight_is_absent_when_not_given():
    assert not event(item_id="a", time_ms=1).HasField("weight")
    assert event(item_id="a", time_ms=1, weight=0).HasField("weight")


def test_request_carries_only_what_was_given_when_built():
    one = event(item_id="a", time_ms=1)
    assert recommend_request() == RecommendRequest()
    built = recommend_request(
        history=iter([one]), current=(one,), alpha=0.0, exclude={"b"}, exclude_seen=False, top_n=3
    )
    assert [field.name for field, _ in built.ListFields()] == [
        "history",
        "current",
        "alpha",
        "exclude_item_ids",
        "exclude_seen",
        "top_n",
    ]


def test_request_is_taken_as_it_is_when_given_whole():
    whole = RecommendRequest(top_n=3)
    assert one_request(whole, recommend_request()) is whole


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"top_n": 0}, "top_n"),
        ({"now": datetime(2024, 1, 1)}, "now"),
        ({"exclude": "318"}, "exclude_item_ids"),
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
