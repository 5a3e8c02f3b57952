"""Every rendered ``config.pbtxt`` matches the contract."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ebbtide.export import versions
from ebbtide.export.configs import ConfigSettings, model_config, render_config
from ebbtide.export.facts import VersionFacts
from ebbtide.export.machines import Machine
from ebbtide.export.manifest import read_manifest
from ebbtide.export.options import ExportOptions
from ebbtide.export.serving import ServingOptions
from ebbtide.export.versions import read_model_config
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Dtype, Limits, Size
from ebbtide.interest.served_models import Kind
from ebbtide.train.bundle import InterestBundle

from .conftest import Export

SIZES = {Size.INTEREST: 20, Size.VECTOR: 16, Size.TEXT: 64, Size.FILTER: 2, Size.TOP_N: 5}
CPU, GPU = Machine("cpu", 8), Machine("gpu", 2)
SETTINGS = ConfigSettings(
    "0123456789abcdef",
    3,
    SIZES,
    VersionFacts(Limits(max_texts=7), {"genres": (), "in_stock": ()}),
    ServingOptions((CPU,)),
)

KINDS = model_config_pb2.ModelInstanceGroup
TRITON_TYPES = {
    Dtype.BOOL: model_config_pb2.TYPE_BOOL,
    Dtype.INT32: model_config_pb2.TYPE_INT32,
    Dtype.INT64: model_config_pb2.TYPE_INT64,
    Dtype.FP32: model_config_pb2.TYPE_FP32,
    Dtype.BYTES: model_config_pb2.TYPE_STRING,
}
all_models = pytest.mark.parametrize("name", served_models.MODELS)


def parsed(name: str, machine: Machine = CPU, **serving: object) -> model_config_pb2.ModelConfig:
    settings = replace(SETTINGS, serving=ServingOptions((CPU, GPU), **serving)) if serving else SETTINGS
    text = render_config(served_models.MODELS[name], settings, machine)
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_config_says_that_observe_learns_online_when_it_does() -> None:
    learning = replace(SETTINGS, facts=replace(SETTINGS.facts, learns_online=True))
    stated = [
        "learns_online" in text_format.Parse(text, model_config_pb2.ModelConfig()).parameters
        for text in (render_config(served_models.OBSERVE, settings, CPU) for settings in (SETTINGS, learning))
    ]
    assert stated == [False, True]


@all_models
def test_config_states_the_contracts_tensors_when_rendered_and_parsed_back(name: str) -> None:
    model, config = served_models.MODELS[name], parsed(name)
    assert config.name == name
    for entries, tensors in ((config.input, model.inputs), (config.output, model.outputs)):
        assert [entry.name for entry in entries] == [tensor.name for tensor in tensors]
        for entry, tensor in zip(entries, tensors, strict=True):
            assert entry.data_type == TRITON_TYPES[tensor.dtype]
            assert tuple(entry.dims) == tensor.config_dims(SIZES, batching=model.batching)
    for entry, tensor in zip(config.input, model.inputs, strict=True):
        assert entry.optional or not tensor.optional
        assert entry.allow_ragged_batch == (tensor.ragged and model.batching and model.kind is Kind.PYTHON)


def test_config_calls_an_input_optional_where_the_first_step_that_reads_it_refuses_requests_without_it() -> None:
    needed = {
        name: [
            entry.name
            for entry, tensor in zip(parsed(name).input, model.inputs, strict=True)
            if not tensor.optional and not entry.optional
        ]
        for name, model in served_models.MODELS.items()
    }
    # ONNX models check nothing, and a single input is counted right by Triton.
    assert {name: inputs for name, inputs in needed.items() if inputs} == {
        served_models.ENCODER.name: ["input_ids", "attention_mask"],
        served_models.SCORING_HEAD.name: ["interest", "adjust_item", "adjust_score", "item_filter"],
        served_models.FORGETTER.name: ["user"],
        served_models.FORGET.name: ["user"],
        served_models.RULES.name: ["change_rules"],
        served_models.EMBED.name: ["text"],
    }


@all_models
def test_config_names_the_one_version_that_is_exported(name: str) -> None:
    config = parsed(name)
    assert list(config.version_policy.specific.versions) == [SETTINGS.version]
    if served_models.MODELS[name].kind is Kind.ENSEMBLE:
        assert {step.model_version for step in config.ensemble_scheduling.step} == {SETTINGS.version}
        assert config.parameters[contract.FINGERPRINT_PARAMETER].string_value == SETTINGS.fingerprint
    else:
        # All versions of a model share its config: what tells them apart lies in their own folders.
        assert contract.FINGERPRINT_PARAMETER not in config.parameters


@all_models
@pytest.mark.parametrize("machine", [CPU, GPU], ids=lambda machine: machine.name)
def test_config_spells_out_batching_and_instances(name: str, machine: Machine) -> None:
    model, config = served_models.MODELS[name], parsed(name, machine)
    assert (config.max_batch_size > 0) == model.batching
    assert config.HasField("dynamic_batching") == (model.batching and model.kind is not Kind.ENSEMBLE)
    # A runtime would choose between the C++ backend and a Python one: the folder is to serve on both.
    assert not config.runtime
    if model.kind is Kind.ENSEMBLE:
        assert config.platform == "ensemble"
        assert not config.instance_group
        return
    assert config.backend == model.kind.value
    (group,) = config.instance_group
    on_gpu = machine is GPU and model.kind is Kind.ONNX
    assert group.kind == (KINDS.KIND_GPU if on_gpu else KINDS.KIND_CPU)
    assert list(group.gpus) == ([0, 1] if on_gpu else [])
    assert group.count == machine.placement(model).instances > 0
    if model.kind is Kind.ONNX:
        written = {key: parameter.string_value for key, parameter in config.parameters.items()}
        expected = {"intra_op_thread_count": str(machine.placement(model).threads), "inter_op_thread_count": "1"}
        if model is served_models.ENCODER and not on_gpu:
            expected["split_rows_by_length"] = "attention_mask"
        assert written == expected


@all_models
def test_config_says_nothing_more_when_nothing_was_asked_for(name: str) -> None:
    config = parsed(name)
    assert not config.HasField("optimization")
    assert not config.HasField("response_cache")
    assert not config.dynamic_batching.HasField("default_queue_policy")
    assert not config.dynamic_batching.preferred_batch_size
    assert not any(group.HasField("rate_limiter") for group in config.instance_group)


@all_models
def test_queue_is_bounded_where_models_batch_when_asked_for(name: str) -> None:
    model, config = served_models.MODELS[name], parsed(name, max_queue_size=9, queue_timeout_ms=250)
    batching = model.batching and model.kind is not Kind.ENSEMBLE
    assert config.dynamic_batching.HasField("default_queue_policy") == batching
    if batching:
        policy = config.dynamic_batching.default_queue_policy
        assert (policy.max_queue_size, policy.default_timeout_microseconds) == (9, 250_000)
        assert policy.timeout_action == model_config_pb2.ModelQueuePolicy.REJECT


@pytest.mark.parametrize(("accelerator", "on_head"), [("cuda", "cuda"), ("tensorrt", "cuda")])
def test_accelerators_stand_on_gpu_graphs_alone_when_asked_for(accelerator: str, on_head: str) -> None:
    expected = {served_models.ENCODER.name: accelerator, served_models.SCORING_HEAD.name: on_head}
    for name in served_models.MODELS:
        assert not parsed(name, CPU, accelerator=accelerator).HasField("optimization")
        optimization = parsed(name, GPU, accelerator=accelerator).optimization
        found = optimization.execution_accelerators.gpu_execution_accelerator
        assert [entry.name for entry in found] == ([expected[name]] if name in expected else [])
        for entry in found:
            known = {"precision_mode": "FP32", "max_workspace_size_bytes": "1073741824"}
            assert dict(entry.parameters) == (known if entry.name == "tensorrt" else {})


@all_models
def test_cache_is_enabled_where_the_key_covers_the_answer_when_asked_for(name: str) -> None:
    model = served_models.MODELS[name]
    assert parsed(name, response_cache=True).response_cache.enable == model.cacheable


def test_cached_models_are_asked_for_the_same_outputs_by_every_ensemble() -> None:
    # Triton's key leaves out which outputs were asked for.
    cacheable = [model for model in served_models.MODELS.values() if model.cacheable]
    assert cacheable
    for model in cacheable:
        assert model.kind is not Kind.ENSEMBLE or len(model.outputs) == 1
        # The requests of such an ensemble never equal those of another one.
        ensembles = [
            ensemble
            for ensemble in served_models.MODELS.values()
            if model.name in ensemble.steps and not ensemble.has_own_requests
        ]
        asked = {
            tuple(step.output_map)
            for ensemble in ensembles
            for step in parsed(ensemble.name).ensemble_scheduling.step
            if step.model_name == model.name
        }
        assert len(asked) == bool(ensembles)


def test_model_is_not_cached_when_two_ensembles_ask_for_different_outputs() -> None:
    other = replace(
        served_models.RECOMMEND, name="other", outputs=(*served_models.RECOMMEND.outputs, contract.ITEM_INDEX)
    )
    serving = ServingOptions((CPU,), response_cache=True)
    settings = replace(SETTINGS, serving=serving, models={**served_models.MODELS, "other": other})
    assert not model_config(served_models.SCORING_HEAD, settings, CPU).response_cache.enable
    assert model_config(served_models.ENCODER, settings, CPU).response_cache.enable


def test_instances_claim_the_cores_they_take_when_limited() -> None:
    for name, model in served_models.MODELS.items():
        for group in parsed(name, CPU, rate_limiter=True).instance_group:
            (resource,) = group.rate_limiter.resources
            assert (resource.name, getattr(resource, "global")) == ("cores", True)
            assert resource.count == CPU.placement(model).threads <= CPU.cores
        assert not any(group.HasField("rate_limiter") for group in parsed(name, GPU, rate_limiter=True).instance_group)


@pytest.mark.parametrize("name", [name for name, model in served_models.MODELS.items() if model.steps])
def test_ensemble_maps_connect_every_tensor_when_steps_follow_the_contract(name: str) -> None:
    model, config = served_models.MODELS[name], parsed(name)
    known = {tensor.name for tensor in model.inputs}
    read: set[str] = set()
    assert [step.model_name for step in config.ensemble_scheduling.step] == list(model.steps)
    for step in config.ensemble_scheduling.step:
        assert all(key == value for key, value in (*step.input_map.items(), *step.output_map.items()))
        inputs = {tensor.name: tensor for tensor in served_models.MODELS[step.model_name].inputs}
        assert set(step.input_map) == {key for key, tensor in inputs.items() if key in known or not tensor.optional}
        assert set(step.input_map) <= known
        known |= set(step.output_map)
        read |= set(step.input_map)
    outputs = {tensor.name for tensor in model.outputs}
    assert outputs <= known
    # Triton refuses a tensor that nobody reads.
    assert known <= read | outputs


def test_encoder_takes_the_texts_of_one_request_when_limits_are_changed() -> None:
    config = parsed(served_models.ENCODER.name)
    assert config.max_batch_size == SETTINGS.facts.limits.max_texts


@all_models
def test_exported_folder_holds_config_and_version_when_written(repository: Path, name: str) -> None:
    assert read_model_config(repository, name).name == name
    assert any((repository / name / "1").iterdir())


def test_variants_are_written_beside_the_default_when_there_are_more_machines(
    export: Export, tiny_bundle: InterestBundle, tmp_path: Path
) -> None:
    serving = ServingOptions((CPU, GPU, Machine("cpu", 2)), accelerator="cuda")
    export(tiny_bundle, tmp_path / "out", ExportOptions(serving=serving))
    for name, model in served_models.MODELS.items():
        default, *variants = versions.config_files(tmp_path / "out" / name)
        assert [path.stem for path in variants] == ([] if model.kind is Kind.ENSEMBLE else ["cpu-2", "gpu-2"])
        for path in (default, *variants):
            config = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
            assert config.version_policy.specific.versions == [1]
            assert len(config.model_warmup) == (0 if model.kind is Kind.ENSEMBLE or model.needs_store else 3)
            machine = {"cpu-2": Machine("cpu", 2), "gpu-2": GPU}.get(path.stem, CPU)
            if model.kind is not Kind.ENSEMBLE:
                assert config.instance_group[0].count == machine.placement(model).instances
    (entry,) = read_manifest(tmp_path / "out").values()
    assert entry["options"]["serving"]["machines"][1] == {"device": "gpu", "count": 2}
