"""What needs no server: checks of the environment, settings, ports, session options, messages."""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType

import onnxruntime as ort
import pytest

import ebbtide.serve
from ebbtide.serve import ServeError, ServerConfig, UnsupportedNumpyError, UnsupportedPythonError
from ebbtide.serve.distribution import check_numpy, check_platform, check_python, embedded_server
from ebbtide.serve.errors import ServerNotInstalledError
from ebbtide.serve.ports import authority, choose_ports
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


def test_public_names_are_importable_when_listed():
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


def test_gpu_is_refused_with_the_remedy_when_onnxruntime_has_no_cuda(backend, monkeypatch):
    monkeypatch.setattr(backend.ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ValueError, match=r"KIND_GPU(.|\n)*onnxruntime-gpu"):
        backend.providers("GPU", "0")


def test_gpu_comes_first_with_its_device_when_onnxruntime_has_cuda(backend, monkeypatch):
    monkeypatch.setattr(backend.ort, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    assert backend.providers("GPU", "1") == [("CUDAExecutionProvider", {"device_id": "1"}), "CPUExecutionProvider"]


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
