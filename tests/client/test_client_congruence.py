"""The same requests on every way to the models: the same answers, and the same error codes.

The ways: both clients, a client over shared memory, the gateway over gRPC and over HTTP, plain tritonclient, KServe's
own client, and the models in this process, without a server. The last three speak tensors, which the codec makes and
reads; what no tensor can say, it refuses for them too. The server and this process share one store of the states of
users.
"""

import asyncio
import importlib.util
import json
import subprocess
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import numpy as np
import pytest
from google.protobuf import json_format
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from tritonclient.grpc import InferenceServerClient, InferInput
from tritonclient.utils import InferenceServerException

from deadlines import PATIENT
from ebbtide.client import AsyncInterestClient, ClientConfig, EbbtideError, InterestClient, InvalidArgumentError, Status
from ebbtide.client.codec import (
    EncodedRequest,
    decode,
    decode_explanation,
    decode_forgotten,
    decode_interest,
    decode_observed,
    decode_ranking,
    decode_vectors,
    encode,
    encode_explain,
    encode_forget,
    encode_interest,
    encode_observe,
    encode_rank,
    encode_texts,
    stack,
    users_of,
)
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.gateway import Gateway, GatewayConfig
from ebbtide.gateway.http import path_of
from ebbtide.interest import served_models
from ebbtide.interest.errors import RequestError
from ebbtide.store import StoreConfig, open_store
from ebbtide.v1 import (
    EmbedRequest,
    EmbedResponse,
    Event,
    ExplainRequest,
    ExplainResponse,
    ForgetRequest,
    ForgetResponse,
    InterestRequest,
    InterestResponse,
    ObserveRequest,
    ObserveResponse,
    RankRequest,
    RankResponse,
    RecommendRequest,
    RecommendResponse,
    interest_pb2_grpc,
)
from ebbtide.v1.interest_pb2 import RecommendStreamRequest

spec = importlib.util.spec_from_file_location("congruence_cases", Path(__file__).with_name("congruence_cases.py"))
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)

ANSWERS = {
    EmbedRequest: EmbedResponse,
    ExplainRequest: ExplainResponse,
    ForgetRequest: ForgetResponse,
    InterestRequest: InterestResponse,
    ObserveRequest: ObserveResponse,
    RankRequest: RankResponse,
    RecommendRequest: RecommendResponse,
}
CASES = made.make_cases()
SAMPLE = slice(None, None, 5)
TIMEOUT_S = 60
TOLERANCE = 1e-4
KSERVE_PYTHON = Path(__file__).parents[2] / "artifacts" / "kserve-venv" / "bin" / "python"
DRIVER = Path(__file__).with_name("kserve_driver.py")


# What an answer says, in a form that can be compared: ids and scores; whatever else is a number with a tolerance; and
# the rest, to be equal. Of an error its code, and its field where there is one.


def said(answer):
    if isinstance(answer, list):
        return [said(one) for one in answer]
    if isinstance(answer, EbbtideError):
        return {"code": int(answer.status), "field": getattr(answer, "field", None)}
    if isinstance(answer, np.ndarray):
        return {"code": 0, "numbers": answer.reshape(-1).tolist(), "shape": list(answer.shape)}
    if isinstance(answer, (ObserveResponse, ForgetResponse)):
        return {"code": 0, "numbers": [], "facts": str(answer)}
    items = [] if isinstance(answer, InterestResponse) else [(item.item_id, item.score) for item in answer.items]
    numbers = [answer.alpha_used]
    parts = [[], []]
    if isinstance(answer, InterestResponse):
        numbers += [*answer.half_life_days, *answer.energy, *numbers_of(answer.events)]
        parts = [subjects_of(answer.events), [answer.folded_events, answer.late_events, answer.dropped_events]]
    elif isinstance(answer, ExplainResponse):
        numbers += numbers_of(answer.state_events)
        numbers += [*answer.half_life_days, *(event.decay for event in answer.events)]
        for item in answer.items:
            numbers += [*item.event_shares, *item.dimension_shares, item.prior_share, item.adjustment_share]
            numbers += [*item.state_event_shares, item.folded_share, item.history_share, item.current_share]
        parts = [[item.is_excluded for item in answer.items], [event.is_current for event in answer.events]]
        parts.append(subjects_of(answer.state_events))
    counts = [answer.events_used, answer.history_events_used, answer.current_events_used, answer.unknown_events]
    apart = [list(getattr(answer, name, ())) for name in ("unknown_item_ids", "excluded_item_ids")]
    facts = [counts, answer.cold_start, answer.state_status, answer.model_version, apart, parts]
    return {"code": 0, "items": items, "numbers": numbers, "facts": facts}


