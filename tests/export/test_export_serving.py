"""Serving options on a real server: config variants, cache, rate limiter, queues; and the server's log."""

from __future__ import annotations

import os
import queue
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from ebbtide.export import versions
from ebbtide.export.configs import ConfigSettings, render_config
from ebbtide.export.facts import VersionFacts
from ebbtide.export.files import write_text
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.machines import Machine
from ebbtide.export.serving import ServingOptions
from ebbtide.export.warmup import common_ground, write_warmup
from ebbtide.interest import contract, served_models
from ebbtide.interest.checks import Request
from ebbtide.interest.contract import Size
from ebbtide.interest.keys import item_keys
from ebbtide.interest.served_models import Kind
from ebbtide.serve import ServerConfig, TritonServer
from ebbtide.train.bundle import InterestBundle
from servers import serving

NOW = 1_700_000_000_000
DEFAULT, OTHER = Machine("cpu", 2), Machine("cpu", 8)
RECOMMEND, EMBED = served_models.RECOMMEND.name, served_models.EMBED.name

# Triton's own lines on a machine without a GPU; its build has GPU support, and says at each step that it finds none.
TRITONS_OWN = (
    # Pinned memory is memory for copies to a GPU; it is asked for at the start and again at the first use.
    r"Unable to allocate pinned system memory, pinned memory pool will not be available",
    r"failed to allocate pinned system memory: no pinned memory pool",
    r"CudaDriverHelper has not been initialized",
    # Once for each ensemble: the stream would order copies between steps on a GPU.
    r"unable to create stream for \w+: CUDA driver version is insufficient",
    # Metrics of GPUs.
    r"DCGM unable to start",
)


def served_as(
    repository: Path, in_process: InProcessPipeline, bundle: InterestBundle, out: Path, options: ServingOptions
) -> Path:
    """The same export with other configs, as if it had been written with these options."""
    shutil.copytree(repository, out, copy_function=os.link)
    model = bundle.model.config
    sizes = {
        Size.VECTOR: model.dimensions,
        Size.TEXT: bundle.text_vectors.shape[1],
        Size.INTEREST: model.dimensions + bundle.prior_columns.shape[1],
        Size.FILTER: versions.read_model_config(repository, served_models.SCORING_HEAD.name).input[3].dims[0],
        Size.TOP_N: versions.read_model_config(repository, RECOMMEND).output[0].dims[0],
    }
    settings = ConfigSettings(in_process.fingerprint, 1, sizes, VersionFacts.read(repository, 1), options)
    default, *others = options.machines
    for name, entry in served_models.MODELS.items():
        write_text(out / name / "config.pbtxt", render_config(entry, settings, default))
        for machine in others if entry.kind is not Kind.ENSEMBLE else ():
            (out / name / versions.VARIANTS_FOLDER).mkdir(exist_ok=True)
            path = out / name / versions.VARIANTS_FOLDER / f"{machine.name}.pbtxt"
            write_text(path, render_config(entry, settings, machine))
    write_warmup(out, common_ground({1: out}), bundle.catalog.text)
    return out


@pytest.fixture(scope="module")
def keys(bundle: InterestBundle) -> np.ndarray:
    return item_keys(bundle.catalog.item_id)


@pytest.fixture(scope="module")
def chosen(
    repository: Path, in_process: InProcessPipeline, bundle: InterestBundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TritonServer]:
    """A server with a variant, a cache and the rate limiter."""
    options = ServingOptions((DEFAULT, OTHER), response_cache=True, rate_limiter=True)
    folder = tmp_path_factory.mktemp("chosen")
    out = served_as(repository, in_process, bundle, folder / "repository", options)
    config = ServerConfig(
        out,
        model_config_name=OTHER.name,
        response_cache_mb=16,
        rate_limit_cores=OTHER.cores,
        log_file=folder / "tritonserver.log",
    )
    with serving(config) as running:
        yield running


@pytest.fixture(scope="module")
def chosen_client(chosen: TritonServer) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(chosen.grpc_url) as client:
        yield client


def complaints(server: TritonServer) -> list[str]:
    """Warnings and errors in a server's log that are not Triton's own."""
    lines = server.log_path.read_text(errors="replace").splitlines()
    told = [line for line in lines if re.match(r"[WE]\d{4} |.*[Ww]arning", line)]
    return [line for line in told if not any(re.search(own, line) for own in TRITONS_OWN)]


def test_log_has_no_warning_of_ours_when_models_were_loaded(server: TritonServer, door: Any) -> None:
    assert all(door.client.is_model_ready(name) for name in served_models.MODELS)
    assert complaints(server) == []


def test_log_has_no_warning_of_ours_when_everything_was_asked_for(
    chosen: TritonServer, chosen_client: triton.InferenceServerClient
) -> None:
    assert all(chosen_client.is_model_ready(name) for name in served_models.MODELS)
    assert complaints(chosen) == []


