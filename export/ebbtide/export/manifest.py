"""What the exports of one repository noted of each version; the file also tells an exported repository from others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ebbtide.export import versions
from ebbtide.export.errors import RepositoryError

MANIFEST_FILE = "ebbtide-export.json"
"""Beside the models' folders; Triton reads folders only."""
_FORMAT = 2


def read_manifest(repository: Path) -> dict[str, dict[str, Any]]:
    """What the exports noted of each version, by its number as text.

    Raises:
        RepositoryError: The manifest is missing or damaged, or of an earlier kind.
    """
    path = repository / MANIFEST_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != _FORMAT:
            raise RepositoryError(
                f"{path}: got format {content['format']}; expected {_FORMAT}: export again without --version"
            )
        found: dict[str, dict[str, Any]] = content["versions"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RepositoryError(f"{path}: got {error!r}; expected what `ebbtide export` writes") from error
    return found


def write_manifest(folder: Path, entries: Mapping[str, Mapping[str, Any]]) -> None:
    """Replaces the manifest at once."""
    content = {"format": _FORMAT, "versions": entries}
    versions.write_text(folder / MANIFEST_FILE, json.dumps(content, indent=2) + "\n")
