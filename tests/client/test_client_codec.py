"""The codec's way in: tensors say what the request said, and follow the contract, for any request."""

import math
from collections import Counter

import numpy as np
import pytest
import xxhash
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from ebbtide.client import InvalidArgumentError, new_item
from ebbtide.client.codec import (
    encode,
    encode_add_items,
    encode_explain,
    encode_forget,
    encode_interest,
    encode_list_items,
    encode_list_out_of_stock,
    encode_observe,
    encode_rank,
    encode_remove_items,
    encode_set_rules,
    encode_set_stock,
    encode_texts,
    pack_key,
    stack,
    tensor_order,
)
from ebbtide.interest.keys import item_key
from ebbtide.interest.numbers import ordered
from ebbtide.interest.served_models import MODELS
from ebbtide.v1 import (
    AddItemsRequest,
    AttributeFilter,
    Event,
    ExplainRequest,
    ForgetRequest,
    InterestRequest,
    ItemAttribute,
    ListItemsRequest,
    ListOutOfStockRequest,
    NewItem,
    NumberRange,
    ObserveRequest,
    RankRequest,
    RecommendRequest,
    RemoveItemsRequest,
    Rule,
    SetRulesRequest,
    SetStockRequest,
    UnknownItemPolicy,
)

DTYPES = {"BOOL": np.bool_, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32, "BYTES": np.object_}
EARLIEST_S, LATEST_S = -62_135_596_800, 253_402_300_799
MODEL_OF = {RecommendRequest: "recommend", RankRequest: "rank", ExplainRequest: "explain"}
any_text = st.text(st.characters(exclude_categories=["Cs"]))
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
timestamps = st.builds(Timestamp, seconds=st.integers(EARLIEST_S, LATEST_S), nanos=st.integers(0, 999_999_999))
weights = st.none() | st.floats(0, width=32, allow_infinity=False)
types = st.none() | st.sampled_from(["view", "dislike"])
item_events = st.builds(Event, item_id=words, time=timestamps, weight=weights, event_type=types)
newer_events = st.builds(Event, item_id=words, fallback_text=any_text, time=timestamps, weight=weights)
text_events = st.builds(Event, text=any_text, time=timestamps, weight=weights)
filters = st.lists(
    st.builds(AttributeFilter, column=words, values=st.lists(any_text, min_size=1, max_size=3)),
    max_size=3,
    unique_by=lambda condition: condition.column,
)


@st.composite
def requests(draw, event=item_events | newer_events | text_events, kinds=tuple(MODEL_OF)):
    many = st.lists(event, max_size=8)
    split = draw(st.booleans())
    kind = draw(st.sampled_from(kinds))
    of_its_kind = {
        RecommendRequest: lambda: {"top_n": draw(st.integers(0, 100)), "allow": draw(filters)},
        RankRequest: lambda: {
            "top_n": draw(st.integers(0, 100)),
            "candidate_item_ids": draw(st.lists(words, min_size=1, max_size=5)),
        },
        ExplainRequest: lambda: {"item_ids": draw(st.lists(words, min_size=1, max_size=5))},
    }
    return kind(
        history=draw(many) if split else [],
        current=draw(many) if split else [],
        events=[] if split else draw(many),
        now=draw(st.none() | timestamps),
        alpha=draw(st.none() | st.floats(0, 1, width=32)),
        decay_scale=draw(st.none() | st.floats(0, 4, width=32)),
        exclude_item_ids=draw(st.lists(words, max_size=4)),
        exclude_seen=draw(st.none() | st.booleans()),
        unknown_items=draw(st.sampled_from(UnknownItemPolicy.values())),
        user_id=draw(st.none() | words),
        allow_stateless=draw(st.booleans()),
        **of_its_kind[kind](),
    )


def encoded(request, clock_ms=0):
    if isinstance(request, (ObserveRequest, ForgetRequest)):
        return (encode_observe if isinstance(request, ObserveRequest) else encode_forget)(request)
    by_kind = {
        RecommendRequest: encode,
        RankRequest: encode_rank,
        ExplainRequest: encode_explain,
        InterestRequest: encode_interest,
    }
    return by_kind[type(request)](request, clock_ms)


