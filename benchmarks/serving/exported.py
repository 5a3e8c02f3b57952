"""The model repository of the bundle, exported once for all parts of a run."""

from __future__ import annotations

from pathlib import Path

from benchmarks.serving.settings import Settings
from ebbtide.export.repository import export_repository
from ebbtide.train.bundle import InterestBundle


def exported(settings: Settings) -> Path:
    """Folder of a model repository with the defaults of `ebbtide export`; the first call exports it."""
    repository = settings.work / "repository"
    if not repository.is_dir():
        export_repository(InterestBundle.load(settings.bundle), repository)
    return repository
