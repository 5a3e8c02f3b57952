"""No field of the schema is lost on its way: adding one to the proto without handling it fails a test here."""

import json
from datetime import datetime, timezone

import numpy as np
import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.timestamp_pb2 import Timestamp

from ebbtide.client import InvalidArgumentError, explain_request, rank_request, recommend_request
from ebbtide.client._requests import as_listed, nothing_to_explain, recommendation_of
from ebbtide.client.codec import (
    decode,
    decode_added,
    decode_explanation,
    decode_forgotten,
    decode_interest,
    decode_listed,
    decode_observed,
    decode_out_of_stock,
    decode_ranking,
    decode_recommended,
    decode_removed,
    decode_removed_rules,
    decode_rules,
    decode_set_rules,
    decode_stock,
    encode,
    encode_add_items,
    encode_explain,
    encode_forget,
    encode_interest,
    encode_list_items,
    encode_list_out_of_stock,
    encode_list_rules,
    encode_observe,
    encode_rank,
    encode_remove_items,
    encode_remove_rules,
    encode_set_rules,
    encode_set_stock,
    encode_texts,
    shared_fields,
)
from ebbtide.interest import contract
from ebbtide.interest.contract import REPEAT_PARTS
from ebbtide.v1 import (
    AddItemsRequest,
    AddItemsResponse,
    AttributeFilter,
    EmbedRequest,
    Event,
    ExplainedEvent,
    ExplainRequest,
    ExplainResponse,
    ForgetRequest,
    ForgetResponse,
    InterestRequest,
    InterestResponse,
    ItemAttribute,
    ItemExplanation,
    ListItemsRequest,
    ListItemsResponse,
    ListOutOfStockRequest,
    ListOutOfStockResponse,
    ListRulesRequest,
    ListRulesResponse,
    NewItem,
    NumberRange,
    ObserveRequest,
    ObserveResponse,
    RankRequest,
    RankResponse,
    RecommendedItem,
    RecommendRequest,
    RecommendResponse,
    RelaxedLimit,
    RemoveItemsRequest,
    RemoveItemsResponse,
    RemoveRulesRequest,
    RemoveRulesResponse,
    RepeatShares,
    Rule,
    SetRulesRequest,
    SetRulesResponse,
    SetStockRequest,
    SetStockResponse,
    Slate,
    SlateCalibration,
    SlateCap,
    SlateCause,
    SlateExposure,
    SlateMinimum,
    StateStatus,
)

TIME = Timestamp(seconds=1)
EVENT = Event(item_id="a", time=Timestamp(seconds=2))
FILTER = AttributeFilter(column="genre", values=["Drama"])
RANGE = NumberRange(at_least=1)
ATTRIBUTE = ItemAttribute(column="genre", values=["Drama"])
ITEM = NewItem(item_id="a", text="a film")
RULE = Rule(name="a", pin=1, item_ids=["a"])
CAP = SlateCap(column="genre", count=1)
MINIMUM = SlateMinimum(column="genre", value="Drama", count=1)
CALIBRATION = SlateCalibration(column="genre", weight=0.25)
EXPOSURE = SlateExposure(column="genre", value="Drama", share=0.25)
CAUSE = SlateCause(kind="SLATE_CAUSE_KIND_AT_LEAST", column="genre", value="Drama")
MESSAGES = {
    "ebbtide.v1.Slate": Slate(at_most=[CAP], at_least=[MINIMUM]),
    "ebbtide.v1.SlateCap": CAP,
    "ebbtide.v1.SlateMinimum": MINIMUM,
    "ebbtide.v1.SlateCalibration": CALIBRATION,
    "ebbtide.v1.SlateExposure": EXPOSURE,
    "ebbtide.v1.SlateCause": CAUSE,
    "ebbtide.v1.RelaxedLimit": RelaxedLimit(limit=CAUSE, wanted=2, got=1, position=3),
    "ebbtide.v1.ItemAttribute": ATTRIBUTE,
    "ebbtide.v1.NewItem": ITEM,
    "ebbtide.v1.Rule": Rule(name="b", boost=1, item_ids=["a"]),
    "google.protobuf.Timestamp": TIME,
    "ebbtide.v1.Event": EVENT,
    "ebbtide.v1.AttributeFilter": FILTER,
    "ebbtide.v1.NumberRange": RANGE,
    "ebbtide.v1.RecommendedItem": RecommendedItem(item_id="a", score=1),
}


