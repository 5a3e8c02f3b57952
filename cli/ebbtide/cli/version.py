"""What ``ebbtide --version`` prints: the versions that a report of a problem needs."""

from __future__ import annotations

import importlib.metadata
import platform

_PACKAGES = (
    "torch",
    "transformers",
    "polars",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "tritonclient",
    "nvidia-pytriton",
)


def version_lines() -> list[str]:
    """The version of Ebbtide, of Python and of the packages that are installed; nothing is imported for it."""
    installed = [f"{name} {version}" for name in _PACKAGES if (version := _version_of(name)) is not None]
    return [f"ebbtide {_version_of('ebbtide') or 'unknown'}", f"Python {platform.python_version()}", *installed]


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
