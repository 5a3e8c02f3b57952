"""The bundle's export, made once for all parts of one run."""

from __future__ import annotations

from pathlib import Path

from benchmarks.serving.settings import Settings
from ebbtide.export.repository import export_repository
from ebbtide.train.bundle import InterestBundle


def exported(settings: Settings) -> Path:
    """A model repository with the defaults of `ebbtide export`."""
    repository = settings.work / "repository"
    if not repository.is_dir():
        export_repository(InterestBundle.load(settings.bundle), repository)
    return repository
