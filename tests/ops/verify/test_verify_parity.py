"""Torch, the exported files and a real Triton are alike, and the stage that is not is named."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from deadlines import PATIENT, until
from ebbtide.client import InterestClient, InvalidArgumentError, new_item, rule
from ebbtide.data.catalog import Catalog
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.options import ExportOptions
from ebbtide.export.writer import RepositoryWriter
from ebbtide.interest import contract, served_models
from ebbtide.interest.exported import FACTORS_FILE, ITEM_FACTORS
from ebbtide.interest.modelfile import read_fingerprint, write_fingerprint
from ebbtide.interest.related import NEWEST_EVENTS
from ebbtide.interest.served_models import Model
from ebbtide.interest.tensorfile import read_tensors
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.train.bundle import InterestBundle
from ebbtide.v1 import Event, RecommendRequest
from ebbtide.verify import (
    ServerMismatchError,
    StageDifference,
    UnlikeCatalogError,
    VerifyError,
    compare_bundle,
    compare_server,
    compare_states,
    first_failure,
    random_requests,
)
from ebbtide.verify.tolerances import Tolerances
from servers import serving

Requests = list[RecommendRequest]


def needs_store(model: Model) -> bool:
    return any(served_models.MODELS[name].needs_store for name in model.steps or (model.name,))


STATELESS = {name for name, model in served_models.MODELS.items() if not needs_store(model)}
"""Models that answer without a store."""


def failed(found: list[StageDifference]) -> set[tuple[str, str]]:
    return {(one.stage, one.field) for one in found if not one.passed}


def has_text(request: RecommendRequest) -> bool:
    events = (*request.history, *request.current, *request.events)
    return any(event.HasField("text") or event.HasField("fallback_text") for event in events)


def unknown_item() -> RecommendRequest:
    request = RecommendRequest(events=[Event(item_id="no such film")])
    request.events[0].time.FromMilliseconds(1)
    return request


def is_known(client: InterestClient, item_id: str) -> bool:
    try:
        client.explain(item_ids=[item_id])
    except InvalidArgumentError:
        return False
    return True


@pytest.fixture
def server_with_new_items(server: TritonServer) -> Iterator[TritonServer]:
    """The server recommends items that were added to it."""
    items = [new_item(f"new {number}", "A film about robots", attributes={"genres": ["Drama"]}) for number in range(3)]
    with InterestClient(server.grpc_url, config=PATIENT) as client:
        client.add_items(items)
        try:
            while not is_known(client, items[0].item_id):
                time.sleep(0.1)
            yield server
        finally:
            client.remove_items([item.item_id for item in items])


def test_server_is_alike_when_items_were_added_to_it(
    pipeline: InProcessPipeline, server_with_new_items: TritonServer, requests: Requests
) -> None:
    found = compare_server(pipeline, server_with_new_items.grpc_url, [*requests, unknown_item()])
    assert first_failure(found) is None
    compared = {(one.stage, one.field): one.compared for one in found}
    assert compared["recommend", "new_item_id"] > 0
    assert first_failure(compare_states(pipeline, requests, server=server_with_new_items.grpc_url)) is None


def test_every_stage_is_alike_when_torch_and_the_export_belong_together(
    bundle: InterestBundle, pipeline: InProcessPipeline, requests: Requests
) -> None:
    found = compare_bundle(bundle, pipeline, requests)
    assert first_failure(found) is None
    assert {one.stage for one in found} == STATELESS
    with_text = sum(has_text(request) for request in requests)
    compared = {(one.stage, one.field): one.compared for one in found}
    assert compared["scoring_head", "score"] == compared["candidate_head", "candidate_score"] == len(requests)
    assert compared["rank_text", "candidate_score"] == compared["explain_text", "prior_share"] == with_text
    assert compared["explain", "dimension_share"] == len(requests) - with_text
    assert compared["recommend_text", "score"] == compared["tokenizer", "input_ids"] == with_text > 5
    assert compared["adaptive_weights", "adjust_score"] == len(requests) - with_text
    # Something was computed twice, and not the same number compared with itself.
    assert all(one.difference > 0 for one in found if one.field in ("interest", "text_vector", "score"))


def test_every_stage_is_alike_when_the_server_serves_the_repository(
    pipeline: InProcessPipeline, server: TritonServer, requests: Requests
) -> None:
    found = compare_server(pipeline, server.grpc_url, [*requests, unknown_item()])
    assert first_failure(found) is None
    assert {one.stage for one in found} == STATELESS
    explained = {one.field for one in found if one.stage == "explain"}
    assert explained == {tensor.name for tensor in served_models.EXPLAIN.outputs}
    (refused,) = (one for one in found if one.field == "refusal")
    assert (refused.stage, refused.compared) == ("recommend", 1)


def test_scoring_head_is_named_when_its_factors_are_others(
    bundle: InterestBundle, with_other_head: Path, requests: Requests
) -> None:
    found = compare_bundle(bundle, InProcessPipeline(with_other_head), requests)
    first = first_failure(found)
    assert first is not None
    assert (first.stage, first.field) == ("scoring_head", "score")
    assert first.request is not None
    assert first.item in bundle.catalog.index
    assert failed(found) == {
        ("scoring_head", "score"),
        ("recommend", "score"),
        ("recommend_text", "score"),
        ("recommend_slate", "slate_score"),
        ("recommend_slate_text", "slate_score"),
    }


def test_candidate_head_is_named_when_its_factors_are_others(
    bundle: InterestBundle, repository: Path, requests: Requests, tmp_path: Path
) -> None:
    shutil.copytree(repository, tmp_path / "repository")
    # Of `explain` it is another file in a copy.
    path = tmp_path / "repository" / served_models.CANDIDATE_HEAD.name / "1" / FACTORS_FILE
    arrays, metadata = read_tensors(path)
    changed = arrays[ITEM_FACTORS] + np.float32(0.01)
    path.unlink()
    save_file({ITEM_FACTORS: changed}, str(path), metadata=metadata)
    # As if it had been exported so.
    write_fingerprint(path.parent, read_fingerprint(path.parent, hash_files=False))
    found = compare_bundle(bundle, InProcessPipeline(tmp_path / "repository"), requests)
    score = contract.CANDIDATE_SCORE.name
    assert failed(found) == {("candidate_head", score), ("rank", score), ("rank_text", score)}


def test_tokenizer_is_named_when_it_cuts_texts_elsewhere(
    bundle: InterestBundle, with_other_tokenizer: Path, requests: Requests
) -> None:
    found = compare_bundle(bundle, InProcessPipeline(with_other_tokenizer), requests)
    first = first_failure(found)
    assert first is not None
    assert (first.stage, first.field) == ("tokenizer", "input_ids")
    assert "got 8 tokens; expected" in first.detail
    names = failed(found)
    assert ("embed", "text_vector") in names
    assert ("recommend_text", "score") in names
    # What comes after is given the same inputs on both sides.
    assert not {stage for stage, _ in names} & {"encoder", "adaptive_weights_text", "scoring_head", "recommend"}


def test_adaptive_weights_are_named_when_the_bundle_has_other_half_lives(
    bundle: InterestBundle, pipeline: InProcessPipeline, requests: Requests
) -> None:
    model = copy.deepcopy(bundle.model)
    with torch.no_grad():
        model.log_decay_rate += 0.2
    found = compare_bundle(replace(bundle, model=model), pipeline, requests)
    first = first_failure(found)
    assert first is not None
    assert (first.stage, first.field) == ("adaptive_weights", "interest")
    assert not {stage for stage, _ in failed(found)} & {"tokenizer", "encoder", "scoring_head", "embed"}


def test_encoder_is_named_when_the_bundle_projects_otherwise(
    bundle: InterestBundle, pipeline: InProcessPipeline, requests: Requests
) -> None:
    model = copy.deepcopy(bundle.model)
    with torch.no_grad():
        model.event_projection[:, 0] *= 1.01
    first = first_failure(compare_bundle(replace(bundle, model=model), pipeline, requests))
    assert first is not None
    assert (first.stage, first.field) == ("encoder", "text_vector")


def test_exclusions_are_named_when_the_bundle_has_another_policy_on_seen_items(
    bundle: InterestBundle, pipeline: InProcessPipeline, requests: Requests
) -> None:
    model = copy.deepcopy(bundle.model)
    model.config = model.config.model_copy(update={"exclude_seen": not model.config.exclude_seen})
    first = first_failure(compare_bundle(replace(bundle, model=model), pipeline, requests))
    assert first is not None
    assert (first.stage, first.field) == ("adaptive_weights", "adjust_score")
    assert first.item in bundle.catalog.index


def test_stages_of_a_server_are_named_when_two_of_them_are_others(
    pipeline: InProcessPipeline, spoilt_server: TritonServer, requests: Requests
) -> None:
    found = compare_server(pipeline, spoilt_server.grpc_url, requests)
    first = first_failure(found)
    assert first is not None
    assert (first.stage, first.between) == ("tokenizer", "in process, Triton")
    with_other_texts = {(stage, field) for stage, field in failed(found) if stage in ("rank_text", "explain_text")}
    assert with_other_texts >= {("rank_text", "candidate_score"), ("explain_text", "event_share")}
    assert failed(found) - with_other_texts == {
        ("tokenizer", "input_ids"),
        ("embed", "text_vector"),
        ("scoring_head", "score"),
        ("recommend", "score"),
        ("recommend_text", "score"),
        ("recommend_slate", "slate_score"),
        ("recommend_slate_text", "slate_score"),
        ("recommend_slate_text", "alpha_used"),
        # Where the gate sees another session.
        ("recommend_text", "alpha_used"),
    }


def test_answers_are_compared_by_the_stated_tolerance_when_factors_are_rounded(
    bundle: InterestBundle, repository: Path, tmp_path: Path
) -> None:
    RepositoryWriter(bundle, tmp_path, ExportOptions(top_n=12, head_precision="fp16")).write_interest()
    requests = [one for one in random_requests(repository, 1, 40, seed=6) if not has_text(one)]
    pipeline = InProcessPipeline(tmp_path)
    strict = compare_bundle(bundle, pipeline, requests, tolerances=Tolerances())
    assert failed(strict) == {
        ("scoring_head", "score"),
        ("recommend", "score"),
        ("recommend_slate", "slate_score"),
    }
    assert first_failure(compare_bundle(bundle, pipeline, requests, tolerances=Tolerances(head=0.02))) is None


def test_scores_are_compared_strictly_when_the_encoder_is_rounded(
    bundle: InterestBundle, pipeline: InProcessPipeline, server: TritonServer, requests: Requests
) -> None:
    model = copy.deepcopy(bundle.model)
    with torch.no_grad():
        model.event_projection += 2e-4 * torch.from_numpy(
            np.random.default_rng(0).standard_normal(tuple(model.event_projection.shape)).astype(np.float32)
        )
        # Event vectors of items stay as they were: only texts go through the encoder.
        model.event_residual += bundle.model.event_vectors() - model.event_vectors()
    rounded = Tolerances(encoder=0.01)
    loose = compare_bundle(replace(bundle, model=model), pipeline, requests, tolerances=rounded)
    assert first_failure(loose) is None
    assert {one.stage for one in loose if one.difference > 1e-4} == {"encoder", "embed"}
    assert first_failure(compare_server(pipeline, server.grpc_url, requests[:12], tolerances=rounded)) is None


@pytest.mark.parametrize("decay", ["learned", "none"])
def test_repeat_scores_are_alike_when_requests_scale_the_decay(
    make_bundle: Callable[..., InterestBundle], tmp_path: Path, decay: str
) -> None:
    bundle = make_bundle(seed=2, repeat_score=True, exclude_seen=False, decay=decay)
    RepositoryWriter(bundle, tmp_path, ExportOptions(top_n=12)).write_interest()
    requests = [one for one in random_requests(tmp_path, 1, 40, seed=8) if not has_text(one)]
    for number, request in enumerate(requests):
        request.decay_scale = (0, 0.25, 4, 1e6)[number % 4]
        request.exclude_seen = False
    found = compare_bundle(bundle, InProcessPipeline(tmp_path), requests, tolerances=Tolerances())
    assert first_failure(found) is None
    compared = {(one.stage, one.field): one.compared for one in found}
    assert compared["adaptive_weights", "adjust_score"] == len(requests) > 20


def test_related_items_are_alike_when_users_have_more_events_than_count(
    make_bundle: Callable[..., InterestBundle], tmp_path: Path
) -> None:
    bundle = make_bundle(seed=2, related_weight=3.0)
    RepositoryWriter(bundle, tmp_path, ExportOptions(top_n=12)).write_interest()
    requests = [one for one in random_requests(tmp_path, 1, 60, seed=8) if not has_text(one)]
    assert max(len(one.history) + len(one.events) for one in requests) > 2 * NEWEST_EVENTS
    pipeline = InProcessPipeline(tmp_path)
    found = compare_bundle(bundle, pipeline, requests, tolerances=Tolerances())
    assert first_failure(found) is None
    compared = {(one.stage, one.field): one.compared for one in found}
    assert compared["adaptive_weights", "adjust_score"] == len(requests) > 20
    # Of another model the adjustments of related items are others, and are found to be.
    without = make_bundle(seed=2, related_weight=2.0)
    assert first_failure(compare_bundle(without, pipeline, requests, tolerances=Tolerances())) is not None


def test_tolerances_are_those_of_the_manifest_or_1e_4(repository: Path) -> None:
    assert Tolerances.read(repository, 1).head == 1e-4
    assert Tolerances.read(repository, 9) == Tolerances(1e-4, 1e-4)


def test_bundle_is_refused_when_its_catalog_is_another(bundle: InterestBundle, pipeline: InProcessPipeline) -> None:
    ids = [*bundle.catalog.item_id]
    ids[3], ids[4] = ids[4], ids[3]
    other = replace(bundle, catalog=Catalog(ids, bundle.catalog.text, bundle.catalog.title))
    with pytest.raises(UnlikeCatalogError, match=r"expected the 200 of the repository.*differ from item 3 on"):
        compare_bundle(other, pipeline, [RecommendRequest()])


def test_comparison_is_refused_when_no_request_is_served(bundle: InterestBundle, pipeline: InProcessPipeline) -> None:
    with pytest.raises(VerifyError, match=r"requests: got none that the export serves.*request 1: event_item\[0\]"):
        compare_bundle(bundle, pipeline, [unknown_item()])


def test_server_is_refused_when_it_serves_another_export(
    bundle: InterestBundle, server: TritonServer, tmp_path: Path
) -> None:
    RepositoryWriter(bundle, tmp_path, ExportOptions(top_n=5)).write_interest()
    other = InProcessPipeline(tmp_path)
    with pytest.raises(ServerMismatchError, match=f"recommend, version 1: got export .* expected {other.fingerprint}"):
        compare_server(other, server.grpc_url, [RecommendRequest()], tolerances=Tolerances())


def test_server_is_refused_when_nobody_listens_or_the_model_is_not_loaded(
    pipeline: InProcessPipeline, server: TritonServer
) -> None:
    with pytest.raises(ServerMismatchError, match=r"127\.0\.0\.1:9: recommend, version 1"):
        compare_server(pipeline, "127.0.0.1:9", [RecommendRequest()])
    names = {"recommend": "recommend_candidate"}
    with pytest.raises(ServerMismatchError, match="recommend_candidate, version 1"):
        compare_server(pipeline, server.grpc_url, [RecommendRequest()], models=names)


def test_server_passes_whatever_has_changed_since_the_export(
    pipeline: InProcessPipeline,
    bundle: InterestBundle,
    repository: Path,
    requests: list[RecommendRequest],
    tmp_path: Path,
) -> None:
    ids = bundle.catalog.item_id
    rules = [rule("up", boost=5, attributes={"genres": "Drama"}), rule("front", pin=1, item_ids=ids[:2])]
    config = ServerConfig(repository, state=f"embedded:{tmp_path / 'states'}")
    with serving(config) as server, InterestClient(server.grpc_url, config=PATIENT) as client:
        client.add_items([new_item("new", bundle.catalog.text[0])], timeout_s=60)
        client.set_stock(out_of_stock=ids[::2], timeout_s=60)
        client.set_rules(rules, timeout_s=60)
        until(
            lambda: (
                any(item.rules for item in client.recommend(top_n=12).items)
                and client.rank(candidates=["new", ids[0]]).out_of_stock_item_ids
                and client.explain(item_ids=[ids[0]]).items[0].is_out_of_stock
            )
        )
        assert first_failure(compare_server(pipeline, server.grpc_url, requests)) is None
        assert first_failure(compare_states(pipeline, requests, server=server.grpc_url)) is None
