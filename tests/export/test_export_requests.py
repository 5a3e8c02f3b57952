"""Optional features of requests on a real server: filters, policies, candidates, explanations."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import polars as pl
import pytest
from tritonclient.utils import InferenceServerException

from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.parity import TOLERANCE
from ebbtide.export.samples import Sample, random_samples
from ebbtide.interest import contract, served_models
from ebbtide.interest.checks import Request
from ebbtide.interest.contract import StateStatus
from ebbtide.interest.errors import RequestError
from ebbtide.interest.keys import item_key, item_keys, user_keys
from ebbtide.train.bundle import InterestBundle

from .conftest import MOVIES

NOW = 1_700_000_000_000
DAY_MS = 86_400_000
UNKNOWN_KEY = 5
ITEM_ID, SCORE = contract.ITEM_ID.name, contract.SCORE.name
COUNTS, CANDIDATE_SCORE = contract.EVENT_COUNTS.name, contract.CANDIDATE_SCORE.name


@pytest.fixture(scope="module")
def keys(bundle: InterestBundle) -> np.ndarray:
    return item_keys(bundle.catalog.item_id)


def user(keys: np.ndarray, **changes: Any) -> Request:
    plain = Request(
        event_item=keys[[3, 14, 15, 92]],
        event_time=NOW - np.array([400, 30, 2, 1]) * DAY_MS,
        now=np.array([NOW]),
        event_is_current=np.array([False, False, True, True]),
        alpha=np.array([0.5], np.float32),
    )
    return replace(plain, **changes)


def recommend(door: Any, request: Request) -> dict[str, np.ndarray]:
    return door.call(served_models.RECOMMEND.name, door.arrays(served_models.RECOMMEND.name, request))


def explain(door: Any, request: Request, candidates: np.ndarray) -> dict[str, np.ndarray]:
    name = served_models.EXPLAIN.name
    arrays = door.arrays(name, request)
    arrays[contract.CANDIDATE_ITEM.name] = candidates[None]
    return door.call(name, arrays)


def shares(outputs: dict[str, np.ndarray]) -> np.ndarray:
    """What the parts of each candidate's score add up to."""
    parts = (contract.PRIOR_SHARE, contract.ADJUSTMENT_SHARE)
    return outputs[contract.EVENT_SHARE.name].sum(axis=1) + sum(outputs[tensor.name] for tensor in parts)


def genres_of(item_ids: np.ndarray) -> list[set[str]]:
    table = dict(pl.read_parquet(MOVIES).select(pl.col("movieId").cast(pl.String), "genres").iter_rows())
    return [set(table[item.decode()].split("|")) for item in item_ids.ravel()]


def test_recommend_gives_allowed_items_alone_when_a_request_filters(door: Any, keys: np.ndarray) -> None:
    allowed = np.array([item_key("genres=Horror"), item_key("genres=Musical")])
    outputs = recommend(door, user(keys, allow_attribute=allowed))
    real = ~np.isneginf(outputs[SCORE].ravel())
    assert real.sum() > 5
    assert all(found & {"Horror", "Musical"} for found in genres_of(outputs[ITEM_ID].ravel()[real]))
    plain = recommend(door, user(keys))
    expected = [
        item
        for item, found in zip(plain[ITEM_ID].ravel(), genres_of(plain[ITEM_ID]), strict=True)
        if found & {"Horror", "Musical"}
    ]
    assert outputs[ITEM_ID].ravel().tolist()[: len(expected)] == expected


def test_recommend_equals_older_events_when_decay_is_scaled(door: Any, keys: np.ndarray) -> None:
    request = user(keys)
    doubled = replace(request, event_time=NOW - 2 * (NOW - request.event_time))
    scaled = recommend(door, replace(request, decay_scale=np.array([2], np.float32)))
    expected = recommend(door, doubled)
    np.testing.assert_allclose(scaled[SCORE], expected[SCORE], atol=TOLERANCE)
    assert scaled[ITEM_ID].tolist() == expected[ITEM_ID].tolist()
    assert not np.allclose(scaled[SCORE], recommend(door, request)[SCORE], atol=TOLERANCE)


