"""Answers from states are those from all events, in this process and on a real Triton; what differs is named."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.options import ExportOptions
from ebbtide.export.writer import RepositoryWriter
from ebbtide.interest import served_models
from ebbtide.serve import TritonServer
from ebbtide.store import open_store
from ebbtide.train.bundle import InterestBundle
from ebbtide.v1 import Event, RecommendRequest
from ebbtide.verify import NoneByUserError, NoStatesError, compare_states, first_failure, random_requests, states
from ebbtide.verify.tolerances import Tolerances
from stores import PATIENT

Requests = list[RecommendRequest]
TORCH, TRITON = "torch, in process by user", "in process, Triton, by user"


def test_answers_by_user_are_alike_when_torch_the_export_and_the_server_belong_together(
    bundle: InterestBundle, pipeline: InProcessPipeline, server: TritonServer, requests: Requests
) -> None:
    found = compare_states(pipeline, requests, bundle=bundle, server=server.grpc_url)
    assert first_failure(found) is None
    compared = {(one.between, one.stage, one.field): one.compared for one in found}
    without_text = compared[TORCH, "recommend", "score"]
    assert 10 < without_text < len(requests)
    assert compared[TORCH, "observe", "observed"] == compared[TRITON, "interest", "interest_energy"] == without_text
    assert {stage for between, stage, _ in compared if between == TRITON} == {
        "observe",
        "interest",
        "recommend",
        "rank",
        "explain",
    }
    explained = {field for between, stage, field in compared if (between, stage) == (TRITON, "explain")}
    assert explained == {tensor.name for tensor in served_models.EXPLAIN.outputs}
    # Something was computed in two ways, and not the same number compared with itself.
    assert all(one.difference > 0 for one in found if one.between == TORCH and one.field == "score")


@pytest.mark.parametrize("settings", [{"alpha": "per-dimension"}, {"decay": "none"}, {"alpha": "fixed:0.3"}], ids=str)
def test_repeat_scores_by_user_are_alike_when_models_are_of_every_kind(
    make_bundle: Callable[..., InterestBundle], tmp_path: Path, settings: dict[str, object]
) -> None:
    bundle = make_bundle(seed=2, repeat_score=True, exclude_seen=False, **settings)
    RepositoryWriter(bundle, tmp_path, ExportOptions(top_n=12)).write_interest()
    requests = random_requests(tmp_path, 1, 40, seed=8)
    found = compare_states(InProcessPipeline(tmp_path), requests, bundle=bundle, tolerances=Tolerances())
    assert first_failure(found) is None
    compared = {(one.stage, one.field): one.compared for one in found}
    assert compared["explain", "adjustment_share"] > 20


def test_answers_by_user_follow_the_learned_offset_when_the_export_learns_online(
    make_bundle: Callable[..., InterestBundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(seed=3)
    RepositoryWriter(bundle, tmp_path, ExportOptions(top_n=12, online_learning_rate=20)).write_interest()
    requests = random_requests(tmp_path, 1, 40, seed=8)
    found = compare_states(InProcessPipeline(tmp_path), requests, bundle=bundle, tolerances=Tolerances())
    assert first_failure(found) is None
    # Without what was learned, the answers are others.
    monkeypatch.setattr(states, "shifted_alpha", lambda alpha, _offset: alpha)
    found = compare_states(InProcessPipeline(tmp_path), requests, bundle=bundle, tolerances=Tolerances())
    failed = {(one.stage, one.field) for one in found if not one.passed}
    assert ("recommend", "alpha_used") in failed
    assert ("rank", "candidate_score") in failed
    assert "observe" not in {stage for stage, _ in failed}


def test_no_user_of_a_comparison_is_left_when_it_ends(
    pipeline: InProcessPipeline, server: TritonServer, requests: Requests
) -> None:
    compare_states(pipeline, requests[:10], server=server.grpc_url)
    with open_store(str(server.config.state), PATIENT) as store:
        (fingerprint,) = store.registered()
        assert list(store.users(fingerprint)) == []


def test_recommend_is_named_when_the_bundle_has_other_half_lives(
    bundle: InterestBundle, pipeline: InProcessPipeline, requests: Requests
) -> None:
    model = copy.deepcopy(bundle.model)
    with torch.no_grad():
        model.log_decay_rate += 0.2
    first = first_failure(compare_states(pipeline, requests, bundle=replace(bundle, model=model)))
    assert first is not None
    assert (first.between, first.stage, first.field) == (TORCH, "recommend", "score")
    assert first.request is not None


def test_recommend_is_named_when_the_server_has_another_head(
    server: TritonServer, with_other_head: Path, requests: Requests
) -> None:
    found = compare_states(InProcessPipeline(with_other_head), requests, server=server.grpc_url)
    assert {(one.between, one.stage, one.field) for one in found if not one.passed} == {(TRITON, "recommend", "score")}


def test_comparison_is_refused_when_the_server_keeps_no_states(
    pipeline: InProcessPipeline, spoilt_server: TritonServer, requests: Requests
) -> None:
    with pytest.raises(NoStatesError, match="this server keeps no states of users"):
        compare_states(pipeline, requests, server=spoilt_server.grpc_url)


def test_comparison_is_refused_when_every_request_has_texts(pipeline: InProcessPipeline) -> None:
    request = RecommendRequest(events=[Event(text="a film about the sea")])
    request.events[0].time.FromMilliseconds(1)
    with pytest.raises(NoneByUserError, match="got none without texts"):
        compare_states(pipeline, [request])


def test_nothing_is_compared_when_the_export_is_from_before_users_had_states(
    pipeline: InProcessPipeline, monkeypatch: pytest.MonkeyPatch, requests: Requests
) -> None:
    monkeypatch.delitem(pipeline.models, served_models.OBSERVE.name)
    assert compare_states(pipeline, requests) == []


def test_answers_are_alike_when_events_have_types_of_negative_weight(
    make_bundle: Callable[..., InterestBundle], tmp_path: Path
) -> None:
    bundle = make_bundle(seed=6, repeat_score=True, exclude_seen=False, event_types=("buy", "hate", "see"))
    bundle.model.event_type_raw.data[:] = torch.tensor([-3.0, 0.2])
    RepositoryWriter(bundle, tmp_path, ExportOptions(top_n=12)).write_interest()
    requests = random_requests(tmp_path, 1, 30, seed=8)
    named = {event.event_type for request in requests for event in (*request.events, *request.history)}
    assert named == {"", "buy", "hate", "see"}
    found = compare_states(InProcessPipeline(tmp_path), requests, bundle=bundle, tolerances=Tolerances())
    assert first_failure(found) is None
