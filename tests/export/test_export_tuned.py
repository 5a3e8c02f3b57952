"""Tuned settings: parsing, formatting, writing into configs and repositories, and refusals."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ebbtide.check import check_repository
from ebbtide.export import versions
from ebbtide.export.configs import ConfigSettings, model_config
from ebbtide.export.errors import ServingOptionsError
from ebbtide.export.facts import VersionFacts
from ebbtide.export.machines import Machine
from ebbtide.export.manifest import read_manifest
from ebbtide.export.serving import ServingOptions
from ebbtide.export.tuned_settings import TunedSettings
from ebbtide.interest import served_models
from ebbtide.interest.contract import Limits, Size
from ebbtide.tune import TuneError, write_winner
from ebbtide.tune.space import candidates, changed, changes, read_settings

WEIGHTS, HEAD = served_models.ADAPTIVE_WEIGHTS.name, served_models.SCORING_HEAD.name
TUNED = (
    TunedSettings(HEAD, 2, 1, 500, (8, 32)),
    TunedSettings(WEIGHTS, instances=4),
)
WRITTEN = ("scoring_head:instances=2,threads=1,queue_delay_us=500,preferred=8+32", "adaptive_weights:instances=4")
SIZES = {Size.VECTOR: 16, Size.TEXT: 64, Size.INTEREST: 20, Size.FILTER: 1, Size.TOP_N: 10}


def settings(serving: ServingOptions) -> ConfigSettings:
    return ConfigSettings("fingerprint", 1, SIZES, VersionFacts(Limits(), (), True), serving)


@pytest.fixture
def copied(repository: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(repository, tmp_path / "repository", copy_function=os.link))


def result_of(repository: Path, winner: tuple[TunedSettings, ...]) -> dict[str, Any]:
    """What `ebbtide tune` gives, as far as it is written."""
    start = read_settings(repository, ["recommend"])
    stated = [vars(one) for one in start]
    changed = [{name: value for name, value in vars(one).items() if value is not None} for one in winner]
    content = {
        "default": {"settings": stated},
        "winner": {"changes": changed},
        "slo": "p99<20ms",
        "ratio": 1.2,
        "ratio_ci95": [1.1, 1.3],
        "machine": {"cores": 2},
        "began_unix_s": 1.0,
    }
    return dict(json.loads(json.dumps(content)))


@pytest.mark.parametrize(("tuned", "text"), list(zip(TUNED, WRITTEN, strict=True)))
def test_settings_are_the_same_when_written_and_read(tuned: TunedSettings, text: str) -> None:
    assert str(tuned) == text
    assert TunedSettings.parse(text) == tuned
    assert TunedSettings.parse("scoring_head:preferred=none").preferred_batch_sizes == ()


@pytest.mark.parametrize(
    "text",
    [
        *("", "scoring_head", "scoring_head:", "scoring_head:instances", "scoring_head:instances=two", "head:size=3"),
        *("scoring_head:preferred=8/32", "scoring_head:instances=1,instances=2", "scoring_head:preferred="),
    ],
)
def test_settings_are_refused_with_what_was_written_when_they_are_none(text: str) -> None:
    with pytest.raises(ServingOptionsError, match=r"tuned: got '.*'; expected MODEL:SETTING=NUMBER"):
        TunedSettings.parse(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tuned": (TunedSettings("encoders", 1),)}, "tuned: got 'encoders'; expected one of"),
        ({"tuned": (TunedSettings("recommend", 1),)}, "tuned: got 'recommend'; expected one of"),
        ({"tuned": (TunedSettings(HEAD, 1), TunedSettings(HEAD, 2))}, "tuned: got 'scoring_head' twice"),
        ({"tuned": TUNED, "machines": (Machine("gpu", 1),)}, "tuned: got gpu-1 as the first machine; expected a CPU"),
        ({"tuned": TUNED, "sweep": True}, "sweep: got preferred batch sizes in tuned too"),
    ],
)
def test_serving_options_are_refused_when_tuned_settings_do_not_go_with_them(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ServingOptionsError, match=message):
        ServingOptions(**options)


def test_configs_of_the_first_machine_are_tuned_when_exported() -> None:
    first, other = Machine("cpu", 2), Machine("cpu", 8)
    serving = ServingOptions((first, other), tuned=TUNED, rate_limiter=True)
    tuned = model_config(served_models.SCORING_HEAD, settings(serving), first)
    assert TunedSettings.read(tuned) == TUNED[0]
    plain = ServingOptions((first, other), rate_limiter=True)
    assert model_config(served_models.SCORING_HEAD, settings(serving), other) == model_config(
        served_models.SCORING_HEAD, settings(plain), other
    )
    assert model_config(served_models.ADAPTIVE_WEIGHTS, settings(serving), first).instance_group[0].count == 4


@pytest.mark.parametrize(
    ("tuned", "message"),
    [
        (TunedSettings(WEIGHTS, threads=2), "tuned adaptive_weights: threads: got a model that is not ONNX"),
        (
            TunedSettings(HEAD, preferred_batch_sizes=(128,)),
            "scoring_head: preferred: got 128; expected at most 64",
        ),
        (
            TunedSettings(served_models.TOKENIZER.name, queue_delay_us=5),
            "got a model that does not batch; expected neither",
        ),
    ],
)
def test_export_is_refused_when_a_model_cannot_take_a_setting(tuned: TunedSettings, message: str) -> None:
    serving = ServingOptions((Machine("cpu", 2),), tuned=(tuned,))
    with pytest.raises(ServingOptionsError, match=message):
        model_config(served_models.MODELS[tuned.model], settings(serving), Machine("cpu", 2))


def test_threads_claim_as_many_cores_when_the_rate_limiter_is_on() -> None:
    machine = Machine("cpu", 4)
    serving = ServingOptions((machine,), tuned=(TunedSettings(HEAD, threads=3),), rate_limiter=True)
    config = model_config(served_models.SCORING_HEAD, settings(serving), machine)
    assert [resource.count for resource in config.instance_group[0].rate_limiter.resources] == [3]


def test_candidates_change_one_model_when_the_settings_are_those_of_the_configs(repository: Path) -> None:
    start = read_settings(repository, ["recommend", "rank"])
    assert {one.model for one in start} >= {WEIGHTS, HEAD}
    assert len({one.model for one in start}) == len(start)
    for own in start:
        others = candidates(own, cores=2)
        assert others
        for other in others:
            assert [one.model for one in changes(start, changed(start, other))] == [own.model]


def test_winner_changes_its_configs_and_the_manifest_alone_when_written(copied: Path) -> None:
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    entry = read_manifest(copied)["1"]
    changed = write_winner(copied, result_of(copied, TUNED))
    after = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    assert set(changed) == {copied / name / "config.pbtxt" for name in (WEIGHTS, HEAD)}
    assert {path for path in after if after[path] != before.get(path)} == {*changed, copied / "ebbtide-export.json"}
    assert TunedSettings.read(versions.read_model_config(copied, HEAD)) == TUNED[0]
    noted = read_manifest(copied)["1"]
    assert {key: value for key, value in noted.items() if key != "tuned"} == entry
    assert noted["tuned"]["ratio"] == 1.2
    assert check_repository(copied).errors == 0


def test_nothing_is_written_when_the_default_won(copied: Path) -> None:
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    assert write_winner(copied, result_of(copied, ())) == ()
    assert {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()} == before


def test_winner_is_refused_when_the_configs_are_no_longer_those_that_were_measured(copied: Path) -> None:
    result = result_of(copied, TUNED)
    versions.rewrite_configs(copied / WEIGHTS, TunedSettings(WEIGHTS, instances=3).apply)
    before = (copied / HEAD / "config.pbtxt").read_bytes()
    with pytest.raises(TuneError, match=r"adaptive_weights:instances=3,.*; expected adaptive_weights:instances=1,"):
        write_winner(copied, result)
    assert (copied / HEAD / "config.pbtxt").read_bytes() == before


def test_tuning_is_refused_when_a_model_runs_on_a_gpu(copied: Path) -> None:
    def move(config: Any) -> None:
        config.instance_group[0].kind = config.instance_group[0].KIND_GPU

    versions.rewrite_configs(copied / HEAD, move)
    with pytest.raises(TuneError, match=r"scoring_head: got instance groups \['KIND_GPU'\]; expected one of KIND_CPU"):
        read_settings(copied, ["recommend"])
