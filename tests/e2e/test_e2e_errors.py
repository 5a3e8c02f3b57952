"""Bad requests are refused by name, while the others of the batch are answered."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from deadlines import PATIENT
from ebbtide.client import InterestClient, InvalidArgumentError, event
from ebbtide.interest import contract, served_models

NOW = datetime(2016, 10, 9, 8, 0, tzinfo=timezone.utc)
AGO = NOW - timedelta(days=3)


def an_event(**changes):
    return event(**({"item_id": "1", "time": AGO} | changes))


BAD = {
    "unknown item": ({"history": [an_event(), an_event(item_id="no such film")]}, "history[1].item_id", "no such film"),
    "unknown item in the session": ({"current": [an_event(item_id="zzz")]}, "current[0].item_id", "zzz"),
    "negative time": ({"history": [an_event(time=None, time_ms=-5)]}, "history[0].time", "-5"),
    "future time": ({"current": [an_event(time=NOW + timedelta(seconds=1))]}, "current[0].time", "1476000001000"),
    "alpha above 1": ({"alpha": 1.5}, "alpha", "1.5"),
    "alpha below 0": ({"alpha": -0.5}, "alpha", "-0.5"),
    "alpha that is no number": ({"alpha": float("nan")}, "alpha", "nan"),
    "weight that is no number": ({"history": [an_event(weight=float("nan"))]}, "history[0].weight", "nan"),
    "negative weight": ({"history": [an_event(), an_event(weight=-2.0)]}, "history[1].weight", "-2"),
    "too many events": ({"history": [an_event()] * 513}, "history and current", "513 events"),
    "too many exclusions": ({"exclude": [str(number) for number in range(513)]}, "exclude_item_ids", "513"),
    "empty text": ({"current": [event(text="", time=AGO)]}, "current[0].text", "''"),
    "blank text": ({"current": [an_event(), event(text="  ", time=AGO)]}, "current[1].text", "'  '"),
    "too long a text": ({"current": [event(text="x" * 5000, time=AGO)]}, "current[0].text", "5000"),
    "top_n above the export's": ({"top_n": 21}, "top_n", "21"),
}


@pytest.mark.parametrize("case", BAD)
def test_client_raises_invalid_argument_with_field_and_value_when_a_request_is_bad(case, client):
    arguments, field, value = BAD[case]
    with pytest.raises(InvalidArgumentError) as caught:
        client.recommend(**({"now": NOW} | arguments))
    assert field in caught.value.field, caught.value
    assert value in caught.value.value, caught.value
    assert caught.value.expected
    assert client.is_ready()


def test_good_requests_are_answered_when_bad_ones_share_their_batch(server):
    good = {"history": [an_event(), an_event(item_id="2")], "now": NOW}

    def call(number):
        with InterestClient(server.grpc_url, config=PATIENT) as own:
            results = []
            for turn in range(20):
                bad = (number + turn) % 2
                arguments = {**good, "alpha": 2.0} if bad else good
                try:
                    answer = own.recommend(**arguments)
                    results.append((bad, [item.item_id for item in answer.items]))
                except InvalidArgumentError as error:
                    results.append((bad, error.field))
            return results

    with ThreadPoolExecutor(16) as pool:
        results = [result for one in pool.map(call, range(16)) for result in one]
    refused = [result for bad, result in results if bad]
    answered = [result for bad, result in results if not bad]
    assert len(refused) == len(answered) == 160
    assert set(refused) == {"alpha"}
    assert all(answer == answered[0] and len(answer) == 10 for answer in answered)


def tensor(spec, array, dtype=None):
    made = triton.InferInput(spec.name, list(array.shape), dtype or spec.dtype.value)
    made.set_data_from_numpy(array)
    return made


@pytest.fixture
def plain(server):
    with triton.InferenceServerClient(server.grpc_url) as connected:
        yield connected


def sound(items=1):
    return {
        contract.EVENT_ITEM: np.zeros((1, items), np.int64),
        contract.EVENT_TIME: np.full((1, items), 5, np.int64),
        contract.NOW: np.array([[10]], np.int64),
    }


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({contract.EVENT_TIME: np.full((1, 3), 5, np.int64)}, ["event_time", "3 entries", "1 entries"]),
        ({contract.EVENT_WEIGHT: np.ones((1, 2), np.float32)}, ["event_weight", "2 entries", "1 entries"]),
        ({contract.EVENT_IS_CURRENT: np.ones((1, 2), bool)}, ["event_is_current", "2 entries", "1 entries"]),
        ({contract.NOW: np.array([[-1]], np.int64)}, ["now", "-1", "0 or more"]),
    ],
)
def test_server_answers_invalid_argument_when_tensors_do_not_fit_each_other(plain, changes, named):
    inputs = [tensor(spec, array) for spec, array in (sound() | changes).items()]
    with pytest.raises(InferenceServerException) as caught:
        plain.infer(served_models.RECOMMEND.name, inputs)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert served_models.ADAPTIVE_WEIGHTS.name in caught.value.message()
    assert all(word in caught.value.message() for word in named), caught.value


def test_server_answers_invalid_argument_when_a_dtype_is_wrong(plain):
    inputs = [tensor(spec, array) for spec, array in sound().items() if spec is not contract.EVENT_TIME]
    inputs.append(tensor(contract.EVENT_TIME, np.full((1, 1), 5, np.float32), "FP32"))
    with pytest.raises(InferenceServerException) as caught:
        plain.infer(served_models.RECOMMEND.name, inputs)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert all(word in caught.value.message() for word in ("event_time", "FP32", "INT64")), caught.value


def test_concurrent_requests_of_different_lengths_are_batched(server, plain, trained):
    ids = trained.bundle.catalog.item_id
    random = np.random.default_rng(1)
    lengths = random.integers(0, 120, 16 * 40).reshape(16, 40)

    def call(row):
        with InterestClient(server.grpc_url, config=PATIENT) as own:
            for length in row:
                own.recommend(history=[an_event(item_id=ids[index]) for index in range(length)], now=NOW)

    def counts():
        (stats,) = plain.get_inference_statistics(served_models.ADAPTIVE_WEIGHTS.name).model_stats
        return stats.inference_count, stats.execution_count

    before = counts()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(call, lengths))
    inferences, executions = (after - earlier for after, earlier in zip(counts(), before, strict=True))
    assert inferences == lengths.size
    assert inferences / executions > 1
