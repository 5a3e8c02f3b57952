"""The command: exit status, formats, ignored rules, and packages that it must not import."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from ebbtide.check import RULES

CONFIG = """backend: "python"
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ -1 ] } ]
"""
SOURCE = "class TritonPythonModel:\n    def execute(self, requests):\n        return answers(requests)\n"


def ebbtide(*arguments, code="from ebbtide.cli.main import main; main()"):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=None,
    )


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "models" / "m" / "1").mkdir(parents=True)
    (tmp_path / "models" / "m" / "config.pbtxt").write_text(CONFIG)
    (tmp_path / "models" / "m" / "1" / "model.py").write_text(SOURCE)
    return tmp_path / "models"


def test_status_is_0_when_the_repository_is_sound(repository):
    done = ebbtide("check", repository)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 errors, 0 warnings in 1 model\n", "")


def test_status_is_1_when_an_error_is_found(repository):
    (repository / "m" / "config.pbtxt").write_text(CONFIG + 'name: "n"\n')
    done = ebbtide("check", repository)
    assert done.returncode == 1
    assert f"{repository}/m/config.pbtxt:4: error[model-name] name: got 'n'; expected 'm'" in done.stdout


def test_warnings_fail_only_when_strict(repository):
    (repository / "m" / "old").mkdir()
    assert ebbtide("check", repository).returncode == 0
    assert ebbtide("check", repository, "--strict").returncode == 1
    assert ebbtide("check", repository, "--strict", "--ignore", "version-ignored").returncode == 0


def test_several_rules_are_ignored_when_named(repository):
    (repository / "m" / "old").mkdir()
    (repository / "m" / "config.pbtxt").write_text(CONFIG + 'name: "n"\n')
    done = ebbtide("check", repository, "--ignore", "version-ignored", "--ignore", "model-name", "--format", "json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["findings"] == []


def test_annotations_are_printed_when_the_format_is_github(repository):
    (repository / "m" / "config.pbtxt").write_text(CONFIG.replace("FP32", "FLOAT"))
    done = ebbtide("check", repository, "--format", "github")
    assert done.returncode == 1
    assert done.stdout.startswith(f"::error file={repository}/m/config.pbtxt,line=2,title=config-unknown-value::")


def test_config_is_checked_with_the_other_models_when_its_name_is_given(repository):
    (repository / "m" / "configs").mkdir()
    (repository / "m" / "configs" / "small.pbtxt").write_text(CONFIG)
    (repository / "m" / "config.pbtxt").write_text(CONFIG)
    (repository / "pair" / "1").mkdir(parents=True)
    (repository / "pair" / "config.pbtxt").write_text(
        CONFIG.replace('backend: "python"', 'platform: "ensemble"')
        + 'ensemble_scheduling { step { model_name: "m" model_version: -1 '
        'input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } } }\n'
    )
    assert ebbtide("check", repository).returncode == 0
    (repository / "m" / "configs" / "small.pbtxt").write_text(CONFIG.replace("FP32", "INT64"))
    assert ebbtide("check", repository).returncode == 0
    done = ebbtide("check", repository, "--model-config-name", "small")
    assert done.returncode == 1
    assert "error[ensemble-tensor-dtype]" in done.stdout
    assert ebbtide("check", repository, "--model-config-name", "other").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "got no REPOSITORY"),
        (("nowhere",), "got a path that does not exist"),
        (("models/m/config.pbtxt",), "got a file"),
        (("models/m",), "got the folder of one model"),
        (("models", "--ignore", "model-nam"), "got 'model-nam'"),
        (("models", "--format", "yaml"), "yaml"),
    ],
)
def test_status_is_2_when_misused(repository, monkeypatch, arguments, words):
    monkeypatch.chdir(repository.parent)
    done = ebbtide("check", *arguments)
    assert done.returncode == 2
    # The error is printed in a box, which breaks its lines.
    assert words in " ".join(done.stderr.replace("│", " ").split())


def test_folder_is_refused_when_nothing_in_it_looks_like_a_model(tmp_path):
    (tmp_path / "src" / "lib").mkdir(parents=True)
    assert ebbtide("check", tmp_path).returncode == 2


def test_warning_is_printed_when_the_repository_is_empty(tmp_path):
    done = ebbtide("check", tmp_path)
    assert done.returncode == 0
    assert "warning[repository-empty]" in done.stdout


def test_every_rule_is_listed_by_the_rules_option():
    done = ebbtide("check", "--rules")
    assert done.returncode == 0
    assert [line.split()[1] for line in done.stdout.splitlines()] == list(RULES)


def test_no_model_is_run_and_no_heavy_package_imported_when_checking(repository, every_wrong_case):
    case = next(case for case in every_wrong_case if case.name == "input-type")
    case.write(repository)
    (repository / "m" / "1" / "model.py").write_text(SOURCE + "raise SystemExit('it was run')\n")
    code = (
        "import sys; from pathlib import Path; from ebbtide.check import check_repository;"
        "check_repository(Path(sys.argv[1]));"
        "print(sorted({'torch', 'onnx', 'onnxruntime', 'transformers', 'polars'} & set(sys.modules)),"
        " [name for name in sys.modules if name.startswith('ebbtide.') and 'check' not in name])"
    )
    assert ebbtide(repository, code=code).stdout == "[] []\n"
