"""The image: the Dockerfiles, what pip puts into them, and the options of the server against the real server's help."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from ebbtide.serve.launch import SHM_DEFAULT_BYTES, SHM_GROWTH_BYTES

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "deploy" / "docker").glob("*Dockerfile"))


def pins(path: Path) -> dict[str, str]:
    """Exact versions of a requirements file, without comments and markers."""
    lines = [re.split(r"[;#]", line)[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return dict(line.split("==") for line in lines if line)


def imported_packages(folder: Path) -> set[str]:
    """Top-level names that the Python files below a folder import absolutely."""
    names: set[str] = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_dockerfile_passes_the_linter(path, run_tool):
    done = run_tool("hadolint", "--failure-threshold", "style", path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_linter_refuses_when_a_dockerfile_is_bad(tmp_path, run_tool):
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM ubuntu\nRUN sudo apt-get install curl\n")
    assert run_tool("hadolint", "--failure-threshold", "style", bad).returncode != 0


def test_pinned_packages_are_the_tested_ones_when_compared_with_the_constraints(deploy):
    installed = pins(deploy / "docker" / "requirements.txt")
    tested = pins(ROOT / "constraints.txt")
    assert installed == {name: tested[name] for name in installed}


def test_pinned_packages_are_all_that_is_needed_when_an_export_imports_them(deploy, export_report):
    needed = imported_packages(export_report.folder) - set(sys.stdlib_module_names)
    needed -= {"ebbtide", "text_tokens", "triton_python_backend_utils"}
    # What these import themselves, since dependencies are not installed. By name: some are of older Pythons alone.
    of_others = {
        "async-timeout": "redis",
        "cffi": "cryptography",
        "hiredis": "redis",
        "typing-extensions": "cryptography",
    }
    for name, package in of_others.items():
        assert any(re.match(rf"{name}\b", line) for line in importlib.metadata.requires(package) or ())
    assert needed | of_others.keys() == set(pins(deploy / "docker" / "requirements.txt"))


def test_tokenizers_reads_an_export_when_none_of_its_dependencies_is_installed(export_report):
    # The image installs it with --no-deps: huggingface-hub would only be needed to download.
    tokenizer = export_report.folder / "tokenizer" / str(export_report.version) / "tokenizer.json"
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\n"
        "from tokenizers import Tokenizer\n"
        "print(len(Tokenizer.from_file(sys.argv[1]).encode('space opera with robots').ids))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tokenizer)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 4


def ignored_but(path: Path) -> list[str]:
    """The exceptions of an ignore file that leaves everything else out."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    return [line.removeprefix("!") for line in lines if line.startswith("!")]


def test_build_context_holds_one_file_when_docker_reads_its_ignore_file(deploy):
    assert ignored_but(deploy / "docker" / ".dockerignore") == ["requirements.txt"]


def test_tools_context_holds_what_the_wheel_needs_when_docker_reads_its_ignore_file(deploy):
    # By pattern: Python 3.10 has no reader of TOML.
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    packages = set(re.findall(r'"(\w+)/ebbtide"', project))
    kept = ignored_but(deploy / "docker" / "tools.Dockerfile.dockerignore")
    files = {"pyproject.toml", "constraints.txt", "README.md", "LICENSE"}
    assert sorted(kept) == sorted(packages | {"model_repository"} | files)
    assert all((ROOT / name).exists() for name in kept)


def test_deploy_command_is_imported_when_torch_is_not_installed(run_tool):
    # What the tools' image does not install must not be needed.
    code = "import sys; sys.modules.update(dict.fromkeys(['torch', 'transformers', 'polars', 'pytriton']))\n"
    code += "import ebbtide.deploy, ebbtide.export.inprocess"
    done = run_tool("python", "-c", code)
    assert done.returncode == 0, done.stderr


def test_images_share_a_user_when_both_use_one_volume(image, read_image, deploy):
    assert read_image(deploy / "docker" / "tools.Dockerfile").only("USER") == image.only("USER")


def test_image_runs_as_a_number_when_kubernetes_checks_for_root(image):
    user, group = map(int, image.only("USER").split(":"))
    assert user > 0
    assert group > 0


def test_commands_are_in_exec_form_when_signals_must_reach_the_server(image):
    # Parsing them as JSON is what tells exec form from shell form.
    assert image.entrypoint[1] == "tritonserver"
    assert image.health_command[0] == "curl"


def test_options_exist_when_compared_with_the_servers_help(image, server_options):
    names = {option.removeprefix("--").partition("=")[0] for option in image.options}
    assert names <= server_options.keys()


def test_every_option_has_its_reason_when_the_dockerfile_is_read(image, deploy):
    lines = (deploy / "docker" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    explained = re.findall(r"[\w*-]+", "\n".join(line for line in lines if line.startswith("#")))
    names = {option.removeprefix("--").partition("=")[0] for option in image.options} - {"model-repository"}
    assert [name for name in names if not any(fnmatch(name, word) for word in explained if word != "*")] == []


def test_shared_memory_of_python_models_is_as_tested_when_the_image_sets_it(image):
    assert image.backend_option("shm-default-byte-size") == SHM_DEFAULT_BYTES
    assert image.backend_option("shm-growth-byte-size") == SHM_GROWTH_BYTES


def test_baked_image_adds_the_repository_where_the_image_looks_for_it(image, read_image, deploy):
    baked = read_image(deploy / "docker" / "baked.Dockerfile")
    assert baked.only("COPY").split()[-1] == image.option("model-repository")
    assert [name for name, _ in baked.instructions] == ["ARG", "FROM", "COPY"]
