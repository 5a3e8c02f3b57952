"""Replaces files atomically: a reader sees either the old content or the new content."""

from __future__ import annotations

import os
from pathlib import Path

PARTIAL_FILES = ".*.partial"
"""Pattern of the names of files that a process wrote which was killed before it replaced the old ones."""


def write_text(path: Path, text: str) -> None:
    """Replaces the content of a file by a text in UTF-8; after a power failure too, it has the one or the other."""
    _replace(path, text.encode("utf-8"), is_durable=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Replaces the content of a file."""
    _replace(path, content, is_durable=False)


def _replace(path: Path, content: bytes, *, is_durable: bool) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(content)
        if is_durable:
            file.flush()
            os.fsync(file.fileno())
    partial.replace(path)
