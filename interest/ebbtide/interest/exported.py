"""Reads the files of one export, and refuses those of another: what the served Python models do at load."""

from __future__ import annotations

import re
from pathlib import Path

from ebbtide.interest import contract
from ebbtide.interest.contract import Kind, Model
from ebbtide.interest.lookup import KeyIndex
from ebbtide.interest.onnxfile import read_metadata
from ebbtide.interest.parameters import CONFIG_FILE, TENSORS_FILE, InterestConfig, InterestParameters
from ebbtide.interest.pipeline import InterestPipeline
from ebbtide.interest.tensorfile import read_tensors

CATALOG_FILE = "catalog.safetensors"
SORTED_KEY = "sorted_key"
"""int64 ``[items]``: the catalog's keys, ascending."""
CATALOG_INDEX = "catalog_index"
"""int64 ``[items]``: the catalog index of each sorted key."""
EVENT_VECTORS = "event_vectors"
"""float32 ``[items, d]``, in catalog order."""

MODEL_FILE = "model.onnx"
MODEL_CONFIG_FILE = "config.pbtxt"
_FINGERPRINT = re.compile(
    rf'key:\s*"{contract.FINGERPRINT_PARAMETER}"\s*value:?\s*\{{\s*string_value:\s*"(?P<fingerprint>[^"]*)"'
)
_STEP_VERSION = re.compile(r"model_version:\s*(?P<version>-?\d+)")


def read_interest_config(folder: Path) -> InterestConfig:
    """The settings in the version folder of a Python model; their fingerprint is the folder's id.

    Raises:
        ValueError: The file is damaged.
    """
    return InterestConfig.from_json((folder / CONFIG_FILE).read_text(encoding="utf-8"))


def read_interest_parameters(folder: Path) -> InterestParameters:
    """The settings and learned parameters in the version folder of an `adaptive_weights` model.

    Args:
        folder: Holds `CONFIG_FILE` and `TENSORS_FILE`.

    Raises:
        ValueError: The files belong to different exports, or one is damaged.
    """
    config = read_interest_config(folder)
    arrays, metadata = read_tensors(folder / TENSORS_FILE)
    require_fingerprint(config.fingerprint, metadata, folder / TENSORS_FILE)
    return InterestParameters.from_tensors(config, arrays)


def read_pipeline(folder: Path) -> InterestPipeline:
    """The pipeline in the version folder of an `adaptive_weights` model; its tables are memory-mapped.

    Raises:
        ValueError: The files belong to different exports, or one is damaged; both ids are named.
    """
    parameters = read_interest_parameters(folder)
    tensors, metadata = read_tensors(folder / CATALOG_FILE)
    require_fingerprint(parameters.config.fingerprint, metadata, folder / CATALOG_FILE)
    index = KeyIndex(tensors[SORTED_KEY], tensors[CATALOG_INDEX])
    return InterestPipeline(parameters, index, tensors[EVENT_VECTORS])


def require_one_export(repository: Path, version: int, fingerprint: str) -> None:
    """Refuses a version whose models come from different exports.

    Only models that lie beside each other can be compared: from cloud storage, Triton fetches each model into a folder
    of its own.

    Args:
        repository: The folder that holds one folder for each model.
        version: Of the model that asks; the others are asked for the same one.
        fingerprint: Its id.

    Raises:
        ValueError: Naming the other model's file and both ids.
    """
    for model in contract.MODELS.values():
        path = _carrier(repository, model, version)
        if not path.is_file():
            continue
        metadata: dict[str, str] = {}
        if model.kind is Kind.PYTHON:
            metadata["fingerprint"] = read_interest_config(path.parent).fingerprint
        elif model.kind is Kind.ONNX:
            metadata["fingerprint"] = read_metadata(path).get(contract.FINGERPRINT_PARAMETER, "none")
        else:
            config = path.read_text(encoding="utf-8")
            if served_version(config) != version:
                continue
            if match := _FINGERPRINT.search(config):
                metadata["fingerprint"] = match["fingerprint"]
        require_fingerprint(fingerprint, metadata, path)


def served_version(ensemble_config: str) -> int | None:
    """The version of its steps that an ensemble's ``config.pbtxt`` names; None where they differ or none is named."""
    versions = {int(match["version"]) for match in _STEP_VERSION.finditer(ensemble_config)}
    return versions.pop() if len(versions) == 1 else None


def require_fingerprint(expected: str, metadata: dict[str, str], source: Path) -> None:
    """Refuses a file of another export.

    Raises:
        ValueError: Naming both fingerprints.
    """
    found = metadata.get("fingerprint", "none")
    if found != expected:
        raise ValueError(f"{source}: got fingerprint {found}; expected {expected}: files of two exports are mixed")


def _carrier(repository: Path, model: Model, version: int) -> Path:
    """The file of one version that carries the id; an ensemble has but one config for all its versions."""
    if model.kind is Kind.ENSEMBLE:
        return repository / model.name / MODEL_CONFIG_FILE
    return repository / model.name / str(version) / (CONFIG_FILE if model.kind is Kind.PYTHON else MODEL_FILE)
