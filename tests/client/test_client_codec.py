"""The codec: tensors say what the request said, and follow the contract, for any request."""

import math
from collections import Counter

import numpy as np
import pytest
import xxhash
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.client import InternalError, InvalidArgumentError
from ebbtide.client.codec import decode, decode_vectors, encode, encode_texts
from ebbtide.interest.contract import MODELS
from ebbtide.v1 import Event, RecommendRequest

DTYPES = {"BOOL": np.bool_, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32, "BYTES": np.object_}
EARLIEST_S, LATEST_S = -62_135_596_800, 253_402_300_799
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
timestamps = st.builds(Timestamp, seconds=st.integers(EARLIEST_S, LATEST_S), nanos=st.integers(0, 999_999_999))
weights = st.none() | st.floats(0, width=32, allow_infinity=False)
item_events = st.builds(Event, item_id=words, time=timestamps, weight=weights)
text_events = st.builds(Event, text=st.text(st.characters(exclude_categories=["Cs"])), time=timestamps, weight=weights)


@st.composite
def requests(draw, event=item_events | text_events):
    many = st.lists(event, max_size=8)
    split = draw(st.booleans())
    return RecommendRequest(
        history=draw(many) if split else [],
        current=draw(many) if split else [],
        events=[] if split else draw(many),
        now=draw(st.none() | timestamps),
        alpha=draw(st.none() | st.floats(0, 1, width=32)),
        exclude_item_ids=draw(st.lists(words, max_size=4)),
        exclude_seen=draw(st.none() | st.booleans()),
        top_n=draw(st.integers(0, 100)),
    )


def unix_ms(stamp):
    return stamp.seconds * 1000 + stamp.nanos // 1_000_000


def key(item_id):
    return int(np.uint64(xxhash.xxh64(item_id.encode("utf-8"), seed=0).intdigest()).astype(np.int64))


def described(request):
    """Each event as (subject, time in ms, is current or None, weight), read from the message alone."""
    events = [(event, False) for event in request.history] + [(event, True) for event in request.current]
    events += [(event, None) for event in request.events]
    return Counter(
        (
            event.text.encode() if event.WhichOneof("subject") == "text" else key(event.item_id),
            unix_ms(event.time),
            is_current,
            event.weight if event.HasField("weight") else 1.0,
        )
        for event, is_current in events
    )


def read(encoded):
    """The same, read from the tensors alone."""
    flat = {name: array.reshape(-1).tolist() for name, array in encoded.tensors.items()}
    subjects = flat["event_item"] + flat.get("text", [])
    unsaid = [None] * len(subjects)
    weights = flat.get("event_weight", [1.0] * len(subjects))
    return Counter(zip(subjects, flat["event_time"], flat.get("event_is_current", unsaid), weights, strict=True))


@given(requests(), st.integers(0, 2**42))
def test_encode_says_what_the_request_said_when_tensors_are_read_back(request, clock_ms):
    encoded = encode(request, clock_ms)
    flat = {name: array.reshape(-1).tolist() for name, array in encoded.tensors.items()}
    assert read(encoded) == described(request)
    assert flat["now"] == [unix_ms(request.now) if request.HasField("now") else clock_ms]
    assert flat.get("alpha") == ([request.alpha] if request.HasField("alpha") else None)
    assert flat.get("exclude_seen") == ([request.exclude_seen] if request.HasField("exclude_seen") else None)
    assert flat.get("exclude_item") == ([key(item_id) for item_id in request.exclude_item_ids] or None)


@given(requests())
def test_encode_follows_the_contract_when_the_request_is_valid(request):
    encoded = encode(request, 0)
    model = MODELS[encoded.model_name]
    inputs = {tensor.name: tensor for tensor in model.inputs}
    assert {name for name, tensor in inputs.items() if not tensor.optional} <= set(encoded.tensors) <= set(inputs)
    for name, array in encoded.tensors.items():
        dims = (1, *inputs[name].dims) if model.batching else inputs[name].dims
        assert array.dtype == DTYPES[inputs[name].dtype.value]
        assert len(array.shape) == len(dims)
        assert all(dim in (-1, size) for dim, size in zip(dims, array.shape, strict=True))


@given(requests())
def test_encode_chooses_the_text_ensemble_when_and_only_when_an_event_has_text(request):
    has_text = any(event.HasField("text") for event in (*request.history, *request.current, *request.events))
    assert encode(request, 0).model_name == ("recommend_text" if has_text else "recommend")


