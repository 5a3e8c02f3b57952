"""Observe, interest and forget: what a failed store, a refused row or an older export mean to the caller; and texts."""

import asyncio
import math

import grpc
import numpy as np
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2, service_pb2

from ebbtide.client import (
    AsyncInterestClient,
    ClientConfig,
    Explanation,
    InterestResponse,
    InternalError,
    InvalidArgumentError,
    ObserveRequest,
    RetryConfig,
    StateStatus,
    StateUnavailableError,
    UnavailableError,
    UserInterest,
    VersionMismatchError,
    event,
    observe_request,
    recommend_request,
)
from ebbtide.client._fields import caller_error
from ebbtide.client.codec import decode_explanation, decode_interest, decode_observed, encode_observe
from ebbtide.client.results import parts_of_score, state_text, to_dict, to_polars, to_text
from ebbtide.interest import contract, served_models
from ebbtide.interest.errors import STORE_FAILED, RequestError
from ebbtide.v1 import Event, ExplainedEvent, ExplainRequest, ForgetRequest, InterestRequest, RecommendResponse

ONCE = ClientConfig(check_contract=False, retry=RetryConfig(max_attempts=1))
STORE_DOWN = (
    grpc.StatusCode.UNAVAILABLE,
    f"in ensemble 'observe', observer: {STORE_FAILED}: redis://cache:6379/0: no answer within 100 ms",
)
REFUSED = grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
def observed():
    """Makes an answer of ``observe`` with a row for each user, told apart by how many events were added."""

    def make(*added):
        counts = np.zeros((len(added), 4), np.int32)
        counts[:, 0] = added
        message = service_pb2.ModelInferResponse(model_name="observe", model_version="3")
        message.outputs.add(name="observed", datatype="INT32", shape=counts.shape)
        message.raw_output_contents.append(counts.tobytes())
        return message

    return make


def an_event(index=0, **fields):
    return event(item_id=str(index), time_ms=index, **fields)


def test_failed_store_is_told_from_a_dead_endpoint_when_either_is_unavailable(connect, serve, free_address):
    url, _ = serve(STORE_DOWN)
    calls = (
        lambda client: client.observe("u", [an_event()]),
        lambda client: client.interest("u"),
        lambda client: client.forget("u"),
        lambda client: client.recommend(user_id="u"),
    )
    for call in calls:
        with connect(url, config=ONCE) as client, pytest.raises(StateUnavailableError) as caught:
            call(client)
        assert "redis://cache:6379/0: no answer within 100 ms" in str(caught.value)
        with connect(free_address, config=ONCE) as client, pytest.raises(UnavailableError) as caught:
            call(client)
        assert type(caught.value) is UnavailableError


def test_observe_sends_the_same_again_when_the_store_comes_back(connect, serve, observed):
    url, servicer = serve(STORE_DOWN, STORE_DOWN, observed(2))
    with connect(url, config=ClientConfig(check_contract=False)) as client:
        answer = client.observe("u", [an_event(1), an_event(2)])
    assert (answer.added_events, answer.model_version, servicer.calls) == (2, "3", 3)


def test_each_has_its_own_result_when_users_are_observed_together(connect, serve, observed):
    said = "in ensemble 'observe', observer: {}event_item[0]: got 3; expected the key of one of the items"
    url, servicer = serve((REFUSED, said.format("row 1: ")), observed(5, 7), (REFUSED, said.format("")))
    requests = [observe_request(f"u{index}", [an_event(index)]) for index in range(3)]
    with connect(url, config=ONCE) as client:
        results = client.observe_many(requests)
    assert [None if result.error else result.response.added_events for result in results] == [5, None, 7]
    assert all(result.request is request for result, request in zip(results, requests, strict=True))
    assert (type(results[1].error), results[1].error.field) == (InvalidArgumentError, "events[0].item_id")
    assert servicer.calls == 3


def test_only_requests_that_say_the_same_share_a_call_when_many_are_observed(connect, serve, observed):
    url, servicer = serve(observed(1, 1))
    with connect(url, config=ONCE) as client:
        results = client.observe_many(
            [
                *(observe_request(f"u{index}", [an_event(index)]) for index in range(2)),
                *(observe_request(f"u{index}", [an_event(index, event_id="e")]) for index in range(2)),
                observe_request("", [an_event()]),
            ],
            max_concurrency=1,
        )
    assert [result.error.field if result.error else 1 for result in results] == [1, 1, 1, 1, "user_id"]
    assert servicer.calls == 2


def test_observations_travel_together_when_they_begin_in_one_turn(serve, observed):
    url, servicer = serve(observed(3, 4))

    async def run(*others):
        async with AsyncInterestClient(url, config=ONCE) as client:
            calls = [client.observe(f"u{index}", [an_event(index)]) for index in range(2)]
            calls += [client.recommend(user_id=user_id) for user_id in others]
            return await asyncio.gather(*calls, return_exceptions=True)

    assert [one.added_events for one in asyncio.run(run())] == [3, 4]
    assert servicer.calls == 1
    # No call asks two models: the server's answer is none to the one for recommendations.
    *answered, refused = asyncio.run(run("u"))
    assert [one.added_events for one in answered] == [3, 4]
    assert isinstance(refused, InternalError)
    assert servicer.calls == 3


