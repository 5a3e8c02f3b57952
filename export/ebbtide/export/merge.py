"""Adds a new version to an exported folder; it is not served until it is deployed.

All versions of a model share its configs. An added version therefore uses the configs of the folder, variants included.
It is refused if its tensors or its explicit serving options differ from them. Only the warm-up requests change, since
every version must be able to answer them.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from ebbtide.export import versions
from ebbtide.export.errors import VersionError
from ebbtide.export.manifest import read_models
from ebbtide.export.warmup import common_ground, write_warmup
from ebbtide.interest import contract, exported
from ebbtide.interest.contract import Tensor
from ebbtide.interest.served_models import Model

_TENSOR_FIELDS = ("backend", "max_batch_size", "input", "output")
_SERVING_FIELDS = ("instance_group", "optimization", "dynamic_batching", "parameters", "response_cache")


def require_fitting(partial: Path, out: Path, version: int, *, same_serving: bool) -> None:
    """Accepts a new version whose configs fit those of the folder.

    Args:
        partial: The folder of the new export; it has its configs already.
        out: The folder of the other versions.
        version: Number of the new version.
        same_serving: Whether the serving options in the configs must be equal too.

    Raises:
        VersionError: The configs differ.
    """
    for name in read_models(out):
        _require_same(partial, out, Path(name, exported.MODEL_CONFIG_FILE), version, _TENSOR_FIELDS)
        if same_serving:
            _require_same_variants(partial, out, name, version)
            for path in versions.config_files(out / name):
                _require_same(partial, out, path.relative_to(out), version, _SERVING_FIELDS)


def models_beside(out: Path, models: Mapping[str, Model]) -> dict[str, Model]:
    """The models of a version that is added to a folder: the folder's models, with the steps of the folder's ensembles.

    A folder that an earlier program version wrote can get new versions; they do not have models, or optional inputs and
    outputs, that are new since.

    Args:
        out: The folder of the other versions.
        models: The models that this program version writes.

    Raises:
        VersionError: The folder has a model that this program version does not write.
    """
    there = read_models(out)
    unknown = sorted(there.keys() - models.keys())
    if unknown:
        raise VersionError(
            f"{out}: got models {', '.join(unknown)}, which this version of Ebbtide does not write; expected only "
            f"models among {', '.join(models)}: export to another folder"
        )
    return {name: _as_there(models[name], model) for name, model in there.items()}


def _as_there(model: Model, there: Model) -> Model:
    def kept(tensors: tuple[Tensor, ...], known: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        names = {tensor.name for tensor in known}
        return tuple(tensor for tensor in tensors if not tensor.optional or tensor.name in names)

    return replace(
        model,
        steps=there.steps,
        inputs=kept(model.inputs, there.inputs),
        outputs=kept(model.outputs, there.outputs),
    )


def add_version(partial: Path, out: Path, version: int, texts: Sequence[str]) -> None:
    """Moves a finished version into the folder of the other versions, after `require_fitting`.

    Args:
        partial: The folder of the new export, on the same file system as `out`.
        out: The folder of the other versions.
        version: Number of the new version; an existing version with this number is replaced.
        texts: Texts of the new catalog, for the warm-up requests.

    Raises:
        VersionError: No item is in all catalogs.
    """
    others = [number for number in versions.available_versions(out) if number != version]
    ground = common_ground({**dict.fromkeys(others, out), version: partial})
    # First the warm-up: the versions in the folder can answer it too, so the folder stays loadable at every point.
    write_warmup(out, ground, texts)
    for name in read_models(out):
        index = out / name / str(version)
        shutil.rmtree(index, ignore_errors=True)
        (partial / name / str(version)).rename(index)


def _require_same(partial: Path, out: Path, config_file: Path, version: int, sections: Sequence[str]) -> None:
    new, old = versions.read_config(partial / config_file), versions.read_config(out / config_file)
    for config in (new, old):
        # The export id and the batch sizes from a sweep may differ.
        config.parameters.pop(contract.FINGERPRINT_PARAMETER, None)
        if config.HasField("dynamic_batching"):
            config.dynamic_batching.ClearField("preferred_batch_size")
    for section in sections:
        got, expected = _text(new, section), _text(old, section)
        if got != expected:
            raise VersionError(
                f"version {version}: {config_file}: got {section} {got}; expected {expected}, as in the "
                "other versions, which share this config: export to another folder"
            )


def _require_same_variants(partial: Path, out: Path, name: str, version: int) -> None:
    got, expected = ([path.name for path in versions.config_files(folder / name)] for folder in (partial, out))
    if got != expected:
        raise VersionError(
            f"version {version}: {name}: got configs {got}; expected {expected}, as in the other versions: omit the "
            "machines, or export to another folder"
        )


def _text(config: Any, section: str) -> str:  # noqa: ANN401 - tritonclient carries no types
    """A field of a config as one line."""
    alone = type(config)()
    alone.CopyFrom(config)
    for known in config.DESCRIPTOR.fields:
        if known.name != section:
            alone.ClearField(known.name)
    return text_format.MessageToString(alone, as_one_line=True).strip() or "none"
