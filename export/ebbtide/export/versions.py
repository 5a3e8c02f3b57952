"""The versions of an exported repository: all, those that Triton loads, and the one that the ensembles answer with.

The ``config.pbtxt`` files are the only record. The config of a model that computes lists the versions to load
(``version_policy``). An ensemble pins its steps to one version, so that no answer mixes two exports, and has the same
version number itself, so that every response states which export answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ebbtide.export.errors import RepositoryError, VersionError
from ebbtide.export.facts import VersionFacts, smallest_limits, tell_limits
from ebbtide.export.files import write_text
from ebbtide.export.manifest import read_models
from ebbtide.interest import contract, exported, served_models
from ebbtide.interest.parameters import InterestConfig
from ebbtide.interest.served_models import Kind, Model

VARIANTS_FOLDER = "configs"
"""The subfolder in which Triton looks for other configs of a model (``--model-config-name``)."""


def ensembles(repository: Path) -> Iterator[Model]:
    """The ensembles of a repository.

    Raises:
        RepositoryError: See `read_models`.
    """
    return (model for model in read_models(repository).values() if model.kind is Kind.ENSEMBLE)


def computing_models(repository: Path) -> Iterator[Model]:
    """The models of a repository that compute: all but the ensembles.

    Raises:
        RepositoryError: See `read_models`.
    """
    return (model for model in read_models(repository).values() if model.kind is not Kind.ENSEMBLE)


def available_versions(repository: Path) -> tuple[int, ...]:
    """The versions that every model of the repository has, ascending.

    Raises:
        RepositoryError: The models have no version in common.
    """
    models = read_models(repository)
    common = set.intersection(*(_versions_of(repository / name) for name in models))
    if not common:
        raise RepositoryError(
            f"{repository}: no version that all of {', '.join(models)} have; "
            "expected a repository written by `ebbtide export`"
        )
    return tuple(sorted(common))


def served_version(repository: Path) -> int:
    """The version that the ensembles answer with.

    Raises:
        RepositoryError: The ensembles name no version, or different versions.
    """
    found = ensemble_versions(repository)
    versions = set(found.values())
    if len(versions) != 1:
        raise RepositoryError(
            f"{repository}: got ensembles with versions {found}; expected the same version in all: finish the "
            "deployment with `ebbtide deploy --version`, or export again"
        )
    return versions.pop()


def ensemble_versions(repository: Path) -> dict[str, int]:
    """The version that each ensemble answers with; they differ after an interrupted deployment.

    Raises:
        RepositoryError: A config is missing, or the steps of an ensemble name no version or different versions.
    """
    found: dict[str, int] = {}
    for model in ensembles(repository):
        path = repository / model.name / exported.MODEL_CONFIG_FILE
        try:
            version = exported.read_ensemble(path).version
        except (OSError, ValueError) as error:
            raise RepositoryError(f"{path}: got {error}; expected a repository written by `ebbtide export`") from error
        if version is None:
            raise RepositoryError(
                f"{path}: got steps with no version or several versions; expected one version: export again"
            )
        found[model.name] = version
    return found


def loaded_versions(repository: Path) -> tuple[int, ...]:
    """The versions that Triton loads of every model except ensembles, ascending."""
    first = next(computing_models(repository))
    policy = read_model_config(repository, first.name).version_policy
    return tuple(sorted(policy.specific.versions))


def load_only(repository: Path, versions: Iterable[int]) -> None:
    """Sets the versions that Triton loads of every model except ensembles.

    Raises:
        VersionError: A version is missing.
    """
    chosen = sorted(set(versions))
    require_versions(repository, chosen)
    limits = smallest_limits(VersionFacts.read(repository, version).limits for version in chosen)

    def change(config: Any) -> None:  # noqa: ANN401 - tritonclient carries no types
        _set_policy(config, chosen)
        if config.backend == Kind.PYTHON.value:
            tell_limits(config, limits)

    for model in computing_models(repository):
        rewrite_configs(repository / model.name, change)


def serve(repository: Path, version: int) -> None:
    """Points the ensembles at a version.

    Raises:
        VersionError: The version is missing or not loaded.
    """
    require_versions(repository, [version])
    if version not in loaded_versions(repository):
        raise VersionError(
            f"version {version}: loaded: got {list(loaded_versions(repository))}; expected this version too: "
            "load it first"
        )
    fingerprint, facts = version_fingerprint(repository, version), VersionFacts.read(repository, version)

    def change(config: Any) -> None:  # noqa: ANN401 - tritonclient carries no types
        pin(config, version, fingerprint)
        facts.tell(config)

    for model in ensembles(repository):
        rewrite_configs(repository / model.name, change)


def pin(config: Any, version: int, fingerprint: str) -> None:  # noqa: ANN401 - tritonclient carries no types
    """Sets the version that an ensemble answers with and the export id in its config."""
    _set_policy(config, [version])
    config.parameters[contract.FINGERPRINT_PARAMETER].string_value = fingerprint
    for step in config.ensemble_scheduling.step:
        step.model_version = version


def version_fingerprint(repository: Path, version: int) -> str:
    """The id of the export that wrote a version.

    Raises:
        RepositoryError: The version's settings are missing or damaged.
    """
    return _interest_config(repository, version).fingerprint


def version_states(repository: Path, version: int) -> str:
    """The id under which a store keeps the states of a version's users; several versions may share it.

    Raises:
        RepositoryError: The version's settings are missing or damaged.
    """
    return _interest_config(repository, version).states


def _interest_config(repository: Path, version: int) -> InterestConfig:
    folder = repository / served_models.ADAPTIVE_WEIGHTS.name / str(version)
    try:
        return exported.read_interest_config(folder)
    except (ValueError, TypeError, OSError) as error:
        raise RepositoryError(f"{folder}: damaged version: {error}") from error


def require_versions(repository: Path, versions: Iterable[int]) -> None:
    """Accepts versions that every model has.

    Raises:
        VersionError: A version is missing; the message names the existing versions.
    """
    known = available_versions(repository)
    for version in versions:
        if version not in known:
            raise VersionError(f"version {version}: got none in {repository}; expected one of {list(known)}")


def read_model_config(repository: Path, name: str) -> Any:  # noqa: ANN401 - tritonclient carries no types
    """A model's ``config.pbtxt`` as Triton's message.

    Raises:
        RepositoryError: The config is missing or cannot be parsed.
    """
    return read_config(repository / name / exported.MODEL_CONFIG_FILE)


def read_config(path: Path) -> Any:  # noqa: ANN401 - tritonclient carries no types
    """A config file as Triton's message.

    Raises:
        RepositoryError: The config is missing or cannot be parsed.
    """
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (OSError, text_format.ParseError) as error:
        raise RepositoryError(f"{path}: got {error}; expected a config written by `ebbtide export`") from error


def config_files(model_folder: Path) -> Iterator[Path]:
    """A model's ``config.pbtxt`` and its variants for other machines."""
    yield model_folder / exported.MODEL_CONFIG_FILE
    yield from sorted((model_folder / VARIANTS_FOLDER).glob("*.pbtxt"))


def rewrite_configs(model_folder: Path, change: Callable[[Any], None]) -> None:
    """Changes a model's config and its variants; each file is replaced in one step."""
    for path in config_files(model_folder):
        config = read_config(path)
        change(config)
        write_text(path, text_format.MessageToString(config))


def _set_policy(config: Any, versions: list[int]) -> None:  # noqa: ANN401 - tritonclient carries no types
    config.version_policy.specific.versions[:] = versions


def _versions_of(folder: Path) -> set[int]:
    return {int(index.name) for index in folder.glob("[1-9]*") if index.name.isdigit() and index.is_dir()}