def numbers_of(events):
    return [number for event in events for number in (event.decay, event.age_days, event.event.weight)]


def subjects_of(events):
    return [(event.event.item_id, event.event.time.ToMilliseconds(), event.is_current) for event in events]


def agree(one, other):
    """Whether two say the same: scores within the tolerance, and ids up to ties."""
    if isinstance(one, list):
        return len(one) == len(other) and all(map(agree, one, other))
    if one["code"] or other["code"]:
        fields = {told.get("field") for told in (one, other) if "field" in told}
        return one["code"] == other["code"] and len(fields) <= 1
    same = all(one.get(name) == other.get(name) for name in ("facts", "shape"))
    return same and close(one["numbers"], other["numbers"]) and agree_items(one.get("items"), other.get("items"))


def close(one, other):
    return len(one) == len(other) and np.allclose(one, other, rtol=0, atol=TOLERANCE)


def agree_items(one, other):
    if one is None or other is None:
        return one is other
    if not close([score for _, score in one], [score for _, score in other]):
        return False
    scores = dict(one)
    last = one[-1][1] if one else 0.0
    return all(
        mine == theirs or abs(scores.get(theirs, last) - score) <= TOLERANCE
        for (mine, score), (theirs, _) in zip(one, other, strict=True)
    )


def by_client(client, request):
    """What a client answers; of an async one, something to await."""
    kind = {RecommendRequest: client.recommend, RankRequest: client.rank, ExplainRequest: client.explain}
    if isinstance(request, list):
        return client.recommend_many(request, timeout_s=TIMEOUT_S)
    if isinstance(request, EmbedRequest):
        return client.embed(request.texts, timeout_s=TIMEOUT_S)
    if isinstance(request, ForgetRequest):
        return client.forget(request.user_id, timeout_s=TIMEOUT_S)
    if isinstance(request, (ObserveRequest, InterestRequest)):
        ask = client.observe if isinstance(request, ObserveRequest) else client.interest
        return ask(request=request, timeout_s=TIMEOUT_S)
    return kind[type(request)](request, timeout_s=TIMEOUT_S)


def told(result):
    if isinstance(result, list):
        return said([one.response or one.error for one in result])
    if isinstance(result, int):
        return said(ForgetResponse(erased_records=result))
    return said(getattr(result, "response", result))


def sync_answers(url, requests, **settings):
    answers = []
    with InterestClient(url, config=ClientConfig(**settings)) as client:
        for request in requests:
            try:
                answers.append(told(by_client(client, request)))
            except EbbtideError as error:
                answers.append(said(error))
    return answers


def async_answers(url, requests):
    async def run():
        async with AsyncInterestClient(url, config=PATIENT) as client:

            async def one(request):
                try:
                    return told(await by_client(client, request))
                except EbbtideError as error:
                    return said(error)

            # Several under way, so that the server puts them into batches.
            room = asyncio.Semaphore(4)

            async def in_turn(request):
                async with room:
                    return await one(request)

            return await asyncio.gather(*map(in_turn, requests))

    return asyncio.run(run())


