"""The in-process pipeline gives the same answers as the formulas in torch, for bundles of every kind."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ebbtide.data.events import EventLog
from ebbtide.export.errors import RepositoryError
from ebbtide.export.inprocess import Answer, InProcessPipeline
from ebbtide.export.options import ExportOptions
from ebbtide.export.parity import TOLERANCE, ranking_difference
from ebbtide.export.samples import random_samples
from ebbtide.interest import served_models
from ebbtide.interest.checks import Request
from ebbtide.interest.contract import Limits
from ebbtide.interest.errors import RequestError
from ebbtide.interest.keys import item_keys
from ebbtide.train.bundle import InterestBundle
from ebbtide.train.evaluation.scores import frozen_popularity, score_baskets
from ebbtide.train.windows import LogTensors

MakeBundle = Callable[..., InterestBundle]
Write = Callable[..., Path]
TOP_N = 20

KINDS = {
    "as trained by default": {},
    "one alpha for each dimension": {"alpha": "per-dimension"},
    "fixed alpha": {"alpha": "fixed:0.25"},
    "no prior": {"prior_half_life_days": ()},
    "no decay": {"decay": "none", "alpha": "fixed:0.5", "exclude_seen": False},
    "repeat score": {"repeat_score": True, "exclude_seen": False},
    "long sessions": {"session_gap_minutes": 60 * 24 * 90.0},
}


def compare(in_process: InProcessPipeline, bundle: InterestBundle, count: int, seed: int) -> None:
    keys = item_keys(bundle.catalog.item_id)
    vectors = (bundle.model.text_vectors @ bundle.model.event_projection).detach().numpy()
    samples = list(random_samples(len(bundle.catalog), count, in_process.limits, seed))
    answers = in_process.recommend([sample.request(keys, vectors) for sample in samples])
    for sample, answer in zip(samples, answers, strict=True):
        assert isinstance(answer, Answer), answer
        expected = sample.reference(bundle.model, bundle.prior_columns)
        assert ranking_difference(answer.item_id, answer.score, expected.scores, bundle.catalog.index) <= TOLERANCE
        assert answer.alpha_used == pytest.approx(expected.alpha, abs=TOLERANCE)
        current = expected.current_events
        assert answer.event_counts == (expected.events - current, current, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_pipeline_equals_torch_when_the_bundle_has_any_kind(
    make_bundle: MakeBundle, write_without_encoder: Write, kind: str
) -> None:
    bundle = make_bundle(seed=3, **KINDS[kind])
    compare(InProcessPipeline(write_without_encoder(bundle)), bundle, count=12, seed=5)


def test_pipeline_equals_torch_when_requests_are_many(in_process: InProcessPipeline, bundle: InterestBundle) -> None:
    compare(in_process, bundle, count=60, seed=11)


def test_answers_are_the_same_when_requests_come_alone(in_process: InProcessPipeline, bundle: InterestBundle) -> None:
    keys = item_keys(bundle.catalog.item_id)
    vectors = np.zeros((len(bundle.catalog), 16), np.float32)
    requests = [sample.request(keys, vectors) for sample in random_samples(len(bundle.catalog), 10, in_process.limits)]
    for together, request in zip(in_process.recommend(requests), requests, strict=True):
        (alone,) = in_process.recommend([request])
        assert isinstance(together, Answer)
        assert isinstance(alone, Answer)
        np.testing.assert_allclose(alone.score, together.score, atol=1e-5)


def test_answer_holds_the_whole_catalog_when_top_n_is_larger(
    make_bundle: MakeBundle, write_without_encoder: Write
) -> None:
    bundle = make_bundle()
    in_process = InProcessPipeline(write_without_encoder(bundle, top_n=len(bundle.catalog)))
    keys = item_keys(bundle.catalog.item_id)
    everything = Request(
        event_item=keys[:0],
        event_time=np.empty(0, np.int64),
        now=np.array([0]),
        exclude_item=keys,
    )
    (answer,) = in_process.recommend([everything])
    assert isinstance(answer, Answer)
    assert sorted(answer.item_id) == sorted(bundle.catalog.item_id)
    assert np.isneginf(answer.score).all()


def test_bad_request_gets_its_error_when_others_are_answered(
    in_process: InProcessPipeline, bundle: InterestBundle
) -> None:
    key = item_keys(bundle.catalog.item_id[:1])
    good = Request(event_item=key, event_time=np.array([5]), now=np.array([9]))
    bad = Request(event_item=key, event_time=np.array([10]), now=np.array([9]))
    answers = in_process.recommend([bad, good, bad])
    assert [type(answer) for answer in answers] == [RequestError, Answer, RequestError]


def test_limits_are_the_exports_when_given(make_bundle: MakeBundle, write_without_encoder: Write) -> None:
    limits = Limits(max_events=3, max_exclude_items=0, max_texts=2, max_text_bytes=9)
    bundle = make_bundle()
    in_process = InProcessPipeline(write_without_encoder(bundle, limits=limits))
    assert in_process.limits == limits
    compare(in_process, bundle, count=12, seed=2)
    (answer,) = in_process.recommend([Request(item_keys(["1"] * 4), np.zeros(4, np.int64), np.array([1], np.int64))])
    assert isinstance(answer, RequestError)
    assert answer.expected == "at most 3 events"


@pytest.mark.parametrize("part", ["config", "settings", "tables", "head", "graph", "missing"])
def test_pipeline_is_refused_when_two_exports_are_mixed(
    make_bundle: MakeBundle, write_without_encoder: Write, part: str
) -> None:
    bundle, other = make_bundle(), make_bundle(seed=1)
    folder, source = write_without_encoder(bundle), write_without_encoder(other)
    moved = {
        "config": f"{served_models.RECOMMEND.name}/config.pbtxt",
        "settings": f"{served_models.TOKENIZER.name}/1/interest.json",
        "tables": f"{served_models.ADAPTIVE_WEIGHTS.name}/1/catalog.safetensors",
        "head": f"{served_models.SCORING_HEAD.name}/1",
        "graph": f"{served_models.SCORING_HEAD.name}/1/model.onnx",
        "missing": f"{served_models.ADAPTIVE_WEIGHTS.name}/1/interest.json",
    }[part]
    got, expected = ExportOptions(top_n=TOP_N).fingerprint(other), ExportOptions(top_n=TOP_N).fingerprint(bundle)
    message = f"got fingerprint {got}; expected {expected}"
    if part == "head":
        shutil.rmtree(folder / moved)
        shutil.copytree(source / moved, folder / moved)
    else:
        (folder / moved).unlink()
    if part == "missing":
        message = r"interest\.json"
    elif part != "head":
        (folder / moved).write_bytes((source / moved).read_bytes())
    if part == "graph":
        message = rf"model\.onnx: got SHA-256 \w+; expected \w+, the hash at export {expected}"
    with pytest.raises(RepositoryError, match=message):
        InProcessPipeline(folder)


def long_log(items: int) -> EventLog:
    """One user with 700 events over a year in many sessions, one with a session of 600 events, one with 40 events."""
    random = np.random.default_rng(4)
    hour_ms, lengths = 3_600_000, (700, 600, 40)
    pauses = [random.choice([1_000, 600_000, 30 * hour_ms], 700), np.full(600, 60_000), np.full(40, 20 * hour_ms)]
    return EventLog(
        users=["many sessions", "one session", "short"],
        start=np.concatenate([[0], np.cumsum(lengths)]),
        item=np.concatenate([random.integers(0, items, length) for length in lengths]),
        time_ms=np.concatenate([1_700_000_000_000 + pause.cumsum() for pause in pauses]),
        weight=random.uniform(0.5, 5, sum(lengths)).astype(np.float32),
    )


@pytest.mark.parametrize("kind", ["as trained by default", "one alpha for each dimension", "repeat score"])
def test_evaluated_scores_are_served_when_a_user_has_more_events_than_a_request_carries(
    make_bundle: MakeBundle, write_without_encoder: Write, kind: str
) -> None:
    bundle = make_bundle(seed=3, **KINDS[kind])
    # So slow that the oldest events of a request count.
    bundle.model.log_rank_decay_rate.data -= 3
    in_process = InProcessPipeline(write_without_encoder(bundle, top_n=len(bundle.catalog)))
    log = long_log(len(bundle.catalog))
    users = np.repeat(np.arange(3), np.diff(log.start))
    heads = np.concatenate([np.arange(508, 530), np.arange(690, 700), np.arange(700 + 500, 700 + 600), [1330]])
    tensors = LogTensors.of(log, bundle.model.config.session_gap_ms)
    keys, most = item_keys(bundle.catalog.item_id), in_process.limits.max_events
    compared = 0
    for scored in score_baskets(bundle.model, log, tensors, heads, frozen_popularity(bundle)):
        for head, scores in zip(scored.head, scored.scores().numpy(), strict=True):
            past = slice(max(log.start[users[head]], head - most), head)
            request = Request(
                event_item=keys[log.item[past]],
                event_time=log.time_ms[past],
                now=log.time_ms[head : head + 1],
                event_weight=log.weight[past],
                exclude_seen=np.array([False]),
            )
            (answer,) = in_process.recommend([request])
            assert isinstance(answer, Answer)
            served = {
                bundle.catalog.index[item]: score for item, score in zip(answer.item_id, answer.score, strict=True)
            }
            np.testing.assert_allclose([served[item] for item in range(len(scores))], scores, atol=TOLERANCE)
            compared += 1
    assert compared == len(heads)
