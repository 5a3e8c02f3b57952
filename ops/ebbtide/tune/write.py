"""Writes tuned settings into an exported repository's configs, and records them in the manifest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from ebbtide.export import versions
from ebbtide.export.files import write_text
from ebbtide.export.manifest import read_manifest, write_entries
from ebbtide.export.tuned_settings import TunedSettings
from ebbtide.interest.exported import MODEL_CONFIG_FILE
from ebbtide.tune.errors import TuneError


def write_winner(repository: Path, result: Mapping[str, Any]) -> tuple[Path, ...]:
    """Puts the winner of a result into the ``config.pbtxt`` files; variants for other machines stay.

    Answers and fingerprints do not change. A running server uses the settings when its models are loaded again.

    Args:
        repository: The repository that was tuned.
        result: From `ebbtide.tune.tune`.

    Returns:
        The files that were changed; none where the default settings were kept.

    Raises:
        TuneError: The configs are no longer those that were measured.
        RepositoryError: A config or the manifest is missing or damaged.
    """
    manifest = read_manifest(repository)
    measured = {one["model"]: _settings(one) for one in result["default"]["settings"]}
    texts: dict[Path, str] = {}
    for stated in result["winner"]["changes"]:
        change = _settings(stated)
        path = repository / change.model / MODEL_CONFIG_FILE
        config = versions.read_config(path)
        found = TunedSettings.read(config)
        if found != measured[change.model]:
            raise TuneError(
                f"{path}: got {found}; expected {measured[change.model]}, which was measured: run `ebbtide tune` again"
            )
        change.apply(config)
        texts[path] = text_format.MessageToString(config)
    for path, text in texts.items():
        write_text(path, text)
    if texts:
        noted = {
            "changes": result["winner"]["changes"],
            **{key: result[key] for key in ("slo", "ratio", "ratio_ci95", "machine", "began_unix_s")},
        }
        # All versions share the configs.
        write_entries(repository, {number: {**entry, "tuned": noted} for number, entry in manifest.items()})
    return tuple(texts)


def _settings(stated: Mapping[str, Any]) -> TunedSettings:
    sizes = stated.get("preferred_batch_sizes")
    return TunedSettings(**{**stated, "preferred_batch_sizes": None if sizes is None else tuple(sizes)})
