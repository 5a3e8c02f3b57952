"""Machines and serving options: parsing, the resulting placements, and refusals."""

from __future__ import annotations

import os

import pytest

from ebbtide.export.errors import ServingOptionsError
from ebbtide.export.machines import Machine, Placement
from ebbtide.export.options import ExportOptions
from ebbtide.export.serving import ServingOptions
from ebbtide.interest import served_models
from ebbtide.interest.served_models import Kind
from ebbtide.train.bundle import InterestBundle

COMPUTING = [model for model in served_models.MODELS.values() if model.kind is not Kind.ENSEMBLE]
CPU, GPU = Machine("cpu", 8), Machine("gpu", 2)


@pytest.mark.parametrize(
    ("text", "machine", "name"),
    [
        ("cpu:8", Machine("cpu", 8), "cpu-8"),
        ("gpu:1", Machine("gpu", 1), "gpu-1"),
        ("gpu", Machine("gpu", 1), "gpu-1"),
        (" CPU:16 ", Machine("cpu", 16), "cpu-16"),
    ],
)
def test_machine_is_read_and_named_when_it_is_well_written(text: str, machine: Machine, name: str) -> None:
    assert Machine.parse(text) == machine
    assert machine.name == name


def test_machine_is_this_one_when_no_count_is_given() -> None:
    cores = len(os.sched_getaffinity(0))
    assert Machine.parse("cpu") == Machine("cpu", cores)
    assert ServingOptions().machines == (Machine("cpu", cores),)


@pytest.mark.parametrize("text", ["", "tpu:1", "cpu:", "cpu:x", "cpu:-1", "gpu:1:2", "8"])
def test_machine_is_refused_with_what_was_written_when_it_is_none(text: str) -> None:
    with pytest.raises(ServingOptionsError, match=rf"machine: got '{text}'; expected cpu, cpu:CORES, gpu or gpu:GPUS"):
        Machine.parse(text)


def test_machine_is_refused_when_it_has_nothing_to_compute_on() -> None:
    with pytest.raises(ServingOptionsError, match="machine: got 'cpu-0'; expected at least 1 core or GPU"):
        Machine.parse("cpu:0")


@pytest.mark.parametrize("cores", [4, 8, 16, 64])
def test_what_computes_for_a_request_adds_up_to_the_cores_when_there_are_enough(cores: int) -> None:
    for models in (
        (served_models.ENCODER, served_models.SCORING_HEAD, served_models.ADAPTIVE_WEIGHTS),
        (
            served_models.ENCODER,
            served_models.SCORING_HEAD,
            served_models.ADAPTIVE_WEIGHTS_TEXT,
            served_models.TOKENIZER,
        ),
    ):
        placements = [Machine("cpu", cores).placement(model) for model in models]
        assert sum(placement.instances * placement.threads for placement in placements) <= max(cores, 5)
    assert Machine("cpu", cores).placement(served_models.ENCODER).threads == cores // 2


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_every_model_has_one_instance_of_one_thread_when_cores_are_few(cores: int) -> None:
    assert {Machine("cpu", cores).placement(model) for model in COMPUTING} == {Placement("cpu", 1, 1)}


def test_graphs_run_on_every_gpu_and_python_on_the_cpu_when_the_machine_has_gpus() -> None:
    for model in COMPUTING:
        placement = GPU.placement(model)
        if model.kind is Kind.ONNX:
            assert placement == Placement("gpu", instances=1, threads=1, gpus=(0, 1))
        else:
            assert (placement.device, placement.gpus) == ("cpu", ())
    assert GPU.placement(served_models.ADAPTIVE_WEIGHTS).instances == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"machines": ()}, r"machines: got \[\]"),
        ({"machines": (CPU, CPU)}, r"machines: got \['cpu-8', 'cpu-8'\]; expected .* each once"),
        ({"machines": (CPU,), "accelerator": "cuda"}, r"accelerator: got \['cpu-8'\]; expected a GPU machine"),
        ({"machines": (GPU,), "accelerator": "rocm"}, "accelerator: got 'rocm'; expected one of cuda, tensorrt"),
        ({"max_queue_size": -1}, "max_queue_size: got -1"),
        ({"queue_timeout_ms": -1}, "queue_timeout_ms: got -1"),
        ({"machines": (GPU,), "rate_limiter": True}, "rate_limiter: got .*; expected a CPU machine"),
        ({"machines": (GPU, CPU), "sweep": True}, "sweep: got gpu-2 as the first machine; expected a CPU"),
    ],
)
def test_serving_options_are_refused_when_they_do_not_go_together(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ServingOptionsError, match=message):
        ServingOptions(**settings)


def test_fingerprint_stays_when_only_serving_changes(bundle: InterestBundle) -> None:
    changed = ExportOptions(serving=ServingOptions(machines=(GPU,), accelerator="tensorrt", response_cache=True))
    assert changed.fingerprint(bundle) == ExportOptions().fingerprint(bundle)
