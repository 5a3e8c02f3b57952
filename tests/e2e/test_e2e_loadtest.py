"""Load tests and tuning read the served limits: an export with short histories is a server like any other."""

import json
import shutil

import pytest

from ebbtide.export.earlier import EarlierExport
from ebbtide.export.options import ExportOptions
from ebbtide.export.repository import export_repository
from ebbtide.interest.contract import Limits
from ebbtide.serve import ServerConfig, TritonServer

MAX_EVENTS = 64


@pytest.fixture(scope="module")
def short_histories(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("short") / "repository"
    # Building the encoder again would take most of the time.
    encoder = EarlierExport.read(trained.repository, trained.bundle).encoder
    options = ExportOptions(top_n=20, limits=Limits(max_events=MAX_EVENTS))
    return export_repository(trained.bundle, folder, options, encoder=encoder).folder


def test_loadtest_is_answered_when_the_export_takes_short_histories(trained, command, short_histories, tmp_path):
    with TritonServer(ServerConfig(short_histories)) as server:
        command(
            *("loadtest", server.grpc_url, "--bundle", trained.bundle_folder, "--duration", "3s", "--rate", "20"),
            *("--mix", "recommend=1,recommend_text=1,rank=1,embed=1", "--warm-up", "none", "--requests", "60"),
            *("--json", tmp_path / "out.json"),
        )
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["answered"] == result["sent"] > 30
    assert result["errors"] == {}
    assert {name for name, one in result["endpoints"].items() if one["answered"]} == set(result["requests"]["mix"])


@pytest.mark.slow
def test_tune_measures_when_the_export_takes_short_histories(trained, command, short_histories, tmp_path):
    repository = shutil.copytree(short_histories, tmp_path / "repository")
    command(
        *("tune", repository, "--bundle", trained.bundle_folder, "--slo", "p99<2s,errors<20%", "--minutes", "0.3"),
        *("--turn", "300ms", "--requests", "100", "--out", tmp_path / "tuned.json"),
    )
    result = json.loads((tmp_path / "tuned.json").read_text())
    assert result["trials"][0]["ratio"] > 0
