"""A repository that Ebbtide exports has no findings, and the server loads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from ebbtide.check import check_repository
from ebbtide.serve import ServerConfig, TritonServer

MOVIELENS = Path(__file__).parents[3] / "examples" / "movielens-small"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported repository of a small model: its configs are those of a large one."""
    from ebbtide.export.repository import export_repository
    from ebbtide.train.bundle import InterestBundle

    folder = tmp_path_factory.mktemp("exported")
    ratings = pl.read_parquet(MOVIELENS / "ratings.parquet").filter(pl.col("userId") <= 6)
    ratings.write_parquet(folder / "ratings.parquet")
    rated = ratings["movieId"].unique().implode()
    pl.read_parquet(MOVIELENS / "movies.parquet").filter(pl.col("movieId").is_in(rated)).write_parquet(
        folder / "movies.parquet"
    )
    arguments = [
        *("train", "--out", folder / "bundle", "--dimensions", 16, "--epochs", 1),
        *("--events", folder / "ratings.parquet", "--user-col", "userId", "--item-col", "movieId"),
        *("--time-col", "timestamp", "--catalog", folder / "movies.parquet", "--text-template", "{title}"),
    ]
    code = "from ebbtide.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, timeout=300, capture_output=True)
    export_repository(InterestBundle.load(folder / "bundle"), folder / "repository")
    return folder / "repository"


def test_check_is_silent_on_what_ebbtide_exports(exported):
    report = check_repository(exported)
    assert report.findings == ()
    assert "recommend_text" in report.models


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
