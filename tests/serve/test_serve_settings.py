"""What needs no server: checks of the environment, settings, ports, session options, messages."""

from __future__ import annotations

import importlib.util
import os
import re
from types import ModuleType

import onnxruntime as ort
import pytest

import ebbtide.serve
from ebbtide.interest import contract
from ebbtide.serve import ServeError, ServerConfig, UnsupportedNumpyError, UnsupportedPythonError
from ebbtide.serve.distribution import check_numpy, check_platform, check_python, embedded_server
from ebbtide.serve.errors import ServerNotInstalledError
from ebbtide.serve.launch import command_line
from ebbtide.serve.ports import Ports, authority, choose_ports
from ebbtide.serve.startup import LogFollower, without_stack


@pytest.fixture(scope="module")
def backend() -> ModuleType:
    """The stand-in backend's module, with Triton's own helpers beside it."""
    folder = embedded_server().backend_directory
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder / "python"))
        spec = importlib.util.spec_from_file_location("stand_in_backend", folder / "onnxruntime" / "model.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(__import__("sys").modules, "stand_in_backend", module)
        spec.loader.exec_module(module)
        yield module


def config(**parameters: str) -> dict[str, object]:
    return {"name": "m", "parameters": {key: {"string_value": value} for key, value in parameters.items()}}


def test_every_public_name_is_importable():
    assert all(hasattr(ebbtide.serve, name) for name in ebbtide.serve.__all__)


def test_errors_have_one_root_when_raised_by_the_stage():
    raised = [getattr(ebbtide.serve, name) for name in ebbtide.serve.__all__ if name.endswith("Error")]
    assert all(issubclass(error, ServeError) for error in raised)


@pytest.mark.parametrize("version", [(3, 10), (3, 11), (3, 12)])
def test_python_is_accepted_when_a_stub_works_with_it(version):
    check_python(version)


@pytest.mark.parametrize("version", [(3, 9), (3, 13), (3, 14)])
def test_python_is_refused_with_the_reason_when_no_stub_works_with_it(version):
    with pytest.raises(UnsupportedPythonError, match=r"3\.10 to 3\.12(.|\n)*NumPy(.|\n)*ebbtide\[serve\]"):
        check_python(version)


@pytest.mark.parametrize("version", ["2.0.0", "2.3.1rc1", None])
def test_numpy_is_refused_with_the_remedy_when_the_stub_would_die(version):
    with pytest.raises(UnsupportedNumpyError, match="pip install"):
        check_numpy(version)


def test_numpy_is_accepted_when_before_version_2():
    check_numpy("1.26.4")


def test_platform_is_refused_when_no_wheel_exists_for_it():
    with pytest.raises(ServerNotInstalledError, match="darwin on arm64"):
        check_platform("darwin", "arm64")


def test_tree_is_built_once_and_again_when_it_is_broken(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = embedded_server()
    written = (first.backend_directory / "onnxruntime" / "model.py").stat().st_mtime_ns
    assert os.access(first.executable, os.X_OK)
    assert embedded_server() == first
    assert (first.backend_directory / "onnxruntime" / "model.py").stat().st_mtime_ns == written
    first.executable.unlink()
    assert embedded_server() == first
    assert first.executable.exists()
    assert len(list((tmp_path / "ebbtide" / "triton").iterdir())) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grpc_port": 0}, "grpc_port is 0, expected 1 to 65535"),
        ({"startup_timeout_s": 0}, "startup_timeout_s is 0, expected more than 0"),
        ({"model_control": "poll"}, "model_control is 'poll', expected 'none' or 'explicit'"),
        ({"response_cache_mb": 0}, "response_cache_mb is 0, expected at least 1, or None for none"),
        ({"rate_limit_cores": 0}, "rate_limit_cores is 0, expected at least 1"),
        ({"load_models": ("a",)}, "load_models is given, which needs model_control='explicit'"),
    ],
)
def test_config_is_refused_with_field_and_value_when_out_of_range(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        ServerConfig(tmp_path, **changes)


def test_config_is_refused_when_the_repository_is_no_folder(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        ServerConfig(tmp_path / "missing")


def test_ports_are_free_and_distinct_when_none_is_asked_for():
    ports = choose_ports("127.0.0.1", None, None, None)
    assert len({ports.grpc, ports.http, ports.metrics}) == 3


def test_port_is_kept_when_asked_for():
    free = choose_ports("127.0.0.1", None, None, None).grpc
    assert choose_ports("127.0.0.1", None, free, None).http == free


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "127.0.0.1:1"), ("0.0.0.0", "127.0.0.1:1"), ("::", "[::1]:1")],  # noqa: S104
)
def test_authority_can_be_connected_to_when_the_server_binds_a_host(host, expected):
    assert authority(host, 1) == expected


