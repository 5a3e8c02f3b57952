"""A repository with files of two exports is refused at load; the message names both ids or both hashes."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ebbtide.export.options import ExportOptions
from ebbtide.interest import contract
from ebbtide.interest.modelfile import MODEL_FILE
from ebbtide.serve import ModelLoadError, ServerConfig, TritonServer
from ebbtide.train.bundle import InterestBundle

TOP_N = 20
WEIGHTS, HEAD = contract.ADAPTIVE_WEIGHTS.name, contract.SCORING_HEAD.name


@pytest.mark.parametrize(
    "moved",
    [
        f"{WEIGHTS}/1/catalog.safetensors",
        f"{HEAD}/1/{MODEL_FILE}",
        f"{HEAD}/1",
        f"{contract.RECOMMEND.name}/config.pbtxt",
    ],
)
def test_server_refuses_the_model_when_files_come_from_another_export(
    make_bundle: Callable[..., InterestBundle], write_without_encoder: Callable[..., Path], moved: str
) -> None:
    bundle, other = make_bundle(), make_bundle(seed=1)
    folder, source, untouched = (write_without_encoder(one) for one in (bundle, other, bundle))
    for name in contract.MODELS.keys() - {WEIGHTS, HEAD, contract.RECOMMEND.name}:
        shutil.rmtree(folder / name)
    if (folder / moved).is_dir():
        shutil.rmtree(folder / moved)
        shutil.copytree(source / moved, folder / moved)
    else:
        shutil.copyfile(source / moved, folder / moved)
    with pytest.raises(ModelLoadError) as caught, TritonServer(ServerConfig(folder)):
        pass
    reason = caught.value.failures[WEIGHTS]
    options = ExportOptions(top_n=TOP_N)
    if moved.endswith(MODEL_FILE):
        got, expected = (hashlib.sha256((index / moved).read_bytes()).hexdigest() for index in (source, untouched))
        assert (
            f"{moved}: got SHA-256 {got}; expected {expected}, the hash at export {options.fingerprint(bundle)}"
            in reason
        )
    else:
        assert f"got fingerprint {options.fingerprint(other)}; expected {options.fingerprint(bundle)}" in reason
        assert "files of two exports are mixed" in reason
    assert contract.RECOMMEND.name in caught.value.failures
