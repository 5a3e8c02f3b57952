"""Reads a model repository: its models, their configs, and their version folders as Triton reads them."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ebbtide.check.configs import Config, no_config, read_config
from ebbtide.check.errors import NotARepositoryError
from ebbtide.check.messages import ModelConfig

CONFIG_FILE = "config.pbtxt"
VARIANTS_FOLDER = "configs"
WARMUP_FOLDER = "warmup"
STATE_FOLDER = "initial_state"
_NO_VERSIONS = (WARMUP_FOLDER, STATE_FOLDER, VARIANTS_FOLDER)
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class VersionFolder:
    """A folder in a model's folder that may be a version."""

    name: str
    number: int | None
    """The version that Triton reads: the digits at the start of the name. None if Triton ignores the folder."""
    in_range: bool = True
    """False for a number that does not fit 64 bits, which stops the server."""

    @property
    def is_plain(self) -> bool:
        """Whether the name is exactly the version's number, so that Triton finds the folder."""
        return self.in_range and self.number is not None and self.number >= 0 and str(self.number) == self.name


@dataclass(frozen=True)
class ModelFolder:
    """The folder of one model."""

    name: str
    path: Path
    config: Config
    """The config that Triton reads."""
    others: tuple[Config, ...]
    """The configs that Triton reads with another `--model-config-name`."""

    @cached_property
    def folders(self) -> tuple[str, ...]:
        """Names of all folders in the model's folder, sorted."""
        return tuple(sorted(entry.name for entry in self.path.iterdir() if entry.is_dir()))

    @cached_property
    def versions(self) -> tuple[VersionFolder, ...]:
        """All folders except those with another purpose."""
        return tuple(read_version(name) for name in self.folders if name not in _NO_VERSIONS)

    def loaded(self, config: ModelConfig) -> tuple[int, ...]:
        """The versions that the config's version policy loads, ascending."""
        present = sorted({found.number for found in self.versions if found.number is not None and found.in_range})
        policy = config.version_policy
        choice = policy.WhichOneof("policy_choice") if config.HasField("version_policy") else None
        if choice == "specific":
            return tuple(sorted(set(policy.specific.versions) & set(present)))
        if choice == "latest":
            newest = policy.latest.num_versions
            return tuple(present[-newest:]) if newest else ()
        if config.HasField("version_policy"):
            return tuple(present)
        return tuple(present[-1:])


@dataclass(frozen=True)
class Repository:
    """A whole model repository."""

    path: Path
    models: dict[str, ModelFolder]
    """Models by name, sorted."""
    files: tuple[str, ...]
    """Names of the files beside the models' folders."""


def read_version(name: str) -> VersionFolder:
    """Reads a folder's name as Triton reads it."""
    if len(name) > 1 and name.startswith("0"):
        return VersionFolder(name, None)
    digits = re.match(r"\s*([+-]?\d+)", name, re.ASCII)
    if digits is None:
        return VersionFolder(name, None)
    number = int(digits.group(1))
    return VersionFolder(name, number, number in _INT64)


def read_repository(path: Path, config_name: str | None = None) -> Repository:
    """Reads a repository and every config in it.

    Args:
        path: the folder with one folder for each model.
        config_name: the server's ``--model-config-name``.

    Raises:
        NotARepositoryError: the folder does not exist, or is not a model repository.
    """
    if not path.is_dir():
        seen = "a file" if path.is_file() else "a path that does not exist"
        raise NotARepositoryError(f"{path}: got {seen}; expected a folder with one folder for each model")
    entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    folders = [entry.name for entry in entries if entry.is_dir()]
    files = tuple(entry.name for entry in entries if not entry.is_dir())
    models = {name: _read_model(path / name, config_name) for name in folders}
    versions = [name for name in folders if read_version(name).is_plain]
    if CONFIG_FILE in files and versions:
        raise NotARepositoryError(
            f"{path}: got the folder of one model (it has {CONFIG_FILE} and version {versions[0]}); expected the "
            f"repository, the folder that holds the models' folders: {path.parent}"
        )
    if folders and not any(_looks_like_a_model(model) for model in models.values()):
        raise NotARepositoryError(
            f"{path}: got only folders without {CONFIG_FILE} and without a version ({', '.join(folders[:5])}); "
            "expected a folder with one folder for each model"
        )
    return Repository(path, models, files)


def _read_model(path: Path, config_name: str | None) -> ModelFolder:
    name = path.name
    variants = sorted((path / VARIANTS_FOLDER).glob("*.pbtxt")) if (path / VARIANTS_FOLDER).is_dir() else []
    files = {f"{name}/{VARIANTS_FOLDER}/{file.name}": file for file in variants}
    if (path / CONFIG_FILE).is_file():
        files[f"{name}/{CONFIG_FILE}"] = path / CONFIG_FILE
    configs = {file: read_config(source, file) for file, source in files.items()}
    # Triton reads config.pbtxt if a model has no config of that name.
    chosen = f"{name}/{VARIANTS_FOLDER}/{config_name}.pbtxt"
    active = configs.pop(chosen if chosen in configs else f"{name}/{CONFIG_FILE}", None) or no_config(name)
    return ModelFolder(name, path, active, tuple(configs.values()))


def _looks_like_a_model(model: ModelFolder) -> bool:
    written = model.config.file != model.name or bool(model.others)
    return written or any(found.is_plain for found in model.versions)
