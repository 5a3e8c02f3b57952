"""A repository that Ebbtide exports has no findings; a server loads the same export in the client's tests."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from ebbtide.check import check_repository
from ebbtide.export.repository import ExportReport
from ebbtide.serve import ServerConfig, TritonServer


@pytest.fixture(scope="module")
def exported(tiny_export: ExportReport, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported repository of a small model: its configs are those of a large one."""
    return Path(shutil.copytree(tiny_export.folder, tmp_path_factory.mktemp("exported") / "repository"))


def test_check_is_silent_on_what_ebbtide_exports(exported):
    report = check_repository(exported)
    assert report.findings == ()
    assert "recommend_text" in report.models


@pytest.mark.slow
def test_server_loads_the_export_without_findings(exported):
    with TritonServer(ServerConfig(exported)) as server:
        assert server.is_running()


def test_check_finds_the_step_when_the_exported_ensemble_was_edited(exported):
    config = exported / "recommend" / "config.pbtxt"
    text = config.read_text()
    try:
        config.write_text(text.replace('model_name: "scoring_head"', 'model_name: "scoring_haed"'))
        (finding,) = check_repository(exported).findings
    finally:
        config.write_text(text)
    assert (finding.rule, finding.hint) == ("ensemble-step-model", "did you mean scoring_head?")
    assert 'model_name: "scoring_head"' in text.splitlines()[finding.line - 1]


@pytest.mark.parametrize("lost", ["ebbtide", "ebbtide/interest", "ebbtide/store", "ebbtide/interest/contract.py"])
def test_check_finds_copied_code_that_is_missing(exported, tmp_path, lost):
    repository = Path(shutil.copytree(exported, tmp_path / "repository"))
    models = {path.parents[1].name for path in repository.glob("*/1/model.py")}
    assert len(models) > 5
    for path in repository.glob(f"*/1/{lost}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    found = check_repository(repository).findings
    assert {finding.rule for finding in found} == {"export-code-missing"}
    assert {finding.file.split("/")[0] for finding in found} == models


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "got a file that is not JSON"),
        ("\udcff", "got a file that is not JSON"),
        ("[" * 100_000, "got a file that is not JSON"),
        ("[]", "got no JSON object"),
        ("{}", "got no format"),
        ('{"format": "3"}', "got format that is not a number"),
        ('{"format": 3, "versions": []}', "got versions that is not an object"),
        ('{"format": 3, "versions": {"1": 2}, "models": {}}', "got an entry of versions that is not an object"),
        ('{"format": 3, "versions": {}}', "got no models"),
        ('{"format": 3, "versions": {}, "models": {"observer": {}, "b": {}, "a": {}}}', "got models .* there: a, b;"),
    ],
)
def test_check_finds_a_damaged_manifest(exported, tmp_path, text, message):
    repository = Path(shutil.copytree(exported, tmp_path / "repository"))
    (repository / "ebbtide-export.json").write_bytes(text.encode(errors="surrogateescape"))
    (finding,) = check_repository(repository).findings
    assert (finding.rule, finding.file) == ("export-manifest", "ebbtide-export.json")
    assert re.match(message, finding.message)
    assert "; expected " in finding.message
