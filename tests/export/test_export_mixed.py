"""A repository with files of two exports is refused at load; the message names both ids or both hashes."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from ebbtide.export.options import ExportOptions
from ebbtide.interest import served_models
from ebbtide.interest.modelfile import MODEL_FILE
from ebbtide.serve import ModelLoadError, ServerConfig, TritonServer
from ebbtide.train.bundle import InterestBundle
from servers import mark_complete

MakeBundle = Callable[..., InterestBundle]

TOP_N = 20
WEIGHTS, HEAD = served_models.ADAPTIVE_WEIGHTS.name, served_models.SCORING_HEAD.name


MOVED = (
    f"{WEIGHTS}/1/catalog.safetensors",
    f"{HEAD}/1/{MODEL_FILE}",
    f"{HEAD}/1",
    f"{served_models.RECOMMEND.name}/config.pbtxt",
)


@dataclass(frozen=True)
class Refusal:
    """A server's refusal of a repository, and the repositories from which it was mixed."""

    failures: Mapping[str, str]
    source: Path
    untouched: Path


@pytest.fixture(scope="module")
def bundles(make_bundle: MakeBundle) -> tuple[InterestBundle, InterestBundle]:
    """The bundle of most files of each repository, and the bundle of one file."""
    return make_bundle(), make_bundle(seed=1)


@pytest.fixture(scope="module")
def refusals(
    bundles: tuple[InterestBundle, InterestBundle], write_without_encoder: Callable[..., Path]
) -> dict[str, Refusal]:
    """Of one server for each moved file; the servers start together."""
    bundle, other = bundles
    source, untouched = write_without_encoder(other), write_without_encoder(bundle)
    folders = []
    for moved in MOVED:
        folder = write_without_encoder(bundle)
        folders.append(folder)
        for name in served_models.MODELS.keys() - {WEIGHTS, HEAD, served_models.RECOMMEND.name}:
            shutil.rmtree(folder / name)
        if (folder / moved).is_dir():
            shutil.rmtree(folder / moved)
            shutil.copytree(source / moved, folder / moved)
        else:
            shutil.copyfile(source / moved, folder / moved)
        mark_complete(folder)

    def refused(folder: Path) -> Refusal:
        with pytest.raises(ModelLoadError) as caught, TritonServer(ServerConfig(folder)):
            pass
        return Refusal(caught.value.failures, source, untouched)

    with ThreadPoolExecutor(len(MOVED)) as pool:
        return dict(zip(MOVED, pool.map(refused, folders), strict=True))


@pytest.mark.parametrize("moved", MOVED)
def test_server_refuses_the_model_when_files_come_from_another_export(
    refusals: dict[str, Refusal], bundles: tuple[InterestBundle, InterestBundle], moved: str
) -> None:
    (bundle, other), refusal = bundles, refusals[moved]
    reason = refusal.failures[WEIGHTS]
    options = ExportOptions(top_n=TOP_N)
    if moved.endswith(MODEL_FILE):
        files = (refusal.source / moved, refusal.untouched / moved)
        got, expected = (hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
        assert (
            f"{moved}: got SHA-256 {got}; expected {expected}, the hash at export {options.fingerprint(bundle)}"
            in reason
        )
    else:
        assert f"got fingerprint {options.fingerprint(other)}; expected {options.fingerprint(bundle)}" in reason
        assert "files of two exports are mixed" in reason
    assert served_models.RECOMMEND.name in refusal.failures