def either(condition):
    """A condition with values or a range, since one with both is refused."""
    if not condition.HasField("range"):
        return condition
    return AttributeFilter(column=condition.column, range=condition.range)


# Each encodes one message of its kind; those of events and filters encode a request that holds one.
ENCODERS = {
    RecommendRequest: (RecommendRequest(), encode),
    RankRequest: (RankRequest(candidate_item_ids=["a"]), encode_rank),
    ExplainRequest: (ExplainRequest(item_ids=["a"]), encode_explain),
    EmbedRequest: (EmbedRequest(texts=["a"]), lambda message, _: encode_texts(message.texts)),
    Event: (EVENT, lambda message, now_ms: encode(RecommendRequest(events=[message]), now_ms)),
    ObserveRequest: (ObserveRequest(user_id="a", events=[EVENT]), lambda message, _: encode_observe(message)),
    InterestRequest: (InterestRequest(user_id="a"), encode_interest),
    ForgetRequest: (ForgetRequest(user_id="a"), lambda message, _: encode_forget(message)),
    AddItemsRequest: (AddItemsRequest(items=[ITEM]), lambda message, _: encode_add_items(message)),
    NewItem: (ITEM, lambda message, _: encode_add_items(AddItemsRequest(items=[message]))),
    ItemAttribute: (
        ATTRIBUTE,
        lambda message, _: encode_add_items(
            AddItemsRequest(items=[NewItem(item_id="a", text="a film", attributes=[message])])
        ),
    ),
    RemoveItemsRequest: (RemoveItemsRequest(item_ids=["a"]), lambda message, _: encode_remove_items(message)),
    ListItemsRequest: (ListItemsRequest(), lambda message, _: encode_list_items(message)),
    SetStockRequest: (
        SetStockRequest(out_of_stock_item_ids=["a"], in_stock_item_ids=["c"]),
        lambda message, _: encode_set_stock(message),
    ),
    SetRulesRequest: (SetRulesRequest(rules=[RULE]), lambda message, _: encode_set_rules(message)),
    Rule: (RULE, lambda message, _: encode_set_rules(SetRulesRequest(rules=[message]))),
    RemoveRulesRequest: (RemoveRulesRequest(names=["a"]), lambda message, _: encode_remove_rules(message)),
    ListRulesRequest: (ListRulesRequest(), lambda message, _: encode_list_rules(message)),
    ListOutOfStockRequest: (ListOutOfStockRequest(), lambda message, _: encode_list_out_of_stock(message)),
    Slate: (Slate(), lambda message, now_ms: encode(RecommendRequest(slate=message), now_ms)),
    SlateCap: (CAP, lambda message, now_ms: encode(RecommendRequest(slate=Slate(at_most=[message])), now_ms)),
    SlateMinimum: (
        MINIMUM,
        lambda message, now_ms: encode(RecommendRequest(slate=Slate(at_least=[message])), now_ms),
    ),
    SlateCalibration: (
        CALIBRATION,
        lambda message, now_ms: encode(RecommendRequest(slate=Slate(calibration=message)), now_ms),
    ),
    SlateExposure: (
        EXPOSURE,
        lambda message, now_ms: encode(RecommendRequest(slate=Slate(exposure=[message])), now_ms),
    ),
    AttributeFilter: (FILTER, lambda message, now_ms: encode(RecommendRequest(allow=[either(message)]), now_ms)),
}
NOT_A_TENSOR = {
    ("RecommendRequest", "top_n"): "the served model always gives as many as it was exported with; the decoder cuts",
    ("RankRequest", "top_n"): "the served model scores every candidate; the decoder cuts",
    ("Event", "event_id"): "only `Observe` reads it",
}
REFUSED_BESIDE_ITEM_IDS = {("ExplainRequest", name) for name in ("top_n", "allow", "slate")}
FIELDS = [(kind, name) for kind in ENCODERS for name in kind.DESCRIPTOR.fields_by_name]


def value_of(field):
    """A value of the field's type that is not its default."""
    values = {
        FieldDescriptor.CPPTYPE_STRING: "b",
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_FLOAT: 0.5,
        FieldDescriptor.CPPTYPE_UINT32: 3,
        FieldDescriptor.CPPTYPE_ENUM: 2,
    }
    if field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        return MESSAGES[field.message_type.full_name]
    return values[field.cpp_type]