def gateway_answers(url, requests):
    async def run():
        async with (
            Gateway(GatewayConfig(triton=url, client=PATIENT)) as gateway,
            grpc.aio.insecure_channel(gateway.url) as channel,
        ):
            stub = interest_pb2_grpc.InterestServiceStub(channel)
            return [await by_stub(stub, request) for request in requests]

    return asyncio.run(run())


async def by_stub(stub, request):
    methods = {
        RecommendRequest: stub.Recommend,
        RankRequest: stub.Rank,
        ExplainRequest: stub.Explain,
        ObserveRequest: stub.Observe,
        InterestRequest: stub.Interest,
        ForgetRequest: stub.Forget,
    }
    if isinstance(request, list):
        sent = [RecommendStreamRequest(request_id=str(index), request=one) for index, one in enumerate(request)]
        outcomes = {int(one.request_id): one async for one in stub.RecommendStream(sent, timeout=TIMEOUT_S)}
        return [said(outcomes[index].response) for index in range(len(request))]
    try:
        if isinstance(request, EmbedRequest):
            answer = await stub.Embed(request, timeout=TIMEOUT_S)
            return said(np.array([vector.values for vector in answer.embeddings], np.float32))
        return said(await methods[type(request)](request, timeout=TIMEOUT_S))
    except grpc.aio.AioRpcError as error:
        status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
        field = None
        for packed in status.details:
            detail = error_details_pb2.BadRequest()
            if packed.Unpack(detail):
                field = detail.field_violations[0].field
        return {"code": error.code().value[0], "field": field}


def http_answers(url, requests):
    async def run():
        async with Gateway(GatewayConfig(triton=url, client=PATIENT, http_port=0)) as gateway:
            return await asyncio.to_thread(lambda: [by_http(gateway.http_url, request) for request in requests])

    return asyncio.run(run())


def by_http(url, request):
    if isinstance(request, list):
        return [by_http(url, one) for one in request]
    try:
        body = json_format.MessageToDict(request, preserving_proto_field_name=True)
        sent = json.dumps(body, allow_nan=False).replace('"Infinity"', "1e400").replace('"NaN"', "NaN").encode()
    except (ValueError, json_format.SerializeToJsonError):
        # A time that no text can say.
        return {"code": int(Status.INVALID_ARGUMENT)}
    name = type(request).__name__.removesuffix("Request")
    headers = {"content-type": "application/json"}
    asked = Request(url + path_of(name), sent, headers)  # noqa: S310 - to this machine
    try:
        with urlopen(asked, timeout=TIMEOUT_S) as reply:  # noqa: S310 - to this machine
            answer = json_format.Parse(reply.read().replace(b"null", b'"Infinity"'), ANSWERS[type(request)]())
    except HTTPError as error:
        problem = json.load(error)
        # What is no JSON number is refused before it has a field.
        field = {"field": problem["field"]} if problem.get("field") not in (None, "body") else {}
        return {"code": int(Status[problem["reason"]]), **field}
    if isinstance(request, EmbedRequest):
        return said(np.array([vector.values for vector in answer.embeddings], np.float32))
    return said(answer)


def encoded(request):
    """The tensors of a request.

    Raises:
        InvalidArgumentError: They cannot say it.
    """
    if isinstance(request, list):
        return stack([encode(one, 0) for one in request])
    if isinstance(request, EmbedRequest):
        return encode_texts(request.texts)
    if isinstance(request, (ObserveRequest, ForgetRequest)):
        return (encode_observe if isinstance(request, ObserveRequest) else encode_forget)(request)
    by_kind = {
        RecommendRequest: encode,
        RankRequest: encode_rank,
        ExplainRequest: encode_explain,
        InterestRequest: encode_interest,
    }
    return by_kind[type(request)](request, 0)


