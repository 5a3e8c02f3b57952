"""The manifest of a repository: its models, and one entry about each exported version.

Code that reads a repository uses the models of the manifest and not those of the contract, so that an older export
stays readable when the contract changes. The file also distinguishes an exported repository from other folders.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ebbtide.export.errors import RepositoryError
from ebbtide.export.files import write_text
from ebbtide.interest.contract import MANIFEST_FILE, Axis, Dtype, Size, Tensor
from ebbtide.interest.served_models import Kind, Model

_FORMAT = 3
_NAMED_DIMS: dict[str, Size | Axis] = {dim.value: dim for dim in (*Size, *Axis)}


def read_manifest(repository: Path) -> dict[str, dict[str, Any]]:
    """The entry of each version, by the version number as text.

    Raises:
        RepositoryError: The manifest is missing, is damaged or has an earlier format.
    """
    found: dict[str, dict[str, Any]] = _read(repository)["versions"]
    return found


def read_models(repository: Path) -> dict[str, Model]:
    """The models of a repository by name, composing models before ensembles; all versions have the same ones.

    Raises:
        RepositoryError: The manifest is missing, is damaged or has an earlier format.
    """
    noted = _read(repository)["models"]
    try:
        return {name: _model(name, fields) for name, fields in noted.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(repository, error) from error


def write_manifest(folder: Path, entries: Mapping[str, Mapping[str, Any]], models: Mapping[str, Model]) -> None:
    """Replaces the manifest atomically.

    Args:
        folder: The repository.
        entries: The entry of each version, by the version number as text.
        models: The models, which all versions have.
    """
    # One line for each model keeps the entries, which people read, near the top.
    lines = (f"    {json.dumps(name)}: {json.dumps(_noted(model))}" for name, model in models.items())
    versions = json.dumps(entries, indent=2).replace("\n", "\n  ")
    listed = ",\n".join(lines)
    text = f'{{\n  "format": {_FORMAT},\n  "versions": {versions},\n  "models": {{\n{listed}\n  }}\n}}\n'
    write_text(folder / MANIFEST_FILE, text)


def write_entries(repository: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Replaces the entries of the versions and keeps the models."""
    write_manifest(repository, entries, read_models(repository))


def _read(repository: Path) -> dict[str, Any]:
    path = repository / MANIFEST_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise RepositoryError(
                f"{path}: got format {content['format']}; expected {_FORMAT}: export again without --version"
            )
        if not (isinstance(content["versions"], dict) and isinstance(content["models"], dict)):
            raise TypeError("versions or models that are not JSON objects")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(repository, error) from error
    return content


def _damaged(repository: Path, error: Exception) -> RepositoryError:
    seen = error.strerror if isinstance(error, OSError) else repr(error)
    return RepositoryError(f"{repository / MANIFEST_FILE}: got {seen}; expected a manifest of `ebbtide export`")


def _noted(model: Model) -> dict[str, Any]:
    noted = asdict(model)
    del noted["name"]
    return noted


def _model(name: str, noted: Mapping[str, Any]) -> Model:
    tensors = {key: tuple(_tensor(fields) for fields in noted[key]) for key in ("inputs", "outputs")}
    return Model(**{**noted, **tensors, "name": name, "kind": Kind(noted["kind"]), "steps": tuple(noted["steps"])})


def _tensor(noted: Mapping[str, Any]) -> Tensor:
    dims = tuple(_NAMED_DIMS[dim] if isinstance(dim, str) else dim for dim in noted["dims"])
    return Tensor(**{**noted, "dtype": Dtype(noted["dtype"]), "dims": dims})