def with_field(message, field):
    """The message with one more field set, or with one more entry in it."""
    changed = type(message)()
    changed.CopyFrom(message)
    if field.default_value == []:
        getattr(changed, field.name).append(value_of(field))
    elif field.cpp_type == FieldDescriptor.CPPTYPE_MESSAGE:
        getattr(changed, field.name).CopyFrom(value_of(field))
    else:
        setattr(changed, field.name, value_of(field))
    return changed


def with_all_fields(kind, *, leave_out=()):
    message = kind()
    for field in kind.DESCRIPTOR.fields:
        if field.name not in leave_out:
            message = with_field(message, field)
    return message


def names(kind):
    return set(kind.DESCRIPTOR.fields_by_name)


def names_of_set_fields(*messages):
    return {field.name for message in messages for field, _ in message.ListFields()}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, name in FIELDS if (kind.__name__, name) not in REFUSED_BESIDE_ITEM_IDS]
)
def test_field_changes_the_tensors_when_it_is_not_listed_as_no_tensor(kind, name):
    base, encode_message = ENCODERS[kind]
    changed = with_field(base, kind.DESCRIPTOR.fields_by_name[name])
    before, after = (
        {name: array.tolist() for name, array in encode_message(message, 9_000).tensors.items()}
        for message in (base, changed)
    )
    assert (before == after) == ((kind.__name__, name) in NOT_A_TENSOR)


@pytest.mark.parametrize("name", Event.DESCRIPTOR.fields_by_name)
def test_field_of_an_event_changes_what_is_observed_or_is_refused(name):
    event = with_field(EVENT, Event.DESCRIPTOR.fields_by_name[name])
    if "text" in name:
        with pytest.raises(InvalidArgumentError) as caught:
            encode_observe(ObserveRequest(user_id="a", events=[event]))
        assert caught.value.field == f"events[0].{name}"
        return
    before, after = (
        {
            name: array.tolist()
            for name, array in encode_observe(ObserveRequest(user_id="a", events=[one])).tensors.items()
        }
        for one in (EVENT, event)
    )
    assert before != after


@pytest.mark.parametrize("name", ["top_n", "allow", "slate"])
def test_field_is_refused_when_it_only_serves_to_find_items_and_the_request_names_them(name):
    base, encode_message = ENCODERS[ExplainRequest]
    with pytest.raises(InvalidArgumentError) as caught:
        encode_message(with_field(base, ExplainRequest.DESCRIPTOR.fields_by_name[name]), 9_000)
    assert caught.value.field == name


def test_list_of_fields_that_are_no_tensor_names_fields_of_the_schema():
    assert NOT_A_TENSOR.keys() | REFUSED_BESIDE_ITEM_IDS <= {(kind.__name__, name) for kind, name in FIELDS}


def test_recommendation_asks_with_every_field_when_an_explanation_names_no_items():
    asked = with_all_fields(ExplainRequest, leave_out=["item_ids"])
    recommendation = recommendation_of(asked)
    assert names_of_set_fields(recommendation) == names(RecommendRequest)
    for field, value in recommendation.ListFields():
        assert getattr(asked, field.name) == value
    assert names(ExplainRequest) - names(RecommendRequest) == {"item_ids"}


def test_explanation_says_all_of_the_user_when_nothing_was_recommended():
    recommended = with_all_fields(RecommendResponse, leave_out=["items", "unfilled_items"])
    explained = nothing_to_explain(recommended)
    assert names_of_set_fields(explained) == names(RecommendResponse) - {"items", "unfilled_items"}
    for field, value in explained.ListFields():
        assert getattr(recommended, field.name) == value


def test_state_status_is_that_of_the_tensor_when_the_contract_grows():
    assert set(StateStatus.values()) == set(contract.StateStatus)


def test_field_is_not_shared_when_its_type_differs():
    recommended = RecommendResponse(items=[MESSAGES["ebbtide.v1.RecommendedItem"]], events_used=2)
    assert shared_fields(recommended, ExplainResponse) == {"events_used": 2}
    assert shared_fields(recommended, RankResponse).keys() == {"items", "events_used"}


def test_keywords_reach_every_field_when_a_request_is_made_from_them():
    user = {
        "history": [EVENT],
        "current": [EVENT],
        "events": [EVENT],
        "now": datetime(2026, 1, 1, tzinfo=timezone.utc),
        "alpha": 0.5,
        "decay_scale": 2.0,
        "unknown_items": "error",
        "exclude": ["a"],
        "exclude_seen": True,
        "user_id": "u",
        "allow_stateless": True,
        "top_n": 3,
    }
    allow = {"genre": "Drama"}
    found = {"allow": allow, "slate": Slate(diversity=0.5)}
    assert names_of_set_fields(recommend_request(**user, **found)) == names(RecommendRequest)
    assert names_of_set_fields(rank_request(**user, candidates=["a"])) == names(RankRequest)
    assert names_of_set_fields(explain_request(**user, **found, item_ids=["a"])) == names(ExplainRequest)


