"""Errors about tensors come back as errors about the caller's own fields."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.client._fields import caller_error
from ebbtide.client.codec import encode
from ebbtide.interest.errors import RequestError
from ebbtide.interest.keys import item_key
from ebbtide.v1 import AttributeFilter, Event, ExplainRequest, NumberRange, RankRequest, RecommendRequest

NOW = Timestamp(seconds=1)


@st.composite
def marked_requests(draw):
    """Requests whose every event has its own subject, time and weight; and all events by their paths."""
    sizes = {"history": draw(st.integers(0, 5)), "current": draw(st.integers(0, 5))}
    if draw(st.booleans()):
        sizes = {"events": sum(sizes.values())}
    request, paths = RecommendRequest(), {}
    for group, size in sizes.items():
        for index in range(size):
            path = f"{group}[{index}]"
            event = Event(time=Timestamp(seconds=len(paths)), weight=len(paths))
            kind = draw(st.sampled_from(["item_id", "text", "fallback_text"]))
            setattr(event, "text" if kind == "text" else "item_id", path)
            if kind == "fallback_text":
                event.fallback_text = f"for {path}"
            getattr(request, group).append(event)
            paths[path] = event
    return request, paths


@given(marked_requests())
def test_field_is_the_callers_own_when_any_entry_of_an_event_tensor_is_refused(marked):
    request, paths = marked
    for tensor, array in encode(request, 0).tensors.items():
        if not tensor.startswith(("event_", "text")):
            continue
        for index, value in enumerate(array.reshape(-1).tolist()):
            server_says = f"in ensemble 'recommend', adaptive_weights: {tensor}[{index}]: got {value}; expected other"
            error = caller_error(RequestError.parse(server_says), request)
            path, _, part = error.field.partition(".")
            event = paths[path]
            if tensor == "event_item":
                assert (part, error.value) == ("item_id", repr(event.item_id))
            elif tensor == "event_time":
                assert (part, error.value) == ("time", str(event.time.ToMilliseconds()))
            elif tensor == "event_weight":
                assert (part, error.value) == ("weight", str(event.weight))
            elif tensor == "event_is_current":
                assert (part, value) == ("", path.startswith("current"))
            elif event.HasField("text"):
                assert (part, value) == ("text", event.text.encode() if tensor == "text" else -1)
            else:
                assert part == "fallback_text"
                assert tensor == "text_event" or value == event.fallback_text.encode()
            assert error.expected == "other"


REQUEST = RecommendRequest(
    history=[Event(item_id="a", time=NOW)],
    exclude_item_ids=["x", "y"],
    alpha=2,
    allow=[
        AttributeFilter(column="genre", values=["Drama", "Comedy"]),
        AttributeFilter(column="in_stock", values=["true"]),
        AttributeFilter(column="price", range=NumberRange(below=20)),
        AttributeFilter(column="brand", values=["a"]),
    ],
)


@pytest.mark.parametrize(
    ("tensor_field", "value", "field", "told"),
    [
        ("exclude_item[1]", str(item_key("y")), "exclude_item_ids[1]", "'y'"),
        ("exclude_item", "600 items", "exclude_item_ids", "600 items"),
        ("event_item", "600 events", "history and current", "600 events"),
        ("event_time[9]", "1", "history and current", "1"),
        ("allow_attribute[1]", str(item_key("genre=Comedy")), "allow[0].values[1]", "'genre=Comedy'"),
        ("allow_attribute[2]", str(item_key("in_stock=true")), "allow[1].values[0]", "'in_stock=true'"),
        ("allow_attribute", "65 attribute values", "allow", "65 attribute values"),
        ("allow_attribute[3]", str(item_key("price")), "allow[2].range", "a range of price"),
        ("allow_attribute[6]", str(item_key("brand=a")), "allow[3].values[0]", "'brand=a'"),
        ("text", "65 texts", "history and current", "65 texts"),
        ("ignore_unknown", "2", "unknown_items", "2"),
        ("decay_scale", "-1.0", "decay_scale", "-1.0"),
        ("alpha", "2.0", "alpha", "2.0"),
        ("alpha[0]", "2.0", "alpha[0]", "2.0"),
        ("something_new[2]", "1", "something_new[2]", "1"),
    ],
)
def test_field_is_told_in_the_callers_terms_when_it_is_no_single_event(tensor_field, value, field, told):
    error = caller_error(RequestError(tensor_field, value, "other"), REQUEST)
    assert (error.field, error.value) == (field, told)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (RankRequest(candidate_item_ids=["a", "b"]), "candidate_item_ids"),
        (ExplainRequest(item_ids=["a", "b"]), "item_ids"),
    ],
)
def test_field_is_the_list_of_items_when_a_candidate_is_refused(request_, field):
    error = caller_error(RequestError("candidate_item[1]", str(item_key("b")), "other"), request_)
    assert (error.field, error.value) == (f"{field}[1]", "'b'")
    assert caller_error(RequestError("candidate_item", "0 items", "other"), request_).field == field


@pytest.mark.parametrize(
    ("tensor_field", "field"), [("text[2]", "texts[2]"), ("text", "texts"), ("text_vector[0]", "texts[0]"), ("z", "z")]
)
def test_field_is_one_of_the_texts_when_embedding(tensor_field, field):
    assert caller_error(RequestError(tensor_field, "5000 bytes", "at most 4096"), None).field == field


def test_expectation_names_the_callers_field_when_the_server_names_a_tensor():
    error = RequestError("event_item[0]", str(item_key("a")), "the key of an item, or `ignore_unknown`")
    assert caller_error(error, REQUEST).expected == "the key of an item, or `unknown_items`"
