"""What the stand-in backend refuses at load, and how the refusal reaches the caller."""

from __future__ import annotations

import pytest

from ebbtide.serve import ModelLoadError, ServerConfig, TritonServer
from servers import mark_complete

# Each case: changes to the good config, and the words that its message must have.
CASES = {
    "bad_output_name": ([('name: "sum"', 'name: "summ"')], "unexpected inference output 'summ', allowed outputs are:"),
    "bad_input_name": ([('name: "b"', 'name: "bb"')], "unexpected inference input 'bb', allowed inputs are: a, b"),
    "missing_input": (
        [(', { name: "b" data_type: TYPE_FP32 dims: [3] }]', "]")],
        "configuration expects 1 inputs, model provides 2: the configuration lacks 'b'",
    ),
    "bad_input_dtype": (
        [('name: "a" data_type: TYPE_FP32', 'name: "a" data_type: TYPE_INT64')],
        "configuration expects datatype TYPE_INT64 for input 'a', model provides TYPE_FP32",
    ),
    "bad_output_dtype": (
        [('name: "sum" data_type: TYPE_FP32', 'name: "sum" data_type: TYPE_FP16')],
        "configuration expects datatype TYPE_FP16 for output 'sum', model provides TYPE_FP32",
    ),
    "bad_dims": (
        [('name: "a" data_type: TYPE_FP32 dims: [3]', 'name: "a" data_type: TYPE_FP32 dims: [4]')],
        "tensor 'a': the model expects 2 dimensions (shape [-1,3]) but the model configuration specifies 2 dimensions "
        "(an initial batch dimension because max_batch_size > 0 followed by the explicit tensor shape, making complete "
        "shape [-1,4])",
    ),
    "variable_output": (
        [('name: "sum" data_type: TYPE_FP32 dims: [3]', 'name: "sum" data_type: TYPE_FP32 dims: [-1]')],
        "tensor 'sum': the model expects 2 dimensions (shape [-1,3]) but the model configuration specifies 2",
    ),
    "bad_rank": (
        [('name: "a" data_type: TYPE_FP32 dims: [3]', 'name: "a" data_type: TYPE_FP32 dims: [3, 1]')],
        "tensor 'a': the model expects 2 dimensions (shape [-1,3]) but the model configuration specifies 3",
    ),
    "rank_without_batch": (
        [
            ("max_batch_size: 16", "max_batch_size: 0"),
            ("dynamic_batching { max_queue_delay_microseconds: 1000000 }", ""),
        ],
        "tensor 'a': the model expects 2 dimensions (shape [-1,3]) but the model configuration specifies 1 dimensions "
        "(shape [3])",
    ),
    "bad_mode": (
        [('key: "intra_op_thread_count"', 'key: "execution_mode"'), ('string_value: "1"', 'string_value: "2"')],
        "Expected values for execution_mode are 0 or 1 but got 2",
    ),
    "bad_threads": (
        [('string_value: "1"', 'string_value: "many"')],
        "parameter intra_op_thread_count is 'many', expected an integer",
    ),
    "optional_input": (
        [('name: "a" data_type: TYPE_FP32 dims: [3]', 'name: "a" data_type: TYPE_FP32 dims: [3] optional: true')],
        "optional input 'a' is not supported for models that support batching",
    ),
    "ragged_input": (
        [('name: "a" data_type: TYPE_FP32', 'name: "a" allow_ragged_batch: true data_type: TYPE_FP32')],
        "input 'a' says allow_ragged_batch",
    ),
    "no_file": (
        [('backend: "onnxruntime"', 'backend: "onnxruntime"\ndefault_model_filename: "other.onnx"')],
        "other.onnx'",
    ),
    "gpu": ([("kind: KIND_CPU", "kind: KIND_GPU")], "GPU"),
}


@pytest.fixture(scope="module")
def refused(tmp_path_factory, models) -> ModelLoadError:
    """One server that is given every bad model, and one good one."""
    repository = tmp_path_factory.mktemp("refused")
    for name, (changes, _) in CASES.items():
        config = models.add_config
        for old, new in changes:
            assert old in config
            config = config.replace(old, new, 1)
        models.write(repository, name, models.add(), config)
    models.write(repository, "fixed_batch", models.add(2), models.add_config)
    models.write(repository, "no_onnx", models.add(), models.add_config)
    (repository / "no_onnx" / "1" / "model.onnx").write_bytes(b"not a graph")
    models.write(repository, "good", models.add(), models.add_config)
    models.write(repository, "unparsed", models.add(), models.add_config.replace("max_batch_size", "batch_size_max"))
    (repository / "no_version").mkdir()
    (repository / "no_version" / "config.pbtxt").write_text(models.add_config)
    (repository / "depends" / "1").mkdir(parents=True)
    (repository / "depends" / "config.pbtxt").write_text("""
platform: "ensemble"
max_batch_size: 16
input [{ name: "a" data_type: TYPE_FP32 dims: [3] }, { name: "b" data_type: TYPE_FP32 dims: [3] }]
output [{ name: "sum" data_type: TYPE_FP32 dims: [3] }]
ensemble_scheduling { step [{
  model_name: "bad_rank" model_version: -1
  input_map [{ key: "a" value: "a" }, { key: "b" value: "b" }] output_map [{ key: "sum" value: "sum" }]
}] }
""")
    mark_complete(repository)
    server = TritonServer(ServerConfig(repository, log_file=tmp_path_factory.mktemp("log") / "triton.log"))
    with pytest.raises(ModelLoadError) as caught:
        server.start()
    assert not server.is_running()
    return caught.value


@pytest.mark.parametrize("name", CASES)
def test_load_is_refused_with_model_and_tensor_when_the_config_does_not_fit(refused, name):
    assert CASES[name][1] in refused.failures[name]
    if name != "gpu":
        assert f"'{name}'" in refused.failures[name]
        assert f"{name}: {refused.failures[name]}" in str(refused)


def test_load_is_refused_when_batching_is_configured_for_a_fixed_first_dimension(refused):
    assert (
        "model 'fixed_batch', tensor 'a': for the model to support batching the shape should have at least 1 dimension "
        "and the first dimension must be -1; but shape expected by the model is [2,3]"
    ) in refused.failures["fixed_batch"]


def test_load_is_refused_with_the_models_name_when_the_file_is_no_onnx(refused):
    assert "unable to load model 'no_onnx'" in refused.failures["no_onnx"]


def test_load_error_is_silent_about_a_model_when_it_loaded(refused):
    assert "good" not in refused.failures
    assert f"refused {len(refused.failures)} of {len(CASES) + 6} models" in str(refused)


def test_load_error_shows_the_unknown_field_when_the_config_is_misspelt(refused):
    assert 'has no field named "batch_size_max"' in refused.failures["unparsed"]


def test_load_error_says_so_when_a_model_has_no_version(refused):
    assert "at least one version must be available" in refused.failures["no_version"]


def test_load_error_names_the_ensemble_last_when_its_model_was_refused(refused):
    assert list(refused.failures)[-1] == "depends"
    assert refused.failures["depends"].endswith("depends on 'bad_rank' which has no loaded version")


def test_load_error_has_no_python_stack_when_a_stub_refused(refused):
    assert not any("At:" in reason or "Exception:" in reason for reason in refused.failures.values())


def test_load_error_ends_with_the_log_when_a_model_was_refused(refused):
    assert "The end of its log (" in str(refused)
    assert "triton.log" in str(refused)