def row(*values, dtype=np.float32):
    return np.array([values], dtype=dtype)


def test_decoded_answers_have_every_field_when_the_tensors_say_everything():
    user = {
        "alpha_used": row(0.5),
        "event_counts": row(1, 2, 3, dtype=np.int32),
        "state_status": row(1, dtype=np.int32),
    }
    state_events = {
        "state_event_item": row(b"a", b"", dtype=np.object_)[0],
        "state_event_time": row(8_000, 7_000, dtype=np.int64)[0],
        "state_event_decay": row(0.5, 0)[0],
    }
    recommended = decode(
        {
            **user,
            "item_id": row(b"a", b"b", dtype=np.object_),
            "score": row(1, -np.inf),
            "applied_rules": row(b'{"moved": {"a": ["r"]}, "pinned": []}', dtype=np.object_),
        },
        model_version="1",
    )
    asked = Slate(at_least=[MINIMUM])
    notes = {"size": 2, "candidates": 9, "rank": [4], "moved_by": [[0, 2]], "rules": [["r"]], "relaxed": [[2, 3, 1, 5]]}
    composed = decode_recommended(
        {
            **user,
            "slate_item_id": row(b"a", b"", dtype=np.object_),
            "slate_score": row(1, -np.inf),
            "slate_notes": row(json.dumps(notes).encode(), dtype=np.object_),
        },
        RecommendRequest(slate=asked),
        model_version="1",
    )
    assert names_of_set_fields(composed) == names(RecommendResponse)
    assert names_of_set_fields(recommended) == names(RecommendResponse) - {"relaxed_limits", "slate_candidates"}
    assert names_of_set_fields(*composed.items) == names(RecommendedItem)
    assert names_of_set_fields(*composed.relaxed_limits) == names(RelaxedLimit)
    assert names_of_set_fields(*composed.items[0].moved_by) == names(SlateCause)
    assert names_of_set_fields(*recommended.items) == names(RecommendedItem) - {"score_rank", "moved_by"}

    ranked = decode_ranking(
        {
            **user,
            "candidate_score": row(1, np.nan, -np.inf),
            "candidate_in_stock": row(False, True, True, dtype=np.bool_),
        },
        RankRequest(candidate_item_ids=["a", "b", "c"]),
        model_version="1",
    )
    assert names_of_set_fields(ranked) == names(RankResponse)

    explained = decode_explanation(
        {
            **user,
            "candidate_score": row(1, -np.inf),
            "candidate_in_stock": row(False, True, dtype=np.bool_),
            "event_share": np.ones((2, 2), np.float32),
            "event_current": row(False, True, dtype=np.bool_),
            "event_decay": row(0.5, 0.5),
            "dimension_share": np.ones((2, 4), np.float32),
            "prior_share": row(1, 1),
            "adjustment_share": row(1, 1),
            "repeat_share": np.ones((2, 6), np.float32),
            "block_name": np.array([b"text", b"residual", b"image"], dtype=np.object_),
            "block_share": np.ones((2, 3), np.float32),
            "half_life_days": row(1, 2, 3, 4),
            "folded_share": row(1, 1),
            "state_event_share": np.ones((2, 2), np.float32),
            "state_event_current": row(True, False, dtype=np.bool_),
            **state_events,
        },
        ExplainRequest(history=[EVENT], current=[EVENT], item_ids=["a", "b"]),
        now_ms=9_000,
        model_version="1",
    )
    composed.items.add(item_id="b", score_rank=2)
    as_listed(explained, composed)
    assert names_of_set_fields(explained) == names(ExplainResponse)
    assert names_of_set_fields(*explained.items) == names(ItemExplanation)
    repeats = [item.repeat_shares for item in explained.items]
    assert names_of_set_fields(*repeats) == names(RepeatShares) == set(REPEAT_PARTS)
    assert (
        names_of_set_fields(*explained.events) == names_of_set_fields(*explained.state_events) == names(ExplainedEvent)
    )

    interest = decode_interest(
        {
            **user,
            "state_counts": row(1, 2, 3, 4, dtype=np.int32),
            "alpha_offset": row(0.5),
            "half_life_days": row(1, 2, 3, 4),
            "interest_energy": row(1, 2, 3, 4),
            "state_event_weight": row(1, 2)[0],
            **state_events,
        },
        InterestRequest(user_id="a"),
        now_ms=9_000,
        model_version="1",
    )
    assert names_of_set_fields(interest) == names(InterestResponse)
    assert names_of_set_fields(*interest.events) == names(ExplainedEvent)
    observed = decode_observed({"observed": row(1, 2, 3, 4, dtype=np.int32)}, model_version="1")
    assert names_of_set_fields(observed) == names(ObserveResponse)
    assert names_of_set_fields(decode_forgotten({"forgotten": row(1, dtype=np.int32)})) == names(ForgetResponse)
    counts = {"item_counts": row(1, 2, 3, 4, 5, 6, dtype=np.int32)[0]}
    assert names_of_set_fields(decode_added(counts, model_version="1")) == names(AddItemsResponse)
    assert names_of_set_fields(decode_removed(counts, model_version="1")) == names(RemoveItemsResponse)
    sent = encode_add_items(AddItemsRequest(items=[NewItem(item_id="a", text="b", title="c", attributes=[ATTRIBUTE])]))
    listed = decode_listed(
        {
            **counts,
            "next_part": row(7, dtype=np.int32)[0],
            "listed_item": sent.tensors["item_name"],
            "listed_details": sent.tensors["item_details"],
        },
        model_version="1",
    )
    assert names_of_set_fields(listed) == names(ListItemsResponse)
    assert names_of_set_fields(*listed.items) == names(NewItem)
    stock = {
        "stock_counts": row(1, 2, 3, dtype=np.int32)[0],
        "next_part": row(7, dtype=np.int32)[0],
        "listed_item": row(b"a", dtype=np.object_)[0],
    }
    assert names_of_set_fields(decode_stock(stock, model_version="1")) == names(SetStockResponse)
    assert names_of_set_fields(decode_out_of_stock(stock, model_version="1")) == names(ListOutOfStockResponse)
    full = with_all_fields(Rule)
    full.until.seconds += 1
    kept = json.loads(encode_set_rules(SetRulesRequest(rules=[full])).tensors["change_rules"][0])["set"]
    rules = {
        "rule_counts": row(1, 2, 3, 4, dtype=np.int32)[0],
        "listed_rules": row(json.dumps(kept).encode(), dtype=np.object_)[0],
    }
    assert names_of_set_fields(decode_set_rules(rules, model_version="1")) == names(SetRulesResponse)
    assert names_of_set_fields(decode_removed_rules(rules, model_version="1")) == names(RemoveRulesResponse)
    listed = decode_rules(rules, model_version="1")
    assert names_of_set_fields(listed) == names(ListRulesResponse)
    assert names_of_set_fields(*listed.rules) == names(Rule) - {"boost", "bury"}


