"""Several users in one call: what becomes of the others when one is refused, and when all fail."""

import grpc
import pytest
from tritonclient.grpc import model_config_pb2

from ebbtide.client import (
    ClientConfig,
    InternalError,
    InvalidArgumentError,
    RetryConfig,
    UnavailableError,
    event,
    recommend_request,
)
from ebbtide.interest import contract, served_models

REFUSED = grpc.StatusCode.INVALID_ARGUMENT
UNCHECKED = ClientConfig(check_contract=False, retry=RetryConfig(max_attempts=1))


def four_users():
    return [recommend_request(events=[event(item_id=str(index), time_ms=index)]) for index in range(4)]


def test_others_are_asked_for_again_when_one_row_is_refused(connect, serve, answer):
    said = "in ensemble 'recommend', adaptive_weights: {}event_time[0]: got 2; expected Unix milliseconds"
    url, servicer = serve((REFUSED, said.format("row 2: ")), answer(0, 0.25, 0.75), (REFUSED, said.format("")))
    with connect(url, config=UNCHECKED) as client:
        results = client.recommend_many(four_users())
    assert [result.index for result in results] == [0, 1, 2, 3]
    assert [None if result.error else result.response.alpha_used for result in results] == [0, 0.25, None, 0.75]
    error = results[2].error
    assert type(error) is InvalidArgumentError
    assert (error.field, error.value) == ("events[0].time", "2")
    assert servicer.calls == 3


def test_each_is_asked_for_alone_when_a_refusal_names_no_row(connect, serve, answer):
    url, servicer = serve((REFUSED, "batch-size must be <= 2"), answer(0), answer(0.25), (REFUSED, "no"), answer(0.75))
    with connect(url, config=UNCHECKED) as client:
        results = client.recommend_many(four_users(), max_concurrency=1)
    assert [None if result.error else result.response.alpha_used for result in results] == [0, 0.25, None, 0.75]
    assert str(results[2].error) == "no"
    assert servicer.calls == 5


def test_all_of_a_call_fail_when_the_server_is_unavailable(connect, serve, answer):
    url, servicer = serve((grpc.StatusCode.UNAVAILABLE, "busy"), answer(0, 0.25))
    with connect(url, config=UNCHECKED) as client:
        results = client.recommend_many(four_users(), users_per_request=2, max_concurrency=1)
    assert [type(result.error) for result in results[:2]] == [UnavailableError] * 2
    assert [result.response.alpha_used for result in results[2:]] == [0, 0.25]
    assert servicer.calls == 2


def test_one_too_many_items_are_wanted_fails_alone_when_others_share_the_call(connect, serve, answer):
    url, servicer = serve(answer(0, 0.25))
    requests = [recommend_request(top_n=1), recommend_request(top_n=2)]
    with connect(url, config=UNCHECKED) as client:
        first, second = client.recommend_many(requests)
    assert first.response.items[0].item_id == "a"
    assert second.error.field == "top_n"
    assert servicer.calls == 1


def test_calls_hold_no_more_users_than_the_model_takes(connect, serve, answer):
    url, servicer = serve(answer(0, 0.25), answer(0.5, 0.75))
    sizes = dict.fromkeys(contract.Size, 4)
    config = model_config_pb2.ModelConfig(name="recommend", max_batch_size=2)
    for fields, tensors in (
        (config.input, served_models.RECOMMEND.inputs),
        (config.output, served_models.RECOMMEND.outputs),
    ):
        for tensor in tensors:
            name = "STRING" if tensor.dtype.value == "BYTES" else tensor.dtype.value
            dims = tensor.config_dims(sizes, batching=True)
            fields.add(name=tensor.name, data_type=f"TYPE_{name}", dims=dims)
    servicer.config = config
    with connect(url) as client:
        results = client.recommend_many(four_users(), max_concurrency=1)
    assert [result.response.alpha_used for result in results] == [0, 0.25, 0.5, 0.75]
    assert (servicer.calls, servicer.config_calls) == (2, 1)


@pytest.mark.parametrize("raw", [b"\x05\x00\x00\x00a", b"\x01\x00\x00\x00a" * 3, b"\x01\x00"])
def test_answer_is_an_internal_error_when_its_strings_are_cut_short(connect, serve, raw, answer):
    message = answer(0)
    message.raw_output_contents[3] = raw
    url, _ = serve(message)
    with connect(url, config=UNCHECKED) as client, pytest.raises(InternalError, match="item_id"):
        client.recommend()