def flat(encoded_request):
    return {name: array.reshape(-1).tolist() for name, array in encoded_request.tensors.items()}


def unix_ms(stamp):
    return stamp.seconds * 1000 + stamp.nanos // 1_000_000


def key(item_id):
    return int(np.uint64(xxhash.xxh64(item_id.encode("utf-8"), seed=0).intdigest()).astype(np.int64))


def user_key(user_id):
    """The two halves of the key in the tensor ``user``."""
    digest = xxhash.xxh3_128(user_id.encode("utf-8")).digest()
    return [int.from_bytes(half, "little", signed=True) for half in (digest[:8], digest[8:])]


def described(request):
    """Each event as (subject, text to stand in, time in ms, is current or None, weight), from the message alone."""
    events = [(event, False) for event in request.history] + [(event, True) for event in request.current]
    events += [(event, None) for event in request.events]
    return Counter(
        (
            event.text.encode() if event.WhichOneof("subject") == "text" else key(event.item_id),
            event.fallback_text.encode() if event.HasField("fallback_text") else None,
            unix_ms(event.time),
            is_current,
            event.weight if event.HasField("weight") else 1.0,
        )
        for event, is_current in events
    )


def read(encoded_request):
    """The same, from the tensors alone."""
    tensors = flat(encoded_request)
    texts = tensors.get("text", [])
    text_event = tensors.get("text_event", [-1] * len(texts))
    own = [text for text, index in zip(texts, text_event, strict=True) if index == -1]
    stand_ins = {index: text for text, index in zip(texts, text_event, strict=True) if index != -1}
    subjects = tensors.get("event_item", []) + own
    unsaid = [None] * len(subjects)
    return Counter(
        zip(
            subjects,
            [stand_ins.get(index) for index in range(len(subjects))],
            tensors.get("event_time", []),
            tensors.get("event_is_current", unsaid),
            tensors.get("event_weight", [1.0] * len(subjects)),
            strict=True,
        )
    )


@given(requests(), st.integers(0, 2**42))
def test_encode_says_what_the_request_said_when_tensors_are_read_back(request, clock_ms):
    tensors = flat(encoded(request, clock_ms))
    policies = {0: None, 1: [False], 2: [True]}
    assert read(encoded(request, clock_ms)) == described(request)
    assert tensors["now"] == [unix_ms(request.now) if request.HasField("now") else clock_ms]
    assert tensors.get("alpha") == ([request.alpha] if request.HasField("alpha") else None)
    assert tensors.get("decay_scale") == ([request.decay_scale] if request.HasField("decay_scale") else None)
    assert tensors.get("exclude_seen") == ([request.exclude_seen] if request.HasField("exclude_seen") else None)
    assert tensors.get("exclude_item") == ([key(item_id) for item_id in request.exclude_item_ids] or None)
    assert tensors.get("ignore_unknown") == policies[request.unknown_items]
    assert tensors.get("user") == (user_key(request.user_id) if request.HasField("user_id") else None)
    assert tensors.get("allow_stateless") == ([True] if request.allow_stateless else None)
    if isinstance(request, RecommendRequest):
        allowed = [f"{condition.column}={value}" for condition in request.allow for value in condition.values]
        assert tensors.get("allow_attribute") == ([key(word) for word in allowed] or None)
    else:
        candidates = request.candidate_item_ids if isinstance(request, RankRequest) else request.item_ids
        assert tensors["candidate_item"] == [key(item_id) for item_id in candidates]


def follows_the_contract(encoded_request, users=1):
    model = MODELS[encoded_request.model_name]
    inputs = {tensor.name: tensor for tensor in model.inputs}
    assert {name for name, tensor in inputs.items() if not tensor.optional} <= set(encoded_request.tensors)
    assert set(encoded_request.tensors) <= set(inputs)
    for name, array in encoded_request.tensors.items():
        dims = inputs[name].config_dims({}, batching=model.batching)
        dims = (users, *dims) if model.batching else dims
        assert array.dtype == DTYPES[inputs[name].dtype.value]
        assert len(array.shape) == len(dims)
        assert all(dim in (-1, size) for dim, size in zip(dims, array.shape, strict=True))