def read(request, outputs):
    """What output tensors say."""
    if isinstance(request, list):
        rows = users_of(outputs, len(request))
        return said([decode(row, one.top_n, model_version="1") for one, row in zip(request, rows, strict=True)])
    if isinstance(request, EmbedRequest):
        return said(decode_vectors(outputs))
    if isinstance(request, RankRequest):
        return said(decode_ranking(outputs, request, model_version="1"))
    if isinstance(request, ExplainRequest):
        return said(decode_explanation(outputs, request, 0, model_version="1"))
    if isinstance(request, ObserveRequest):
        return said(decode_observed(outputs, model_version="1"))
    if isinstance(request, InterestRequest):
        return said(decode_interest(outputs, request, 0, model_version="1"))
    if isinstance(request, ForgetRequest):
        return said(decode_forgotten(outputs))
    return said(decode(outputs, request.top_n, model_version="1"))


def tensor_answers(requests, ask):
    """The answers of a way that speaks tensors.

    Args:
        requests: Of users.
        ask: Gives the outputs, or the name of a status, for each of many encoded requests.
    """
    answers, asked = {}, {}
    for index, request in enumerate(requests):
        try:
            asked[index] = encoded(request)
        except InvalidArgumentError as error:
            answers[index] = {"code": int(error.status)}
    for index, outputs in zip(asked, ask(asked.values()), strict=True):
        if isinstance(outputs, str):
            answers[index] = {"code": int(Status[outputs])}
            continue
        try:
            answers[index] = read(requests[index], outputs)
        except InvalidArgumentError as error:
            answers[index] = {"code": int(error.status)}
    return [answers[index] for index in range(len(requests))]


def datatypes_of(one):
    return {tensor.name: tensor.dtype.value for tensor in served_models.MODELS[one.model_name].inputs}


def by_tritonclient(url):
    def ask(many):
        with InferenceServerClient(url) as plain:
            return [by_hand(plain, one) for one in many]

    return ask


def by_hand(plain, one):
    datatypes, inputs = datatypes_of(one), []
    for name, array in one.tensors.items():
        inputs.append(InferInput(name, list(array.shape), datatypes[name]))
        inputs[-1].set_data_from_numpy(array)
    try:
        reply = plain.infer(one.model_name, inputs, client_timeout=TIMEOUT_S)
    except InferenceServerException as error:
        return error.status().removeprefix("StatusCode.")
    return {output.name: reply.as_numpy(output.name) for output in reply.get_response().outputs}


def in_process(repository, states):
    """The exported models without a server, on the server's store."""

    def ask(many):
        with open_store(states, StoreConfig(timeout_ms=60_000)) as store:
            pipeline = InProcessPipeline(repository, store=store)
            answers = [pipeline.run(one.model_name, one.tensors) for one in many]
        return ["INVALID_ARGUMENT" if isinstance(answer, RequestError) else answer for answer in answers]

    return ask


def by_kserve(url, folder):
    def ask(many):
        asked, written = folder / "requests.json", folder / "answers.json"
        asked.write_text(json.dumps([request_as_json(one) for one in many]))
        subprocess.run([KSERVE_PYTHON, DRIVER, url, asked, written], check=True)
        return [answer.get("code") or outputs_of(answer["outputs"]) for answer in json.loads(written.read_text())]

    return ask


def request_as_json(one):
    datatypes = datatypes_of(one)
    inputs = []
    for name, array in one.tensors.items():
        data = [text.decode() for text in array.flat] if array.dtype == np.object_ else array.reshape(-1).tolist()
        inputs.append({"name": name, "datatype": datatypes[name], "shape": list(array.shape), "data": data})
    return {"model": one.model_name, "inputs": inputs}


def outputs_of(tensors):
    numpy = {"BOOL": np.bool_, "INT32": np.int32, "INT64": np.int64, "FP32": np.float32, "BYTES": np.object_}
    return {
        one["name"]: np.array(
            [text.encode() for text in one["data"]] if one["datatype"] == "BYTES" else one["data"],
            dtype=numpy[one["datatype"]],
        ).reshape(one["shape"])
        for one in tensors
    }