def test_encode_lists_item_events_before_text_events_when_they_are_mixed():
    request = RecommendRequest(
        history=[Event(text="a", time=Timestamp(seconds=1)), Event(item_id="b", time=Timestamp(seconds=2), weight=2)],
        current=[Event(text="c", time=Timestamp(seconds=3)), Event(item_id="d", time=Timestamp(seconds=4))],
    )
    tensors = encode(request, 5).tensors
    assert tensors["event_item"].tolist() == [key("b"), key("d")]
    assert tensors["text"].tolist() == [b"a", b"c"]
    assert tensors["event_time"].tolist() == [2000, 4000, 1000, 3000]
    assert tensors["event_is_current"].tolist() == [False, True, False, True]
    assert tensors["event_weight"].tolist() == [2, 1, 1, 1]


def test_encode_sends_empty_event_tensors_when_there_are_no_events():
    encoded = encode(RecommendRequest(), 7)
    assert {name: array.shape for name, array in encoded.tensors.items()} == {
        "event_item": (1, 0),
        "event_time": (1, 0),
        "now": (1, 1),
    }


NOW = Timestamp(seconds=1)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (RecommendRequest(history=[Event(item_id="a", time=NOW), Event(time=NOW)]), "history[1]"),
        (RecommendRequest(current=[Event(item_id="", time=NOW)]), "current[0].item_id"),
        (RecommendRequest(events=[Event(item_id="a")]), "events[0].time"),
        (RecommendRequest(events=[Event(text="a", time=Timestamp(nanos=-1))]), "events[0].time"),
        (RecommendRequest(now=Timestamp(seconds=LATEST_S + 1)), "now"),
        (RecommendRequest(exclude_item_ids=["a", ""]), "exclude_item_ids[1]"),
        (RecommendRequest(events=[Event(text="a", time=NOW)], current=[Event(text="a", time=NOW)]), "events"),
    ],
)
def test_encode_names_the_field_when_the_server_could_not_see_the_mistake(request_, field):
    with pytest.raises(InvalidArgumentError) as caught:
        encode(request_, 0)
    assert caught.value.field == field
    assert str(caught.value) == f"{field}: got {caught.value.value}; expected {caught.value.expected}"


def answer(ids, scores, lead=(1,)):
    return {
        "item_id": np.array([item_id.encode() for item_id in ids], dtype=np.object_).reshape(*lead, -1),
        "score": np.array(scores, dtype=np.float32).reshape(*lead, -1),
        "alpha_used": np.full((*lead, 1), 0.25, dtype=np.float32),
        "events_used": np.full((*lead, 1), 3, dtype=np.int32),
    }


@given(
    st.lists(st.tuples(words, st.floats(-9, 9, width=32) | st.just(-math.inf)), min_size=1, max_size=30),
    st.data(),
    st.sampled_from([(), (1,)]),
)
def test_decode_gives_the_best_items_left_when_some_are_excluded(ranked, data, lead):
    ranked = sorted(ranked, key=lambda pair: -pair[1])
    top_n = data.draw(st.integers(0, len(ranked)))
    response = decode(answer(*zip(*ranked, strict=True), lead=lead), top_n, model_version="4")
    expected = [pair for pair in ranked if pair[1] > -math.inf][: top_n or 10]
    assert [(item.item_id, item.score) for item in response.items] == expected
    assert (response.alpha_used, response.events_used, response.model_version) == (0.25, 3, "4")


def test_decode_names_the_exported_number_when_more_items_are_wanted():
    with pytest.raises(InvalidArgumentError, match=r"top_n: got 3; expected at most 2: .* --top-n 2") as caught:
        decode(answer(["a", "b"], [2, 1]), 3)
    assert (caught.value.field, caught.value.value) == ("top_n", "3")


@pytest.mark.parametrize("name", ["item_id", "score", "alpha_used", "events_used"])
def test_decode_raises_internal_error_when_an_output_is_missing_or_empty(name):
    outputs = answer(["a"], [1])
    with pytest.raises(InternalError, match=name):
        decode({**outputs, name: outputs[name][:, :0]})
    del outputs[name]
    with pytest.raises(InternalError, match=name):
        decode(outputs)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=5))
def test_encode_texts_gives_their_bytes_when_embedding(texts):
    encoded = encode_texts(texts)
    assert encoded.model_name == "embed"
    assert [value.decode() for value in encoded.tensors["text"]] == texts
    assert encoded.tensors["text"].shape == (len(texts),)


def test_decode_vectors_raises_internal_error_when_the_output_is_no_matrix():
    assert decode_vectors({"text_vector": np.ones((2, 3), np.float32)}).shape == (2, 3)
    with pytest.raises(InternalError, match=r"got shape \[3\]"):
        decode_vectors({"text_vector": np.ones(3, np.float32)})