@given(requests())
def test_encode_follows_the_contract_when_the_request_is_valid(request):
    follows_the_contract(encoded(request))


@given(requests())
def test_encode_chooses_a_text_model_when_and_only_when_there_is_text(request):
    events = (*request.history, *request.current, *request.events)
    has_text = any(event.HasField("text") or event.HasField("fallback_text") for event in events)
    assert encoded(request).model_name == MODEL_OF[type(request)] + ("_text" if has_text else "")


def test_types_stand_in_the_order_of_the_tensors_when_only_some_events_have_one():
    time = Timestamp(seconds=1)
    events = [
        Event(text="a search", time=time, event_type="search"),
        Event(item_id="a", time=time),
        Event(item_id="b", time=time, event_type="view"),
    ]
    tensors = encode(RecommendRequest(events=events, now=time), 0).tensors
    assert tensors["event_type"].tolist() == [0, item_key("view"), item_key("search")]
    some = ObserveRequest(user_id="u", events=events[1:])
    none = ObserveRequest(user_id="v", events=[Event(item_id="c", time=time)])
    assert "event_type" not in encode_observe(none).tensors
    both = stack([encode_observe(one) for one in (none, some)])
    assert both.tensors["event_type"].tolist() == [[0, 0], [0, item_key("view")]]


def test_requests_send_every_tensor_that_the_called_models_take():
    full = Event(item_id="a", time=Timestamp(seconds=1), weight=2, event_type="view")
    whole = {
        "history": [full],
        "now": Timestamp(seconds=2),
        "alpha": 0.5,
        "decay_scale": 2,
        "exclude_item_ids": ["b"],
        "exclude_seen": True,
        "unknown_items": UnknownItemPolicy.UNKNOWN_ITEM_POLICY_IGNORE,
        "user_id": "u",
        "allow_stateless": True,
    }
    allow = [AttributeFilter(column="genre", values=["Drama"])]
    newer = [full, Event(item_id="c", fallback_text="d", time=Timestamp(seconds=1))]
    sent = [encode_texts(["a"]), stack([encode(RecommendRequest(**whole, allow=allow), 0)] * 2)]
    for current in ([], newer):
        sent.append(encoded(RecommendRequest(**whole, current=current, allow=allow)))
        sent.append(encoded(RankRequest(**whole, current=current, candidate_item_ids=["a"])))
        sent.append(encoded(ExplainRequest(**whole, current=current, item_ids=["a"])))
    observed = ObserveRequest(
        user_id="u",
        events=[Event(item_id="a", time=Timestamp(seconds=1), weight=2, event_id="e", event_type="view")],
        unknown_items=UnknownItemPolicy.UNKNOWN_ITEM_POLICY_IGNORE,
        shown_item_ids=["a", "b"],
        reset_learning=True,
    )
    sent.append(stack([encode_observe(observed)] * 2))
    sent.append(encode_interest(InterestRequest(user_id="u", now=Timestamp(seconds=2), decay_scale=2), 0))
    sent.append(encode_forget(ForgetRequest(user_id="u")))
    attributes = [ItemAttribute(column="genre", values=["Drama"])]
    items = [NewItem(item_id="a", text="a film", title="A", attributes=attributes)]
    sent.append(encode_add_items(AddItemsRequest(items=items, only_update=True)))
    sent.append(encode_remove_items(RemoveItemsRequest(item_ids=["a"])))
    sent.append(encode_list_items(ListItemsRequest()))
    sent.append(encode_set_stock(SetStockRequest(out_of_stock_item_ids=["a"], in_stock_item_ids=["b"])))
    sent.append(encode_list_out_of_stock(ListOutOfStockRequest()))
    sent.append(encode_set_rules(SetRulesRequest(rules=[Rule(name="a", boost=1, item_ids=["b"])])))
    by_model = {}
    for one in sent:
        by_model.setdefault(one.model_name, set()).update(one.tensors)
    # Only users who ask for recommendations share a request; `explain` takes vectors from the encoder alone.
    not_sent = {"rank": {"event_count"}, "explain": {"text_vector", "text_event"}}
    for name, tensors in by_model.items():
        # `as_exported` is for checks of a server that is in use.
        takes = {tensor.name for tensor in MODELS[name].inputs} - {"as_exported"}
        assert takes - tensors == not_sent.get(name, set()), name
    assert set(by_model) == {
        "embed",
        "observe",
        "interest",
        "forget",
        "add_items",
        "items",
        "stock",
        "rules",
        *MODEL_OF.values(),
        *(f"{name}_text" for name in MODEL_OF.values()),
    }


