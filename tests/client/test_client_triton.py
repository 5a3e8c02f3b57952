"""Both clients on a real Triton with a whole export: the same answers as plain tritonclient, and the same errors."""

import asyncio
import random
from datetime import datetime, timedelta, timezone

import pytest
from tritonclient.grpc import InferenceServerClient, InferInput, model_config_pb2

from deadlines import PATIENT
from ebbtide.client import (
    AsyncInterestClient,
    ClientConfig,
    InterestClient,
    InvalidArgumentError,
    ModelNotReadyError,
    Status,
    VersionMismatchError,
    event,
    recommend_request,
)
from ebbtide.client._contract_check import check_model
from ebbtide.client.codec import decode, encode
from ebbtide.interest import contract, served_models

NOW = datetime(2024, 5, 1, tzinfo=timezone.utc)
TEXTS = ["space opera with robots", "a quiet film about a lighthouse"]


def random_request(rng, *, texts):
    def events(most):
        return [
            event(
                **(
                    {"text": rng.choice(TEXTS)}
                    if texts and rng.random() < 0.3
                    else {"item_id": str(rng.randint(1, 40))}
                ),
                time=NOW - timedelta(minutes=rng.randint(1, 500_000)),
                weight=rng.choice([None, 0.0, 2.5]),
            )
            for _ in range(rng.randint(0, most))
        ]

    split = rng.random() < 0.5
    return recommend_request(
        history=events(30) if split else [],
        current=events(3) if split else [],
        events=[] if split else events(30),
        now=NOW,
        alpha=rng.choice([None, 0.0, 0.7, 1.5]),
        decay_scale=rng.choice([None, 0.0, 2.0]),
        unknown_items=rng.choice([None, "ignore", "error"]),
        exclude=[str(number) for number in rng.sample(range(1, 60), rng.randint(0, 5))],
        exclude_seen=rng.choice([None, True, False]),
        top_n=rng.choice([None, 1, 20, 21]),
    )


@pytest.fixture(scope="module")
def requests():
    rng = random.Random(5)  # noqa: S311
    return [random_request(rng, texts=False) for _ in range(40)] + [random_request(rng, texts=True) for _ in range(10)]


@pytest.fixture(scope="module")
def plain(triton):
    with InferenceServerClient(triton.grpc_url) as client:
        yield client


def outcome(result):
    """What an answer or an error says, its scores to be compared with a tolerance: batches round otherwise."""
    if result.error is not None:
        return type(result.error), result.error.field, str(result.error)
    response = type(result.response)()
    response.CopyFrom(result.response)
    numbers = [response.alpha_used, *scores(response)]
    response.ClearField("alpha_used")
    for item in response.items:
        item.ClearField("score")
    return response, pytest.approx(numbers, abs=1e-4)


def said(result):
    """As `outcome`, with plain numbers."""
    known = outcome(result)
    return known if result.error is not None else (known[0], [result.response.alpha_used, *scores(result.response)])


def scores(response):
    return [item.score for item in response.items]


def test_both_clients_and_plain_tritonclient_agree_when_requests_are_random(triton, plain, requests):
    with InterestClient(triton.grpc_url, config=PATIENT) as client:
        results = client.recommend_many(requests, max_concurrency=4, timeout_s=60)
        one_by_one = client.recommend_many(requests, max_concurrency=4, users_per_request=1, timeout_s=60)

    async def awaited():
        async with AsyncInterestClient(triton.grpc_url, config=PATIENT) as client:
            return await client.recommend_many(requests, max_concurrency=4, timeout_s=60)

    for others in (one_by_one, asyncio.run(awaited())):
        assert [said(result) for result in results] == [outcome(result) for result in others]
    assert [result.request for result in results] == requests
    assert all((result.response is None) != (result.error is None) for result in results)
    answered = [result for result in results if result.error is None]
    assert 0 < len(answered) < len(results)
    assert {result.error.status for result in results if result.error} == {Status.INVALID_ARGUMENT}
    for result in answered:
        encoded = encode(result.request, 0)
        specs = {tensor.name: tensor for tensor in served_models.MODELS[encoded.model_name].inputs}
        inputs = []
        for name, array in encoded.tensors.items():
            inputs.append(InferInput(name, array.shape, specs[name].dtype.value))
            inputs[-1].set_data_from_numpy(array)
        answer = plain.infer(encoded.model_name, inputs, client_timeout=60)
        outputs = {output.name: answer.as_numpy(output.name) for output in answer.get_response().outputs}
        expected = decode(outputs, result.request.top_n, model_version="1")
        assert [item.item_id for item in result.response.items] == [item.item_id for item in expected.items]
        assert scores(result.response) == pytest.approx(scores(expected), abs=1e-4)


def test_requests_are_answered_in_their_order_when_many_run_at_once(connect, triton):
    requests = [recommend_request(top_n=1 + index % 20) for index in range(60)]
    with connect(triton.grpc_url) as client:
        results = client.recommend_many(iter(requests), max_concurrency=8, timeout_s=60)
        assert [len(result.response.items) for result in results] == [1 + index % 20 for index in range(60)]
        assert client.recommend_many([]) == []
        for wrong in ({"max_concurrency": 0}, {"timeout_s": -1}):
            with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
                client.recommend_many(requests, **wrong)


