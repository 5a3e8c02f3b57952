"""A repository that Ebbtide exports has no findings; a server loads the same export in the client's tests."""

from __future__ import annotations

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