def test_users_who_need_the_store_are_asked_for_apart_when_it_fails(connect, serve, answer):
    url, servicer = serve(answer(0.25, 0.5), STORE_DOWN)
    requests = [
        recommend_request(user_id="a", allow_stateless=True),
        recommend_request(user_id="b"),
        recommend_request(),
        recommend_request(user_id="c"),
    ]
    with connect(url, config=ONCE) as client:
        results = client.recommend_many(requests, max_concurrency=1)
    answered = [None if result.error else result.response.alpha_used for result in results]
    assert answered == [0.25, None, 0.5, None]
    assert {type(result.error) for result in (results[1], results[3])} == {StateUnavailableError}
    assert servicer.calls == 2


def test_user_is_refused_with_what_to_do_when_the_export_is_older(connect, serve, answer):
    url, servicer = serve(answer(0.5))
    inputs = [one for one in served_models.RECOMMEND.inputs if one.name not in ("user", "allow_stateless")]
    outputs = [one for one in served_models.RECOMMEND.outputs if one.name != "state_status"]
    config = model_config_pb2.ModelConfig(name="recommend", max_batch_size=64)
    sizes = dict.fromkeys(contract.Size, 4)
    for tensors, entries in ((inputs, config.input), (outputs, config.output)):
        for tensor in tensors:
            data_type = "TYPE_STRING" if tensor.dtype.value == "BYTES" else f"TYPE_{tensor.dtype.value}"
            entry = entries.add(name=tensor.name, data_type=data_type, dims=tensor.config_dims(sizes, batching=True))
            if entries is config.input:
                entry.optional = tensor.optional
    servicer.config = config
    with connect(url) as client:
        assert client.recommend(events=[an_event()]).state_status == StateStatus.STATE_STATUS_UNSPECIFIED
        with pytest.raises(
            VersionMismatchError, match=r"recommend at .*, input user: got no such tensor; expected INT64"
        ):
            client.recommend(user_id="u")
    assert servicer.calls == 1


def test_message_and_arguments_are_refused_when_both_are_given(connect, free_address):
    with connect(free_address) as client:
        for call in (
            lambda: client.observe("u", request=observe_request("u", [an_event()])),
            lambda: client.interest("u", request=InterestRequest(user_id="u")),
        ):
            with pytest.raises(InvalidArgumentError, match="request: got user_id beside it"):
                call()


@given(st.integers(1, 5), st.data())
def test_field_is_the_callers_own_when_any_entry_of_an_observed_tensor_is_refused(events, data):
    request = ObserveRequest(
        user_id="u",
        events=[
            Event(item_id=f"i{index}", time=Timestamp(seconds=index), weight=index + 2, event_id=f"e{index}")
            for index in range(events)
        ],
    )
    tensors = encode_observe(request).tensors
    tensor = data.draw(st.sampled_from(sorted(tensors)))
    index = data.draw(st.integers(0, tensors[tensor].size - 1))
    value = tensors[tensor].reshape(-1)[index].item()
    server_says = f"in ensemble 'observe', observer: {tensor}[{index}]: got {value}; expected other"
    error = caller_error(RequestError.parse(server_says), request)
    parts = {"event_item": "item_id", "event_time": "time", "event_weight": "weight", "event_id": "event_id"}
    if tensor == "user":
        assert error.field == f"user_id[{index}]"
    else:
        assert error.field == f"events[{index}].{parts[tensor]}"
        assert error.value == (f"'i{index}'" if tensor == "event_item" else str(value))


def test_field_is_the_callers_own_when_a_question_about_a_state_is_refused():
    for request in (InterestRequest(user_id="u"), ForgetRequest(user_id="u"), recommend_request(user_id="u")):
        refused = RequestError("user", "a user", "none, since this server keeps no states of users")
        assert caller_error(refused, request).field == "user_id"
    assert caller_error(RequestError("decay_scale", "-1", "0 or more"), InterestRequest()).field == "decay_scale"


HALF_LIVES = [0.5, 20.0, math.inf]


def interest_outputs(**changes):
    """Three newest events, of which one has an unknown item, of a user with a session of one event."""
    return {
        "alpha_used": np.array([[0.25]], np.float32),
        "event_counts": np.array([[41, 1, 1]], np.int32),
        "state_status": np.array([[1]], np.int32),
        "state_counts": np.array([[40, 3, 2, 0]], np.int32),
        "half_life_days": np.array(HALF_LIVES, np.float32),
        "interest_energy": np.array([[0.25, 0.5, 0.25]], np.float32),
        "state_event_item": np.array([b"", b"318", b"7"], np.object_),
        "state_event_time": np.array([172_700_000, 172_600_000, 86_400_000]),
        "state_event_weight": np.array([1, 2, 1], np.float32),
        "state_event_decay": np.array([0, 0.75, 0.5], np.float32),
        **changes,
    }


def read_interest(**changes):
    request = InterestRequest(user_id="u", now=Timestamp(seconds=172_800))
    return UserInterest(decode_interest(interest_outputs(**changes), request, 0, model_version="1"))


