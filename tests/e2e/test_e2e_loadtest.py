"""Load tests, tuning and `ebbtide recommend` keep to the served limits of an export that takes short histories."""

import json
import shutil

import numpy as np
import pytest

from ebbtide.data.dataset import read_dataset
from ebbtide.export.earlier import EarlierExport
from ebbtide.export.options import ExportOptions
from ebbtide.export.repository import export_repository
from ebbtide.interest.contract import Limits
from ebbtide.serve import ServerConfig
from servers import only, serving

MAX_EVENTS = 64


@pytest.fixture(scope="module")
def short_histories(trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("short") / "repository"
    # Building the encoder again would take most of the time.
    encoder = EarlierExport.read(trained.repository, trained.bundle).encoder
    options = ExportOptions(top_n=20, limits=Limits(max_events=MAX_EVENTS))
    return export_repository(trained.bundle, folder, options, encoder=encoder).folder


@pytest.fixture(scope="module")
def server(short_histories):
    with serving(ServerConfig(short_histories, **only("recommend", "recommend_text", "rank", "embed"))) as running:
        yield running


def test_loadtest_is_answered_when_the_export_takes_short_histories(trained, command, server, tmp_path):
    command(
        *("loadtest", server.grpc_url, "--bundle", trained.bundle_folder, "--duration", "3s", "--rate", "20"),
        *("--mix", "recommend=1,recommend_text=1,rank=1,embed=1", "--warm-up", "none"),
        *("--requests", "60", "--timeout", "60s"),
        *("--json", tmp_path / "out.json"),
    )
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["answered"] == result["sent"] > 30
    assert result["errors"] == {}
    assert {name for name, one in result["endpoints"].items() if one["answered"]} == set(result["requests"]["mix"])


def test_recommend_is_answered_when_the_user_has_more_events_than_the_export_takes(trained, command, server):
    log = read_dataset(trained.bundle.config.data).log
    longest = int(np.argmax(np.diff(log.start)))
    assert np.diff(log.start)[longest] > MAX_EVENTS
    output = command(
        *("recommend", log.users[longest], "--bundle", trained.bundle_folder, "--server", server.grpc_url),
    )
    assert "Recommended" in output


@pytest.mark.slow
def test_tune_measures_when_the_export_takes_short_histories(trained, command, short_histories, tmp_path):
    repository = shutil.copytree(short_histories, tmp_path / "repository")
    command(
        *("tune", repository, "--bundle", trained.bundle_folder, "--slo", "p99<2s,errors<20%", "--minutes", "0.3"),
        *("--turn", "300ms", "--requests", "100", "--out", tmp_path / "tuned.json"),
    )
    result = json.loads((tmp_path / "tuned.json").read_text())
    assert result["trials"][0]["ratio"] > 0