def test_session_has_the_thread_counts_when_parameters_give_them(backend):
    options = backend.session_options(config(intra_op_thread_count="3", inter_op_thread_count="2", execution_mode="1"))
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 2)
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL


def test_session_keeps_the_defaults_when_parameters_are_zero(backend):
    options = backend.session_options(config(intra_op_thread_count="0"))
    assert options.intra_op_num_threads == 0
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL


@pytest.mark.parametrize(
    ("level", "expected"),
    [(-1, "ORT_ENABLE_BASIC"), (0, "ORT_ENABLE_ALL"), (1, "ORT_ENABLE_EXTENDED"), (2, "ORT_DISABLE_ALL")],
)
def test_session_has_the_graph_level_when_optimization_gives_it(backend, level, expected):
    options = backend.session_options({"optimization": {"graph": {"level": level}}})
    assert options.graph_optimization_level == getattr(ort.GraphOptimizationLevel, expected)


def test_session_threads_do_not_spin_when_no_parameter_says_so(backend):
    key = "session.intra_op.allow_spinning"
    assert backend.session_options(config()).get_session_config_entry(key) == "0"
    assert backend.session_options(config(**{key: "1"})).get_session_config_entry(key) == "1"


def test_session_has_the_memory_settings_when_parameters_give_them(backend):
    options = backend.session_options(config(enable_mem_arena="0", enable_mem_pattern="false"))
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern) == (False, False)


def accelerated(*accelerators: tuple[str, dict[str, str]], device: str = "gpu") -> dict[str, object]:
    entries = [{"name": name, "parameters": parameters} for name, parameters in accelerators]
    return {"name": "m", "optimization": {"execution_accelerators": {f"{device}_execution_accelerator": entries}}}


@pytest.fixture
def gpu_build(backend, monkeypatch):
    """The backend with the providers of onnxruntime-gpu."""
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(backend.ort, "get_available_providers", lambda: names)
    return backend


def test_gpu_is_refused_with_the_remedy_when_onnxruntime_has_no_cuda(backend):
    with pytest.raises(ValueError, match=r"KIND_GPU(.|\n)*no CUDAExecutionProvider(.|\n)*onnxruntime-gpu"):
        backend.providers(config(), "GPU", "0")


def test_tensorrt_is_refused_with_the_remedy_when_onnxruntime_has_none(backend):
    with pytest.raises(ValueError, match=r"tensorrt(.|\n)*no TensorrtExecutionProvider(.|\n)*onnxruntime-gpu"):
        backend.providers(accelerated(("tensorrt", {})), "GPU", "0")


def test_gpu_comes_first_with_its_device_when_onnxruntime_has_cuda(gpu_build):
    assert gpu_build.providers(config(), "GPU", "1") == [
        ("CUDAExecutionProvider", {"device_id": "1"}),
        "CPUExecutionProvider",
    ]


def test_cuda_has_the_accelerators_parameters_when_the_config_gives_them(gpu_build):
    wanted = accelerated(("cuda", {"cudnn_conv_use_max_workspace": "0", "arena_extend_strategy": ""}))
    cuda, _ = gpu_build.providers(wanted, "GPU", "0")
    assert cuda == ("CUDAExecutionProvider", {"cudnn_conv_use_max_workspace": "0", "device_id": "0"})


def test_tensorrt_stands_before_cuda_with_translated_parameters_when_named(gpu_build):
    parameters = {
        "precision_mode": "FP16",
        "max_workspace_size_bytes": "1073741824",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": "engines",
        "trt_min_subgraph_size": "1",
        "int8_use_native_calibration_table": "false",
    }
    tensorrt, cuda, cpu = gpu_build.providers(accelerated(("tensorrt", parameters)), "GPU", "2")
    assert tensorrt == (
        "TensorrtExecutionProvider",
        {
            "trt_fp16_enable": "True",
            "trt_max_workspace_size": "1073741824",
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": "engines",
            "trt_min_subgraph_size": "1",
            "trt_int8_use_native_calibration_table": "False",
            "device_id": "2",
        },
    )
    assert (cuda[0], cpu) == ("CUDAExecutionProvider", "CPUExecutionProvider")


