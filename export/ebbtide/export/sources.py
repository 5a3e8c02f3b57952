"""Finds the source of the served Python models and copies it into an export, with the packages that it needs."""

from __future__ import annotations

import shutil
import sys
from functools import cache
from importlib import util
from pathlib import Path
from types import ModuleType

from ebbtide import interest, store
from ebbtide.export.errors import RepositoryError
from ebbtide.interest.served_models import Model

_SERVED_PACKAGES = (interest, store)
_NOT_SERVED = ("keys.py", "triton_texts.py")
"""Modules that served models do not need: keys.py needs xxhash, triton_texts.py is for clients of Triton."""


def model_sources() -> Path:
    """The folder ``model_repository``: in the installed package, or at the root of the source tree.

    Raises:
        RepositoryError: It is missing in both.
    """
    package = Path(__file__).resolve().parent
    for index in (package, *package.parents[2:3]):
        folder = index / "model_repository"
        if folder.is_dir():
            return folder
    raise RepositoryError(f"model_repository: not found in {package} nor at the root of its source tree: reinstall")


def copy_python_model(model: Model, version_folder: Path) -> None:
    """Copies a Python model's files, and the packages that it imports to ``ebbtide``, into its version folder."""
    for source in sorted((model_sources() / model.code).glob("*.py")):
        shutil.copyfile(source, version_folder / source.name)
    for package in _SERVED_PACKAGES:
        target = version_folder.joinpath(*package.__name__.split("."))
        target.mkdir(parents=True)
        for source in sorted(Path(str(package.__file__)).parent.glob("*.py")):
            if source.name not in _NOT_SERVED:
                shutil.copyfile(source, target / source.name)


@cache
def load_source(model: str, name: str) -> ModuleType:
    """Imports a module of a served Python model into this process.

    The module is the one of this installation, so that reading an export does not run the export's code.

    Args:
        model: Name of the model's folder in `model_sources`.
        name: Name of the module without ``.py``; it must not need Triton.
    """
    spec = util.spec_from_file_location(f"ebbtide_served_{name}", model_sources() / model / f"{name}.py")
    assert spec is not None  # noqa: S101 - the file is part of the package
    assert spec.loader is not None  # noqa: S101 - as above
    module = util.module_from_spec(spec)
    # Dataclasses look up their module in `sys.modules`.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
