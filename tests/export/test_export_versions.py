"""A repository holds several versions; only the configs state which are loaded and which one is served."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ebbtide.export import versions
from ebbtide.export.attributes import read_attributes
from ebbtide.export.errors import RepositoryError, VersionError
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.manifest import read_manifest
from ebbtide.export.options import ExportOptions
from ebbtide.export.repository import export_repository
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Limits
from ebbtide.interest.served_models import Kind
from ebbtide.train.bundle import InterestBundle

from .conftest import MOVIES, Export

MakeBundle = Callable[..., InterestBundle]


@pytest.fixture(scope="module")
def exported(export: Export, make_bundle: MakeBundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("versions") / "repository"
    export(make_bundle(), out)
    report = export(make_bundle(seed=1), out, version=2)
    assert not report.is_served
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    return out


@pytest.fixture
def two(exported: Path, tmp_path: Path) -> Path:
    """A repository with versions 1, served, and 2, of another training."""
    return Path(shutil.copytree(exported, tmp_path / "repository"))


def loaded(repository: Path) -> dict[str, list[int]]:
    configs = {name: versions.read_model_config(repository, name) for name in served_models.MODELS}
    return {name: list(config.version_policy.specific.versions) for name, config in configs.items()}


def test_version_lies_beside_the_served_one_when_added(two: Path, make_bundle: MakeBundle) -> None:
    assert versions.available_versions(two) == (1, 2)
    assert versions.served_version(two) == 1
    assert loaded(two) == {name: [1] for name in served_models.MODELS}
    manifest = read_manifest(two)
    assert manifest["1"]["bundle"] == make_bundle().fingerprint
    assert manifest["2"]["bundle"] == make_bundle(seed=1).fingerprint


def test_pipeline_answers_with_each_version_when_asked_for_it(two: Path) -> None:
    first, second = InProcessPipeline(two), InProcessPipeline(two, version=2)
    assert first.version == 1
    assert first.fingerprint != second.fingerprint
    assert second.fingerprint == versions.version_fingerprint(two, 2) == read_manifest(two)["2"]["fingerprint"]


def test_ensembles_answer_with_the_new_version_when_it_is_loaded_and_served(two: Path) -> None:
    versions.load_only(two, [1, 2])
    versions.serve(two, 2)
    assert versions.served_version(two) == 2
    for name, found in loaded(two).items():
        assert found == ([2] if served_models.MODELS[name].kind is Kind.ENSEMBLE else [1, 2])
    config = versions.read_model_config(two, served_models.RECOMMEND.name)
    assert config.parameters[contract.FINGERPRINT_PARAMETER].string_value == versions.version_fingerprint(two, 2)
    assert InProcessPipeline(two).version == 2


def test_clients_are_told_of_the_version_that_answers_when_limits_and_attributes_differ(
    export: Export, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    bundle, out = make_bundle(), tmp_path / "repository"
    genres = read_attributes(MOVIES, ["genres"], bundle.catalog.item_id, item_column="movieId")
    export(bundle, out, ExportOptions(limits=Limits(max_candidates=7)))
    # 19 genres and the bit of everybody fit into the one word that an export without attributes has as well.
    export(bundle, out, ExportOptions(limits=Limits(max_candidates=9)), attributes=genres, version=2)
    versions.load_only(out, [1, 2])

    def told(name: str) -> list[str]:
        parameters = versions.read_model_config(out, name).parameters
        return [parameters[key].string_value for key in ("max_candidates", "attribute_columns", "retrieval")]

    assert told(served_models.RANK.name) == ["7", "", "exact"]
    versions.serve(out, 2)
    assert told(served_models.RANK.name) == told(served_models.EXPLAIN.name) == ["9", "genres", "exact"]
    # Both versions stand behind it.
    assert told(served_models.EXPLAINER.name)[0] == "7"
    versions.load_only(out, [2])
    assert told(served_models.EXPLAINER.name)[0] == "9"
    values = versions.read_model_config(out, served_models.RANK.name).parameters["attribute_values"].string_value
    assert json.loads(values) == {"genres": list(genres.values["genres"])}
    versions.load_only(out, [1, 2])
    versions.serve(out, 1)
    assert "attribute_values" not in versions.read_model_config(out, served_models.RANK.name).parameters
    assert read_manifest(out)["2"]["attributes"]["genres"] == list(genres.values["genres"])
    assert read_manifest(out)["1"]["attributes"] == {}


def test_variants_follow_when_versions_change(two: Path) -> None:
    for name in served_models.MODELS:
        folder = two / name / versions.VARIANTS_FOLDER
        folder.mkdir()
        (folder / "gpu.pbtxt").write_bytes((two / name / "config.pbtxt").read_bytes())
    versions.load_only(two, [1, 2])
    versions.serve(two, 2)
    for name in served_models.MODELS:
        first, second = (path.read_text() for path in versions.config_files(two / name))
        assert first == second


def test_serving_is_refused_when_the_version_is_not_loaded_or_not_there(two: Path) -> None:
    with pytest.raises(VersionError, match=r"version 2: loaded: got \[1\]; expected this version too: load it first"):
        versions.serve(two, 2)
    with pytest.raises(VersionError, match=r"version 7: got none in .*; expected one of \[1, 2\]"):
        versions.serve(two, 7)
    with pytest.raises(VersionError, match="version 7"):
        versions.load_only(two, [1, 7])
    assert loaded(two) == {name: [1] for name in served_models.MODELS}


def test_version_is_replaced_when_no_server_loads_it(export: Export, two: Path, make_bundle: MakeBundle) -> None:
    export(make_bundle(), two, version=2)
    assert read_manifest(two)["2"]["bundle"] == make_bundle().fingerprint
    assert versions.available_versions(two) == (1, 2)


def test_export_is_refused_when_servers_load_the_version(
    export: Export, two: Path, tiny_bundle: InterestBundle
) -> None:
    with pytest.raises(VersionError, match=r"version 1: got a version .*; expected another number: 3 is free"):
        export(tiny_bundle, two, version=1)
    versions.load_only(two, [1, 2])
    with pytest.raises(VersionError, match="version 2: got a version that servers load"):
        export(tiny_bundle, two, version=2)
    with pytest.raises(VersionError, match="version: got 0; expected at least 1"):
        export(tiny_bundle, two, version=0)


@pytest.mark.parametrize(
    ("settings", "options", "section"),
    [({"dimensions": 32}, {}, "output"), ({}, {"limits": Limits(max_texts=8)}, "max_batch_size")],
    ids=["wider vectors", "fewer texts"],
)
def test_export_is_refused_when_tensors_differ_from_the_versions_beside_it(
    two: Path,
    make_bundle: MakeBundle,
    settings: dict[str, object],
    options: dict[str, object],
    section: str,
) -> None:
    with pytest.raises(VersionError, match=f"version 3: .*: got {section} .*; expected .* export to another folder"):
        export_repository(make_bundle(**settings), two, ExportOptions(**options), version=3)
    assert versions.available_versions(two) == (1, 2)


def test_whole_folder_is_replaced_when_no_version_is_given(
    export: Export, two: Path, tiny_bundle: InterestBundle
) -> None:
    assert export(tiny_bundle, two).is_served
    assert versions.available_versions(two) == (1,)
    assert list(read_manifest(two)) == ["1"]


def test_manifest_is_refused_when_it_is_of_an_earlier_kind(tmp_path: Path) -> None:
    (tmp_path / contract.MANIFEST_FILE).write_text('{"format": 1}')
    with pytest.raises(RepositoryError, match="got format 1; expected 3: export again"):
        read_manifest(tmp_path)


def test_served_version_is_refused_when_the_ensembles_differ(two: Path) -> None:
    versions.rewrite_configs(two / served_models.EMBED.name, lambda config: versions.pin(config, 2, "0"))
    with pytest.raises(RepositoryError, match="got ensembles with versions"):
        versions.served_version(two)
