"""An added version uses the configs of its folder, and is refused if it asks for others."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebbtide.export import versions
from ebbtide.export.errors import VersionError
from ebbtide.export.machines import Machine
from ebbtide.export.options import ExportOptions
from ebbtide.export.serving import ServingOptions
from ebbtide.interest import served_models
from ebbtide.train.bundle import InterestBundle

from .conftest import Export

CPU, GPU = Machine("cpu", 8), Machine("gpu", 1)
SERVING = ServingOptions((CPU, GPU), accelerator="cuda", max_queue_size=64)


@pytest.fixture
def out(export: Export, tiny_bundle: InterestBundle, tmp_path: Path) -> Path:
    export(tiny_bundle, tmp_path / "out", ExportOptions(serving=SERVING))
    return tmp_path / "out"


def configs(folder: Path) -> dict[Path, str]:
    return {path: path.read_text() for name in served_models.MODELS for path in versions.config_files(folder / name)}


@pytest.mark.parametrize("serving", [None, SERVING], ids=["nothing said", "the same"])
def test_configs_stay_as_they_are_when_a_version_is_added(
    export: Export, tiny_bundle: InterestBundle, out: Path, serving: ServingOptions | None
) -> None:
    before = configs(out)
    export(tiny_bundle, out, ExportOptions(serving=serving), version=2)
    assert configs(out) == before
    assert versions.available_versions(out) == (1, 2)


def test_variants_name_the_versions_when_one_is_loaded(export: Export, tiny_bundle: InterestBundle, out: Path) -> None:
    export(tiny_bundle, out, version=2)
    versions.load_only(out, [1, 2])
    assert all("versions: 1\n    versions: 2" in text for path, text in configs(out).items() if path.stem == "gpu-1")


@pytest.mark.parametrize(
    ("serving", "message"),
    [
        (
            ServingOptions((Machine("cpu", 16), GPU), accelerator="cuda", max_queue_size=64),
            "got instance_group .*count: 2",
        ),
        (ServingOptions((CPU, GPU), accelerator="cuda"), "got dynamic_batching .*; expected .*max_queue_size: 64"),
        (ServingOptions((CPU,), max_queue_size=64), r"got configs \['config.pbtxt'\]; expected .*'gpu-1.pbtxt'"),
        (
            ServingOptions((CPU, GPU), accelerator="cuda", max_queue_size=64, response_cache=True),
            "got response_cache .*enable: true",
        ),
        (ServingOptions((CPU, GPU), max_queue_size=64), "gpu-1.pbtxt: got optimization"),
    ],
    ids=["instances", "queue", "variants", "cache", "a variant's accelerator"],
)
def test_version_is_refused_when_it_was_to_be_served_otherwise(
    export: Export, tiny_bundle: InterestBundle, out: Path, serving: ServingOptions, message: str
) -> None:
    before = configs(out)
    with pytest.raises(VersionError, match=f"version 2: .*{message}"):
        export(tiny_bundle, out, ExportOptions(serving=serving), version=2)
    assert configs(out) == before
    assert versions.available_versions(out) == (1,)