@pytest.mark.parametrize(
    ("pinned", "expected"),
    [
        ([], ["a", "b", "c"]),
        ([[1, "c", 1.0, "p"]], ["c", "a", "b"]),
        ([[2, "x", 9.0, "p"]], ["a", "x", "b"]),
        ([[1, "x", 9.0, "p"], [2, "b", 2.0, "q"], [3, "y", 0.0, "r"]], ["x", "b", "y"]),
        ([[4, "x", 9.0, "p"]], ["a", "b", "c"]),
        ([[3, "a", 3.0, "p"]], ["b", "c", "a"]),
    ],
)
def test_pinned_items_have_their_positions_and_the_names_of_their_rules(pinned, expected):
    told = json.dumps({"moved": {"b": ["up", "down"], "a": ["up"]}, "pinned": pinned}).encode()
    answer = decode(
        {
            "alpha_used": row(0.5),
            "event_counts": row(1, 2, 3, dtype=np.int32),
            "item_id": row(b"a", b"b", b"c", b"d", dtype=np.object_),
            "score": row(3, 2, 1, 0),
            "applied_rules": row(told, dtype=np.object_),
        },
        3,
    )
    assert [item.item_id for item in answer.items] == expected
    by_pin = {item_id: [name] for position, item_id, _, name in pinned if position <= 3}
    by_score = {"b": ["up", "down"], "a": ["up"]}
    assert [list(item.rules) for item in answer.items] == [
        by_pin.get(item_id) or by_score.get(item_id, []) for item_id in expected
    ]
