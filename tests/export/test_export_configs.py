"""Every rendered ``config.pbtxt`` says what the contract says."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ebbtide.export.configs import ConfigSettings, render_config
from ebbtide.export.versions import read_model_config
from ebbtide.interest import contract
from ebbtide.interest.contract import Dtype, Kind, Size

SIZES = {Size.INTEREST: 20, Size.VECTOR: 16, Size.ADJUSTMENTS: 30, Size.TOP_N: 5}
SETTINGS = ConfigSettings("0123456789abcdef", 3, SIZES, max_texts=7, encoder_threads=3)
TRITON_TYPES = {
    Dtype.BOOL: model_config_pb2.TYPE_BOOL,
    Dtype.INT32: model_config_pb2.TYPE_INT32,
    Dtype.INT64: model_config_pb2.TYPE_INT64,
    Dtype.FP32: model_config_pb2.TYPE_FP32,
    Dtype.BYTES: model_config_pb2.TYPE_STRING,
}
all_models = pytest.mark.parametrize("name", contract.MODELS)


def parsed(name: str) -> model_config_pb2.ModelConfig:
    text = render_config(contract.MODELS[name], SETTINGS)
    return text_format.Parse(text, model_config_pb2.ModelConfig())


@all_models
def test_config_states_the_contracts_tensors_when_rendered_and_parsed_back(name: str) -> None:
    model, config = contract.MODELS[name], parsed(name)
    assert config.name == name
    for entries, tensors in ((config.input, model.inputs), (config.output, model.outputs)):
        assert [entry.name for entry in entries] == [tensor.name for tensor in tensors]
        for entry, tensor in zip(entries, tensors, strict=True):
            assert entry.data_type == TRITON_TYPES[tensor.dtype]
            assert tuple(entry.dims) == tensor.config_dims(SIZES, batching=model.batching)
    for entry, tensor in zip(config.input, model.inputs, strict=True):
        assert entry.optional == tensor.optional
        assert entry.allow_ragged_batch == (tensor.ragged and model.batching and model.kind is Kind.PYTHON)


@all_models
def test_config_names_one_version_when_rendered(name: str) -> None:
    config = parsed(name)
    assert list(config.version_policy.specific.versions) == [SETTINGS.version]
    if contract.MODELS[name].kind is Kind.ENSEMBLE:
        assert {step.model_version for step in config.ensemble_scheduling.step} == {SETTINGS.version}
        assert config.parameters[contract.FINGERPRINT_PARAMETER].string_value == SETTINGS.fingerprint
    else:
        # All versions of a model share its config: what tells them apart lies in their own folders.
        assert contract.FINGERPRINT_PARAMETER not in config.parameters


@all_models
def test_config_batches_on_one_cpu_instance_when_the_contract_says_so(name: str) -> None:
    model, config = contract.MODELS[name], parsed(name)
    assert (config.max_batch_size > 0) == model.batching
    assert config.HasField("dynamic_batching") == (model.batching and model.kind is not Kind.ENSEMBLE)
    if model.kind is Kind.ENSEMBLE:
        assert config.platform == "ensemble"
        assert not config.instance_group
    else:
        assert config.backend == model.kind.value
        (group,) = config.instance_group
        assert (group.kind, group.count) == (model_config_pb2.ModelInstanceGroup.KIND_CPU, 1)


@pytest.mark.parametrize("name", [name for name, model in contract.MODELS.items() if model.steps])
def test_ensemble_maps_connect_every_tensor_when_steps_follow_the_contract(name: str) -> None:
    model, config = contract.MODELS[name], parsed(name)
    known = {tensor.name for tensor in model.inputs}
    assert [step.model_name for step in config.ensemble_scheduling.step] == list(model.steps)
    for step in config.ensemble_scheduling.step:
        assert all(key == value for key, value in (*step.input_map.items(), *step.output_map.items()))
        assert set(step.input_map) == {tensor.name for tensor in contract.MODELS[step.model_name].inputs}
        assert set(step.input_map) <= known
        known |= set(step.output_map)
    assert {tensor.name for tensor in model.outputs} <= known


def test_encoder_takes_the_texts_of_one_request_when_limits_are_changed() -> None:
    config = parsed(contract.ENCODER.name)
    assert config.max_batch_size == SETTINGS.max_texts
    assert config.parameters["intra_op_thread_count"].string_value == "3"
    assert parsed(contract.SCORING_HEAD.name).parameters["intra_op_thread_count"].string_value == "1"


@all_models
def test_exported_folder_holds_config_and_version_when_written(repository: Path, name: str) -> None:
    assert read_model_config(repository, name).name == name
    assert any((repository / name / "1").iterdir())