def test_metadata_names_versions_tensors_and_fingerprint(connect, triton):
    with connect(triton.grpc_url) as client:
        assert client.is_live()
        server = client.server_metadata()
        assert server.name == "triton"
        assert "model_configuration" in server.extensions
        models = [client.model_metadata(name) for name in ("recommend", "recommend_text", "embed")]
        assert len({model.fingerprint for model in models}) == 1
        recommend = models[0]
        assert (recommend.versions, recommend.platform) == (("1",), "ensemble")
        assert [tensor.name for tensor in recommend.outputs] == [
            tensor.name for tensor in served_models.RECOMMEND.outputs
        ]
        assert recommend.inputs[0].shape == (-1, -1)
        assert recommend.limits["max_events"] == contract.Limits().max_events
        assert recommend.limits.keys() <= vars(contract.Limits()).keys()
        with pytest.raises(ModelNotReadyError):
            client.model_metadata("no_such_model")


def test_calls_need_the_expected_fingerprint_when_one_is_configured(connect, triton):
    with connect(triton.grpc_url) as client:
        fingerprint = client.model_metadata().fingerprint
    with connect(triton.grpc_url, config=ClientConfig(expected_fingerprint=fingerprint)) as client:
        assert client.recommend().items
        assert client.embed(TEXTS, timeout_s=60).shape == (2, 16)
    with connect(triton.grpc_url, config=ClientConfig(expected_fingerprint="0123")) as client:
        for call in (client.recommend, lambda: client.embed(TEXTS)):
            with pytest.raises(VersionMismatchError) as caught:
                call()
            assert (caught.value.expected, caught.value.found) == ("0123", fingerprint)
            assert "0123" in str(caught.value)
            assert fingerprint in str(caught.value)


def an_input(config, name):
    return next(tensor for tensor in config.input if tensor.name == name)


def wrong_dtype(config):
    an_input(config, "event_item").data_type = model_config_pb2.TYPE_STRING


def wrong_rank(config):
    config.output[1].dims.append(2)


def missing(config):
    config.input.remove(an_input(config, "now"))


def required(config):
    config.input.add(name="gender", data_type=model_config_pb2.TYPE_INT32, dims=[1])


def no_batches(config):
    config.max_batch_size = 0


@pytest.mark.parametrize(
    ("change", "part", "found", "expected"),
    [
        (wrong_dtype, "input event_item", "BYTES [-1]", "INT64 [-1]"),
        (wrong_rank, "output score", "FP32 [20, 2]", "FP32 [top_n]"),
        (missing, "input now", "no such tensor", "INT64 [1]"),
        (required, "input gender", "a required input", "none of this name"),
        (no_batches, "max_batch_size", "0", "1 or more"),
    ],
)
def test_check_names_the_tensor_when_a_model_is_not_the_contracts(plain, change, part, found, expected):
    config = plain.get_model_config("recommend").config
    check_model(config, served_models.RECOMMEND, None, "here")
    change(config)
    with pytest.raises(VersionMismatchError) as caught:
        check_model(config, served_models.RECOMMEND, None, "here")
    assert str(caught.value).startswith(f"recommend at here, {part}: got {found}; expected {expected}.")


def test_check_lets_an_optional_tensor_be_missing_when_the_server_is_older(plain):
    config = plain.get_model_config("recommend").config
    config.input.remove(an_input(config, "exclude_seen"))
    check_model(config, served_models.RECOMMEND, None, "here")


def test_contract_is_checked_again_when_another_version_answers(connect, serve, plain, vectors):
    second = type(vectors)()
    second.CopyFrom(vectors)
    second.model_version = "2"
    url, servicer = serve(vectors, second, second, vectors)
    servicer.config = plain.get_model_config("embed").config
    fingerprint = servicer.config.parameters[contract.FINGERPRINT_PARAMETER].string_value
    with connect(url, config=ClientConfig(expected_fingerprint=fingerprint)) as client:
        checks = []
        for _ in range(5):
            client.embed(["a"])
            checks.append(servicer.config_calls)
        # Version 2 answered the second call, so the third one asked again; both are known from then on.
        assert checks == [1, 1, 2, 2, 2]
    with connect(url, config=ClientConfig(check_contract=False)) as client:
        client.embed(["a"])
    assert servicer.config_calls == 2


def test_model_is_not_ready_until_it_is_loaded_again_when_it_was_unloaded(connect, triton, plain):
    with connect(triton.grpc_url) as client:
        client.embed(["a"], timeout_s=60)
        plain.unload_model("embed")
        try:
            assert not client.is_ready("embed")
            assert client.is_ready()
            with pytest.raises(ModelNotReadyError, match="embed"):
                client.embed(["a"])
            with pytest.raises(ModelNotReadyError, match=r"embed .* was not ready"):
                client.wait_until_ready(0.1, "embed")
        finally:
            plain.load_model("embed")
        client.wait_until_ready(60, "embed")
        assert client.embed(["a"], timeout_s=60).shape == (1, 16)


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
def test_answers_stay_the_same_when_requests_are_compressed(connect, triton, compression):
    with connect(triton.grpc_url) as client:
        expected = client.recommend(recommend_request(now=NOW))
    with connect(triton.grpc_url, config=ClientConfig(compression=compression)) as client:
        assert client.recommend(recommend_request(now=NOW)) == expected
