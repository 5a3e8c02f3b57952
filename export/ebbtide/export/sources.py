"""Finds the source of the served Python models and copies it, with the interest code it needs, into an export."""

from __future__ import annotations

import shutil
from pathlib import Path

from ebbtide.export.errors import RepositoryError
from ebbtide.interest import contract

_SOURCES = {contract.ADAPTIVE_WEIGHTS_TEXT.name: contract.ADAPTIVE_WEIGHTS.name}
"""Models that are served by another's source."""
_NOT_SERVED = ("keys.py", "triton_texts.py")
"""Needs xxhash, while served models see keys only; texts that callers of Triton read."""


def model_sources() -> Path:
    """The folder ``model_repository``: inside this package where it was installed, at the root of a source tree.

    Raises:
        RepositoryError: It is in neither place.
    """
    package = Path(__file__).resolve().parent
    for index in (package, *package.parents[2:3]):
        folder = index / "model_repository"
        if folder.is_dir():
            return folder
    raise RepositoryError(f"model_repository: not found in {package} nor at the root of its source tree: reinstall")


def copy_python_model(name: str, version_folder: Path) -> None:
    """Puts a Python model's files, and the interest code under ``ebbtide/interest``, into its version folder."""
    for source in sorted((model_sources() / _SOURCES.get(name, name)).glob("*.py")):
        shutil.copyfile(source, version_folder / source.name)
    interest = version_folder.joinpath(*contract.__name__.split(".")[:-1])
    interest.mkdir(parents=True)
    for source in sorted(Path(contract.__file__).parent.glob("*.py")):
        if source.name not in _NOT_SERVED:
            shutil.copyfile(source, interest / source.name)
