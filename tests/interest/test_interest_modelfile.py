"""The id of a model's files is accepted while the files are unchanged, and refused otherwise."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ebbtide.interest.modelfile import FINGERPRINT_FILE, MODEL_FILE, read_fingerprint, write_fingerprint

FINGERPRINT = "0123456789abcdef"
GRAPH = b"graph" * 500_000
WEIGHTS = b"weights"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A graph of several chunks, and weights in a file of their own."""
    (tmp_path / MODEL_FILE).write_bytes(GRAPH)
    (tmp_path / f"{MODEL_FILE}.data").write_bytes(WEIGHTS)
    write_fingerprint(tmp_path, FINGERPRINT)
    return tmp_path


def test_fingerprint_is_read_back_when_the_files_are_as_written(folder: Path) -> None:
    assert read_fingerprint(folder) == FINGERPRINT


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (MODEL_FILE, GRAPH[:-1]),
        (MODEL_FILE, GRAPH[:-1] + b"?"),
        (MODEL_FILE, b""),
        (f"{MODEL_FILE}.data", b"other weights"),
    ],
)
def test_file_is_refused_with_both_hashes_when_it_is_another(folder: Path, name: str, content: bytes) -> None:
    expected = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / name).write_bytes(content)
    got = hashlib.sha256(content).hexdigest()
    with pytest.raises(
        ValueError, match=f"{name}: got SHA-256 {got}; expected {expected}, the hash at export {FINGERPRINT}"
    ):
        read_fingerprint(folder)
    assert read_fingerprint(folder, hash_files=False) == FINGERPRINT


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b'{"fingerprint": "a", "sha256": 1}', b"\xff"])
def test_folder_is_refused_when_the_fingerprint_is_missing_or_damaged(folder: Path, content: bytes | None) -> None:
    if content is None:
        (folder / FINGERPRINT_FILE).unlink()
    else:
        (folder / FINGERPRINT_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=r"fingerprint\.json: got .*; expected a file written by `ebbtide export`"):
        read_fingerprint(folder)


def test_folder_is_refused_when_a_file_is_missing(folder: Path) -> None:
    (folder / f"{MODEL_FILE}.data").unlink()
    with pytest.raises(ValueError, match=r"No such file.*model\.onnx\.data"):
        read_fingerprint(folder)