def test_interest_says_what_the_tensors_say():
    interest = read_interest()
    message = interest.response
    assert (message.events_used, message.folded_events, message.late_events, message.unknown_events) == (42, 40, 2, 1)
    assert interest.is_known
    assert [(one.event.item_id, one.is_current, one.event.weight) for one in interest.events] == [
        ("", False, 1),
        ("318", True, 2),
        ("7", False, 1),
    ]
    assert [one.age_days for one in interest.events] == pytest.approx([100 / 86_400, 200 / 86_400, 1])
    assert interest.median_half_life_days == 20
    assert to_text(interest, {"318": "Shawshank"}).splitlines() == [
        "alpha 0.25 (share of history), 42 events counted, model version 1",
        "1 event left out: not in the catalog",
        "events beside the newest: 40 kept as sums, 2 late, by age alone",
        "interest by half-life: under a day +0.250, 1 to 30 days +0.500, over a year +0.250",
        "     an item that is not in the catalog, 2 minutes ago (history, weighs 0)",
        "     Shawshank, 3 minutes ago (session, weighs 0.75)",
        "     item 7, 24 hours ago (history, weighs 0.5)",
    ]
    assert str(interest) == to_text(interest)
    assert to_text(interest, events=1).endswith("\n     and 2 events more")
    assert to_dict(interest)["half_life_days"] == [0.5, 20, "Infinity"]


def test_interest_is_empty_when_the_user_is_unknown():
    names = ("state_event_item", "state_event_time", "state_event_weight", "state_event_decay")
    interest = read_interest(
        state_status=np.array([[2]], np.int32),
        event_counts=np.zeros((1, 3), np.int32),
        state_counts=np.zeros((1, 4), np.int32),
        interest_energy=np.zeros((1, 3), np.float32),
        **{name: interest_outputs()[name][:0] for name in names},
    )
    assert not interest.is_known
    assert math.isnan(interest.median_half_life_days)
    assert str(interest).splitlines()[1:] == [
        "the store has no event of this user",
        "cold start, no events: the popularity prior alone ranked",
    ]


@pytest.mark.parametrize("name", ["state_event_item", "state_event_decay", "state_counts", "interest_energy"])
def test_interest_raises_internal_error_when_an_output_has_another_length(name):
    with pytest.raises(InternalError, match=name):
        read_interest(**{name: interest_outputs()[name].reshape(-1)[:-1]})


def test_observed_text_says_what_became_of_the_events():
    def text(*counts):
        return to_text(decode_observed({"observed": np.array([counts], np.int32)}))

    assert text(1, 0, 0, 0) == "1 event added"
    assert (
        text(3, 2, 1, 1)
        == "3 events added, 1 of them late; 2 events known before; 1 event left out: not in the catalog"
    )


def test_state_text_says_what_an_answer_lacks():
    assert state_text(RecommendResponse(state_status=StateStatus.STATE_STATUS_USED)) == ""
    assert state_text(RecommendResponse()) == ""
    assert state_text(UserInterest(InterestResponse(state_status=StateStatus.STATE_STATUS_UNKNOWN_USER)))
    lacking = RecommendResponse(state_status=StateStatus.STATE_STATUS_UNAVAILABLE)
    assert "the store could not be reached" in to_text(lacking)


def test_shares_of_the_state_add_up_to_the_score_when_an_answer_is_explained():
    request = ExplainRequest(
        item_ids=["a"], current=[Event(item_id="x", time=Timestamp(seconds=172_000))], now=Timestamp(seconds=172_800)
    )
    outputs = {
        name: array for name, array in interest_outputs().items() if name.startswith(("alpha", "event", "state"))
    }
    message = decode_explanation(
        {
            **outputs,
            "candidate_score": np.array([[4.5]], np.float32),
            "event_share": np.array([[0.5]], np.float32),
            "event_current": np.array([True]),
            "event_decay": np.array([0.9], np.float32),
            "dimension_share": np.array([[1, 1, 1.5]], np.float32),
            "prior_share": np.array([1], np.float32),
            "adjustment_share": np.array([0], np.float32),
            "half_life_days": np.array(HALF_LIVES, np.float32),
            "state_event_share": np.array([[0, 2, -1]], np.float32),
            "state_event_current": np.array([False, True, False]),
            "folded_share": np.array([2], np.float32),
        },
        request,
        0,
    )
    (item,) = message.items
    assert list(item.state_event_shares) == [0, 2, -1]
    assert (item.history_share, item.current_share, item.folded_share) == (-1, 2.5, 2)
    assert isinstance(message.state_events[1], ExplainedEvent)
    frame = to_polars(message)
    assert frame["share"].sum() == item.score == 4.5
    assert frame["part"].to_list() == ["session", "history", "session", "history", "folded", "prior", "adjustment"]
    assert frame["event"].to_list() == [0, None, None, None, None, None, None]
    lines = to_text(message).splitlines()
    assert "       +2.000  older events of the state" in lines
    assert sum(share for share, _ in parts_of_score(Explanation(message), item)) == item.score
