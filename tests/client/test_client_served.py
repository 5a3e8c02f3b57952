"""Limits that a server tells are kept before anything is sent, in the server's own words; and packs of users."""

import json
from dataclasses import fields

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from ebbtide.client import InvalidArgumentError, event, recommend_request
from ebbtide.client._packs import RECOMMEND, packs
from ebbtide.client._served import check_limits, nearest_values, served
from ebbtide.client.codec import encode, encode_rank, encode_texts
from ebbtide.interest.contract import Limits
from ebbtide.interest.errors import RequestError
from ebbtide.v1 import AttributeFilter, Event, NumberRange, RankRequest, RecommendRequest

LIMITS = {limit.name: 2 for limit in fields(Limits)}
TIME = Timestamp(seconds=1)
ITEM, TEXT = Event(item_id="a", time=TIME), Event(text="ab", time=TIME)


def model_config(parameters, max_batch_size=64):
    config = model_config_pb2.ModelConfig(max_batch_size=max_batch_size)
    for name, value in parameters.items():
        config.parameters[name].string_value = value
    return config


def test_served_reads_the_limits_that_a_configuration_tells():
    told = served(model_config({"max_events": "100", "max_texts": "many", "other": "7"}))
    assert (told.limits, told.max_users) == ({"max_events": 100}, 64)
    assert served(model_config({}, max_batch_size=0)).max_users == 1


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (
            encode(RecommendRequest(history=[ITEM, ITEM], current=[TEXT]), 0),
            "event_item: got 3 events; expected at most 2 events",
        ),
        (
            encode(RecommendRequest(exclude_item_ids=["a", "b", "c"]), 0),
            "exclude_item: got 3 items; expected at most 2 items",
        ),
        (
            encode_rank(RankRequest(candidate_item_ids=["a", "b", "c"]), 0),
            "candidate_item: got 3 items; expected at most 2 items",
        ),
        (
            encode(RecommendRequest(allow=[AttributeFilter(column="a", values=["b", "c", "d"])]), 0),
            "allow_attribute: got 3 attribute values; expected at most 2 attribute values",
        ),
        (encode_texts(["a", "b", "c"]), "text: got 3 texts; expected 1 to 2 texts"),
        (encode_texts(["a", "€"]), "text[1]: got 3 bytes; expected at most 2 bytes"),
    ],
)
def test_limits_refuse_in_the_servers_words_when_something_is_too_long(encoded, message):
    check_limits(encoded, {})
    check_limits(encoded, dict.fromkeys(LIMITS, 3))
    with pytest.raises(RequestError) as caught:
        check_limits(encoded, LIMITS)
    assert str(caught.value) == message


def test_limits_let_a_request_pass_when_it_is_just_long_enough():
    check_limits(encode(RecommendRequest(history=[ITEM], current=[TEXT], exclude_item_ids=["a", "b"]), 0), LIMITS)


users = st.sampled_from(
    [
        recommend_request(events=[event(item_id="a", time_ms=1)]),
        recommend_request(history=[event(item_id="a", time_ms=1)]),
        recommend_request(alpha=0.5),
        recommend_request(events=[event(text="a", time_ms=1)]),
        RecommendRequest(exclude_item_ids=[""]),
    ]
)


@given(st.lists(users, max_size=30), st.integers(1, 6))
def test_packs_hold_each_request_once_and_only_of_one_kind_when_users_differ(requests, users_per_request):
    found = list(packs(RECOMMEND, iter(requests), users_per_request))
    assert sorted(user.index for pack in found for user in pack) == list(range(len(requests)))
    assert all(user.request is requests[user.index] for pack in found for user in pack)
    assert all(1 <= len(pack) <= users_per_request for pack in found)
    for pack in found:
        kinds = {user.request.SerializeToString() for user in pack}
        assert len(kinds) == 1
        if len(pack) > 1:
            assert all(event.HasField("item_id") for event in pack[0].request.events)
    of_one_kind = [pack[0].request.SerializeToString() for pack in found if 1 < len(pack) < users_per_request]
    assert len(set(of_one_kind)) == len(of_one_kind)


def test_packs_come_before_the_requests_end_when_one_is_full():
    def endless():
        while True:
            yield recommend_request()

    assert len(next(packs(RECOMMEND, endless(), 4))) == 4


ATTRIBUTES = {"genres": ["Action", "Comedy", "Sci-Fi"], "year": ["1994", "1995"]}


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("genres", "Comdey", "one of the 3 values of genres, nearest: 'Comedy'"),
        ("genres", "SCI FI", "one of the 3 values of genres, nearest: 'Sci-Fi'"),
        ("genres", "xyz", "one of the 3 values of genres, such as: 'Action', 'Comedy', 'Sci-Fi'"),
        ("genre", "Comedy", "a value of a column that requests may filter by: genres, year"),
    ],
)
def test_nearest_values_are_named_when_no_item_has_the_value(column, value, expected):
    told = served(model_config({"attribute_values": json.dumps(ATTRIBUTES)}))
    filters = [
        AttributeFilter(column="year", values=["1994"]),
        AttributeFilter(column=column, values=["Action", value]),
    ]
    error = InvalidArgumentError.of_field("allow[1].values[1]", repr(f"{column}={value}"), "a key")
    assert nearest_values(error, filters, told) == expected
    error.expect(expected)
    assert str(error) == error.message == f"allow[1].values[1]: got '{column}={value}'; expected {expected}"


def test_no_values_are_named_when_another_field_is_wrong_or_the_server_states_none():
    error = InvalidArgumentError.of_field("allow[0].values[0]", "'a=b'", "a key")
    filters = [AttributeFilter(column="a", values=["b"])]
    assert nearest_values(error, filters, served(model_config({"attribute_values": "["}))) is None
    told = served(model_config({"attribute_values": json.dumps(ATTRIBUTES)}))
    assert nearest_values(InvalidArgumentError.of_field("now", 1, "2"), filters, told) is None


@pytest.mark.parametrize(
    ("condition", "place", "expected"),
    [
        (
            AttributeFilter(column="genres", range=NumberRange(below=20)),
            "range",
            "values: genres was not exported as a numeric column (--numeric-col)",
        ),
        (
            AttributeFilter(column="cost", range=NumberRange(below=20)),
            "range",
            "a range of a numeric column that requests may filter by: price",
        ),
        (
            AttributeFilter(column="price", values=["20"]),
            "values[0]",
            "a range of price, a numeric column from 0.5 to 120",
        ),
    ],
)
def test_numeric_columns_are_named_when_values_and_ranges_are_mixed_up(condition, place, expected):
    stated = {"attribute_values": json.dumps(ATTRIBUTES), "attribute_numbers": '{"price": [0.5, 120]}'}
    error = InvalidArgumentError.of_field(f"allow[0].{place}", "it", "a key")
    assert nearest_values(error, [condition], served(model_config(stated))) == expected