def test_recommend_counts_unknown_events_when_the_request_ignores_them(door: Any, keys: np.ndarray) -> None:
    known = user(keys)
    unknown = replace(
        known,
        event_item=np.insert(known.event_item, 1, UNKNOWN_KEY),
        event_time=np.insert(known.event_time, 1, NOW - 300 * DAY_MS),
        event_is_current=np.insert(known.event_is_current, 1, False),
    )
    with pytest.raises(InferenceServerException, match=r"adaptive_weights: event_item\[1\]: got 5"):
        recommend(door, unknown)
    outputs = recommend(door, replace(unknown, ignore_unknown=np.array([True])))
    assert outputs[COUNTS].ravel().tolist() == [2, 2, 1]
    np.testing.assert_allclose(outputs[SCORE], recommend(door, known)[SCORE], atol=TOLERANCE)


@pytest.mark.parametrize(("kept", "counts"), [([], [0, 0, 0]), ([0, 1], [2, 0, 0]), ([2, 3], [0, 2, 0])])
def test_event_counts_tell_the_cold_start_when_a_part_is_empty(
    door: Any, keys: np.ndarray, kept: list[int], counts: list[int]
) -> None:
    request = user(keys)
    part = {
        name: getattr(request, name)[np.array(kept, dtype=np.int64)]
        for name in ("event_item", "event_time", "event_is_current")
    }
    assert recommend(door, replace(request, **part))[COUNTS].ravel().tolist() == counts


def test_users_of_one_request_get_their_own_answers_when_padded(door: Any, keys: np.ndarray) -> None:
    request = user(keys)
    name = served_models.RECOMMEND.name
    lengths = [4, 0, 2]
    rows = [
        door.arrays(
            name, replace(request, event_count=np.array([length], np.int32), decay_scale=np.ones(1, np.float32))
        )
        for length in lengths
    ]
    packed = door.call(name, {key: np.concatenate([row[key] for row in rows]) for key in rows[0]})
    for index, length in enumerate(lengths):
        fields = ("event_item", "event_time", "event_is_current")
        alone = recommend(door, replace(request, **{field: getattr(request, field)[:length] for field in fields}))
        np.testing.assert_allclose(packed[SCORE][index], alone[SCORE][0], atol=TOLERANCE)
        assert packed[COUNTS][index].tolist() == alone[COUNTS][0].tolist()


def test_rank_scores_candidates_as_recommend_does_when_some_are_unknown_or_excluded(
    door: Any, keys: np.ndarray
) -> None:
    request = user(keys, exclude_seen=np.array([False]), exclude_item=keys[[7]])
    outputs = recommend(door, request)
    best = [item.decode() for item in outputs[ITEM_ID].ravel()[:5]]
    candidates = np.array([*(item_key(item) for item in best), UNKNOWN_KEY, keys[7]])
    name = served_models.RANK.name
    arrays = door.arrays(name, request) | {contract.CANDIDATE_ITEM.name: candidates[None]}
    scores = door.call(name, arrays)[CANDIDATE_SCORE].ravel()
    np.testing.assert_allclose(scores[:5], outputs[SCORE].ravel()[:5], atol=TOLERANCE)
    assert np.isnan(scores[5])
    assert np.isneginf(scores[6])


