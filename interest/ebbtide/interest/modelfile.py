"""Ties the files of a model to one export: a file in the same folder holds the export's id and their SHA-256."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

MODEL_FILE = "model.onnx"
FINGERPRINT_FILE = "fingerprint.json"
"""JSON: ``fingerprint``, the export's id, and ``sha256``, the hash of each file by name."""
_SOURCE_SUFFIX = ".py"
_CHUNK_BYTES = 1 << 20


def write_fingerprint(folder: Path, fingerprint: str) -> None:
    """Writes `FINGERPRINT_FILE` for the files of a version folder: graphs, weights and tables, no sources."""
    files = (path for path in sorted(folder.iterdir()) if path.is_file() and path.suffix != _SOURCE_SUFFIX)
    hashes = {path.name: _sha256(path) for path in files if path.name != FINGERPRINT_FILE}
    content = json.dumps({"fingerprint": fingerprint, "sha256": hashes}, indent=2)
    (folder / FINGERPRINT_FILE).write_text(content + "\n", encoding="utf-8")


def read_fingerprint(folder: Path, *, hash_files: bool = True) -> str:
    """The id of the export that wrote the files of a version folder.

    Args:
        folder: Version folder of a model.
        hash_files: Whether to hash the files and compare with the hashes in `FINGERPRINT_FILE`.

    Raises:
        ValueError: The id is missing, or a file's hash differs; the message names both hashes.
    """
    path = folder / FINGERPRINT_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        fingerprint, expected = str(content["fingerprint"]), dict(content["sha256"])
        found = {name: _sha256(folder / name) for name in expected} if hash_files else expected
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: got {type(error).__name__}: {error}; expected a file written by `ebbtide export`: export again"
        ) from error
    for name, digest in found.items():
        if digest != expected[name]:
            raise ValueError(
                f"{folder / name}: got SHA-256 {digest}; expected {expected[name]}, the hash at export {fingerprint}: "
                "the file is damaged or belongs to another export; copy the whole folder again"
            )
    return fingerprint


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