def test_encode_lists_item_events_before_text_events_when_they_are_mixed():
    request = RecommendRequest(
        history=[
            Event(text="a", time=Timestamp(seconds=1)),
            Event(item_id="b", time=Timestamp(seconds=2), weight=2),
            Event(item_id="c", fallback_text="C", time=Timestamp(seconds=3)),
        ],
        current=[Event(text="d", time=Timestamp(seconds=4)), Event(item_id="e", time=Timestamp(seconds=5))],
    )
    tensors = encode(request, 6).tensors
    assert tensors["event_item"].tolist() == [key("b"), key("c"), key("e")]
    assert tensors["text"].tolist() == [b"C", b"a", b"d"]
    assert tensors["text_event"].tolist() == [1, -1, -1]
    assert tensors["event_time"].tolist() == [2000, 3000, 5000, 1000, 4000]
    assert tensors["event_is_current"].tolist() == [False, False, True, False, True]
    assert tensors["event_weight"].tolist() == [2, 1, 1, 1, 1]
    order = tensor_order(request)
    assert [event.path for event in (*order.items, *order.texts)] == [
        *("history[1]", "history[2]", "current[1]"),
        *("history[0]", "current[0]"),
    ]


def test_encode_sends_empty_event_tensors_when_there_are_no_events():
    assert {name: array.shape for name, array in encode(RecommendRequest(), 7).tensors.items()} == {
        "event_item": (1, 0),
        "event_time": (1, 0),
        "now": (1, 1),
    }


def test_encode_sends_no_event_tensors_when_a_user_is_named_and_there_are_no_events():
    assert set(encode(RecommendRequest(user_id="u"), 7).tensors) == {"now", "user"}


NOW = Timestamp(seconds=1)
ITEM = Event(item_id="a", time=NOW)
NAMED = Event(item_id="a", time=NOW, event_id="e")
GENRE = AttributeFilter(column="genre", values=["Drama"])