def test_text_ensembles_answer_as_the_twin_when_texts_stand_in_and_stand_alone(
    door: Any, keys: np.ndarray, in_process: InProcessPipeline
) -> None:
    texts = ["a heist in space", "a quiet film about a lighthouse"]
    request = user(
        keys,
        event_item=np.array([*keys[[3, 14]], UNKNOWN_KEY]),
        event_time=NOW - np.array([400, 30, 2, 1]) * DAY_MS,
        text_event=np.array([2, -1]),
    )
    (local,) = in_process.recommend([replace(request, text_vector=in_process.embed(texts))])
    arrays = door.arrays(served_models.RECOMMEND_TEXT.name, request)
    arrays[contract.TEXT.name] = np.array([text.encode() for text in texts], dtype=object)
    served = door.call(served_models.RECOMMEND_TEXT.name, arrays)
    np.testing.assert_allclose(served[SCORE].ravel(), local.score, atol=TOLERANCE)
    assert served[COUNTS].ravel().tolist() == [2, 2, 0]

    arrays[contract.CANDIDATE_ITEM.name] = item_keys(local.item_id[:6])[None]
    ranked = door.call(served_models.RANK_TEXT.name, arrays)
    np.testing.assert_allclose(ranked[CANDIDATE_SCORE].ravel(), local.score[:6], atol=TOLERANCE)
    explained = door.call(served_models.EXPLAIN_TEXT.name, arrays)
    np.testing.assert_allclose(explained[CANDIDATE_SCORE].ravel(), local.score[:6], atol=TOLERANCE)
    np.testing.assert_allclose(shares(explained), explained[CANDIDATE_SCORE].ravel(), atol=1e-5)
    assert explained[contract.EVENT_CURRENT.name].ravel().tolist() == [False, False, True, True]