def check(cases, answers):
    """Every way says what the first says of every case; valid ones are answered, and invalid ones refused."""
    reference = answers["sync"]
    for (name, _), answer in zip(cases, reference, strict=True):
        codes = {one["code"] for one in (answer if isinstance(answer, list) else [answer])}
        assert codes == ({3} if name else {0}), (name, answer)
    for way, others in answers.items():
        for (name, request), one, other in zip(cases, reference, others, strict=True):
            assert agree(one, other), f"{way}, {name or 'valid'}: {one} and {other} for {request}"


def answers_without_kserve(url, repository, states, cases):
    requests = [request for _, request in cases]
    with InterestClient(url, config=PATIENT) as client:
        for result in client.observe_many(made.observed().values()):
            assert result.error is None
    return {
        "sync": sync_answers(url, requests),
        "async": async_answers(url, requests),
        "shared memory": sync_answers(url, requests, shared_memory=True),
        "gateway": gateway_answers(url, requests),
        "http": http_answers(url, requests),
        "tritonclient": tensor_answers(requests, by_tritonclient(url)),
        "in process": tensor_answers(requests, in_process(repository, states)),
    }


def test_cases_are_of_every_kind_when_made_from_the_seed():
    for cases in (CASES, CASES[SAMPLE]):
        assert {type(request) for _, request in cases} == {*made.KINDS, *made.STATE_KINDS, EmbedRequest, list}
        assert 0.2 < sum(bool(name) for name, _ in cases) / len(cases) < 0.5
    assert {name for name, _ in CASES} == {"", *made.MISTAKES}
    assert len(CASES) == 300
    assert list(map(repr, made.make_cases())) == list(map(repr, CASES))


def test_every_way_says_the_same_when_some_of_the_requests_are_sent(triton, repository, states):
    check(CASES[SAMPLE], answers_without_kserve(triton.grpc_url, repository, states, CASES[SAMPLE]))


@pytest.mark.slow
def test_every_way_and_kserves_client_say_the_same_when_all_requests_are_sent(triton, repository, states, tmp_path):
    if not KSERVE_PYTHON.exists():
        pytest.skip("KServe's client has an environment of its own: make artifacts/kserve-venv/.ready")
    answers = answers_without_kserve(triton.grpc_url, repository, states, CASES)
    requests = [request for _, request in CASES]
    answers["kserve"] = tensor_answers(requests, by_kserve(triton.grpc_url, tmp_path))
    check(CASES, answers)


def wrong_tensors():
    """What no typed request can say: tensors of other lengths, ranks and types than the contract's."""
    good = encode(
        RecommendRequest(events=[Event(item_id="1", time=Timestamp(seconds=1))] * 3), made.NOW_S * 1000
    ).tensors
    changes = {
        "times shorter": {"event_time": good["event_time"][:, :2]},
        "weights longer": {"event_weight": np.ones((1, 4), np.float32)},
        "two clocks": {"now": np.full((1, 2), made.NOW_S * 1000)},
        "no clock": {"now": None},
        "no batch dimension": {name: array[0] for name, array in good.items()},
        "two rows of one tensor": {"now": np.full((2, 1), made.NOW_S * 1000)},
        "more events counted than sent": {"event_count": np.array([[9]], np.int32)},
        "two alphas": {"alpha": np.full((1, 2), 0.5, np.float32)},
    }
    for name, change in changes.items():
        tensors = {key: array for key, array in {**good, **change}.items() if array is not None}
        yield name, EncodedRequest("recommend", tensors)


@pytest.mark.slow
def test_tritonclient_and_kserves_client_get_the_same_codes_when_tensors_are_wrong(triton, tmp_path):
    if not KSERVE_PYTHON.exists():
        pytest.skip("KServe's client has an environment of its own: make artifacts/kserve-venv/.ready")
    wrong = dict(wrong_tensors())
    ours, theirs = by_tritonclient(triton.grpc_url), by_kserve(triton.grpc_url, tmp_path)
    assert ours(wrong.values()) == theirs(wrong.values()) == ["INVALID_ARGUMENT"] * len(wrong)