def ranged(**bounds):
    return AttributeFilter(column="price", range=NumberRange(**bounds))


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (RecommendRequest(history=[Event(item_id="a", time=NOW), Event(time=NOW)]), "history[1]"),
        (RecommendRequest(current=[Event(item_id="", time=NOW)]), "current[0].item_id"),
        (RecommendRequest(events=[Event(item_id="a")]), "events[0].time"),
        (RecommendRequest(events=[Event(text="a", time=Timestamp(nanos=-1))]), "events[0].time"),
        (RecommendRequest(events=[Event(text="a", fallback_text="b", time=NOW)]), "events[0].fallback_text"),
        (RecommendRequest(events=[Event(fallback_text="b", time=NOW)]), "events[0]"),
        (RecommendRequest(now=Timestamp(seconds=LATEST_S + 1)), "now"),
        (RecommendRequest(exclude_item_ids=["a", ""]), "exclude_item_ids[1]"),
        (RecommendRequest(unknown_items=7), "unknown_items"),
        (RecommendRequest(events=[Event(text="a", time=NOW)], current=[Event(text="a", time=NOW)]), "events"),
        (RecommendRequest(allow=[GENRE, AttributeFilter(values=["a"])]), "allow[1].column"),
        (RecommendRequest(allow=[GENRE, GENRE]), "allow[1].column"),
        (RecommendRequest(allow=[AttributeFilter(column="a")]), "allow[0].values"),
        (RecommendRequest(allow=[GENRE, ranged()]), "allow[1].range"),
        (RecommendRequest(allow=[ranged(at_least=math.nan)]), "allow[0].range.at_least"),
        (RecommendRequest(allow=[ranged(at_least=2, at_most=1)]), "allow[0].range"),
        (RecommendRequest(allow=[ranged(at_least=1, below=1)]), "allow[0].range"),
        (RecommendRequest(allow=[ranged(at_least=1, above=1)]), "allow[0].range"),
        (
            RecommendRequest(allow=[AttributeFilter(column="a", values=["b"], range=NumberRange(below=1))]),
            "allow[0].range",
        ),
        (RankRequest(), "candidate_item_ids"),
        (RankRequest(candidate_item_ids=["a", ""]), "candidate_item_ids[1]"),
        (ExplainRequest(), "item_ids"),
        (ExplainRequest(item_ids=[""]), "item_ids[0]"),
        (ExplainRequest(item_ids=["a"], top_n=3), "top_n"),
        (ExplainRequest(item_ids=["a"], allow=[GENRE]), "allow"),
        (RecommendRequest(user_id=""), "user_id"),
        (RankRequest(candidate_item_ids=["a"], user_id="é" * 129), "user_id"),
        (ObserveRequest(events=[ITEM]), "user_id"),
        (ObserveRequest(user_id="u"), "events"),
        (ObserveRequest(user_id="u", events=[ITEM, Event(text="a", time=NOW)]), "events[1].text"),
        (
            ObserveRequest(user_id="u", events=[Event(item_id="a", fallback_text="b", time=NOW)]),
            "events[0].fallback_text",
        ),
        (ObserveRequest(user_id="u", events=[Event(item_id="a")]), "events[0].time"),
        (ObserveRequest(user_id="u", events=[ITEM, Event(item_id="", time=NOW)]), "events[1].item_id"),
        (ObserveRequest(user_id="u", events=[NAMED, ITEM, NAMED]), "events[1].event_id"),
        (ObserveRequest(user_id="u", events=[ITEM, NAMED]), "events[0].event_id"),
        (ObserveRequest(user_id="u", events=[NAMED, Event(item_id="a", time=NOW, event_id="")]), "events[1].event_id"),
        (ObserveRequest(user_id="u", events=[ITEM], unknown_items=7), "unknown_items"),
        (InterestRequest(), "user_id"),
        (InterestRequest(user_id="u", now=Timestamp(nanos=-1)), "now"),
        (ForgetRequest(), "user_id"),
    ],
)
def test_encode_names_the_field_when_the_server_could_not_see_the_mistake(request_, field):
    with pytest.raises(InvalidArgumentError) as caught:
        encoded(request_)
    assert caught.value.field == field
    assert str(caught.value) == f"{field}: got {caught.value.value}; expected {caught.value.expected}"


@given(st.lists(any_text, min_size=1, max_size=5))
def test_encode_texts_gives_the_bytes_of_each_text(texts):
    one = encode_texts(texts)
    assert one.model_name == "embed"
    assert [value.decode() for value in one.tensors["text"]] == texts
    follows_the_contract(one)


NEUTRAL = {
    "event_item": 0,
    "event_time": 0,
    "event_weight": 1.0,
    "decay_scale": 1.0,
    "user": 0,
    "allow_stateless": False,
}


@given(st.lists(requests(kinds=(RecommendRequest,)), min_size=1, max_size=6))
def test_stack_says_of_each_user_what_they_said_alone_when_rows_are_read_back(users):
    packs = {}
    for request in users:
        alone = encode(request, 5)
        packs.setdefault(pack_key(alone), []).append((request, alone))
    for pack, group in packs.items():
        if pack is None:
            assert all("text" in alone.tensors for _, alone in group)
            continue
        stacked = stack([alone for _, alone in group])
        follows_the_contract(stacked, users=len(group))
        for row, (request, alone) in enumerate(group):
            said = {name: array[row] for name, array in stacked.tensors.items()}
            own = alone.tensors["event_item"].shape[1] if "event_item" in alone.tensors else 0
            events = int(said.pop("event_count", [own])[0])
            assert events == own
            for name, array in alone.tensors.items():
                kept = said[name][:events] if name.startswith("event_") else said[name]
                if name in ("exclude_item", "allow_attribute"):
                    assert set(kept.tolist()) == set(array[0].tolist())
                else:
                    assert kept.tolist() == array[0].tolist(), name
            # What the others say and this one does not, is told by the value that means nothing.
            for name in said.keys() - alone.tensors.keys():
                kept = said[name][:events] if name.startswith("event_") else said[name]
                assert set(kept.tolist()) <= {NEUTRAL[name]}
            assert request.HasField("alpha") == ("alpha" in said)
        # Where the store fails, no request fails that could do without it.
        assert len({request.HasField("user_id") and not request.allow_stateless for request, _ in group}) == 1