@pytest.mark.parametrize("count", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_explanations_add_up_when_requests_are_random(
    door: Any, keys: np.ndarray, bundle: InterestBundle, in_process: InProcessPipeline, count: int
) -> None:
    random = np.random.default_rng(3)
    for sample in random_samples(len(bundle.catalog), count, in_process.limits, seed=31, texts=False):
        assert isinstance(sample, Sample)
        request = replace(sample.request(keys, np.empty((0, 16), np.float32)), exclude_seen=np.array([False]))
        candidates = keys[random.integers(0, len(keys), 8)]
        outputs = explain(door, request, candidates)
        scores = outputs[CANDIDATE_SCORE].ravel()
        finite = np.isfinite(scores)
        np.testing.assert_allclose(shares(outputs)[finite], scores[finite], atol=1e-5)
        events, dimensions = outputs[contract.EVENT_SHARE.name], outputs[contract.DIMENSION_SHARE.name]
        np.testing.assert_allclose(events.sum(axis=1)[finite], dimensions.sum(axis=1)[finite], atol=1e-5)
        name = served_models.RANK.name
        ranked = door.call(name, door.arrays(name, request) | {contract.CANDIDATE_ITEM.name: candidates[None]})
        np.testing.assert_allclose(ranked[CANDIDATE_SCORE].ravel(), scores, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"decay_scale": np.array([-1], np.float32)}, "decay_scale"),
        ({"allow_attribute": np.array([UNKNOWN_KEY])}, "allow_attribute[0]"),
        ({"allow_attribute": np.zeros(65, np.int64)}, "allow_attribute"),
        ({"event_count": np.array([9], np.int32)}, "event_count"),
    ],
)
def test_recommend_names_the_field_when_it_cannot_be_served(
    door: Any, keys: np.ndarray, changes: dict[str, np.ndarray], field: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        recommend(door, user(keys, **changes))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    parsed = RequestError.parse(caught.value.message())
    assert parsed is not None
    assert parsed.field == field
    assert "adaptive_weights: " in caught.value.message()


BAD: dict[str, dict[str, Any]] = {
    "event_item[0]": {"event_item": np.array([UNKNOWN_KEY, UNKNOWN_KEY, UNKNOWN_KEY, UNKNOWN_KEY])},
    "event_time[3]": {"event_time": np.array([1, 2, 3, NOW + 1])},
    "event_time": {"event_time": np.array([1, 2, 3])},
    "event_weight[0]": {"event_weight": np.array([-1, 1, 1, 1], np.float32)},
    "alpha": {"alpha": np.array([1.5], np.float32)},
    "decay_scale": {"decay_scale": np.array([np.nan], np.float32)},
    "exclude_item": {"exclude_item": np.zeros(513, np.int64)},
    "allow_attribute[0]": {"allow_attribute": np.array([UNKNOWN_KEY])},
}
"""Eight ways to be refused, by the field that is named."""


def test_batch_answers_24_and_names_8_errors_when_8_of_32_are_bad(door: Any, keys: np.ndarray) -> None:
    name = served_models.RECOMMEND.name
    users: list[tuple[str | None, Request]] = []
    for index in range(24):
        users.append((None, user(keys, event_item=keys[[index, index + 1, index + 2, index + 3]])))
    for index, (field, changes) in enumerate(BAD.items()):
        users.insert(index * 4, (field, user(keys, **changes)))
    expected = [recommend(door, request) if field is None else None for field, request in users]

    answers: list[Any] = [None] * len(users)
    done = threading.Semaphore(0)

    def keep(index: int, result: Any, error: Any) -> None:
        answers[index] = error or result
        done.release()

    for index, (_, request) in enumerate(users):
        inputs = door.inputs(name, door.arrays(name, request))
        door.client.async_infer(name, inputs, callback=partial(keep, index), client_timeout=60)
    assert all(done.acquire(timeout=300) for _ in users)
    for (field, _), answer, alone in zip(users, answers, expected, strict=True):
        if field is None:
            assert answer.as_numpy(ITEM_ID).tolist() == alone[ITEM_ID].tolist()
            np.testing.assert_allclose(answer.as_numpy(SCORE), alone[SCORE], atol=TOLERANCE)
        else:
            assert answer.status() == "StatusCode.INVALID_ARGUMENT"
            refusal = RequestError.parse(answer.message())
            assert refusal is not None
            assert refusal.field == field
            assert "adaptive_weights: " in answer.message()


@pytest.mark.parametrize("name", [served_models.RANK.name, served_models.EXPLAIN.name])
def test_candidates_are_refused_when_there_are_too_many(door: Any, keys: np.ndarray, name: str) -> None:
    arrays = door.arrays(name, user(keys))
    arrays[contract.CANDIDATE_ITEM.name] = np.zeros((1, 1025), np.int64)
    with pytest.raises(InferenceServerException, match=r"candidate_item: got 1025 items; expected at most 1024"):
        door.call(name, arrays)


def test_limits_are_told_when_a_client_reads_the_config(door: Any, in_process: InProcessPipeline) -> None:
    for name in (
        served_models.RECOMMEND.name,
        served_models.RANK.name,
        served_models.EXPLAIN.name,
        served_models.EMBED.name,
    ):
        parameters = door.client.get_model_config(name).config.parameters
        assert int(parameters["max_events"].string_value) == in_process.limits.max_events
        assert int(parameters["max_candidates"].string_value) == in_process.limits.max_candidates


def test_requests_with_a_user_are_refused_when_the_server_keeps_no_states(door: Any, keys: np.ndarray) -> None:
    assert recommend(door, user(keys))[contract.STATE_STATUS.name].item() == StateStatus.NO_USER
    ann = user_keys(["ann"])
    for name, arrays in (
        (served_models.RECOMMEND.name, {**door.arrays(served_models.RECOMMEND.name, user(keys)), "user": ann}),
        (served_models.OBSERVE.name, {"user": ann, "event_item": keys[None, :1], "event_time": np.array([[NOW]])}),
        (served_models.FORGET.name, {"user": ann}),
        (served_models.INTEREST_STATE.name, {"user": ann[0], "now": np.array([NOW])}),
    ):
        expected = r"user: got a user; expected none, since .* EBBTIDE_STATE"
        with pytest.raises(InferenceServerException, match=expected) as raised:
            door.call(name, arrays)
        assert raised.value.status() == "StatusCode.INVALID_ARGUMENT"
