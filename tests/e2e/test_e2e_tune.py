"""Tuning from the command line, with two real servers and a budget that is far too small to be right."""

import json
import shutil

import pytest

from ebbtide.export import versions
from ebbtide.export.tuned_settings import TunedSettings


@pytest.mark.slow
def test_tune_measures_notes_and_writes_what_it_chose_when_the_time_is_short(trained, command, tmp_path):
    repository = shutil.copytree(trained.repository, tmp_path / "repository")
    before = {path: path.read_bytes() for path in repository.rglob("*.pbtxt")}
    output = command(
        *("tune", repository, "--bundle", trained.bundle_folder, "--slo", "p99<2s,errors<20%", "--minutes", "0.7"),
        *("--turn", "300ms", "--requests", "100", "--out", tmp_path / "tuned.json", "--write"),
    )
    result = json.loads((tmp_path / "tuned.json").read_text())
    assert result["verdict"] in " ".join(output.split())
    assert result["trials"][0]["settings"] is None
    assert result["search"]["turns"] >= 2 * sum(trial["pairs"] for trial in result["trials"])
    assert {one["model"] for one in result["default"]["settings"]} >= {"adaptive_weights", "scoring_head"}
    changed = {path.parent.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {one["model"] for one in result["winner"]["changes"]}
    for one in result["winner"]["settings"]:
        stated = {**one, "preferred_batch_sizes": tuple(one.get("preferred_batch_sizes") or ())}
        found = TunedSettings.read(versions.read_model_config(repository, one["model"]))
        assert {name: value for name, value in vars(found).items() if name in one} == {
            name: stated[name] for name in one
        }