@st.composite
def observations(draw):
    """Events of a user, all of them with ids or none."""
    ids = words if draw(st.booleans()) else st.none()
    events = st.builds(Event, item_id=words, time=timestamps, weight=weights, event_id=ids)
    policy = draw(st.sampled_from(UnknownItemPolicy.values()))
    return ObserveRequest(
        user_id=draw(words), events=draw(st.lists(events, min_size=1, max_size=6)), unknown_items=policy
    )


@given(st.lists(observations(), min_size=1, max_size=6))
def test_observe_says_of_each_user_what_the_request_said_when_rows_are_read_back(requests):
    packs = {}
    for request in requests:
        alone = encode_observe(request)
        follows_the_contract(alone)
        packs.setdefault(pack_key(alone), []).append((request, alone))
    for group in packs.values():
        stacked = stack([alone for _, alone in group])
        follows_the_contract(stacked, users=len(group))
        for row, (request, _) in enumerate(group):
            said = {name: array[row].tolist() for name, array in stacked.tensors.items()}
            (events,) = said.pop("event_count", [len(request.events)])
            assert said["user"] == user_key(request.user_id)
            assert said.get("ignore_unknown") == {0: None, 1: [False], 2: [True]}[request.unknown_items]
            assert said["event_item"][:events] == [key(event.item_id) for event in request.events]
            assert said["event_time"][:events] == [unix_ms(event.time) for event in request.events]
            plain = [1.0] * len(request.events)
            given_weights = [event.weight if event.HasField("weight") else 1.0 for event in request.events]
            assert said.get("event_weight", plain)[:events] == given_weights
            if "event_id" in said:
                assert said["event_id"][:events] == [key(event.event_id) for event in request.events]
            else:
                assert not any(event.HasField("event_id") for event in request.events)


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=2), st.booleans(), st.floats(allow_nan=False))
def test_range_holds_a_number_just_if_its_bounds_do(bounds, strict, number):
    given = dict(zip(("above", "below") if strict else ("at_least", "at_most"), sorted(bounds), strict=False))
    inside = [number > bound if strict else number >= bound for bound in list(given.values())[:1]]
    inside += [number < bound if strict else number <= bound for bound in list(given.values())[1:]]
    try:
        sent = encode(RecommendRequest(allow=[ranged(**given)]), 0).tensors["allow_attribute"].reshape(-1)
    except InvalidArgumentError:
        # No number is above and below it.
        assert strict
        assert not all(inside)
        return
    assert sent[0] == item_key("price")
    assert (sent[1] <= ordered(number) <= sent[2]) == all(inside)


@pytest.mark.parametrize(
    ("values", "number"),
    [("19.99", 19.99), (19.99, 19.99), (3, 3.0), ("-1e3", -1000.0), ("19,99", None), ("1_0", None), (["1", "2"], None)],
)
def test_added_items_have_numbers_when_a_column_has_one_value_that_is_a_number(values, number):
    item = new_item("a", "a film", attributes={"genre": "War", "price": values})
    sent = encode_add_items(AddItemsRequest(items=[item])).tensors
    keys = sent["item_attribute"].reshape(-1).tolist()
    assert sent["item_attribute_count"].reshape(-1).tolist() == [len(keys)]
    assert keys[0] == item_key("genre=War")
    behind = [] if number is None else [item_key("price"), int(ordered(number))]
    assert keys[1 + len(item.attributes[1].values) :] == behind
