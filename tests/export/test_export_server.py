"""The exported repository on a real server gives the same answers as in process and in torch, and clear errors."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient.utils import InferenceServerException

from deadlines import PATIENT, until
from ebbtide.client import InterestClient, InvalidArgumentError, event
from ebbtide.export.inprocess import Answer, InProcessPipeline
from ebbtide.export.parity import TOLERANCE, ranking_difference
from ebbtide.export.samples import Sample, random_samples
from ebbtide.interest import contract, served_models
from ebbtide.interest.checks import Request
from ebbtide.interest.errors import RequestError
from ebbtide.interest.keys import item_keys
from ebbtide.serve import TritonServer
from ebbtide.train.bundle import InterestBundle

ITEM_ID, SCORE = contract.ITEM_ID.name, contract.SCORE.name
ALPHA_USED, EVENT_COUNTS = contract.ALPHA_USED.name, contract.EVENT_COUNTS.name
NOW = 1_700_000_000_000


@pytest.fixture(scope="module")
def keys(bundle: InterestBundle) -> np.ndarray:
    return item_keys(bundle.catalog.item_id)


@pytest.fixture(scope="module")
def client(server: TritonServer) -> Iterator[InterestClient]:
    with InterestClient(server.grpc_url, config=PATIENT) as client:
        yield client


@pytest.fixture(scope="module")
def event_vectors(in_process: InProcessPipeline, bundle: InterestBundle) -> np.ndarray:
    texts = bundle.catalog.text
    return np.concatenate([in_process.embed(texts[start : start + 50]) for start in range(0, len(texts), 50)])


def good(keys: np.ndarray, **changes: Any) -> Request:
    arrays = {"event_item": keys[:2], "event_time": np.array([NOW - 9, NOW - 5]), "now": np.array([NOW]), **changes}
    return Request(**arrays)


def answer_of(outputs: dict[str, np.ndarray]) -> Answer:
    return Answer(
        [item.decode() for item in outputs[ITEM_ID].ravel()],
        outputs[SCORE].ravel(),
        float(outputs[ALPHA_USED].ravel()[0]),
        tuple(outputs[EVENT_COUNTS].ravel().tolist()),
    )


def check_pipelines(bundle: InterestBundle, sample: Sample, served: Answer, local: Any) -> None:
    assert isinstance(local, Answer)
    expected = sample.reference(bundle.model, bundle.prior_columns)
    assert ranking_difference(served.item_id, served.score, expected.scores, bundle.catalog.index) <= TOLERANCE
    assert served.item_id == local.item_id
    np.testing.assert_allclose(served.score, local.score, atol=TOLERANCE, rtol=0)
    assert served.alpha_used == pytest.approx(local.alpha_used, abs=TOLERANCE)
    assert served.alpha_used == pytest.approx(expected.alpha, abs=TOLERANCE)
    current = expected.current_events
    assert served.event_counts == local.event_counts == (expected.events - current, current, 0)


def test_recommend_equals_its_twins_when_requests_are_random(
    door: Any, in_process: InProcessPipeline, bundle: InterestBundle, keys: np.ndarray
) -> None:
    name = served_models.RECOMMEND.name
    for sample in random_samples(len(bundle.catalog), 30, in_process.limits, seed=21, texts=False):
        request = sample.request(keys, np.empty((0, 16), np.float32))
        (local,) = in_process.recommend([request])
        check_pipelines(bundle, sample, answer_of(door.call(name, door.arrays(name, request))), local)


def test_recommend_text_equals_its_twins_when_requests_are_random(
    door: Any, in_process: InProcessPipeline, bundle: InterestBundle, keys: np.ndarray, event_vectors: np.ndarray
) -> None:
    name = served_models.RECOMMEND_TEXT.name
    samples = [
        sample for sample in random_samples(len(bundle.catalog), 60, in_process.limits, seed=22) if sample.text.size
    ]
    assert len(samples) > 8
    for sample in samples:
        request = sample.request(keys, event_vectors)
        (local,) = in_process.recommend([request])
        arrays = door.arrays(name, request)
        texts = [bundle.catalog.text[index].encode() for index in sample.text]
        arrays[contract.TEXT.name] = np.array(texts, dtype=object)
        check_pipelines(bundle, sample, answer_of(door.call(name, arrays)), local)


def test_client_equals_torch_when_it_sends_the_same_events(
    client: InterestClient, in_process: InProcessPipeline, bundle: InterestBundle
) -> None:
    catalog = bundle.catalog
    # From the seventh on; the first ones are edges that the client has other words for.
    for sample in list(random_samples(len(catalog), 20, in_process.limits, seed=23))[7:]:
        events = [{"item_id": catalog.item_id[index]} for index in sample.item]
        events += [{"text": catalog.text[index]} for index in sample.text]
        weights = [None] * len(events) if sample.weight is None else sample.weight.tolist()
        messages = [
            event(**subject, time_ms=int(time_ms), weight=weight)
            for subject, time_ms, weight in zip(events, sample.time_ms, weights, strict=True)
        ]
        groups: dict[str, Any] = {"events": messages}
        if sample.is_current is not None:
            flags = sample.is_current.tolist()
            groups = {
                group: [message for message, flag in zip(messages, flags, strict=True) if flag == wanted]
                for group, wanted in (("history", False), ("current", True))
            }
        response = client.recommend(
            **groups,
            now=_time(sample.now_ms),
            alpha=sample.alpha,
            exclude=[catalog.item_id[index] for index in sample.exclude],
            exclude_seen=sample.exclude_seen,
            top_n=10,
        )
        expected = sample.reference(bundle.model, bundle.prior_columns)
        ids, scores = [item.item_id for item in response.items], np.array([item.score for item in response.items])
        assert ranking_difference(ids, scores, expected.scores, catalog.index) <= TOLERANCE
        assert response.alpha_used == pytest.approx(expected.alpha, abs=TOLERANCE)
        assert response.events_used == expected.events


def _time(time_ms: int) -> Any:
    from datetime import datetime, timezone

    return datetime.fromtimestamp(time_ms / 1000, tz=timezone.utc)


def test_embed_equals_its_twins_when_texts_differ_in_length(
    client: InterestClient, in_process: InProcessPipeline, bundle: InterestBundle
) -> None:
    texts = bundle.catalog.text[:5]
    expected = (bundle.model.text_vectors[:5] @ bundle.model.event_projection).detach().numpy()
    np.testing.assert_allclose(client.embed(texts), expected, atol=TOLERANCE, rtol=0)
    odd = ["a", "word " * 300]
    np.testing.assert_allclose(client.embed(odd), in_process.embed(odd), atol=TOLERANCE, rtol=0)
    assert client.embed(["a"] * in_process.limits.max_texts).shape == (in_process.limits.max_texts, 16)


def test_several_users_are_answered_when_one_request_carries_them(
    door: Any, in_process: InProcessPipeline, keys: np.ndarray
) -> None:
    random = np.random.default_rng(0)
    users = [
        good(keys, event_item=keys[random.integers(0, 200, 4)], event_time=NOW - random.integers(0, 10**9, 4))
        for _ in range(3)
    ]
    name = served_models.RECOMMEND.name
    single = [door.arrays(name, user) for user in users]
    together = {key: np.concatenate([arrays[key] for arrays in single]) for key in single[0]}
    outputs = door.call(name, together)
    for row, local in enumerate(in_process.recommend(users)):
        assert isinstance(local, Answer)
        assert answer_of({key: value[row] for key, value in outputs.items()}).item_id == local.item_id
        np.testing.assert_allclose(outputs[SCORE][row], local.score, atol=TOLERANCE)

    together[contract.EVENT_TIME.name] = together[contract.EVENT_TIME.name].copy()
    together[contract.EVENT_TIME.name][1, 2] = NOW + 1
    with pytest.raises(InferenceServerException, match=r"adaptive_weights: row 1: event_time\[2\]: got") as caught:
        door.call(name, together)
    parsed = RequestError.parse(caught.value.message())
    assert parsed is not None
    assert parsed.field == "event_time[2]"


@pytest.mark.parametrize("name", [served_models.RECOMMEND.name, served_models.ADAPTIVE_WEIGHTS.name])
def test_requested_outputs_alone_are_sent_when_some_are_named(door: Any, keys: np.ndarray, name: str) -> None:
    arrays = door.arrays(name, good(keys))
    assert door.call(name, arrays, [ALPHA_USED]).keys() == {ALPHA_USED}
    assert door.call(name, arrays).keys() == {tensor.name for tensor in served_models.MODELS[name].outputs}


BAD = {
    "a later event": ({"event_time": np.array([NOW - 9, NOW + 3])}, "event_time[1]", str(NOW + 3)),
    "an early now": ({"now": np.array([-1])}, "now", "-1"),
    "an unknown item": ({"event_item": np.array([5, 6])}, "event_item[0]", "5"),
    "missing times": ({"event_time": np.array([NOW])}, "event_time", "1 entries"),
    "too many flags": ({"event_is_current": np.array([True] * 3)}, "event_is_current", "3 entries"),
    "a negative weight": ({"event_weight": np.array([1, -2], np.float32)}, "event_weight[1]", "-2.0"),
    "no number": ({"event_weight": np.array([np.nan, 1], np.float32)}, "event_weight[0]", "nan"),
    "an alpha above one": ({"alpha": np.array([1.5], np.float32)}, "alpha", "1.5"),
    "too many events": (
        {"event_item": np.zeros(513, np.int64), "event_time": np.zeros(513, np.int64)},
        "event_item",
        "513 events",
    ),
    "too many exclusions": ({"exclude_item": np.zeros(513, np.int64)}, "exclude_item", "513 items"),
}


def test_bad_requests_name_field_value_and_expectation_when_good_ones_are_in_flight(
    door: Any, in_process: InProcessPipeline, keys: np.ndarray
) -> None:
    name = served_models.RECOMMEND.name
    (expected,) = in_process.recommend([good(keys)])
    assert isinstance(expected, Answer)
    done: queue.Queue[tuple[str, Any, Any]] = queue.Queue()

    def send(label: str, request: Request) -> None:
        inputs = door.inputs(name, door.arrays(name, request))
        door.client.async_infer(name, inputs, lambda result, error: done.put((label, result, error)))

    before = _settled_counts(door)
    # Requests that share a batch carry the same inputs; so the good ones are sent with each bad one's.
    for label, (changes, _, _) in BAD.items():
        optional = {key: value[:2] for key, value in _harmless(changes).items()}
        for index in range(6):
            send("good" if index != 2 else label, good(keys, **(optional if index != 2 else changes)))
    seen: set[str] = set()
    for _ in range(6 * len(BAD)):
        label, result, error = done.get(timeout=300)
        if label == "good":
            assert error is None, error
            history, current, unknown = result.as_numpy(EVENT_COUNTS).ravel().tolist()
            assert (history + current, unknown) == (2, 0)
            continue
        seen.add(label)
        assert error.status() == "StatusCode.INVALID_ARGUMENT", label
        parsed = RequestError.parse(error.message())
        assert parsed is not None, error.message()
        assert (parsed.field, parsed.value) == BAD[label][1:]
        assert "adaptive_weights: " in error.message()
        assert parsed.expected
    assert seen == BAD.keys()
    # Triton answers a request before it counts it.
    until(lambda: _counts(door)[0] - before[0] >= 6 * len(BAD))
    after = _settled_counts(door)
    assert after[0] - before[0] == 6 * len(BAD)
    assert after[1] - before[1] < 6 * len(BAD), "no two requests shared a batch"


def _harmless(changes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    neutral = {
        "event_is_current": np.array([True, False]),
        "event_weight": np.array([1, 2], np.float32),
        "alpha": np.array([0.5], np.float32),
        "exclude_item": np.zeros(2, np.int64),
    }
    return {key: neutral[key] for key in changes if key in neutral}


def _settled_counts(door: Any) -> tuple[int, int]:
    """The counts once they have stayed the same for a second: those of the test before may come late."""
    found = _counts(door)
    while True:
        time.sleep(1)
        if (again := _counts(door)) == found:
            return found
        found = again


def _counts(door: Any) -> tuple[int, int]:
    """Requests and executions of `adaptive_weights` so far."""
    (stats,) = door.client.get_inference_statistics(served_models.ADAPTIVE_WEIGHTS.name).model_stats
    return stats.inference_stats.success.count + stats.inference_stats.fail.count, stats.execution_count


@pytest.mark.parametrize(
    ("texts", "field", "value"),
    [
        ([b""], "text[0]", "''"),
        ([b"a", b" "], "text[1]", "' '"),
        ([b"\xff"], "text[0]", r"b'\xff'"),
        ([b"x" * 5000], "text[0]", "5000 bytes"),
        ([b"a"] * 65, "text", "65 texts"),
        ([], "text", "0 texts"),
    ],
)
@pytest.mark.parametrize("name", [served_models.EMBED.name, served_models.RECOMMEND_TEXT.name])
def test_texts_are_refused_when_they_are_bad(
    door: Any, keys: np.ndarray, name: str, texts: list[bytes], field: str, value: str
) -> None:
    arrays = {contract.TEXT.name: np.array(texts, dtype=object)}
    if name == served_models.RECOMMEND_TEXT.name:
        arrays |= door.arrays(name, good(keys))
    with pytest.raises(InferenceServerException) as caught:
        door.call(name, arrays)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    parsed = RequestError.parse(caught.value.message())
    assert parsed is not None, caught.value.message()
    assert (parsed.field, parsed.value) == (field, value)
    assert "tokenizer: " in caught.value.message()


def test_client_names_the_callers_field_when_an_event_is_bad(client: InterestClient) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        client.recommend(events=[event(item_id="1", time_ms=NOW - 5), event(text=" ", time_ms=NOW)], now=_time(NOW))
    assert caught.value.field == "events[1].text"
    with pytest.raises(InvalidArgumentError, match="catalog of export") as caught:
        client.recommend(history=[event(item_id="no such film", time_ms=NOW)], now=_time(NOW))
    assert (caught.value.field, caught.value.value) == ("history[0].item_id", "'no such film'")
