"""Torch, client and plain Triton give the same answers to the same requests."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import tritonclient.grpc as triton

from ebbtide.client import event
from ebbtide.client.codec import encode
from ebbtide.interest import contract
from ebbtide.train.reference import score_request
from ebbtide.v1 import RecommendRequest

NOW_MS = 1_476_000_000_000
TOP_N = 20
TOLERANCE = 1e-4
LONGEST = contract.Limits().max_events
KINDS = {
    "empty history": (0, 6),
    "empty session": (40, 0),
    "both empty": (0, 0),
    "one event in history": (1, 0),
    "one event in the session": (0, 1),
    "longest history": (LONGEST, 0),
    "longest, both": (LONGEST - 12, 12),
    "usual": (50, 10),
}


@dataclass
class Case:
    """One random request, as the client and as the reference take it."""

    item: list[int]
    time_ms: list[int]
    is_current: list[bool]
    weight: list[float] | None
    alpha: float | None
    exclude: list[int]
    exclude_seen: bool | None
    texts: list[str] = field(default_factory=list)
    split: bool = True
    """Whether the request says which events are current."""


def random_case(random, items, history, current, texts=()):
    count = history + current
    if random.random() < 0.5:
        times = NOW_MS - random.integers(0, 4 * 365 * 86_400_000, count)
    else:
        # Rapid-fire rating with ties, as in the shipped log.
        times = NOW_MS - 10_000 - np.sort(random.integers(0, 40, count))[::-1] * 20_000
    return Case(
        item=random.integers(0, items, count - len(texts)).tolist(),
        time_ms=times.tolist(),
        is_current=([False] * history + [True] * current),
        weight=random.uniform(0, 5, count).round(3).tolist() if random.random() < 0.5 else None,
        alpha=float(np.float32(random.random())) if random.random() < 0.3 else None,
        exclude=random.integers(0, items, 5).tolist() if random.random() < 0.3 else [],
        exclude_seen=bool(random.random() < 0.5) if random.random() < 0.5 else None,
        texts=list(texts),
        split=random.random() < 0.7,
    )


def request_of(case, ids):
    events = [
        event(
            item_id=ids[case.item[index]] if index < len(case.item) else None,
            text=case.texts[index - len(case.item)] if index >= len(case.item) else None,
            time_ms=time_ms,
            weight=None if case.weight is None else case.weight[index],
        )
        for index, time_ms in enumerate(case.time_ms)
    ]
    request = RecommendRequest(exclude_item_ids=[ids[item] for item in case.exclude], top_n=TOP_N)
    request.now.FromMilliseconds(NOW_MS)
    if case.split:
        request.history.extend(one for one, current in zip(events, case.is_current, strict=True) if not current)
        request.current.extend(one for one, current in zip(events, case.is_current, strict=True) if current)
    else:
        request.events.extend(events)
    if case.alpha is not None:
        request.alpha = case.alpha
    if case.exclude_seen is not None:
        request.exclude_seen = case.exclude_seen
    return request


def expected(case, bundle, text_vectors):
    # The client lists history before session: ties in time keep that order.
    return score_request(
        bundle.model,
        bundle.prior_columns,
        item=case.item,
        time_ms=case.time_ms,
        now_ms=NOW_MS,
        is_current=case.is_current if case.split and case.is_current else None,
        weight=None if case.weight is None else np.float32(case.weight).tolist(),
        alpha=case.alpha,
        exclude=case.exclude,
        exclude_seen=case.exclude_seen,
        text_vectors=np.stack([text_vectors[text] for text in case.texts]) if case.texts else None,
    )


def assert_same_top(ids, scores, reference, catalog_ids):
    """Scores within the tolerance, rank by rank, and the same items but for ties within the tolerance."""
    order = np.argsort(-reference.scores, kind="stable")[: len(scores)]
    np.testing.assert_allclose(scores, reference.scores[order], atol=TOLERANCE, rtol=0)
    index_of = {item_id: index for index, item_id in enumerate(catalog_ids)}
    mine = reference.scores[[index_of[item_id] for item_id in ids]]
    np.testing.assert_allclose(mine, reference.scores[order], atol=TOLERANCE, rtol=0)
    assert len(set(ids)) == len(ids)
    decided = np.flatnonzero(np.abs(np.diff(reference.scores[np.argsort(-reference.scores)][: len(ids) + 1])) > 1e-5)
    border = decided[-1] + 1
    assert set(ids[:border]) == {catalog_ids[item] for item in order[:border]}


@pytest.mark.parametrize("kind", KINDS)
def test_recommend_equals_torch_on_random_requests(kind, trained, client, random):
    ids = trained.bundle.catalog.item_id
    for _ in range(30):
        case = random_case(random, len(ids), *KINDS[kind])
        answer = client.recommend(request_of(case, ids))
        reference = expected(case, trained.bundle, {})
        assert_same_top([item.item_id for item in answer.items], [item.score for item in answer.items], reference, ids)
        assert answer.alpha_used == pytest.approx(reference.alpha, abs=1e-5)
        assert answer.events_used == len(case.time_ms)


def test_recommend_text_equals_torch_on_random_requests(trained, client, random, text_vectors):
    ids = trained.bundle.catalog.item_id
    for history, current in [(0, 1), (0, 3), (20, 3), (LONGEST - 5, 5)] * 6:
        texts = random.choice(list(text_vectors), size=random.integers(1, current + 1)).tolist()
        case = random_case(random, len(ids), history, current, texts)
        answer = client.recommend(request_of(case, ids))
        reference = expected(case, trained.bundle, text_vectors)
        assert_same_top([item.item_id for item in answer.items], [item.score for item in answer.items], reference, ids)
        assert answer.events_used == history + current


def test_embed_equals_torch(trained, client, text_vectors):
    projection = trained.bundle.model.event_projection.detach().numpy()
    expected_vectors = np.stack(list(text_vectors.values())) @ projection
    np.testing.assert_allclose(client.embed(list(text_vectors)), expected_vectors, atol=TOLERANCE)


def infer(plain, model_name, tensors):
    """One call with tritonclient alone, as somebody without the SDK writes it."""
    inputs = []
    for name, array in tensors.items():
        datatype = {"int64": "INT64", "float32": "FP32", "bool": "BOOL", "object": "BYTES"}[array.dtype.name]
        tensor = triton.InferInput(name, list(array.shape), datatype)
        tensor.set_data_from_numpy(array)
        inputs.append(tensor)
    return plain.infer(model_name, inputs)


def test_plain_tritonclient_gives_the_clients_answer(trained, client, server, random, text_vectors):
    ids = trained.bundle.catalog.item_id
    with triton.InferenceServerClient(server.grpc_url) as plain:
        for number in range(24):
            texts = list(text_vectors)[:2] if number % 3 == 0 else []
            request = request_of(random_case(random, len(ids), 10, 4, texts), ids)
            encoded = encode(request, NOW_MS)
            result = infer(plain, encoded.model_name, encoded.tensors)
            answer = client.recommend(request)
            scores = result.as_numpy(contract.SCORE.name).ravel()
            kept = np.isfinite(scores)
            names = [name.decode() for name in result.as_numpy(contract.ITEM_ID.name).ravel()[kept]]
            assert names == [item.item_id for item in answer.items]
            np.testing.assert_allclose(scores[kept], [item.score for item in answer.items], atol=1e-5)


def test_answer_is_as_long_as_asked_and_leaves_excluded_items_out(trained, client):
    ids = trained.bundle.catalog.item_id
    first = client.recommend(top_n=20)
    names = [item.item_id for item in first.items]
    assert len(names) == 20
    assert [item.item_id for item in client.recommend(top_n=3).items] == names[:3]
    second = client.recommend(exclude=names[:5], top_n=5)
    assert [item.item_id for item in second.items] == names[5:10]
    assert set(names) <= set(ids)