def test_tensorrt_keeps_its_own_precision_when_fp32_is_named(gpu_build):
    assert gpu_build.tensorrt_options({"precision_mode": "FP32"}) == {}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (accelerated(("auto_io", {})), "unknown Execution Accelerator 'auto_io' is requested"),
        (accelerated(("tensorrt", {"precision_mode": "FP8"})), "unsupported precision mode 'FP8' is requested"),
        (accelerated(("tensorrt", {"workspace": "1"})), "unknown parameter 'workspace' is provided for TensorRT"),
        (accelerated(("tensorrt", {"trt_max_workspace_size": "1"})), "unknown parameter 'trt_max_workspace_size'"),
        (accelerated(("tensorrt", {"trt_dla_enable": "yes"})), "parameter trt_dla_enable is 'yes', expected 0, 1"),
    ],
)
def test_accelerator_is_refused_in_the_other_backends_words_when_unknown(gpu_build, wanted, message):
    with pytest.raises(ValueError, match=message):
        gpu_build.providers(wanted, "GPU", "0")


def test_gpu_accelerators_are_ignored_when_the_instance_runs_on_the_cpu(backend):
    assert backend.providers(accelerated(("tensorrt", {})), "CPU", "0") == ["CPUExecutionProvider"]


def test_openvino_is_refused_when_a_cpu_instance_names_it(backend):
    with pytest.raises(ValueError, match="unknown Execution Accelerator 'openvino' is requested"):
        backend.providers(accelerated(("openvino", {}), device="cpu"), "CPU", "0")


def test_session_is_refused_when_onnxruntime_went_on_without_a_provider(backend):
    wanted = [("CUDAExecutionProvider", {}), "CPUExecutionProvider"]
    backend.check_providers(wanted, ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(ValueError, match="onnxruntime could not start CUDAExecutionProvider"):
        backend.check_providers(wanted, ["CPUExecutionProvider"])


def options(repository, **settings) -> list[str]:
    made = ServerConfig(repository, **settings)
    return command_line(embedded_server(), made, repository, Ports(1, 2, 3), "prefix")


def test_options_are_left_out_when_nothing_is_asked_for(tmp_path):
    assert not any(re.match("--(model-config-name|cache-config|rate-limit)", option) for option in options(tmp_path))


def test_options_stand_on_the_command_line_when_asked_for(tmp_path):
    (tmp_path / "m" / "configs").mkdir(parents=True)
    (tmp_path / "m" / "configs" / "gpu-1.pbtxt").touch()
    found = options(
        tmp_path,
        model_config_name="gpu-1",
        response_cache_mb=2,
        rate_limit_cores=4,
        extra_args=("--log-verbose=1",),
    )
    assert found[-5:] == [
        "--model-config-name=gpu-1",
        "--cache-config=local,size=2097152",
        "--rate-limit=execution_count",
        "--rate-limit-resource=cores:4",
        "--log-verbose=1",
    ]


def test_configs_are_completed_unless_every_model_is_of_one_export(tmp_path):
    for name in ("recommend", "embed"):
        (tmp_path / name).mkdir()
    assert "--disable-auto-complete-config" not in options(tmp_path)
    manifest = tmp_path / contract.MANIFEST_FILE
    for text, is_whole in (
        ("{", False),
        ('{"models": {"recommend": {}}}', False),
        ('{"models": {"recommend": {}, "embed": {}}}', True),
    ):
        manifest.write_text(text)
        assert ("--disable-auto-complete-config" in options(tmp_path)) == is_whole


def test_config_name_is_refused_with_those_there_when_no_model_has_it(tmp_path):
    with pytest.raises(ValueError, match=r"model_config_name is 'gpu-1', expected one of .* \(there are none\)"):
        ServerConfig(tmp_path, model_config_name="gpu-1")
    for name in ("cpu-8", "gpu-2"):
        (tmp_path / name / "configs").mkdir(parents=True)
        (tmp_path / name / "configs" / f"{name}.pbtxt").touch()
    with pytest.raises(ValueError, match=r"\(cpu-8, gpu-2\), or None for config.pbtxt"):
        ServerConfig(tmp_path, model_config_name="gpu-1")


def test_message_is_kept_without_the_stack_when_a_stub_refused():
    assert without_stack("Internal: TritonModelException: two ids\n\nAt:\n  model.py(3): initialize\n") == (
        "Internal: two ids"
    )


def test_log_follower_reads_only_new_lines_when_the_log_was_there_before(tmp_path):
    path = tmp_path / "log"
    path.write_text("successfully loaded 'old'\n")
    log = LogFollower(path)
    with path.open("a") as file:
        file.write('I "successfully loaded \'a\'"\nE "failed to load \'b\' version 1: no"\nI "successfully loa')
        file.flush()
        log.read()
        file.write("ded 'c'\"\n+----+\n| x  |\n")
    log.read()
    assert (log.loaded, log.failed, log.port_taken) == (["a", "c"], ["b"], False)
    assert log.tail(1) == "I \"successfully loaded 'c'\""