def test_server_takes_the_variant_when_its_name_is_given(chosen_client: triton.InferenceServerClient) -> None:
    for name, model in served_models.MODELS.items():
        config = chosen_client.get_model_config(name).config
        if model.kind is Kind.ENSEMBLE:
            # Ensembles have no variant: Triton takes config.pbtxt.
            assert config.platform == "ensemble"
            continue
        placement = OTHER.placement(model)
        assert [group.count for group in config.instance_group] == [placement.instances]
        if model.kind is Kind.ONNX:
            assert config.parameters["intra_op_thread_count"].string_value == str(placement.threads)


def inputs(door: Any, keys: np.ndarray, **changes: Any) -> list[triton.InferInput]:
    arrays = {"event_item": keys[:3], "event_time": NOW - np.arange(3, 0, -1), "now": np.array([NOW]), **changes}
    return door.inputs(RECOMMEND, door.arrays(RECOMMEND, Request(**arrays)))


def names(result: triton.InferResult) -> set[str]:
    return {output.name for output in result.get_response().outputs}


def hits_and_misses(client: triton.InferenceServerClient, name: str) -> tuple[int, int]:
    (statistics,) = client.get_inference_statistics(name).model_stats
    return statistics.inference_stats.cache_hit.count, statistics.inference_stats.cache_miss.count


def gained(client: triton.InferenceServerClient, name: str, call: Callable[[], Any]) -> tuple[int, int]:
    """Cache hits and misses of one call."""
    before = hits_and_misses(client, name)
    call()
    after = hits_and_misses(client, name)
    return after[0] - before[0], after[1] - before[1]


def test_answer_comes_from_the_cache_when_the_request_is_repeated(
    chosen_client: triton.InferenceServerClient, door: Any, keys: np.ndarray
) -> None:
    answers: list[triton.InferResult] = []

    def call() -> None:
        answers.append(chosen_client.infer(RECOMMEND, inputs(door, keys)))

    call()
    assert gained(chosen_client, served_models.SCORING_HEAD.name, call) == (1, 0)
    for tensor in served_models.RECOMMEND.outputs:
        first, *others = (answer.as_numpy(tensor.name) for answer in answers)
        assert all((first == other).all() for other in others)


def test_recommend_has_all_it_needs_when_rank_asked_for_the_same_user_before(
    chosen_client: triton.InferenceServerClient, door: Any, keys: np.ndarray
) -> None:
    user = {"now": np.array([NOW + 99])}
    ranked = door.inputs(served_models.RANK.name, {contract.CANDIDATE_ITEM.name: keys[None, :3]})
    shared = [entry for entry in inputs(door, keys, **user) if entry.name() != contract.ALLOW_ATTRIBUTE.name]
    chosen_client.infer(served_models.RANK.name, [*shared, *ranked])
    answer = chosen_client.infer(RECOMMEND, inputs(door, keys, **user))
    assert names(answer) == {tensor.name for tensor in served_models.RECOMMEND.outputs}


def test_recommend_is_answered_when_the_head_was_asked_for_its_indices_before(
    chosen_client: triton.InferenceServerClient, door: Any, keys: np.ndarray
) -> None:
    request = inputs(door, keys, now=np.array([NOW + 55]))
    weights = chosen_client.infer(served_models.ADAPTIVE_WEIGHTS.name, request)
    head = served_models.SCORING_HEAD
    arrays = {tensor.name: weights.as_numpy(tensor.name) for tensor in head.inputs}
    whole = chosen_client.infer(head.name, door.inputs(head.name, arrays))
    assert names(whole) == {tensor.name for tensor in head.outputs}
    answer = chosen_client.infer(RECOMMEND, request)
    assert names(answer) == {tensor.name for tensor in served_models.RECOMMEND.outputs}
    np.testing.assert_array_equal(answer.as_numpy("item_id"), whole.as_numpy("item_id"))


