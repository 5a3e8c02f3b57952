"""A bundle with a refreshed prior is exported with the options, filters and encoder of the version in service."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

import commands
from ebbtide.export import versions
from ebbtide.export.attributes import read_attributes
from ebbtide.export.earlier import EarlierExport
from ebbtide.export.encoder.check import EncoderReport
from ebbtide.export.encoder.fidelity import Fidelity
from ebbtide.export.encoder.kept import KeptEncoder
from ebbtide.export.encoder.ranking_loss import RankingLoss
from ebbtide.export.encoder.speed import Speed
from ebbtide.export.errors import AttributesError, OutputValueError, RepositoryError
from ebbtide.export.facts import VersionFacts
from ebbtide.export.inprocess import InProcessPipeline
from ebbtide.export.machine import Machine
from ebbtide.export.manifest import read_manifest
from ebbtide.export.options import ExportOptions
from ebbtide.export.repository import ExportReport, export_repository
from ebbtide.export.serving import ServingOptions
from ebbtide.export.tokenizer import TOKENIZER_FILE
from ebbtide.interest import contract, served_models
from ebbtide.interest.contract import Limits
from ebbtide.interest.modelfile import read_fingerprint, write_fingerprint
from ebbtide.train.bundle import InterestBundle, fingerprint_of

from .conftest import MOVIES, TOP_N

MakeBundle = Callable[..., InterestBundle]


@pytest.fixture(scope="module")
def refreshed(tiny_bundle: InterestBundle) -> InterestBundle:
    """The bundle with another prior."""
    columns = tiny_bundle.prior_columns[::-1].copy()
    fingerprint = fingerprint_of(tiny_bundle.model, columns, tiny_bundle.catalog, tiny_bundle.config.encoder)
    config = tiny_bundle.config.model_copy(update={"fingerprint": fingerprint})
    return replace(tiny_bundle, config=config, prior_columns=columns)


@pytest.fixture
def folder(tiny_export: ExportReport, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_export.folder, tmp_path / "repository"))


def test_next_version_has_options_filters_and_encoder_when_the_prior_was_refreshed(
    refreshed: InterestBundle, tiny_bundle: InterestBundle, tiny_export: ExportReport, folder: Path
) -> None:
    earlier = EarlierExport.read(folder, refreshed)
    assert earlier.options == ExportOptions(top_n=TOP_N)
    genres = read_attributes(MOVIES, ["genres"], tiny_bundle.catalog.item_id, item_column="movieId")
    assert earlier.attributes is not None
    assert earlier.attributes.digest == genres.digest
    assert earlier.encoder is not None
    assert earlier.encoder.report == tiny_export.encoder
    assert earlier.same_answers(tiny_bundle) == 1
    assert earlier.same_answers(refreshed) is None

    report = earlier.export(refreshed)
    assert (report.version, report.is_served, report.top_n) == (2, False, TOP_N)
    assert report.fingerprint == ExportOptions(top_n=TOP_N).fingerprint(refreshed, genres)
    assert earlier.same_answers(refreshed) == 2
    # Popularity is no part of a state, so the users are known to both.
    states = {versions.version_states(folder, version) for version in (1, 2)}
    assert {noted["states"] for noted in read_manifest(folder).values()} == states
    assert len(states) == 1
    assert VersionFacts.read(folder, 2).attributes == {"genres": list(genres.values["genres"])}
    assert read_manifest(folder)["2"]["attributes"] == {"genres": list(genres.values["genres"])}
    # The files of version 2 carry its own id, those of the encoder included, or this would not read them.
    old, new = (InProcessPipeline(folder, version) for version in (1, 2))
    assert new.fingerprint == report.fingerprint
    texts = ["space opera with robots", "a quiet film about a lighthouse"]
    np.testing.assert_array_equal(new.embed(texts), old.embed(texts))

    # As refreshed as before, and so once more the same.
    versions.load_only(folder, [1, 2])
    versions.serve(folder, 2)
    again = EarlierExport.read(folder, tiny_bundle)
    assert (again.version, again.options, again.encoder is None) == (2, earlier.options, False)
    assert again.same_answers(tiny_bundle) == 1


def test_options_are_read_back_when_they_are_not_the_defaults() -> None:
    options = ExportOptions(top_n=7, limits=Limits(max_events=99), ignore_unknown=True, head_precision="int8")
    noted = json.loads(json.dumps(asdict(replace(options, serving=ServingOptions()))))
    assert ExportOptions.from_manifest(noted) == options
    with pytest.raises(TypeError, match="colour"):
        ExportOptions.from_manifest({**noted, "colour": "red"})


def test_what_was_told_of_an_encoder_is_read_back_when_it_is_compressed(tmp_path: Path) -> None:
    speed = Speed(0.5, 0.01)
    ranking = RankingLoss(0.99, float("nan"), 0.05, 10, 20)
    fidelity = Fidelity(0.99, 0.9, 100, 0.98, 0.2, ranking, None, speed, speed, Machine("a processor", ("avx2",)))
    report = EncoderReport("int8", {"Attention": 3}, None, 0.2, 0.3, 0.99, fidelity)
    noted = json.loads(json.dumps(asdict(report)))
    assert repr(KeptEncoder.read(tmp_path, 3, noted).report) == repr(report)
    with pytest.raises(RepositoryError, match=r"(?s)version 3, encoder: got .*tolerance.*`ebbtide export --version`"):
        KeptEncoder.read(tmp_path, 3, {**noted, "tolerance": "wide"})


def test_encoder_is_not_taken_over_when_the_training_is_another(
    make_bundle: MakeBundle, tiny_export: ExportReport
) -> None:
    earlier = EarlierExport.read(tiny_export.folder, make_bundle(seed=1))
    assert earlier.encoder is None
    # The items are the same, so the filters hold.
    assert earlier.attributes is not None


def test_encoder_is_not_taken_over_when_it_answers_otherwise(refreshed: InterestBundle, folder: Path) -> None:
    path = folder / served_models.TOKENIZER.name / "1" / TOKENIZER_FILE
    shorter = Tokenizer.from_file(str(path))
    shorter.enable_truncation(4)
    shorter.save(str(path))
    # As if it had been exported so.
    write_fingerprint(path.parent, read_fingerprint(path.parent, hash_files=False))
    assert EarlierExport.read(folder, refreshed).encoder is None


def test_export_is_refused_when_the_encoder_taken_over_is_not_the_bundles(
    make_bundle: MakeBundle, folder: Path
) -> None:
    encoder = KeptEncoder.read(folder, 1, read_manifest(folder)["1"]["encoder"])
    with pytest.raises(OutputValueError, match="encoder of version 1 against the bundle's"):
        export_repository(make_bundle(seed=1), folder, ExportOptions(top_n=TOP_N), version=2, encoder=encoder)
    assert versions.available_versions(folder) == (1,)


def test_export_is_refused_with_what_to_do_when_filters_are_of_other_items(
    tiny_bundle: InterestBundle, tiny_export: ExportReport
) -> None:
    others = replace(tiny_bundle.catalog, item_id=[f"{item}x" for item in tiny_bundle.catalog.item_id])
    with pytest.raises(AttributesError, match=r"filters by genres for other items .*--attributes FILE --attribute-col"):
        EarlierExport.read(tiny_export.folder, replace(tiny_bundle, catalog=others))


def test_command_takes_the_filters_over_when_it_is_given_none(
    tiny_bundle: InterestBundle, folder: Path, tmp_path: Path
) -> None:
    tiny_bundle.save(tmp_path / "bundle")
    said = commands.ebbtide("export", tmp_path / "bundle", "--out", folder, "--version", 2, "--top-n", 20)
    assert "filter genres" in said
    assert VersionFacts.read(folder, 2).attributes == VersionFacts.read(folder, 1).attributes


def test_next_version_has_the_numbers_of_the_version_in_service(
    tiny_bundle: InterestBundle, refreshed: InterestBundle, export: Callable[..., ExportReport], tmp_path: Path
) -> None:
    ids = tiny_bundle.catalog.item_id
    numeric = read_attributes(MOVIES, ["genres"], ids, item_column="movieId", numeric=["year"])
    folder = export(tiny_bundle, tmp_path / "repository", ExportOptions(top_n=TOP_N), attributes=numeric).folder
    earlier = EarlierExport.read(folder, refreshed)
    assert earlier.attributes is not None
    assert (earlier.attributes.digest, earlier.attributes.numbers) == (numeric.digest, ("year",))
    assert earlier.same_answers(tiny_bundle) == 1
    earlier.export(refreshed)
    facts = [VersionFacts.read(folder, version).numbers for version in (1, 2)]
    assert facts[0] == facts[1] == {name: list(range_) for name, range_ in numeric.number_ranges.items()}
    lengthened = replace(refreshed.catalog, item_id=["of another catalog", *refreshed.catalog.item_id[1:]])
    with pytest.raises(AttributesError, match=r"filters by genres, year for other items .* --numeric-col year"):
        EarlierExport.read(folder, replace(refreshed, catalog=lengthened))


@pytest.mark.parametrize("lost", ["attributes", "encoder", "options"])
def test_export_is_refused_when_the_manifest_notes_too_little(
    tiny_bundle: InterestBundle, folder: Path, lost: str
) -> None:
    path = folder / contract.MANIFEST_FILE
    content = json.loads(path.read_text())
    del content["versions"]["1"][lost]
    path.write_text(json.dumps(content))
    with pytest.raises(RepositoryError, match=rf"version 1: got KeyError\('{lost}'\).*`ebbtide export --version`"):
        EarlierExport.read(folder, tiny_bundle)


def test_export_is_refused_when_the_manifest_lacks_the_version_in_service(
    tiny_bundle: InterestBundle, folder: Path
) -> None:
    path = folder / contract.MANIFEST_FILE
    path.write_text(path.read_text().replace('"1": {', '"7": {'))
    with pytest.raises(RepositoryError, match=r"manifest of versions \['7'\]; expected also 1, the version in service"):
        EarlierExport.read(folder, tiny_bundle)
