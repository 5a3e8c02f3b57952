"""Reads the files of one export, and refuses those of another: what the served Python models do at load."""

from __future__ import annotations

import re
from pathlib import Path

from ebbtide.interest import contract
from ebbtide.interest.lookup import KeyIndex
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

MODEL_CONFIG_FILE = "config.pbtxt"
_FINGERPRINT = re.compile(
    rf'key:\s*"{contract.FINGERPRINT_PARAMETER}"\s*value:?\s*\{{\s*string_value:\s*"(?P<fingerprint>[^"]*)"'
)


def read_interest_config(folder: Path, fingerprint: str) -> InterestConfig:
    """The settings in a model's version folder.

    Args:
        folder: Holds `CONFIG_FILE`.
        fingerprint: What the model's own config carries.

    Raises:
        ValueError: The file belongs to another export, or is damaged.
    """
    path = folder / CONFIG_FILE
    config = InterestConfig.from_json(path.read_text(encoding="utf-8"))
    require_fingerprint(fingerprint, {"fingerprint": config.fingerprint}, path)
    return config


def read_interest_parameters(folder: Path, fingerprint: str) -> InterestParameters:
    """The settings and learned parameters in the version folder of an `adaptive_weights` model.

    Args:
        folder: Holds `CONFIG_FILE` and `TENSORS_FILE`.
        fingerprint: What the model's own config carries.

    Raises:
        ValueError: A file belongs to another export, or is damaged.
    """
    config = read_interest_config(folder, fingerprint)
    arrays, metadata = read_tensors(folder / TENSORS_FILE)
    require_fingerprint(fingerprint, metadata, folder / TENSORS_FILE)
    return InterestParameters.from_tensors(config, arrays)


def read_pipeline(folder: Path, fingerprint: str) -> InterestPipeline:
    """The pipeline in the version folder of an `adaptive_weights` model; its tables are memory-mapped.

    Raises:
        ValueError: The files belong to different exports, or one is damaged; both ids are named.
    """
    parameters = read_interest_parameters(folder, fingerprint)
    tensors, metadata = read_tensors(folder / CATALOG_FILE)
    require_fingerprint(fingerprint, metadata, folder / CATALOG_FILE)
    index = KeyIndex(tensors[SORTED_KEY], tensors[CATALOG_INDEX])
    return InterestPipeline(parameters, index, tensors[EVENT_VECTORS])


def require_one_export(repository: Path, fingerprint: str) -> None:
    """Refuses a repository whose models come from different exports.

    Only configs that lie beside each other can be compared: from cloud storage, Triton fetches each model into a folder
    of its own.

    Args:
        repository: The folder that holds one folder for each model.
        fingerprint: What the config of the model that asks carries.

    Raises:
        ValueError: Naming the other model's config and both ids.
    """
    for name in contract.MODELS:
        path = repository / name / MODEL_CONFIG_FILE
        if path.is_file():
            match = _FINGERPRINT.search(path.read_text(encoding="utf-8"))
            require_fingerprint(fingerprint, {"fingerprint": match["fingerprint"]} if match else {}, path)


def require_fingerprint(expected: str, metadata: dict[str, str], source: Path) -> None:
    """Refuses a file of another export.

    Raises:
        ValueError: Naming both fingerprints.
    """
    found = metadata.get("fingerprint", "none")
    if found != expected:
        raise ValueError(f"{source}: got fingerprint {found}; expected {expected}: files of two exports are mixed")