def test_excluded_items_stay_out_when_the_rest_is_in_the_cache(
    chosen_client: triton.InferenceServerClient, door: Any, keys: np.ndarray, bundle: InterestBundle
) -> None:
    best = chosen_client.infer(RECOMMEND, inputs(door, keys)).as_numpy("item_id")[0, 0]
    unwanted = item_keys([best.decode()])
    other = chosen_client.infer(RECOMMEND, inputs(door, keys, exclude_item=unwanted))
    assert best not in other.as_numpy("item_id")[0, : len(bundle.catalog.item_id) // 20]


def test_all_outputs_come_when_an_equal_request_asked_for_few_before(
    chosen_client: triton.InferenceServerClient, door: Any, keys: np.ndarray
) -> None:
    request = inputs(door, keys, now=np.array([NOW + 77]))
    few = chosen_client.infer(RECOMMEND, request, outputs=[triton.InferRequestedOutput("alpha_used")])
    assert names(few) == {"alpha_used"}
    assert names(chosen_client.infer(RECOMMEND, request)) == {tensor.name for tensor in served_models.RECOMMEND.outputs}
    again = chosen_client.infer(RECOMMEND, request, outputs=[triton.InferRequestedOutput("score")])
    assert names(again) == {"score"}


def embed(client: triton.InferenceServerClient, door: Any, *texts: bytes) -> np.ndarray:
    tensors = door.inputs(EMBED, {contract.TEXT.name: np.array(texts, dtype=object)})
    vectors: np.ndarray = client.infer(EMBED, tensors).as_numpy(contract.TEXT_VECTOR.name)
    return vectors


def test_texts_are_told_apart_when_their_letters_are_the_same_in_a_row(
    chosen_client: triton.InferenceServerClient, door: Any
) -> None:
    first = embed(chosen_client, door, b"heist film", b"noir")
    assert gained(chosen_client, EMBED, lambda: embed(chosen_client, door, b"heist ", b"filmnoir")) == (0, 1)
    assert gained(chosen_client, EMBED, lambda: embed(chosen_client, door, b"heist filmnoir")) == (0, 1)
    again: list[np.ndarray] = []
    hit = gained(chosen_client, EMBED, lambda: again.append(embed(chosen_client, door, b"heist film", b"noir")))
    assert hit == (1, 0)
    np.testing.assert_array_equal(again[0], first)


def test_requests_of_all_kinds_are_answered_when_cores_are_limited(
    chosen_client: triton.InferenceServerClient, door: Any, keys: np.ndarray
) -> None:
    done: queue.Queue[Any] = queue.Queue()
    for index in range(60):
        if index % 3:
            chosen_client.async_infer(
                RECOMMEND,
                inputs(door, keys, now=np.array([NOW + 100 + index])),
                lambda result, error: done.put((result, error)),
            )
        else:
            tensors = door.inputs(EMBED, {contract.TEXT.name: np.array([b"film %d" % index], dtype=object)})
            chosen_client.async_infer(EMBED, tensors, lambda result, error: done.put((result, error)))
    answers = [done.get(timeout=300) for _ in range(60)]
    assert [error for _, error in answers if error is not None] == []


# While the file lies there, the model begins no request; what it answers then is its own.
HELD_BY = """

import time


class Held(TritonPythonModel):
    def execute(self, requests):
        while Path({file!r}).exists():
            time.sleep(0.005)
        return super().execute(requests)


TritonPythonModel = Held
"""


@dataclass(frozen=True)
class Bounded:
    """A server whose models let two requests wait."""

    server: TritonServer
    hold: Path
    """While this file exists, no request begins."""


@pytest.fixture(scope="module")
def bounded(
    repository: Path, in_process: InProcessPipeline, bundle: InterestBundle, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Bounded]:
    folder = tmp_path_factory.mktemp("bounded")
    options = ServingOptions((DEFAULT,), max_queue_size=2, queue_timeout_ms=60_000)
    out = served_as(repository, in_process, bundle, folder / "repository", options)
    code = out / served_models.ADAPTIVE_WEIGHTS.name / "1" / "model.py"
    write_text(code, code.read_text(encoding="utf-8") + HELD_BY.format(file=str(folder / "hold")))
    config = ServerConfig(out, model_control="explicit", load_models=(RECOMMEND,))
    with serving(config) as running:
        yield Bounded(running, folder / "hold")


def test_requests_are_refused_or_answered_when_more_come_than_may_wait(
    bounded: Bounded, door: Any, keys: np.ndarray, in_process: InProcessPipeline
) -> None:
    events = in_process.limits.max_events
    long = {"event_item": np.resize(keys, events), "event_time": np.full(events, NOW - 5)}
    done: queue.Queue[Any] = queue.Queue()
    with triton.InferenceServerClient(bounded.server.grpc_url) as client:
        expected = client.infer(RECOMMEND, inputs(door, keys, **long)).as_numpy("item_id")
        bounded.hold.touch()
        try:
            for _ in range(40):
                client.async_infer(
                    RECOMMEND, inputs(door, keys, **long), lambda result, error: done.put((result, error))
                )
            # A few are at work or wait, and cannot end; the others are refused at once.
            answers = [done.get(timeout=300) for _ in range(20)]
            assert all(error is not None for _, error in answers)
        finally:
            bounded.hold.unlink()
        answers += [done.get(timeout=300) for _ in range(20)]
        refusals = [error for _, error in answers if error is not None]
        # One at work and two that wait, at least.
        assert 20 <= len(refusals) <= 37
        for error in refusals:
            assert isinstance(error, InferenceServerException)
            assert error.status() == "StatusCode.UNAVAILABLE"
            assert "Exceeds maximum queue size" in error.message()
        for result, error in answers:
            if error is None:
                assert (result.as_numpy("item_id") == expected).all()
        assert (client.infer(RECOMMEND, inputs(door, keys, **long)).as_numpy("item_id") == expected).all()
